import { describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { initLlama, Llama } from "../../models/llama.ts"
import { headName, initRewardModel } from "../../models/reward-model.ts"
import { devices } from "../devices.ts"
import { sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig } from "./small.ts"

const sequences = [
  [1, 5, 9, 13, 60, 2],
  [1, 44, 2],
  [1, 8, 8, 30]
]
const padded = (filler: number) => sequences.map((sequence) => [...sequence, ...Array.from({ length: 6 - sequence.length }, () => filler)])
const last = sequences.map((sequence) => sequence.length - 1)

for (const { device, skip } of devices) {
  const ids = (rows: ReadonlyArray<number> | ReadonlyArray<ReadonlyArray<number>>) => tensor(rows, { dtype: "int64", device })

  describe.skipIf(skip)(`a reward model on ${device}`, () => {
    const model = skip ? undefined! : initRewardModel(initLlama(smallConfig(), { seed: 3, device }), { seed: 4 })
    const score = (filler: number) => scoped(() => noGrad(() => model.score(ids(padded(filler)), ids(last)).toNumbers()))

    it("gives the head's product with the last token's state, computed here by hand", () => {
      const head = model.head.toNumbers()
      const wanted = sequences.map((sequence) => {
        const states = scoped(() => noGrad(() => model.backbone.hidden(ids([sequence])).toNumbers()))
        return states.slice(-head.length).reduce((sum, x, i) => sum + x * head[i]!, 0)
      })
      expect(largestDifference(score(0), wanted)).toBeLessThanOrEqual(sameInFloat32)
    })

    it("does not depend on the contents of padding", () => {
      expect(score(50)).toEqual(score(0))
    })

    it("gives every token's score, of which score() selects one", () => {
      const all = scoped(() => noGrad(() => model.scores(ids(padded(0))).toNumbers()))
      expect(
        largestDifference(
          last.map((position, row) => all[row * 6 + position]!),
          score(0)
        )
      ).toBeLessThanOrEqual(sameInFloat32)
    })
  })
}

describe("a new head", () => {
  it("is normal with deviation 1 / sqrt(D + 1), by seed", () => {
    const dim = 2048
    // Only the sizes matter: a backbone without weights in its blocks.
    const backbone = initLlama(smallConfig({ dim, heads: 2, kvHeads: 1, headDim: 2, ffn: 2, layers: 1 }), { seed: 1 })
    const head = (seed: number) => initRewardModel(backbone, { seed }).head
    expect(head(1).shape).toEqual([1, dim])
    const variance =
      head(1)
        .toNumbers()
        .reduce((sum, x) => sum + x * x, 0) / dim
    expect(Math.abs(variance * (dim + 1) - 1)).toBeLessThan(5 * Math.sqrt(2 / dim))
    expect(head(1).toTypedArray()).toEqual(head(1).toTypedArray())
    expect(head(2).toTypedArray()).not.toEqual(head(1).toTypedArray())
  })

  it("replaces the output layer; the embedding table stays if the two were tied", () => {
    for (const tiedEmbeddings of [false, true]) {
      const policy: Llama = initLlama(smallConfig({ tiedEmbeddings }), { seed: 1 })
      const names = Object.keys(initRewardModel(policy, { seed: 1 }).parameters)
      expect(names).toEqual([...Object.keys(policy.parameters).filter((name) => name !== "lm_head.weight"), headName])
    }
  })
})
