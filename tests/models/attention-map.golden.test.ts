/** Attention weights for display, compared with transformers' eager attention (golden/attention/make.py). */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { liveTensors, noGrad, scoped } from "../../engine/tensor.ts"
import { greatestAttention } from "../../models/attention-map.ts"
import { initLlama } from "../../models/llama.ts"
import { initLora, linearLayers } from "../../models/lora.ts"
import { loadLlama } from "../../models/weights.ts"
import { devices } from "../devices.ts"
import { float32, sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"

interface Expected {
  readonly ids: ReadonlyArray<number>
  readonly greatest: ReadonlyArray<number>
  readonly layer1head1: ReadonlyArray<number>
}
const golden = (path: string) => new URL(`../golden/${path}`, import.meta.url).pathname
const expected = JSON.parse(readFileSync(golden("attention/expected.json"), "utf8")) as Readonly<Record<string, Expected>>
const range = (count: number): Array<number> => Array.from({ length: count }, (_, i) => i)

for (const { device, skip } of devices)
  describe.skipIf(skip)(`attention weights on ${device}`, () => {
    for (const [name, { greatest, ids, layer1head1 }] of Object.entries(expected))
      it(`of ${name} equal transformers': the maximum over layers and heads, and those of a single head`, async () => {
        const model = await Effect.runPromise(loadLlama(golden(`${name}/model`), { device }))
        const { heads, layers } = model.config
        expect(largestDifference(greatestAttention(model, ids, { layers: range(layers), heads: range(heads) }), greatest)).toBeLessThan(
          float32
        )
        expect(largestDifference(greatestAttention(model, ids, { layers: [1], heads: [1] }), layer1head1)).toBeLessThan(float32)
      })
    it("sum to 1 for each token of a head, are 0 for later tokens, and leave no tensor alive", () => {
      const model = initLlama(smallConfig(), { seed: 5, device })
      const ids = range(20)
      greatestAttention(model, ids, { layers: [0], heads: [0] })
      const before = liveTensors()
      const map = greatestAttention(model, ids, { layers: [1], heads: [3] })
      expect(liveTensors()).toBe(before)
      for (const query of ids) {
        const row = Array.from(map.slice(query * 20, (query + 1) * 20))
        expect(row.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5)
        expect(row.slice(query + 1).every((weight) => weight === 0)).toBe(true)
      }
    })
    it("equal those of the model with the adapter merged", () => {
      const model = initLlama(smallConfig(), { seed: 5, device })
      const adapter = initLora(model.config, { rank: 2, alpha: 4, targets: linearLayers, rankStabilised: false }, { seed: 1, device })
      scoped(() => noGrad(() => Object.values(adapter.parameters).forEach((weight) => weight.normal_(0, 0.3))))
      const selection = { layers: range(2), heads: range(6) }
      const plain = greatestAttention(model, range(12), selection)
      const adapted = model.withAdapter(adapter)
      const apart = greatestAttention(adapted, range(12), selection)
      expect(largestDifference(apart, plain)).toBeGreaterThan(0.01)
      expect(largestDifference(apart, greatestAttention(adapted.merge(), range(12), selection))).toBeLessThan(sameInFloat32)
    })
    it("are rejected for a sequence longer than the context", () => {
      const model = initLlama(smallConfig({ maxPositions: 8 }), { seed: 5, device })
      expect(() => greatestAttention(model, range(9), { layers: [0], heads: [0] })).toThrow(
        /a sequence of 9 tokens exceeds the model's context of 8/
      )
    })
  })
