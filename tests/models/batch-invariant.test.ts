/** batchInvariant: a sequence's tokens and log-probabilities, bit for bit, with any other prompts and any batch size. */
import { describe, expect, it } from "vitest"
import { useKernels } from "../../engine/fused.ts"
import { Random } from "../../engine/random.ts"
import { type Device, type DType, noGrad } from "../../engine/tensor.ts"
import { BatchInvarianceError } from "../../models/batch-invariant.ts"
import type { LlamaConfig } from "../../models/config.ts"
import { initLlama, type Llama } from "../../models/llama.ts"
import { type Generated, generate, type GenerateOptions } from "../../models/sampler.ts"
import { smallConfig } from "./small.ts"

const words = new Random(4, "prompts")
const promptOf = (length: number) => Array.from({ length }, () => 3 + words.int(490))
// Of equal and of very different lengths, two of them the same.
const prompts = [7, 2, 40, 7, 1, 19, 64, 3, 7, 65, 130, 7, 41, 1, 1, 200].map(promptOf)
prompts.push(prompts[2]!)
/** Many, so that answers have different lengths. */
const ends = Array.from({ length: 30 }, (_, i) => 2 + i)
const all = prompts.map((_, i) => i)
const batchSizes = [1, 2, 3, 5, 8, 16, 17]
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
    { maxNewTokens: 24, temperature: 1, seeds: which.map((i) => 50 + i), eosId: ends, padId: 0, ...over }
  )

const shapes: ReadonlyArray<{ readonly what: string; readonly over: Partial<LlamaConfig> }> = [
  { what: "grouped queries", over: { kvHeads: 2 } },
  { what: "as many key heads, of 32", over: { heads: 3, kvHeads: 3, headDim: 32 } },
  { what: "biases, as Qwen 2, and one key head", over: { kvHeads: 1, family: "qwen2" } },
  { what: "norms of heads, as Qwen 3", over: { kvHeads: 2, family: "qwen3" } },
  { what: "a vocabulary of a round size", over: { kvHeads: 2, vocabSize: 512 } }
]
describe.each([...shapes, { what: "a sliding window, as Mistral", over: { kvHeads: 2, family: "mistral", slidingWindow: 30 } as const }])(
  "batch-invariant generation with $what",
  ({ over }) => {
    it.each(settings)("gives the same bits for any batch size and any list of prompts: %j", (setting) => {
      const model = modelOn("cpu", "float32", over)
      const options = { ...setting, batchInvariant: true }
      const wanted = answersTo(model, all, options)
      expect(new Set(wanted.map(({ tokens }) => tokens.length)).size).toBeGreaterThan(1)
      expect(new Set(wanted.flatMap(({ logProbabilities }) => logProbabilities)).size).toBeGreaterThan(100)
      for (const batchSize of batchSizes) expect(answersTo(model, all, { ...options, batchSize })).toEqual(wanted)
      for (const list of lists) expect(answersTo(model, list, options)).toEqual(list.map((i) => wanted[i]!))
    })
  }
)

describe("batchInvariant on the CPU", () => {
  const bits = (model: Llama, which: ReadonlyArray<number>) => answersTo(model, which, {}).map(({ logProbabilities }) => logProbabilities)
  it("is refused in bfloat16, where libraries compute the products", () => {
    const model = modelOn("cpu", "bfloat16", { kvHeads: 2 })
    expect(() => answersTo(model, all, { batchInvariant: true })).toThrow(BatchInvarianceError)
    expect(() => answersTo(model, all, { batchInvariant: true })).toThrow(
      "generate: batchInvariant needs our float32 kernels on the CPU. Found a bfloat16 model on cpu. Use float32 on the CPU, or turn batchInvariant off."
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
