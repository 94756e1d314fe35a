/** Blocks whose activations are recomputed in the backward pass: the same loss and the same gradients, to the last bit on the CPU. */
import { describe, expect, it } from "vitest"
import { accumulateGradients, type Parameters } from "../../engine/gradients.ts"
import { backward } from "../../engine/segments.ts"
import { clearGradients, type DType, liveTensors, scoped, tensor } from "../../engine/tensor.ts"
import { initLlama, type Llama } from "../../models/llama.ts"
import { initLora, linearLayers } from "../../models/lora.ts"
import { languageModelLoss, type PackedRow } from "../../stages/common/sequences.ts"
import { devices } from "../devices.ts"
import { splitGradients } from "../tolerances.ts"
import { smallConfig } from "./small.ts"

const layers = 3
const length = 24
const row = (seed: number): PackedRow => ({
  tokens: Int32Array.from({ length }, (_, i) => (seed * 31 + i * 17) % 60),
  lossMask: Uint8Array.from({ length }, (_, i) => (i > 2 && i % 5 !== 0 && i !== 11 ? 1 : 0)),
  segments: Int32Array.from({ length }, (_, i) => (i < 11 ? 0 : i < 20 ? 1 : -1))
})
const microBatches = [[row(1), row(2)], [row(3)]]

const gradientsOf = (model: Llama, parameters: Parameters, recompute: number, device: "cpu" | "cuda") => {
  const losses = accumulateGradients(
    parameters,
    microBatches,
    (rows) => {
      const loss = languageModelLoss(model, rows, { device, isolate: true }).div(40)
      backward(loss)
      return loss.item()
    },
    { recompute }
  )
  const gradients = Object.entries(parameters).map(([name, parameter]) => [name, scoped(() => parameter.grad()?.toNumbers())] as const)
  clearGradients(Object.values(parameters))
  return { losses, gradients: Object.fromEntries(gradients) }
}

/** The relative distance between numbers. */
const apart = (some: ReadonlyArray<number>, others: ReadonlyArray<number>): number =>
  Math.hypot(...some.map((x, i) => x - others[i]!)) / (Math.hypot(...others) || 1)

for (const { device, skip } of devices) {
  // On the CPU no bit differs; on a GPU attention's backward pass sums in the order in which its blocks finish.
  const most = device === "cpu" ? { float32: 0, bfloat16: 0 } : { float32: 1e-5, bfloat16: splitGradients }
  describe.skipIf(skip)(`a model on ${device}`, () => {
    const shapes = [
      { what: "with as many key heads", config: { kvHeads: 4 } },
      { what: "with grouped queries", config: { kvHeads: 2 } },
      { what: "with tied embeddings", config: { kvHeads: 1, tiedEmbeddings: true } }
    ]
    const make = (config: object, dtype: DType) =>
      initLlama(smallConfig({ layers, dim: 32, heads: 4, headDim: 8, ...config }), { seed: 5, device, dtype })

    it.each(shapes.flatMap((shape) => (["float32", "bfloat16"] as const).map((dtype) => ({ ...shape, dtype }))))(
      "$what, in $dtype, has the same gradients whatever is recomputed",
      ({ config, dtype }) => {
        const model = make(config, dtype)
        const kept = gradientsOf(model, model.parameters, 0, device)
        const before = liveTensors()
        for (const recompute of [1, 2, layers]) {
          const found = gradientsOf(model, model.parameters, recompute, device)
          expect(found.losses).toEqual(kept.losses)
          for (const [name, wanted] of Object.entries(kept.gradients))
            expect([name, apart(found.gradients[name]!, wanted!) <= most[dtype]]).toEqual([name, true])
        }
        expect(liveTensors()).toBe(before)
      }
    )

    it("has the same gradients with an adapter, and none for the base", () => {
      const base = make({ kvHeads: 2 }, "float32")
      const adapter = initLora(base.config, { rank: 2, alpha: 4, rankStabilised: false, targets: linearLayers }, { seed: 1, device })
      for (const [name, matrix] of Object.entries(adapter.parameters))
        if (name.includes("lora_B"))
          scoped(() =>
            matrix.detach().copy_(
              tensor(
                Array.from({ length: matrix.elements }, (_, i) => Math.sin(i)),
                { shape: matrix.shape, device }
              )
            )
          )
      const model = base.withAdapter(adapter)
      const kept = gradientsOf(model, adapter.parameters, 0, device)
      expect(Object.values(kept.gradients).every((gradient) => gradient!.some((x) => x !== 0))).toBe(true)
      const found = gradientsOf(model, adapter.parameters, layers, device)
      for (const [name, wanted] of Object.entries(kept.gradients))
        expect([name, apart(found.gradients[name]!, wanted!) <= most.float32]).toEqual([name, true])
      expect(Object.values(base.parameters).every((weight) => weight.grad() === undefined)).toBe(true)
    })
  })
}
