/** Decoding with graphs on a GPU, compared with a full forward pass and with decoding by plain operators. */
import { describe, expect, it } from "vitest"
import { deviceMemory, environment } from "../../engine/device.ts"
import { useKernels } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { atenVoid, type DType, liveTensors, noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { decodesOnGpu } from "../../models/gpu-decoder.ts"
import { initLlama, type Llama } from "../../models/llama.ts"
import { initLora, linearLayers } from "../../models/lora.ts"
import { type Generated, generate, type GenerateOptions } from "../../models/sampler.ts"
import { devices } from "../devices.ts"
import { bfloat16, sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"

const device = "cuda"
const eosId = 2
/** New weights are so small that all tokens are equally likely; larger weights make some likely and some unlikely. */
const sharp = (over: object, dtype: DType = "float32"): Llama => {
  const model = initLlama(smallConfig({ vocabSize: 512, ffn: 64, maxPositions: 400, ...over }), { seed: 3, device, dtype })
  for (const [name, weight] of Object.entries(model.parameters)) {
    if (name.endsWith(".bias")) noGrad(() => weight.normal_(0, 0.3))
    else if (/[qk]_norm/.test(name)) noGrad(() => weight.normal_(1, 0.3))
    else if (!name.endsWith("norm.weight")) noGrad(() => weight.mul_(6))
  }
  return model
}
const words = new Random(4, "prompts")
const promptOf = (length: number) => Array.from({ length }, () => 3 + words.int(500))
const prompts = [promptOf(7), promptOf(2), promptOf(40), promptOf(5), promptOf(1), promptOf(19), promptOf(64), promptOf(3), promptOf(11)]
const optionsFor = (count: number, over: Partial<GenerateOptions> = {}): GenerateOptions => ({
  ...{ maxNewTokens: 30, temperature: 1, seeds: Array.from({ length: count }, (_, i) => 100 + i), eosId, padId: 0, ...over }
})
const plainly = (run: () => Array<Generated>): Array<Generated> => {
  useKernels(false)
  try {
    return run()
  } finally {
    useKernels(true)
  }
}
/** Log-probabilities of an answer's tokens from a full forward pass. */
const teacherForced = (model: Llama, prompt: ReadonlyArray<number>, tokens: ReadonlyArray<number>, temperature: number): Array<number> =>
  scoped(() =>
    noGrad(() => {
      const all = [...prompt, ...tokens]
      const logits = model
        .forward(tensor([all], { dtype: "int64", device }))
        .select(0, 0)
        .slice(0, prompt.length - 1, all.length - 1) // (T, V)
      return logits
        .to({ dtype: "float32" })
        .div(temperature || 1)
        .logSoftmax(-1)
        .gather(
          1,
          tensor(
            tokens.map((id) => [id]),
            { dtype: "int64", device }
          )
        )
        .toNumbers()
    })
  )

const gpu = devices.find((one) => one.device === device)!
describe.skipIf(gpu.skip)("decoding on a GPU", () => {
  const shapes = [
    { what: "as many key heads", dim: 64, heads: 4, kvHeads: 4, headDim: 16 },
    { what: "heads of 64, four to a key head", dim: 128, heads: 8, kvHeads: 2, headDim: 64 },
    { what: "heads of 128, eight to a key head", dim: 256, heads: 8, kvHeads: 1, headDim: 128 },
    { what: "heads of 32, sixteen to a key head", dim: 64, heads: 16, kvHeads: 1, headDim: 32 },
    { what: "heads of 256, three to a key head, tied", dim: 96, heads: 3, kvHeads: 1, headDim: 256, tiedEmbeddings: true },
    { what: "a vocabulary that is no multiple of 8", dim: 64, heads: 4, kvHeads: 2, headDim: 16, vocabSize: 5003 },
    { what: "biases, as Qwen 2", dim: 128, heads: 8, kvHeads: 2, headDim: 64, family: "qwen2" as const },
    { what: "norms of heads, as Qwen 3", dim: 64, heads: 4, kvHeads: 1, headDim: 128, family: "qwen3" as const },
    { what: "a sliding window, as Mistral", dim: 128, heads: 8, kvHeads: 2, headDim: 64, family: "mistral" as const, slidingWindow: 70 }
  ]
  describe.each(shapes)("with $what", (shape) => {
    it.each([0, 0.7, 1])("gives the tokens of plain decoding, with their log-probabilities, at temperature %f", (temperature) => {
      const model = sharp(shape)
      expect(decodesOnGpu(model)).toBe(true)
      const options = optionsFor(prompts.length, { temperature })
      const found = generate(model, prompts, options)
      const wanted = plainly(() => generate(model, prompts, options))
      expect(found.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens))
      expect(found.map(({ finished }) => finished)).toEqual(wanted.map(({ finished }) => finished))
      found.forEach(({ logProbabilities, tokens }, i) => {
        expect(largestDifference(logProbabilities, wanted[i]!.logProbabilities)).toBeLessThanOrEqual(sameInFloat32)
        expect(largestDifference(logProbabilities, teacherForced(model, prompts[i]!, tokens, temperature))).toBeLessThanOrEqual(
          sameInFloat32
        )
      })
    })
    it("in bfloat16 records the log-probabilities of a forward pass", () => {
      const model = sharp(shape, "bfloat16")
      for (const [i, { logProbabilities, tokens }] of generate(model, prompts, optionsFor(prompts.length)).entries()) {
        const differences = teacherForced(model, prompts[i]!, tokens, 1).map((x, t) => Math.abs(x - logProbabilities[t]!))
        expect(differences.reduce((sum, x) => sum + x, 0) / differences.length).toBeLessThanOrEqual(bfloat16)
      }
    })
  })

  const model = () => sharp({ dim: 128, heads: 4, kvHeads: 2, headDim: 64 })
  const draws = 4000
  /** The logits of the token that follows a prompt, and each token's share of `draws` first tokens. */
  const firstTokens = (over: Partial<GenerateOptions> = {}) => {
    const one = model()
    const [prompt] = prompts
    const answers = generate(
      one,
      Array.from({ length: draws }, () => prompt!),
      optionsFor(draws, { maxNewTokens: 1, eosId: undefined, batchSize: 64, ...over })
    )
    const logits = scoped(() =>
      noGrad(() => {
        const ids = tensor([prompt!], { dtype: "int64", device })
        return one
          .forward(ids)
          .select(1, prompt!.length - 1)
          .toNumbers()
      })
    )
    const shares = logits.map(() => 0)
    for (const { tokens } of answers) shares[tokens[0]!]! += 1 / draws
    return { logits, shares }
  }
  const expectShares = (shares: ReadonlyArray<number>, probabilities: ReadonlyArray<number>) =>
    probabilities.forEach((p, token) =>
      expect(Math.abs(shares[token]! - p)).toBeLessThanOrEqual(5 * Math.sqrt((p * (1 - p)) / draws) + 1e-3)
    )

  // No decision in these answers (which tokens are kept, which is drawn) is so close that rounding could change it. Margins in float64 on the CPU: 1e-5 in probabilities and 5e-5 in logits, or more.
  describe.each([
    { over: {}, temperature: 1, topK: 10 },
    { over: {}, temperature: 0.7, topK: 12, topP: 0.8 },
    { over: {}, temperature: 1.3, topK: 20, topP: 0.8 },
    { over: {}, temperature: 1, topP: 0.6, maxNewTokens: 8 },
    { over: {}, temperature: 0.7, topP: 0.75, maxNewTokens: 8 },
    { over: {}, temperature: 1.3, topP: 0.85, maxNewTokens: 8 },
    { over: { dim: 64, headDim: 16, vocabSize: 5003 }, temperature: 1, topK: 10 },
    { over: { dim: 64, headDim: 16, vocabSize: 5003 }, temperature: 0.7, topK: 12, topP: 0.9 }
  ])("with top-k and top-p, %j", ({ over, ...restriction }) => {
    const shape = { dim: 128, heads: 4, kvHeads: 2, headDim: 64, ...over }
    it("gives the tokens and log-probabilities of plain decoding, for any number of slots", () => {
      const one = sharp(shape)
      const wanted = plainly(() => generate(one, prompts, optionsFor(prompts.length, restriction)))
      for (const batchSize of [prompts.length, 4]) {
        const found = generate(one, prompts, optionsFor(prompts.length, { ...restriction, batchSize }))
        expect(found.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens))
        expect(found.map(({ finished }) => finished)).toEqual(wanted.map(({ finished }) => finished))
        found.forEach(({ logProbabilities }, i) =>
          expect(largestDifference(logProbabilities, wanted[i]!.logProbabilities)).toBeLessThanOrEqual(sameInFloat32)
        )
      }
    })
    it("in bfloat16 records log-probabilities that are larger than under the full distribution", () => {
      const one = sharp(shape, "bfloat16")
      const mean = (numbers: ReadonlyArray<number>) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length
      const found = generate(one, prompts, optionsFor(prompts.length, restriction))
      expect(found.flatMap(({ logProbabilities }) => logProbabilities).every(Number.isFinite)).toBe(true)
      const full = mean(found.flatMap(({ tokens }, i) => teacherForced(one, prompts[i]!, tokens, restriction.temperature)))
      expect(mean(found.flatMap(({ logProbabilities }) => logProbabilities))).toBeGreaterThan(full)
    })
  })
  it("draws with top-k only the k likeliest tokens, each with its probability", () => {
    const { logits, shares } = firstTokens({ topK: 7, temperature: 1.5 })
    const least = logits.toSorted((a, b) => b - a)[6]!
    const weights = logits.map((logit) => (logit >= least ? Math.exp(logit / 1.5) : 0))
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    expect(shares.map((share) => share > 0)).toEqual(weights.map((weight) => weight > 0))
    expectShares(
      shares,
      weights.map((weight) => weight / total)
    )
  })
  it("reports the sequence whose logits are NaN also with top-k and top-p", () => {
    const one = model()
    noGrad(() => one.parameter("model.norm.weight").fill_(NaN))
    expect(() => generate(one, prompts, optionsFor(prompts.length, { topK: 5, topP: 0.9 }))).toThrow(
      /logits are not numbers \(sequence 0, token 1\)/
    )
  })

  it("gives the same answers for any number of slots, and in whatever order they end", () => {
    const many = Array.from({ length: 60 }, (_, i) => prompts[i % prompts.length]!)
    const one = model()
    const wanted = generate(one, many, optionsFor(many.length))
    // Some sequences end, and others take their slots.
    expect(wanted.filter(({ finished }) => finished).length).toBeGreaterThan(2)
    for (const batchSize of [1, 5, 16]) {
      const found = generate(one, many, optionsFor(many.length, { batchSize }))
      expect(found.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens))
    }
  })
  it("ends at any of several tokens, including as the first", () => {
    const one = model()
    const free = generate(one, prompts, optionsFor(prompts.length, { eosId: undefined }))
    expect(free.every(({ finished, tokens }) => !finished && tokens.length === 30)).toBe(true)
    const stops = [free[0]!.tokens[0]!, free[1]!.tokens[4]!]
    generate(one, prompts, optionsFor(prompts.length, { eosId: stops })).forEach(({ finished, tokens }, i) => {
      const end = free[i]!.tokens.findIndex((token) => stops.includes(token))
      expect(tokens).toEqual(end === -1 ? free[i]!.tokens : free[i]!.tokens.slice(0, end + 1))
      expect(finished).toBe(end !== -1)
    })
  })
  it("leaves prompts that are longer than a sliding window to plain decoding, one batch at a time", () => {
    const one = sharp({ dim: 128, heads: 4, kvHeads: 2, headDim: 64, family: "mistral", slidingWindow: 30 })
    expect([decodesOnGpu(one, 30), decodesOnGpu(one, 31)]).toEqual([true, false])
    const found = generate(one, prompts, optionsFor(prompts.length, { batchSize: 2 }))
    const wanted = plainly(() => generate(one, prompts, optionsFor(prompts.length)))
    expect(found.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens))
  })
  describe("with few sequences and few heads, whose keys are divided into parts of 256 or more", () => {
    // The first has one part up to 512 keys, then two; the second has four.
    const long = [promptOf(500), promptOf(1030)]
    const ofLength = (dtype: DType) => sharp({ dim: 128, heads: 2, kvHeads: 1, headDim: 64, maxPositions: 1100 }, dtype)
    it("gives the tokens of plain decoding", () => {
      const one = ofLength("float32")
      const [found, wanted] = [generate(one, long, optionsFor(2)), plainly(() => generate(one, long, optionsFor(2)))]
      expect(found.map(({ tokens }) => tokens)).toEqual(wanted.map(({ tokens }) => tokens))
    })
    it("in bfloat16 records the log-probabilities of a forward pass", () => {
      const one = ofLength("bfloat16")
      const found = generate(one, long, optionsFor(2, { eosId: undefined }))
      expect(found.map(({ tokens }) => tokens.length)).toEqual([30, 30])
      for (const [i, { logProbabilities, tokens }] of found.entries()) {
        const differences = teacherForced(one, long[i]!, tokens, 1).map((x, t) => Math.abs(x - logProbabilities[t]!))
        expect(differences.reduce((sum, x) => sum + x, 0) / differences.length).toBeLessThanOrEqual(bfloat16)
      }
    })
  })
  it("decodes with an adapter, and uses its new weights after they change", () => {
    const base = model()
    const before = generate(base, prompts, optionsFor(prompts.length))
    const adapter = initLora(base.config, { rank: 4, alpha: 64, rankStabilised: false, targets: linearLayers }, { seed: 1, device })
    const adapted = base.withAdapter(adapter)
    expect(generate(adapted, prompts, optionsFor(prompts.length))).toEqual(before)
    for (const [name, matrix] of Object.entries(adapter.parameters))
      if (name.includes("lora_B")) scoped(() => noGrad(() => matrix.add_(0.05)))
    const after = generate(adapted, prompts, optionsFor(prompts.length))
    expect(after).not.toEqual(before)
    after.forEach(({ logProbabilities, tokens }, i) =>
      expect(largestDifference(logProbabilities, teacherForced(adapted, prompts[i]!, tokens, 1))).toBeLessThanOrEqual(10 * sameInFloat32)
    )
  })
  it.skipIf(environment().gpuGeneration !== 9)("decodes with our own products, for any number of slots with batchInvariant", () => {
    const one = sharp({ dim: 128, heads: 4, kvHeads: 2, headDim: 64 }, "bfloat16")
    // N, K, gated, and a plan: queries, keys and values, and the vocabulary; attention's output; gate and up; down.
    const plans = [
      [512, 128, false, 64, 2, 2],
      [128, 256, false, 64, 2, 3],
      [64, 128, true, 32, 1, 2],
      [128, 64, false, 32, 1, 2]
    ] as const
    for (const plan of plans) atenVoid("caravan::choose_product", ...plan)
    try {
      const options = optionsFor(prompts.length, { batchInvariant: true })
      const found = generate(one, prompts, options)
      for (const batchSize of [1, 4]) expect(generate(one, prompts, { ...options, batchSize })).toEqual(found)
      const differences = found.flatMap(({ logProbabilities, tokens }, i) =>
        teacherForced(one, prompts[i]!, tokens, 1).map((x, t) => Math.abs(x - logProbabilities[t]!))
      )
      expect(differences.reduce((sum, x) => sum + x, 0) / differences.length).toBeLessThanOrEqual(bfloat16)
    } finally {
      for (const [columns, width, gated] of plans) atenVoid("caravan::choose_product", columns, width, gated, 0, 0, 0)
    }
  })
  it("reports the sequence whose logits are NaN", () => {
    const one = model()
    noGrad(() => one.parameter("model.norm.weight").fill_(NaN))
    expect(() => generate(one, prompts, optionsFor(prompts.length))).toThrow(/logits are not numbers \(sequence 0, token 1\)/)
  })
  it("samples each token with its probability", () => {
    const { logits, shares } = firstTokens()
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0)
    expectShares(
      shares,
      logits.map((logit) => Math.exp(logit) / total)
    )
  })
  it("samples five thousand prompts to the same mean length and log-probability as plain decoding", () => {
    const one = sharp({ dim: 128, heads: 4, kvHeads: 2, headDim: 64 }, "bfloat16")
    const many = Array.from({ length: 5000 }, (_, i) => promptOf(1 + (i % 40)))
    const options = (seed: number) =>
      optionsFor(many.length, { seeds: many.map((_, i) => seed + i), eosId: [2, 7, 9, 11, 13, 17, 19, 23], batchSize: 500 })
    const [ours, plain] = [generate(one, many, options(0)), plainly(() => generate(one, many, options(1_000_000)))]
    const meanAndError = (numbers: ReadonlyArray<number>) => {
      const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length
      return { mean, error: Math.sqrt(numbers.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (numbers.length - 1) / numbers.length) }
    }
    const measures = [
      ({ tokens }: Generated) => tokens.length,
      ({ logProbabilities }: Generated) => logProbabilities.reduce((sum, x) => sum + x, 0),
      ({ logProbabilities }: Generated) => logProbabilities[0]!
    ]
    for (const measure of measures) {
      const [a, b] = [meanAndError(ours.map(measure)), meanAndError(plain.map(measure))]
      expect(a.error).toBeGreaterThan(0)
      expect(Math.abs(a.mean - b.mean)).toBeLessThanOrEqual(4 * Math.hypot(a.error, b.error))
    }
  }, 120_000)
  it("leaves nothing behind, over a thousand generations of random shapes", () => {
    const one = model()
    const random = new Random(9, "shapes")
    const go = () => {
      const asked = Array.from({ length: 1 + random.int(12) }, () => promptOf(1 + random.int(80)))
      const restriction = random.int(3) === 0 ? { topK: 5, topP: 0.9 } : {}
      generate(one, asked, optionsFor(asked.length, { maxNewTokens: 1 + random.int(9), batchSize: 1 + random.int(8), ...restriction }))
    }
    for (let i = 0; i < 100; i++) go()
    const [tensors, bytes] = [liveTensors(), deviceMemory()!.current]
    for (let i = 0; i < 1000; i++) go()
    expect(liveTensors()).toBe(tensors)
    expect(deviceMemory()!.current).toBe(bytes)
  }, 600_000)
})
