import { describe, expect, it } from "vitest"
import { liveTensors, noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { Decoder } from "../../models/decoder.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { restrict } from "../../models/restrict.ts"
import { type GenerateOptions, generate } from "../../models/sampler.ts"
import { devices } from "../devices.ts"
import { sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"
import { sharpen } from "./tensors.ts"

const eosId = 2
const prompts = [
  [1, 5, 9, 13, 60, 3, 7],
  [1, 44],
  [1, 8, 8, 30, 21],
  [1, 44],
  [1, 9, 9]
]
const seeds = prompts.map((_, i) => 100 + i)
const base: GenerateOptions = { maxNewTokens: 20, temperature: 1, seeds, eosId, padId: 0 }

for (const { device, skip } of devices) {
  /** Some tokens are likely and some are unlikely. */
  const sharp = (over = {}): Llama => sharpen(initLlama(smallConfig(over), { seed: 3, device }), 10)

  /** Log-probabilities of the tokens after the prompt from a full forward pass, under the distribution given by the options. */
  const teacherForced = (
    model: Llama,
    prompt: ReadonlyArray<number>,
    tokens: ReadonlyArray<number>,
    options: GenerateOptions
  ): Array<number> =>
    scoped(() =>
      noGrad(() => {
        const all = [...prompt, ...tokens]
        const logits = model
          .forward(tensor([all], { dtype: "int64", device }))
          .select(0, 0)
          .slice(0, prompt.length - 1, all.length - 1) // (T, V)
        const tempered = options.temperature === 0 ? logits : logits.div(options.temperature)
        const kept = options.temperature === 0 ? tempered : restrict(tempered, options)
        return kept
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

  describe.skipIf(skip)(`generation on ${device}`, () => {
    const models = skip
      ? []
      : ([
          ["grouped queries", sharp()],
          ["tied, one key head", sharp({ kvHeads: 1, tiedEmbeddings: true })],
          ["as many key heads", sharp({ kvHeads: 6 })]
        ] as const)

    for (const [name, model] of models) {
      it.each([
        ["sampled", { temperature: 1 }],
        ["sampled at another temperature", { temperature: 0.7 }],
        ["of the ten likeliest", { temperature: 1.3, topK: 10 }],
        ["of the nucleus", { temperature: 1, topP: 0.8 }],
        ["of both", { temperature: 0.9, topK: 12, topP: 0.9 }],
        ["greedy", { temperature: 0 }]
      ])(`records the log-probabilities of a full forward pass: %s (${name})`, (_, over) => {
        const options = { ...base, ...over }
        const generated = generate(model, prompts, options)
        generated.forEach(({ tokens, logProbabilities }, i) => {
          expect(tokens.length).toBeGreaterThan(0)
          expect(largestDifference(logProbabilities, teacherForced(model, prompts[i]!, tokens, options))).toBeLessThanOrEqual(sameInFloat32)
        })
      })

      it(`gives a prompt the same continuation alone and in any batch (${name})`, () => {
        const together = generate(model, prompts, base)
        const alone = prompts.map((prompt, i) => generate(model, [prompt], { ...base, seeds: [seeds[i]!] })[0]!)
        const turned = generate(model, prompts.toReversed(), { ...base, seeds: seeds.toReversed() }).toReversed()
        for (const other of [alone, turned]) {
          expect(other.map(({ tokens, finished }) => ({ tokens, finished }))).toEqual(
            together.map(({ tokens, finished }) => ({ tokens, finished }))
          )
          expect(
            largestDifference(
              other.flatMap((row) => row.logProbabilities),
              together.flatMap((row) => row.logProbabilities)
            )
          ).toBeLessThanOrEqual(sameInFloat32)
        }
      })
    }

    it("gives the same tokens for any number of sequences in parallel, in order", () => {
      const model = sharp()
      const options = { ...base, topP: 0.9 }
      const together = generate(model, prompts, options)
      for (const batchSize of [1, 2, 4, 9])
        expect(generate(model, prompts, { ...options, batchSize }).map(({ tokens }) => tokens)).toEqual(
          together.map(({ tokens }) => tokens)
        )
    })

    it("ends each sequence at its first end-of-sequence token, which it keeps, while others continue", () => {
      const model = models[0][1]
      const many = Array.from({ length: 40 }, (_, i) => prompts[i % prompts.length]!)
      const generated = generate(model, many, { ...base, seeds: many.map((_, i) => i), maxNewTokens: 40 })
      for (const { tokens, finished, logProbabilities } of generated) {
        expect(logProbabilities.length).toBe(tokens.length)
        expect(tokens.indexOf(eosId)).toBe(finished ? tokens.length - 1 : -1)
        expect(finished ? 40 : tokens.length).toBe(40)
      }
      const lengths = generated.filter(({ finished }) => finished).map(({ tokens }) => tokens.length)
      expect(new Set(lengths).size).toBeGreaterThan(5)
      expect(lengths.length).toBeLessThan(many.length)
      // Without a stop token, everything before it is the same.
      const endless = generate(model, many, { ...base, seeds: many.map((_, i) => i), maxNewTokens: 40, eosId: undefined })
      endless.forEach(({ tokens, finished }, i) => {
        expect([finished, tokens.length]).toEqual([false, 40])
        expect(tokens.slice(0, generated[i]!.tokens.length)).toEqual(generated[i]!.tokens)
      })
    })

    it("samples tokens with their probabilities", () => {
      const model = models[0][1]
      const draws = 4000
      for (const over of [{ temperature: 1 }, { temperature: 1.5, topK: 20, topP: 0.95 }]) {
        const options = { ...base, ...over, maxNewTokens: 1, seeds: Array.from({ length: draws }, (_, i) => i) }
        const counts = new Map<number, number>()
        for (const { tokens } of generate(
          model,
          Array.from({ length: draws }, () => prompts[0]!),
          options
        ))
          counts.set(tokens[0]!, (counts.get(tokens[0]!) ?? 0) + 1)
        const vocab = Array.from({ length: model.config.vocabSize }, (_, id) => id)
        const probabilities = vocab.map((id) => Math.exp(teacherForced(model, prompts[0]!, [id], options)[0]!))
        expect(vocab.filter((id) => probabilities[id] === 0 && counts.has(id))).toEqual([])
        // Pearson's chi-square over the tokens expected at least 5 times, with the others combined.
        const often = vocab.filter((id) => probabilities[id]! * draws >= 5)
        const rest = 1 - often.reduce((sum, id) => sum + probabilities[id]!, 0)
        const cells = often.map((id) => [counts.get(id) ?? 0, probabilities[id]! * draws] as const)
        if (rest * draws > 1) cells.push([draws - cells.reduce((sum, [n]) => sum + n, 0), rest * draws])
        const chiSquare = cells.reduce((sum, [n, expected]) => sum + (n - expected) ** 2 / expected, 0)
        const freedom = cells.length - 1
        expect(freedom).toBeGreaterThan(8)
        // Four deviations above the mean of the chi-square distribution.
        expect(chiSquare).toBeLessThan(freedom + 4 * Math.sqrt(2 * freedom))
      }
    })

    it("gives the same tokens for the same seeds, and different ones for other seeds", () => {
      const model = models[0][1]
      const first = generate(model, prompts, base)
      expect(generate(model, prompts, base)).toEqual(first)
      const other = generate(model, prompts, { ...base, seeds: seeds.map((seed) => seed + 1000) })
      expect(other.map(({ tokens }) => tokens)).not.toEqual(first.map(({ tokens }) => tokens))
      // The same prompt with two seeds.
      expect(first[1]!.tokens).not.toEqual(first[3]!.tokens)
    })

    it("is greedy with one token kept, with an empty nucleus, and at temperature 0", () => {
      const model = models[0][1]
      const tokens = (over: Partial<GenerateOptions>) => generate(model, prompts, { ...base, ...over }).map((row) => row.tokens)
      const greedy = tokens({ temperature: 0 })
      expect(tokens({ topK: 1 })).toEqual(greedy)
      expect(tokens({ topP: 0 })).toEqual(greedy)
    })

    it("leaves no tensor behind", () => {
      const model = models[0][1]
      generate(model, prompts, base)
      const before = liveTensors()
      generate(model, prompts, base)
      generate(model, prompts, { ...base, temperature: 0, topP: 0.5 })
      expect(liveTensors()).toBe(before)
    })

    it("reads prompts with one layer's tensors at a time: more layers need no more memory besides the cache", () => {
      const kept = (layers: number) =>
        scoped(() =>
          noGrad(() => {
            const decoder = new Decoder(initLlama(smallConfig({ layers }), { seed: 3, device }))
            const ids = tensor([[1, 5, 9]], { dtype: "int64", device })
            const mask = tensor([[0, 1, 1]], { dtype: "int64", device })
            const read = () => void decoder.prefill(ids, mask, 8)
            read() // The rotation table is made and kept.
            const before = liveTensors()
            read()
            return liveTensors() - before - 2 * layers
          })
        )
      expect(kept(4)).toBe(kept(2))
    })

    it("fills the context to its last token, but not beyond", () => {
      const model = models[0][1]
      const { maxPositions } = model.config
      const prompt = Array.from({ length: maxPositions - 3 }, (_, i) => 3 + (i % 50))
      expect(generate(model, [prompt], { ...base, seeds: [1], maxNewTokens: 3, eosId: undefined })[0]!.tokens.length).toBe(3)
      expect(() => generate(model, [prompt], { ...base, seeds: [1], maxNewTokens: 4 })).toThrow(
        `a prompt of ${maxPositions - 3} tokens and 4 new tokens exceed the model's context of ${maxPositions}`
      )
    })

    it("returns nothing for no prompts and for no new tokens", () => {
      const model = models[0][1]
      expect(generate(model, [], { ...base, seeds: [] })).toEqual([])
      expect(generate(model, [[1]], { ...base, seeds: [1], maxNewTokens: 0 })).toEqual([
        { tokens: [], logProbabilities: [], finished: false }
      ])
    })

    it("reports what it can't do", () => {
      const model = models[0][1]
      const attempt =
        (over: Partial<GenerateOptions>, given: Array<Array<number>> = [[1]]) =>
        () =>
          generate(model, given, { ...base, seeds: [1], ...over })
      expect(attempt({}, [[]])).toThrow("a prompt has no tokens")
      expect(attempt({ seeds: [] })).toThrow("sampling 1 sequences needs one seed per sequence, got 0")
      expect(attempt({ temperature: -1 })).toThrow("temperature must be a number of 0 or more, got -1")
      expect(attempt({ temperature: NaN })).toThrow("temperature must be")
      expect(attempt({ topK: 1.5 })).toThrow("topK must be an integer of 0 or more, got 1.5")
      expect(attempt({ topP: 1.1 })).toThrow("topP must be between 0 and 1, got 1.1")
      expect(attempt({ batchSize: 0 })).toThrow("batchSize must be an integer of 1 or more, got 0")
      expect(attempt({ maxNewTokens: -1 })).toThrow("maxNewTokens must be an integer of 0 or more, got -1")
    })

    it("stops if the model gives NaN", () => {
      for (const temperature of [0, 1]) {
        const broken = sharp()
        noGrad(() => broken.parameter("model.norm.weight").fill_(NaN))
        expect(() => generate(broken, prompts, { ...base, temperature })).toThrow(/not numbers|above 0/)
      }
    })
  })
}

describe("what top-k and top-p keep", () => {
  const kept = (probabilities: ReadonlyArray<number>, options: { readonly topK?: number; readonly topP?: number }) =>
    scoped(() =>
      restrict(tensor([probabilities]).log(), options)
        .toNumbers()
        .flatMap((logit, id) => (logit === -Infinity ? [] : [id]))
    )
  // From the likeliest on, their cumulative probabilities are 0.4, 0.7, 0.9 and 1.
  const probabilities = [0.1, 0.4, 0.2, 0.3]

  it("are the k likeliest", () => {
    expect(kept(probabilities, { topK: 0 })).toEqual([0, 1, 2, 3])
    expect(kept(probabilities, { topK: 1 })).toEqual([1])
    expect(kept(probabilities, { topK: 3 })).toEqual([1, 2, 3])
    expect(kept(probabilities, { topK: 9 })).toEqual([0, 1, 2, 3])
  })

  it("are the fewest that reach p, including the one that reaches it", () => {
    expect(kept(probabilities, { topP: 0 })).toEqual([1])
    expect(kept(probabilities, { topP: 0.39 })).toEqual([1])
    expect(kept(probabilities, { topP: 0.41 })).toEqual([1, 3])
    expect(kept(probabilities, { topP: 0.69 })).toEqual([1, 3])
    expect(kept(probabilities, { topP: 0.71 })).toEqual([1, 2, 3])
    expect(kept(probabilities, { topP: 0.95 })).toEqual([0, 1, 2, 3])
    expect(kept(probabilities, { topP: 1 })).toEqual([0, 1, 2, 3])
  })

  it("depend on each other: p applies to the k likeliest", () => {
    // Of 0.4 and 0.3 the first has 0.57.
    expect(kept(probabilities, { topK: 2, topP: 0.5 })).toEqual([1])
    expect(kept(probabilities, { topP: 0.5 })).toEqual([1, 3])
  })
})
