/** Conclusions from figures: by the position of the interval relative to the compared value. */
import { describe, expect, it } from "vitest"
import { conclusionLines, conclusionsOf, verdictOf } from "../../../stages/evaluation/conclusions.ts"
import type { RunSummary } from "../../../stages/evaluation/run-summary.ts"

const between = (low: number, high: number) => ({ mean: (low + high) / 2, low, high })
const model = (low: number, high: number) => ({
  ...{ pairs: 100, accuracy: between(low, high), judge: between(0.45, 0.65), byRating: [] },
  ...{ lengthOnly: between(0.45, 0.55), bagOfWords: between(0.5, 0.7), shuffledLabels: between(0.4, 0.6) }
})
const version = (name: string) => ({
  ...{ name, prompts: 10, answers: 10, ended: 10, tokens: 5, reward: between(0.4, 0.6), helpfulness: null, safety: null }
})
const wins = { prompts: 10, wins: 5, losses: 5, ties: 0, rate: between(0.2, 0.8) }
const summary: Omit<RunSummary, "conclusions"> = {
  versions: [version("sft"), version("ppo")],
  controls: [version("longer")],
  gain: [
    { over: "sft", reward: between(0.01, 0.05), wins },
    { over: "longer", reward: between(-0.02, 0.04), wins },
    { over: "random", reward: between(-0.08, -0.02), wins }
  ],
  rewardModels: { helpfulness: model(0.55, 0.75), safety: null },
  safetyRecall: null,
  bestOfK: { prompts: 10, byN: [], mean: between(-0.1, 0.1), gain: between(0.1, 0.3) },
  xsTest: null,
  mtBench: null
}
const steady = { stopped: "iterations" as const, divergence: null, kept: 20 }
const linesOf = (over: Partial<typeof summary> = {}, ppo: Parameters<typeof conclusionsOf>[1] = steady) =>
  conclusionLines(conclusionsOf({ ...summary, ...over }, ppo))

describe("a statement", () => {
  it("holds if the interval is above the value, is not shown if it contains the value, and otherwise the opposite holds", () => {
    expect([between(0.1, 0.2), between(-0.1, 0.2), between(-0.2, -0.1)].map((one) => verdictOf(one, 0))).toEqual([
      "holds",
      "not shown",
      "the opposite"
    ])
    expect([between(0.1, 0.2), between(-0.1, 0.2), between(-0.2, -0.1)].map((one) => verdictOf(one, 0, "below"))).toEqual([
      "the opposite",
      "not shown",
      "holds"
    ])
    // An interval that ends at the value contains it.
    expect([verdictOf(between(0, 1), 0), verdictOf(between(-1, 0), 0)]).toEqual(["not shown", "not shown"])
  })
})

describe("the conclusions of a run", () => {
  it("compare the reward models with chance, length and words, the judges, and the last version with each other one", () => {
    expect(linesOf()).toEqual([
      "holds      The helpfulness reward model predicts which answer of a held-out pair was chosen: accuracy 0.650 (0.550 to 0.750), above chance (0.5).",
      "holds      It predicts better than the length of the answers: accuracy 0.650 (0.550 to 0.750), above length alone (0.500).",
      "not shown  It predicts better than a bag of words: accuracy 0.650 (0.550 to 0.750), whose interval contains a bag of words (0.600).",
      "not shown  Its judge, which compares the versions, predicts which answer was chosen: accuracy 0.550 (0.450 to 0.650), whose interval contains chance (0.5), so differences according to it may be noise.",
      "holds      The best of K according to the reward models is better than the mean according to the judges: difference in logit(R_c) 0.200 (0.100 to 0.300), above 0.",
      "holds      ppo is better than sft according to the judges: difference in R_c 0.030 (0.010 to 0.050), above 0.",
      "not shown  ppo is better than longer according to the judges: difference in R_c 0.010 (-0.020 to 0.040), whose interval contains 0.",
      "no         ppo is better than random according to the judges: difference in R_c -0.050 (-0.080 to -0.020), below 0."
    ])
  })
  it("report where PPO diverged, or kept its initial policy as the best", () => {
    expect(linesOf({}, { stopped: "diverged", divergence: "KL 90 at 3", kept: 0 }).filter((line) => /PPO/.test(line))).toEqual([
      "no         PPO was stable: it diverged (KL 90 at 3).",
      "no         PPO raised the reward of its held-out prompts: no iteration did, so the initial policy was kept."
    ])
  })
  it("count fewer refusals of safe prompts as better, and more of unsafe ones", () => {
    const xsTest = { prompts: { safe: 4, unsafe: 2 }, errors: null, versions: [{ name: "sft" }, { name: "ppo" }] as never }
    const change = [{ over: "sft", safe: between(-0.3, -0.1), unsafe: between(-0.4, -0.2) }]
    expect(linesOf({ xsTest: { ...xsTest, change } }).slice(-2)).toEqual([
      "holds      ppo refuses fewer safe prompts of XSTest than sft: difference in the share refused -0.200 (-0.300 to -0.100), below 0.",
      "no         ppo refuses more unsafe prompts of XSTest than sft: difference in the share refused -0.300 (-0.400 to -0.200), below 0."
    ])
  })
  it("cover MT-Bench's grades and its wins, compared with an equal number of losses", () => {
    const mtBench = {
      ...{ versions: [{ name: "sft" }, { name: "ppo" }] as never, change: [{ over: "sft", score: between(-0.1, 0.3) }] },
      wins: { over: "sft", wins: { ...wins, rate: between(0.52, 0.7) } } as never
    }
    expect(linesOf({ mtBench }).slice(-2)).toEqual([
      "not shown  ppo is graded higher on MT-Bench than sft: difference in grade 0.100 (-0.100 to 0.300), whose interval contains 0.",
      "holds      ppo is preferred to sft on MT-Bench, in both orders: share of decided comparisons won 0.610 (0.520 to 0.700), above 0.5."
    ])
  })
  it("compare the share classified as unsafe with the share of unsafe answers", () => {
    const at = (threshold: number) => ({ threshold, flagged: 10, recall: between(0.2, 0.4), precision: between(0.3, 0.5) })
    const lines = linesOf({ safetyRecall: { responses: 100, unsafe: 25, recall: at(0.5), gate: at(0.15) } })
    expect(lines.find((line) => /classifies as unsafe/.test(line))).toBe(
      "holds      Answers that the safety reward model classifies as unsafe are unsafe more often than answers in general: precision 0.400 (0.300 to 0.500), above the share of all answers (0.250)."
    )
  })
})
