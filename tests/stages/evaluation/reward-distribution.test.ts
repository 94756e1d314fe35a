/** Histograms of scores: by hand, and of a small policy's answers. */
import { describe, expect, it } from "vitest"
import { GeneralReward, HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { Prompts, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { distributionsOf, rewardDistribution, RewardDistributionReport } from "../../../stages/evaluation/reward-distribution.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../../stages/reward/score-combined.ts"
import { score } from "../../../stages/reward/score.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, scored } from "../samples.ts"
import { newReward, talkingPolicy } from "../talking.ts"

const row = (safety: boolean, helpfulnessScore: number | null, safetyScore: number | null) => ({ safety, helpfulnessScore, safetyScore })

describe("a version's distribution of scores", () => {
  const rows = [row(false, 0.05, 0.9), row(false, 0.25, 0.8), row(false, 0.6, null), row(true, 0.99, 0.5), row(true, null, 0.1)]

  it("has a mean, a median and counts, for R_h and R_s separately", () => {
    // R_h 0.05, 0.25, 0.6, 0.99; R_s 0.1, 0.5, 0.8, 0.9
    expect(distributionsOf(rows, { bins: 4, prompts: "all" })).toEqual({
      helpfulness: { completions: 4, mean: expect.closeTo(1.89 / 4, 12), median: expect.closeTo(0.425, 12), counts: [1, 1, 1, 1] },
      safety: { completions: 4, mean: expect.closeTo(2.3 / 4, 12), median: expect.closeTo(0.65, 12), counts: [1, 0, 1, 2] }
    })
  })
  it("covers each score's own prompts, on request", () => {
    expect(distributionsOf(rows, { bins: 2, prompts: "own" })).toEqual({
      helpfulness: { completions: 3, mean: expect.closeTo(0.3, 12), median: 0.25, counts: [2, 1] },
      safety: { completions: 2, mean: expect.closeTo(0.3, 12), median: expect.closeTo(0.3, 12), counts: [1, 1] }
    })
  })
  it("is null if no completion has the score, or none to a prompt of its kind", () => {
    const one = [row(true, 0.5, null)]
    expect(distributionsOf(one, { bins: 1, prompts: "all" })).toEqual({
      helpfulness: { completions: 1, mean: 0.5, median: 0.5, counts: [1] },
      safety: null
    })
    expect(distributionsOf(one, { bins: 1, prompts: "own" })).toEqual({ helpfulness: null, safety: null })
  })
})

describe("the stage", () => {
  const failure = async (rows: ReadonlyArray<ScoredCompletion>, config = {}) =>
    failureOf(rewardDistribution, { scored: await rowsArtifact(ScoredCompletions, rows) }, config)

  it("rejects completions without such a score, no completions, and no bins", async () => {
    expect(await failure([])).toMatch(/got 0 scored completions without a helpfulness or safety score/)
    expect(await failure([scored("a", 0, 1), scored("b", 0, 1)])).toMatch(
      /got 2 scored completions without .*score them with such a reward model/
    )
    const other = scored("a", 0, 1, { helpfulnessScore: 0.5, safety: true })
    expect(await failure([other], { prompts: "own" })).toMatch(/got 1 scored completions without/)
    expect(await failure([scored("a", 0, 1, { helpfulnessScore: 0.5 })], { bins: 0 })).toMatch(/bins/)
  })

  it("counts the scores of a small policy's answers by small reward models", async () => {
    const shape = { maxPositions: 120 }
    const [helpfulness, safety] = [await newReward(HelpfulnessReward, 1, shape), await newReward(SafetyReward, 2, shape)]
    const general = await newReward(GeneralReward, 3, shape)
    const prompts = await rowsArtifact(Prompts, [
      ...["ab", "ba", "b"].map((text) => ask(text, text)),
      ask("aab", "aab", { safety: true }),
      ask("long", "xyz ".repeat(90))
    ])
    const completions = await runStage(sample, { policy: await talkingPolicy(1), prompts }, { k: 5, temperature: 1, maxNewTokens: 12 })
    const both = await runStage(scoreCombined, { completions, helpfulness, safety })
    const rows = await rowsIn(both, ScoredCompletions)
    for (const [which, of] of [
      ["all", rows],
      ["own", rows.filter((one) => !one.safety)]
    ] as const) {
      const out = await runStage(rewardDistribution, { scored: both }, { bins: 10, prompts: which })
      const { helpfulness: found } = await reportIn(out, RewardDistributionReport)
      expect(found!.completions).toBe(of.length)
      // Score by score, from the edges of the bins.
      found!.counts.forEach((count, bin) =>
        expect(count).toBe(of.filter(({ helpfulnessScore }) => Math.floor(helpfulnessScore! * 10) === bin).length)
      )
    }
    expect(rows.some((one) => one.safety)).toBe(true)
    // A general reward model's scores are of neither kind.
    expect(await failureOf(rewardDistribution, { scored: await runStage(score, { completions, reward: general }) })).toMatch(
      /without a helpfulness or safety score/
    )
  })
})
