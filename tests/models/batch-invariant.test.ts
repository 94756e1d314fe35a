/** batchInvariant: a sequence's tokens and log-probabilities, bit for bit, with any other prompts and any batch size. */
import { describe, expect, it } from "vitest"
import { useKernels } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { type Device, type DType, linear, noGrad, scoped, type Tensor, tensor, zeros } from "../../engine/tensor.ts"
import { BatchInvarianceError, inChunks } from "../../models/batch-invariant.ts"
import type { LlamaConfig } from "../../models/config.ts"
import { initLlama, type Llama } from "../../models/llama.ts"
import { type Generated, generate, type GenerateOptions } from "../../models/sampler.ts"
import { devices } from "../devices.ts"
import { smallConfig } from "./small.ts"

const words = new Random(4, "prompts")
const promptOf = (length: number) => Array.from({ length }, () => 3 + words.int(490))
// Of equal and of very different lengths, two of them the same.
const prompts = [7, 2, 40, 7, 1, 19, 64, 3, 7, 65, 130, 7, 41, 1, 1, 200].map(promptOf)
prompts.push(prompts[2]!)
/** Six percent of the vocabulary, so that answers have different lengths. */
const endsOf = (model: Llama) => Array.from({ length: Math.floor(0.06 * model.config.vocabSize) }, (_, i) => 2 + i)
const all = prompts.map((_, i) => i)
const batchSizes = [1, 3, 8, 16]
/** Some alone, in the other order, without the longest, only those of equal length. */
const lists = [...[0, 4, 10, 15, 16].map((i) => [i]), all.toReversed(), all.filter((i) => i !== 15), [0, 3, 8, 11], [2, 16, 9]]
const settings = [{ temperature: 0 }, { temperature: 1 }, { temperature: 0.7, topK: 20, topP: 0.9 }, { temperature: 1.3, topP: 0.7 }]

const modelOn = (device: Device, dtype: DType, over: Partial<LlamaConfig>): Llama => {
  const config = smallConfig({ vocabSize: 503, dim: 96, ffn: 200, heads: 6, headDim: 16, maxPositions: 400, ...over })
  const model = initLlama(config, { seed: 3, device, dtype })
  for (const [name, weight] of Object.entries(model.parameters)) {
    if (name.endsWith(".bias")) noGrad(() => weight.normal_(0, 0.3))
    else if (!name.endsWith("norm.weight")) noGrad(() => weight.mul_(5))
  }
  return model
}
const answersTo = (model: Llama, which: ReadonlyArray<number>, over: Partial<GenerateOptions>): Array<Generated> =>
  generate(
    model,
    which.map((i) => prompts[i]!),
    { maxNewTokens: 24, temperature: 1, seeds: which.map((i) => 50 + i), eosId: endsOf(model), padId: 0, ...over }
  )

const shapes: ReadonlyArray<{ readonly what: string; readonly over: Partial<LlamaConfig> }> = [
  { what: "grouped queries", over: { kvHeads: 2 } },
  { what: "as many key heads, of 32", over: { heads: 3, kvHeads: 3, headDim: 32 } },
  { what: "biases, as Qwen 2, and one key head", over: { kvHeads: 1, family: "qwen2" } },
  { what: "norms of heads, as Qwen 3", over: { kvHeads: 2, family: "qwen3" } },
  { what: "a vocabulary of a round size", over: { kvHeads: 2, vocabSize: 512 } }
]
/** The GPU decoder does not support prompts longer than the window. */
const withWindow = (slidingWindow: number) =>
  ({ what: `a sliding window of ${slidingWindow}, as Mistral`, over: { kvHeads: 2, family: "mistral", slidingWindow } }) as const
/** Widths for which libraries split sums. */
const wide = { what: "the widths of a larger model", over: { dim: 1024, ffn: 2816, heads: 16, kvHeads: 4, headDim: 64, vocabSize: 32_000 } }
const cases: ReadonlyArray<{ readonly device: Device; readonly dtype: DType; readonly shapes: typeof shapes }> = [
  { device: "cpu", dtype: "float32", shapes: [...shapes, withWindow(30)] },
  { device: "cuda", dtype: "float32", shapes: [...shapes, withWindow(210), wide] },
  { device: "cuda", dtype: "bfloat16", shapes: [...shapes, withWindow(210), wide] }
]

for (const { device, dtype, shapes: its } of cases)
  describe.skipIf(devices.find((one) => one.device === device)!.skip)(`batch-invariant generation on ${device} in ${dtype}`, () => {
    describe.each(its)("with $what", ({ over }) => {
      it.each(settings)("gives the same bits for any batch size and any list of prompts: %j", (setting) => {
        const model = modelOn(device, dtype, over)
        const options = { ...setting, batchInvariant: true }
        const wanted = answersTo(model, all, options)
        // Answers of different lengths, so that others take their slots; and more than a few different numbers.
        expect(new Set(wanted.map(({ tokens }) => tokens.length)).size).toBeGreaterThan(1)
        expect(new Set(wanted.flatMap(({ logProbabilities }) => logProbabilities)).size).toBeGreaterThan(100)
        for (const batchSize of batchSizes) expect(answersTo(model, all, { ...options, batchSize })).toEqual(wanted)
        for (const list of lists) expect(answersTo(model, list, options)).toEqual(list.map((i) => wanted[i]!))
      })
    })
  })

describe.skipIf(devices.find((one) => one.device === "cuda")!.skip)("on a GPU", () => {
  it.each([64, 256])("a product of %i rows gives equal rows equal results, whatever their place", (rows) => {
    for (const dtype of ["float32", "bfloat16"] as const)
      for (const [width, columns] of [
        [96, 288],
        [1024, 1536],
        [2816, 1024],
        [2048, 32_000],
        [11_008, 4096]
      ] as const)
        scoped(() => {
          const normal = (shape: ReadonlyArray<number>) => zeros(shape).normal_(0, 1).to({ dtype, device: "cuda" })
          const product = linear(normal([1, width]).expand(rows, width).contiguous(), normal([columns, width]))
          expect([
            dtype,
            width,
            product
              .eq(product.slice(0, 0, 1))
              .all()
              .item()
          ]).toEqual([dtype, width, 1])
        })
  })
  it.each(["float32", "bfloat16"] as const)("gives the same bits for long prompts, whose keys are divided into parts, in %s", (dtype) => {
    const model = modelOn("cuda", dtype, { heads: 2, kvHeads: 1, headDim: 64, maxPositions: 1100 })
    const long = [promptOf(500), promptOf(3), promptOf(1030)]
    const answers = (which: ReadonlyArray<number>, batchSize: number) =>
      generate(
        model,
        which.map((i) => long[i]!),
        { maxNewTokens: 24, temperature: 1, seeds: which, eosId: endsOf(model), padId: 0, batchInvariant: true, batchSize }
      )
    const wanted = answers([0, 1, 2], 3)
    for (const i of [0, 1, 2]) expect(answers([i], 1)).toEqual([wanted[i]])
    expect(answers([2, 1, 0], 2)).toEqual(wanted.toReversed())
  })
  it("gives other bits without batchInvariant", () => {
    const model = modelOn("cuda", "float32", { kvHeads: 2 })
    const alone = all.flatMap((i) => answersTo(model, [i], {}))
    expect(answersTo(model, all, {})).not.toEqual(alone)
  })
  it.each(["float32", "bfloat16"] as const)("gives the same bits with more slots than rows in a product, in %s", (dtype) => {
    const model = modelOn("cuda", dtype, { kvHeads: 2 })
    const many = Array.from({ length: 150 }, (_, i) => i % prompts.length)
    const options = { batchInvariant: true, temperature: 0.7, topK: 20, topP: 0.9, seeds: many.map((_, i) => i) }
    const wanted = answersTo(model, many, options)
    for (const batchSize of [1, 63, 64, 65, 130]) expect(answersTo(model, many, { ...options, batchSize })).toEqual(wanted)
  })
  it("is refused for a prompt that the GPU decoder does not support", () => {
    const model = modelOn("cuda", "float32", { kvHeads: 2, family: "mistral", slidingWindow: 30 })
    expect(() => answersTo(model, [2], { batchInvariant: true })).toThrow(
      /batchInvariant needs .* Found a float32 model on a GPU and a prompt of 40 tokens/
    )
  })
})

describe("batchInvariant on the CPU", () => {
  const bits = (model: Llama, which: ReadonlyArray<number>) => answersTo(model, which, {}).map(({ logProbabilities }) => logProbabilities)
  it("is refused in bfloat16, where libraries compute the products", () => {
    const model = modelOn("cpu", "bfloat16", { kvHeads: 2 })
    expect(() => answersTo(model, all, { batchInvariant: true })).toThrow(BatchInvarianceError)
    expect(() => answersTo(model, all, { batchInvariant: true })).toThrow(
      "generate: batchInvariant needs our float32 kernels on the CPU, or our GPU kernels and a model and prompts that the GPU decoder supports. Found a bfloat16 model on the CPU. Use float32 or a GPU, or turn batchInvariant off."
    )
  })
  it("is refused without the kernels, where the bits depend on the batch", () => {
    const model = modelOn("cpu", "float32", { kvHeads: 2 })
    useKernels(false)
    try {
      expect(() => answersTo(model, all, { batchInvariant: true })).toThrow(BatchInvarianceError)
      expect(bits(model, all)).not.toEqual(all.flatMap((i) => bits(model, [i])))
    } finally {
      useKernels(true)
    }
  })
})

describe("rows in chunks", () => {
  const rowsOf = (count: number) => tensor(Array.from({ length: count }, (_, i) => [i, 2 * i + 1]))
  it.each([1, 3, 4, 5, 8, 9])("are computed four at a time, the last ones with rows of zeros: %i", (count) => {
    scoped(() => {
      const seen: Array<number> = []
      const double = (chunk: Tensor) => {
        seen.push(chunk.size(0))
        return withSum(chunk)
      }
      const found = inChunks(rowsOf(count), 4, double)
      expect(found.shape).toEqual([count, 3])
      expect(found.toNumbers()).toEqual(withSum(rowsOf(count)).toNumbers())
      expect(seen).toEqual(Array.from({ length: Math.ceil(count / 4) }, () => 4))
    })
  })
})
/** (N, 2) -> (N, 3) */
const withSum = (x: Tensor): Tensor =>
  x.matmul(
    tensor([
      [1, 0, 1],
      [0, 1, 1]
    ])
  )
