/** The memory of models, compared with sums made by hand. */
import { describe, expect, it } from "vitest"
import { llamaConfig, presets } from "../../models/config.ts"
import { linearLayers } from "../../models/lora.ts"
import {
  blockBytes,
  cacheBytes,
  costedParameters,
  generationMemory,
  together,
  noMemory,
  totalMemory,
  trainingMemory,
  usableMemory,
  weightBytes
} from "../../models/memory.ts"

const language = (name: keyof typeof presets) => ({ config: presets[name], scalarHead: false })
const seven = language("7b")
const once = { tokens: 4096, several: false, recompute: 0 }

// V 10, d 4, L 3, H 2, G 1, E 2, F 6: N = 10 x 4 x 2 + 3 (4 x 4 x 2 + 4 x 2 x 2 + 3 x 4 x 6 + 2 x 4) + 4
const small = { config: llamaConfig({ vocabSize: 10, dim: 4, layers: 3, heads: 2, kvHeads: 1, ffn: 6 }), scalarHead: false }
const n = 80 + 3 * (32 + 16 + 72 + 8) + 4
// Input, sum and both norms' outputs; queries, keys, values and attention's output; gate, up and their product.
const kept = 4 * 4 + (4 + 2 + 2) + 4 + 3 * 6

describe("the memory of training", () => {
  it("is weights, gradients and AdamW's moments, plus masters for bfloat16 weights", () => {
    const all = 68_976_648_192
    const { gradients, masters, moments, weights } = trainingMemory(language("70b"), "bfloat16", { ...once, several: true })
    expect([weights, masters, moments, gradients]).toEqual([2 * all, 4 * all, 8 * all, 4 * all])
    const whole = trainingMemory(language("70b"), "float32", once)
    expect([whole.weights, whole.masters, whole.moments, whole.gradients]).toEqual([4 * all, 0, 8 * all, 4 * all])
  })

  it("has 16-bit gradients of a single micro-batch, and float32 gradients if several are summed", () => {
    expect(trainingMemory(seven, "bfloat16", once).gradients).toBe(2 * 6_738_415_616)
    expect(trainingMemory(seven, "bfloat16", { ...once, several: true }).gradients).toBe(4 * 6_738_415_616)
  })

  it("on several ranks is each rank's part, plus gathered weights and pending transfers", () => {
    const several = { ...once, several: true }
    const alone = trainingMemory(small, "bfloat16", several)
    const of = (sharding: "none" | "optimizer" | "weights") => trainingMemory(small, "bfloat16", once, { ranks: 4, sharding })
    // A block has 128 weights; 84 are outside the blocks. The gradients of a block in 16 bits and in a float32 buffer.
    const passing = 128 * (2 + 4)
    expect(of("none")).toEqual({ ...alone, activations: alone.activations + passing })
    const states = { masters: n, moments: 2 * n, gradients: n, activations: alone.activations + passing, cache: 0 }
    expect(of("optimizer")).toEqual({ weights: 2 * n, ...states })
    // Two blocks and the weights outside the blocks; its quarter is the masters.
    expect(of("weights")).toEqual({ weights: 2 * (84 + 2 * 128), ...states })
    const whole = trainingMemory(small, "float32", once, { ranks: 4, sharding: "weights" })
    expect([whole.weights, whole.masters]).toEqual([(4 * n) / 4 + 4 * (84 + 2 * 128), 0])
  })

  it("counts what each block keeps per token, and a log-sum-exp per head in float32", () => {
    expect(costedParameters(small)).toBe(n)
    expect(blockBytes(small, "float32", 7)).toBe(7 * (4 * kept + 2 * 4))
    expect(blockBytes(small, "bfloat16", 7)).toBe(7 * (2 * kept + 2 * 4))
    // 7B: 4 x 4096 + 4 x 4096 + 3 x 11008 numbers of 2 bytes, and 32 of 4.
    expect(blockBytes(seven, "bfloat16", 1)).toBe(2 * (8 * 4096 + 3 * 11_008) + 128)
    const adapter = { rank: 5, targets: linearLayers }
    expect(blockBytes({ ...small, adapter }, "float32", 1) - blockBytes(small, "float32", 1)).toBe(4 * 5 * 7)
  })

  it("has its peak at the loss: kept activations, logits overwritten by their gradient, the output layer's gradient", () => {
    const tokens = 7
    // A vocabulary of 40: 30 x 4 more weights twice, and a loss that needs more than a block's gradients.
    const wide = { config: { ...small.config, vocabSize: 40 }, scalarHead: false }
    const all = n + 2 * 30 * 4
    // The embeddings' input, the last block's output and its norm; logits kept; a gradient of V d.
    const atLoss = 3 * tokens * (4 * kept + 8) + 3 * tokens * 4 * 4 + tokens * 40 * 4 + 40 * 4 * 4
    const memory = trainingMemory(wide, "float32", { ...once, tokens, several: true })
    expect(memory.activations).toBe(atLoss)
    // With a single micro-batch there are no gradients yet at the loss; here the kept activations are larger than the gradients.
    const single = trainingMemory(wide, "float32", { ...once, tokens })
    expect(totalMemory(single)).toBe(12 * all + Math.max(4 * all, atLoss))
  })

  it("never has logits of all tokens in float32, nor all of them if they exceed a GiB", () => {
    const wide = { config: { ...small.config, vocabSize: 2 ** 20 }, scalarHead: false }
    const of = (tokens: number) => trainingMemory(wide, "bfloat16", { tokens, several: true, recompute: 3 }).activations
    // From 512 tokens on logits are recomputed: the chunk of 128 tokens stays, and only the blocks' inputs grow.
    expect(of(1024) - of(513)).toBe(511 * (3 + 3) * 4 * 2)
    expect(of(512) - of(513)).toBeGreaterThan(2 ** 30 - 2 ** 28 - 2 ** 25)
  })

  it("keeps only the input of a recomputed block, and one complete block at a time", () => {
    const tokens = 512
    const of = (recompute: number) => trainingMemory(small, "float32", { tokens, several: true, recompute }).activations
    const block = tokens * (4 * kept + 8)
    expect(of(0) - of(1)).toBe(block - tokens * 4 * 4)
    expect(of(3)).toBeGreaterThanOrEqual(block + 3 * tokens * 4 * 4)
    expect(of(9)).toBe(of(3))
  })

  it("with an adapter has only the adapter's gradients and moments", () => {
    const adapter = { rank: 16, targets: linearLayers }
    const memory = trainingMemory({ ...seven, adapter }, "bfloat16", { ...once, several: true })
    const [all, trained] = [6_738_415_616, 39_976_960]
    expect([memory.weights, memory.masters, memory.moments, memory.gradients]).toEqual([
      2 * (all + trained),
      4 * trained,
      8 * trained,
      4 * trained
    ])
  })

  it("lets 7B with all weights fit a GPU of 139 GiB at its own context, in sixteen micro-batches per step", () => {
    // The state: 18 bytes per weight are 113 GiB.
    const state = 18 * 6_738_415_616
    expect(Math.round(state / 2 ** 30)).toBe(113)
    const peak = totalMemory(trainingMemory(seven, "bfloat16", { tokens: 4096, several: true, recompute: 32 }))
    expect(peak).toBeLessThan(usableMemory(139 * 2 ** 30))
    expect(peak).toBeGreaterThan(state)
  })
})

describe("the memory of generation", () => {
  it("has a cache of 512 KiB per token at 7B in 16 bits, and 320 KiB at 70B because of its grouped heads", () => {
    expect(cacheBytes(seven, "bfloat16", 1, 1)).toBe(512 << 10)
    expect(cacheBytes(language("70b"), "bfloat16", 3, 5)).toBe(15 * (320 << 10))
    expect(generationMemory(seven, "bfloat16", 8, { prompt: 100, response: 156 }).cache).toBe(8 * 256 * (512 << 10))
  })
  it("has the copies that top-k and top-p make of the logits", () => {
    const at = (restricted: boolean) => generationMemory(seven, "bfloat16", 4000, { prompt: 1, response: 1 }, restricted).activations
    expect(at(true)).toBe(4000 * 32_000 * (26 + 50))
    expect(at(false)).toBe(4000 * 32_000 * 26)
  })
  it("has a copy of the linear layers' weights if an adapter is merged into them", () => {
    const lengths = { prompt: 1, response: 1 }
    const adapter = { rank: 2, targets: linearLayers }
    const more = generationMemory({ ...small, adapter }, "float32", 1, lengths).activations
    expect(more - generationMemory(small, "float32", 1, lengths).activations).toBe(4 * 3 * (32 + 16 + 72))
  })
})

describe("models together", () => {
  it("have the weights and states of all, and the activations of the widest", () => {
    const a = { ...noMemory, weights: 1, moments: 2, activations: 5 }
    const b = { ...noMemory, weights: 10, gradients: 3, activations: 4, cache: 2 }
    expect(together([a, b])).toEqual({ weights: 11, masters: 0, moments: 2, gradients: 3, activations: 4, cache: 2 })
  })
  it("count only weights for a model by itself", () => {
    expect(weightBytes(seven, "bfloat16")).toBe(2 * 6_738_415_616)
  })
})
