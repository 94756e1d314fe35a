/** Win rates: by hand, and of two small policies with small reward models. */
import { beforeAll, describe, expect, it } from "vitest"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { Prompts, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../../stages/reward/score-combined.ts"
import { winRate, WinRateReport, winsOf } from "../../../stages/evaluation/win-rate.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, scored } from "../samples.ts"
import { newReward, talkingPolicy } from "../talking.ts"

const match = (promptId: string, ours: number, opponent: number) => ({ promptId, ours, opponent })

describe("wins", () => {
  it("are shares of decided pairs: 8 of 10, with Wilson's interval, and ties separately", () => {
    const matches = [
      ...Array.from({ length: 8 }, (_, i) => match(`w${i}`, 1, 0)),
      ...Array.from({ length: 2 }, (_, i) => match(`l${i}`, -1, 0)),
      ...Array.from({ length: 5 }, (_, i) => match(`t${i}`, 2, 2))
    ]
    const { rate, ...counts } = winsOf(matches)
    expect(counts).toEqual({ prompts: 15, wins: 8, losses: 2, ties: 5 })
    expect(rate!.mean).toBe(0.8)
    expect([rate!.low.toFixed(6), rate!.high.toFixed(6)]).toEqual(["0.490162", "0.943318"])
  })
  it("count a prompt once, however many samples it has", () => {
    // a: 3 of 3 won. b: one lost. c: one of four won, one lost, two ties. Won 1 + 0 + 1/4, lost 0 + 1 + 1/4.
    const matches = [
      ...[1, 2, 3].map((ours) => match("a", ours, 0)),
      match("b", 0, 1),
      ...[match("c", 1, 0), match("c", 0, 1), match("c", 0, 0), match("c", 1, 1)]
    ]
    const { rate, ...counts } = winsOf(matches)
    expect(counts).toEqual({ prompts: 3, wins: 4, losses: 2, ties: 2 })
    expect(rate!.mean).toBeCloseTo(0.5, 12)
    // The interval of 1.25 in 2.5 trials, not of 4 in 6: z^2 = 3.841459; half 1.959964 / 2.536583 sqrt(0.1 + 3.841459 / 25) = 0.389156
    expect(rate!.high - rate!.low).toBeCloseTo(2 * 0.389156, 5)
  })
  it("have no rate if every pair is a tie", () => {
    expect(winsOf([match("a", 1, 1)])).toEqual({ prompts: 1, wins: 0, losses: 0, ties: 1, rate: null })
  })
})

const rates = async (ours: ReadonlyArray<ScoredCompletion>, opponent: ReadonlyArray<ScoredCompletion>) =>
  reportIn(
    await runStage(winRate, {
      ours: await rowsArtifact(ScoredCompletions, ours),
      opponent: await rowsArtifact(ScoredCompletions, opponent)
    }),
    WinRateReport
  )
const refused = async (ours: ReadonlyArray<ScoredCompletion>, opponent: ReadonlyArray<ScoredCompletion>) =>
  failureOf(winRate, { ours: await rowsArtifact(ScoredCompletions, ours), opponent: await rowsArtifact(ScoredCompletions, opponent) })

describe("the win rate of a model", () => {
  const row = (promptId: string, sample: number, helpfulnessScore: number | null, safetyScore: number | null, safety = false) =>
    scored(promptId, sample, 0, { helpfulnessScore, safetyScore, safety })

  it("uses R_h on harmless prompts, R_s on unsafe ones, and the reward on all", async () => {
    const ours = [row("h", 0, 0.9, 0.1), row("s", 0, 0.9, 0.2, true), row("t", 0, 0.9, 0.8, true)]
    const theirs = [row("t", 0, 0.1, 0.4, true), row("s", 0, 0.1, 0.7, true), row("h", 0, 0.3, 0.9)]
    const rewarded = (rows: ReadonlyArray<ScoredCompletion>, reward: number) => rows.map((one) => ({ ...one, reward }))
    const found = await rates(rewarded(ours, -2), rewarded(theirs, -1))
    expect(found.helpfulness).toMatchObject({ prompts: 1, wins: 1, losses: 0, rate: { mean: 1 } })
    expect(found.safety).toMatchObject({ prompts: 2, wins: 1, losses: 1, rate: { mean: 0.5 } })
    expect(found.reward).toMatchObject({ prompts: 3, wins: 0, losses: 3, rate: { mean: 0 } })
    expect(found.unpaired).toEqual({ ours: 0, opponent: 0 })
  })
  it("compares sample i with sample i, and counts samples without a counterpart", async () => {
    const ours = [row("h", 0, 0.9, null), row("h", 1, 0.1, null), row("h", 2, 0.5, null), row("only ours", 0, 0.5, null)]
    const theirs = [row("h", 1, 0.2, null), row("h", 0, 0.8, null)]
    const found = await rates(ours, theirs)
    expect(found.helpfulness).toMatchObject({ prompts: 1, wins: 1, losses: 1 })
    expect(found.unpaired).toEqual({ ours: 2, opponent: 0 })
  })
  it("is null for a score that one side does not have", async () => {
    const found = await rates([row("h", 0, 0.9, 0.9)], [row("h", 0, null, 0.9)])
    expect([found.helpfulness, found.safety]).toEqual([null, null])
    expect(found.reward.ties).toBe(1)
  })
  it("is rejected if no prompt is common, an id is shared by two prompts, or a sample occurs twice", async () => {
    const one = row("h", 0, 0.5, null)
    expect(await refused([one], [row("g", 0, 0.5, null)])).toMatch(
      /1 and 1 samples with no prompt in common\. Sample both sets from the same prompts/
    )
    expect(await refused([one], [])).toMatch(/1 and 0 samples with no prompt in common/)
    expect(await refused([], [])).toMatch(/0 and 0 samples/)
    expect(await refused([one], [{ ...one, prompt: [{ role: "user", content: "another" }] }])).toMatch(
      /two different prompts with the id "h"/
    )
    expect(await refused([one, one], [one])).toMatch(/two rows for sample 0 of prompt "h"/)
    expect(await refused([one], [one, one])).toMatch(/two rows for sample 0 of prompt "h"/)
  })
})

describe("two small policies with small reward models", () => {
  let sets: ReadonlyArray<ArtifactRef<any>>
  beforeAll(async () => {
    const helpfulness = await newReward(HelpfulnessReward, 1, { maxPositions: 120 })
    const safety = await newReward(SafetyReward, 2, { maxPositions: 120 })
    const prompts = await rowsArtifact(Prompts, [
      ...["ab", "ba", "abab", "b"].map((text) => ask(text, text)),
      ...["aab", "bba"].map((text) => ask(text, text, { safety: true })),
      ask("too long", "xyz ".repeat(90))
    ])
    sets = await Promise.all(
      [1, 2].map(async (seed) => {
        const completions = await runStage(
          sample,
          { policy: await talkingPolicy(seed), prompts },
          { k: 3, temperature: 1, maxNewTokens: 12 }
        )
        return runStage(scoreCombined, { completions, helpfulness, safety })
      })
    )
  })
  const between = async (ours: ArtifactRef<any>, opponent: ArtifactRef<any>) =>
    reportIn(await runStage(winRate, { ours, opponent }), WinRateReport)

  it("win as often as the other loses; the prompt that is too long is excluded", async () => {
    const [one, other] = [await between(sets[0]!, sets[1]!), await between(sets[1]!, sets[0]!)]
    for (const part of ["helpfulness", "safety", "reward"] as const) {
      const [mine, theirs] = [one[part]!, other[part]!]
      expect([mine.wins, mine.losses, mine.ties]).toEqual([theirs.losses, theirs.wins, theirs.ties])
      expect(mine.rate!.mean + theirs.rate!.mean).toBeCloseTo(1, 12)
    }
    expect([one.helpfulness!.prompts, one.safety!.prompts, one.reward.prompts]).toEqual([4, 2, 6])
    // Counted from the rows themselves.
    const [a, b] = [await rowsIn(sets[0]!, ScoredCompletions), await rowsIn(sets[1]!, ScoredCompletions)]
    const wins = a.filter((row) => b.some((two) => two.promptId === row.promptId && two.sample === row.sample && row.reward > two.reward))
    expect(one.reward.wins).toBe(wins.length)
    expect(one.reward.wins).toBeGreaterThan(0)
    expect(one.reward.losses).toBeGreaterThan(0)
  })
  it("tie with themselves in everything", async () => {
    const { helpfulness, safety, reward } = await between(sets[0]!, sets[0]!)
    for (const part of [helpfulness!, safety!, reward]) expect(part).toMatchObject({ wins: 0, losses: 0, rate: null })
  })
})
