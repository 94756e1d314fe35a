/** The ranking loss against PyTorch in float64 (tests/golden/rlhf-losses), and how pairs reach it. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { initLlama } from "../../models/llama.ts"
import { initRewardModel } from "../../models/reward-model.ts"
import type { Preference } from "../../schemas/rows.ts"
import { margins, pairBatches, pairLoss, rankingLoss, type TokenisedPair, tokenisePair, warmupSteps } from "../../stages/reward-model.ts"
import { devices } from "../devices.ts"
import { largestDifference, smallConfig, smallTokenizer } from "../models/small.ts"
import { float64, sameInFloat32 } from "../tolerances.ts"

interface Ranking {
  readonly margin: ReadonlyArray<number>
  readonly loss: number
  readonly grad_chosen: ReadonlyArray<number>
  readonly grad_rejected: ReadonlyArray<number>
}
interface Golden extends Readonly<Record<"rm_small" | "rm_large", Ranking>> {
  readonly rm_in: Readonly<Record<"chosen" | "rejected" | "rating", ReadonlyArray<number>>>
}
const golden = JSON.parse(readFileSync(new URL("../golden/rlhf-losses/rlhf.json", import.meta.url), "utf8")) as Golden

describe.each(["small", "large"] as const)("the ranking loss with %s margins", (table) => {
  const { rm_in: given } = golden
  const wanted = golden[`rm_${table}`]
  const pairs = given.rating.length
  const margin = given.rating.map((rating) => margins[table][rating]!)
  const wide = (values: ReadonlyArray<number>) => tensor(values, { dtype: "float64" })
  // Ours is the sum over pairs, the reference's the mean.
  const ours = scoped(() => {
    const chosen = wide(given.chosen).requiresGrad()
    const rejected = wide(given.rejected).requiresGrad()
    const loss = rankingLoss(chosen, rejected, wide(margin))
    loss.backward()
    return { loss: loss.item(), chosen: chosen.grad()!.toNumbers(), rejected: rejected.grad()!.toNumbers() }
  })

  it("takes table 27's margin for each rating", () => {
    expect(largestDifference(margin, wanted.margin)).toBeLessThanOrEqual(float64)
  })
  it("is PyTorch's", () => {
    expect(Math.abs(ours.loss / pairs - wanted.loss)).toBeLessThanOrEqual(float64)
  })
  it("has PyTorch's gradients, for chosen and for rejected scores", () => {
    expect(
      largestDifference(
        ours.chosen.map((g) => g / pairs),
        wanted.grad_chosen
      )
    ).toBeLessThanOrEqual(float64)
    expect(
      largestDifference(
        ours.rejected.map((g) => g / pairs),
        wanted.grad_rejected
      )
    ).toBeLessThanOrEqual(float64)
  })
})

describe("the ranking loss", () => {
  it("stays finite where the sigmoid is 0 in float32", () => {
    const loss = scoped(() => rankingLoss(tensor([-200]), tensor([0]), tensor([0])).item())
    expect(loss).toBe(200) // log(1 + e^200) is 200 to 87 digits
  })
  it("is log 2 for equal scores without a margin", () => {
    const loss = scoped(() => rankingLoss(tensor([1.5], { dtype: "float64" }), tensor([1.5], { dtype: "float64" }), tensor([0])).item())
    expect(Math.abs(loss - Math.LN2)).toBeLessThanOrEqual(float64)
  })
})

const pairs: ReadonlyArray<TokenisedPair> = [
  { chosen: [1, 5, 9, 2], rejected: [1, 5, 9, 13, 14, 15, 16, 2], margin: 1 },
  { chosen: [1, 30, 31, 32, 33, 2], rejected: [1, 30, 2], margin: 0 },
  { chosen: [1, 7, 40, 41, 42, 43, 44, 45, 46, 47, 48, 2], rejected: [1, 7, 8, 50], margin: 1 / 3 }
]

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`the loss of pairs on ${device}`, () => {
    const model = skip ? undefined! : initRewardModel(initLlama(smallConfig(), { seed: 3, device }), { seed: 4 })
    const loss = (some: ReadonlyArray<TokenisedPair>, padId = 0) =>
      scoped(() => noGrad(() => pairLoss(model, some, { padId, device }).item()))

    it("reads each score at the last response token, whatever padding follows", () => {
      const score = (ids: ReadonlyArray<number>) =>
        scoped(() => {
          const last = tensor([ids.length - 1], { dtype: "int64", device })
          return noGrad(() => model.score(tensor([ids], { dtype: "int64", device }), last).item())
        })
      const wanted = pairs.reduce((sum, pair) => sum + Math.log1p(Math.exp(score(pair.rejected) + pair.margin - score(pair.chosen))), 0)
      expect(Math.abs(loss(pairs) - wanted)).toBeLessThanOrEqual(sameInFloat32)
    })
    it("does not depend on what the padding is", () => {
      expect(loss(pairs, 55)).toBe(loss(pairs, 0))
    })
    it("does not depend on how pairs are split into parts", () => {
      const apart = pairs.reduce((sum, pair) => sum + loss([pair]), 0)
      expect(Math.abs(loss(pairs) - apart)).toBeLessThanOrEqual(sameInFloat32)
    })
  })
}

describe("batches of pairs", () => {
  it("hold every pair once an epoch, in another order each epoch, the last batch smaller", () => {
    const many = Array.from({ length: 11 }, (_, i): TokenisedPair => ({ chosen: [1, i], rejected: [1], margin: 0 }))
    let seen: Array<number> = []
    const batches = pairBatches(many, { batchPairs: 4, microBatchPairs: 3 }, 7, (part) => {
      seen.push(...part.map((pair) => pair.chosen[1]!))
      return undefined!
    })
    const epoch = () => {
      seen = []
      const counts = Array.from({ length: 3 }, () => {
        const batch = batches.next().value!
        for (const part of batch.parts) part()
        return batch.count
      })
      expect(counts).toEqual([4, 4, 3])
      return seen
    }
    const [first, second] = [epoch(), epoch()]
    expect(first.toSorted((a, b) => a - b)).toEqual(many.map((_, i) => i))
    expect(second.toSorted((a, b) => a - b)).toEqual(many.map((_, i) => i))
    expect(second).not.toEqual(first)
  })
})

describe("a pair's tokens", () => {
  const tokenizer = smallTokenizer()
  const preference = (over: Partial<Preference>): Preference => ({
    id: "1",
    prompt: [{ role: "user", content: "ab" }],
    chosen: "ba",
    rejected: "no, no, no",
    rating: 1,
    chosenSafe: null,
    rejectedSafe: null,
    source: "test",
    ...over
  })
  it("end with the end-of-sequence token and carry the rating's margin; without a rating 0", () => {
    const pair = tokenisePair(tokenizer, preference({}), "large", 100)!
    expect([pair.chosen.at(-1), pair.rejected.at(-1)]).toEqual([tokenizer.eosId, tokenizer.eosId])
    expect(pair.margin).toBe(2)
    expect(tokenisePair(tokenizer, preference({ rating: null }), "large", 100)!.margin).toBe(0)
    expect(tokenisePair(tokenizer, preference({ rating: 0 }), "none", 100)!.margin).toBe(0)
  })
  it("are none when either response does not fit", () => {
    const { chosen, rejected } = tokenisePair(tokenizer, preference({}), "none", 100)!
    expect(chosen.length).toBeLessThan(rejected.length)
    expect(tokenisePair(tokenizer, preference({}), "none", rejected.length - 1)).toBeUndefined()
  })
})

describe("warm-up of the reward model (§3.2.2: 3% of the steps, at least 5)", () => {
  const config = { warmupFraction: 0.03, warmupMinimum: 5 }
  it.each([
    [10, 5],
    [100, 5],
    [166, 5],
    [167, 6], // 5.01
    [315, 10], // 9.45: HH-RLHF's 160800 pairs in batches of 512
    [1000, 30],
    [1100, 33]
  ])("of %i steps is %i", (steps, wanted) => {
    expect(warmupSteps(config, steps)).toBe(wanted)
  })
})
