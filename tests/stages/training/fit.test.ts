/** How steps are made to fit: the choice for a GPU with a given memory; the CPU is unchanged. */
import { describe, expect, it } from "vitest"
import { presets } from "../../../models/config.ts"
import { linearLayers } from "../../../models/lora.ts"
import { totalMemory, usableMemory } from "../../../models/memory.ts"
import { trainingAdvice } from "../../../stages/training/advice.ts"
import { fitOnCpu, fitOnGpu, type Step, type Steps, trainingStep } from "../../../stages/training/fit.ts"

const gib = 2 ** 30
const chosen = { microBatch: 0, recompute: "auto" }
/** A step that needs a byte for each kept token and block, plus `fixed` bytes; usableMemory of the result has `room` bytes for it. */
const step = (over: Partial<Step> & { readonly fixed?: number } = {}): Step => ({
  ...{ rows: 16, longest: 4096, layers: 10 },
  memory: ({ recompute, tokens }) => ({
    ...{ weights: over.fixed ?? 0, masters: 0, moments: 0, gradients: 0, cache: 0 },
    activations: tokens * (10 - recompute) * 1000
  }),
  ...over
})
const gpu = (room: number) => (room + gib) / 0.96
const steps = (over: Partial<Steps> = {}): Steps => ({
  ...{ model: { config: presets["7b"], scalarHead: false }, precision: "bfloat16", rows: 64, longest: 4096, keepsBest: false },
  ...over
})
const fitted = (over: Partial<Steps>, memory: number) => fitOnGpu(chosen, memory, trainingStep(steps(over)))

describe("a step on the CPU", () => {
  it("has the usual micro-batch and recomputes nothing by default", () => {
    expect(fitOnCpu(chosen, 32, 8)).toEqual({ microBatch: { rows: 8 }, recompute: 0 })
  })
  it("is as requested", () => {
    expect(fitOnCpu({ microBatch: 3, recompute: "5" }, 32, 8)).toEqual({ microBatch: { rows: 3 }, recompute: 5 })
    expect(fitOnCpu({ microBatch: 3, recompute: "all" }, 32, 8).recompute).toBe(32)
    expect(fitOnCpu({ microBatch: 3, recompute: "none" }, 32, 8).recompute).toBe(0)
    expect(fitOnCpu({ microBatch: 3, recompute: "99" }, 32, 8).recompute).toBe(32)
  })
})

describe("a step on a GPU", () => {
  it("uses the complete batch if it fits, up to the number of tokens beyond which it gets no faster", () => {
    expect(fitOnGpu(chosen, gpu(2 ** 40), step())).toMatchObject({ microBatch: { tokens: 16 * 4096 }, recompute: 0, fits: true })
    expect(fitOnGpu(chosen, gpu(2 ** 40), step({ rows: 64 })).microBatch).toEqual({ tokens: 16 * 4096 })
  })
  it("halves the batch until it fits without recomputation", () => {
    // 4096 tokens keep 40.96 MB: four rows fit 200 MB, eight do not.
    expect(fitOnGpu(chosen, gpu(200e6), step())).toMatchObject({ microBatch: { tokens: 4 * 4096 }, recompute: 0 })
  })
  it("recomputes as few blocks as needed for one long row", () => {
    // 4096 x 1000 bytes per block: enough for six of ten.
    expect(fitOnGpu(chosen, gpu(6.5 * 4096 * 1000), step())).toMatchObject({ microBatch: { tokens: 4096 }, recompute: 4, fits: true })
  })
  it("recomputes rather than running short rows one by one on an idle GPU", () => {
    // Sixteen rows of 256 tokens make 4096: they fit with two blocks kept; with all kept two rows would fit.
    const room = 2.5 * 4096 * 1000
    expect(fitOnGpu(chosen, gpu(room), step({ longest: 256, rows: 64 }))).toMatchObject({ microBatch: { tokens: 4096 }, recompute: 8 })
    // If not even that fits, fewer rows.
    expect(fitOnGpu(chosen, gpu(100_000), step({ longest: 256, rows: 64, fixed: 90_000 }))).toMatchObject({ recompute: 10, fits: true })
  })
  it("reports when nothing fits, with the minimum", () => {
    expect(fitOnGpu(chosen, gpu(1e6), step({ fixed: 2e6 }))).toMatchObject({ microBatch: { tokens: 4096 }, recompute: 10, fits: false })
  })
  it("uses a given micro-batch, and recomputes as needed", () => {
    const room = gpu(6.5 * 4096 * 1000)
    expect(fitOnGpu({ microBatch: 2, recompute: "auto" }, room, step())).toMatchObject({
      microBatch: { rows: 2 },
      recompute: 7,
      fits: true
    })
    expect(fitOnGpu({ microBatch: 2, recompute: "none" }, room, step())).toMatchObject({
      microBatch: { rows: 2 },
      recompute: 0,
      fits: false
    })
    expect(fitOnGpu({ microBatch: 0, recompute: "all" }, room, step())).toMatchObject({ recompute: 10, microBatch: { tokens: 16 * 4096 } })
  })
  it("never plans more than the usable memory, and more memory never means a smaller step", () => {
    let before = { tokens: 0, recompute: 99 }
    for (let memory = 16; memory <= 192; memory += 4) {
      const { fits, memory: taken, microBatch, recompute } = fitted({ model: { config: presets["1.1b"], scalarHead: false } }, memory * gib)
      if (!fits) continue
      expect(totalMemory(taken)).toBeLessThanOrEqual(usableMemory(memory * gib))
      const { tokens } = microBatch as { readonly tokens: number }
      expect(tokens > before.tokens || (tokens === before.tokens && recompute <= before.recompute)).toBe(true)
      before = { tokens, recompute }
    }
    expect(before.tokens).toBeGreaterThan(4096)
  })
})

describe("7B", () => {
  it("trains with all weights at its own context on 139 GiB, one row at a time, but not on 79", () => {
    const fit = fitted({}, 139 * gib)
    expect(fit).toMatchObject({ microBatch: { tokens: 4096 }, fits: true })
    expect(fit.recompute).toBeLessThan(32)
    expect(fitted({}, 79 * gib).fits).toBe(false)
  })
  it("trains with LoRA on 79 GiB without recomputation", () => {
    const model = { config: presets["7b"], scalarHead: false, adapter: { rank: 16, targets: linearLayers } }
    expect(fitted({ model }, 79 * gib)).toMatchObject({ recompute: 0, fits: true })
  })
  it("trains with all weights on two GPUs of 79 GiB, or four of 47", () => {
    expect(fitted({ spread: { ranks: 2, sharding: "weights" } }, 79 * gib).fits).toBe(true)
    expect(fitted({ spread: { ranks: 2, sharding: "optimizer" } }, 79 * gib)).toMatchObject({ fits: true })
    expect(fitted({ spread: { ranks: 2, sharding: "none" } }, 79 * gib).fits).toBe(false)
    expect(fitted({ spread: { ranks: 4, sharding: "weights" } }, 47 * gib).fits).toBe(true)
  })
  it("gets a hint on what would fit if it does not", () => {
    const advice = trainingAdvice(steps(), 79 * gib)
    expect(advice).toMatch(/^These would fit: LoRA \(loraRank 16\) \(\d+ GiB\)\. Unchanged, training needs 2 such GPUs/)
    expect(trainingAdvice(steps(), 8 * gib)).toMatch(/^No smaller setting fits either: training needs \d+ such GPUs/)
    // Shorter sequences if activations are too large.
    const long = steps({ longest: 2 ** 21, model: { config: presets["1.1b"], scalarHead: false }, rows: 1 })
    expect(trainingAdvice(long, 79 * gib)).toContain("sequences of 262144 tokens")
  })
})
