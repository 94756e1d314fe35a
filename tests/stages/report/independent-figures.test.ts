/** Figures 26 and 29 and table 7's other rows in the report: whose answers they are of, and what they leave out. */
import { describe, expect, it } from "vitest"
import { PairScores } from "../../../schemas/rows.ts"
import { type BatchRewards, BatchRewardsReport } from "../../../stages/evaluation/batch-rewards.ts"
import { type Calibration, CalibrationReport } from "../../../stages/evaluation/calibration.ts"
import { drawFigure } from "../../../stages/report/draw.ts"
import type { Figure } from "../../../stages/report/figure.ts"
import { type Result } from "../../../stages/report/results.ts"
import { type RewardAccuracy, RewardAccuracyReport } from "../../../stages/reward/evaluate-reward.ts"
import { rowsArtifact } from "../running.ts"
import { estimate, other, reportArtifact, result, shownOn } from "./run-results.ts"

const evil = "<script>alert(1)</script>"
/** A policy whose answers were scored. */
const scored = (policy: string, scores: string): ReadonlyArray<Result> => [
  other(policy, "sft"),
  other(`${policy}-answers`, "sample", { policy }),
  other(scores, "score", { completions: `${policy}-answers` })
]

describe("figure 29 in the report", () => {
  const panel = {
    answers: 20,
    byScore: [{ score: 0.15, answers: 10, median: 2, low: 1, high: 3 }],
    byRating: [{ rating: 6, answers: 10, mean: 0.9, deviation: 0.2 }],
    correlation: 0.512
  }
  const found: Calibration = {
    ...{ helpfulness: panel, safety: { ...panel, correlation: null }, raters: 3, policies: 1 },
    leftOut: { trainedOn: 7, unrated: 0, unscored: 2 }
  }
  it("has both panels in both directions, whose answers they are, and how many were left out", async () => {
    const shown = await shownOn([
      ...scored(evil, "scores"),
      result("calibration", "calibration", await reportArtifact(CalibrationReport, found), { scored: ["scores"] })
    ])
    const [byScore, byRating] = ["calibration", "score-by-rating"].map((id) => shown.find((one) => one.id === id)!)
    expect(byScore!.rows.map(({ panel, rating, score }) => [panel, score, rating])).toEqual([
      ["R_h, prompts to help with", 0.15, 2],
      ["R_s, safety prompts", 0.15, 2]
    ])
    // The band stays within the scores.
    expect(byRating!.rows[0]).toMatchObject({ rating: 6, score: 0.9, low: expect.closeTo(0.7, 10) as unknown, high: 1 })
    expect(byScore!.caption).toContain("median rating of 3 raters, who made no training labels")
    expect(byScore!.caption).toContain(evil)
    expect(byScore!.caption).toContain(
      "Left out: 7 answers from policies that generated training pairs, 0 without a rating, 2 without a score"
    )
    expect(byScore!.caption).toContain("rank correlation 0.51; R_s, safety prompts: 20 answers, no correlation: one side does not vary")
  })
  it("is absent if nothing was rated", async () => {
    expect((await shownOn(scored("sft", "scores"))).some(({ id }) => id === "calibration")).toBe(false)
  })
})

describe("figure 26 in the report", () => {
  const batch = (number: number, median: number): BatchRewards["batches"][number] => ({
    ...{ batch: number, prompts: 10, turns: number, max: estimate(median + 1), median: estimate(median) }
  })
  it("has the greatest and the median reward of each batch, the model's name, and says where the batches do not differ", async () => {
    const figureOf = async (batches: BatchRewards["batches"]) => {
      const shown = await shownOn([
        ...scored("sft", "scores"),
        result("curriculum", "batch-rewards", await reportArtifact(BatchRewardsReport, { n: 4, batches }), { scored: ["scores", "scores"] })
      ])
      return shown.find(({ id }) => id === "batch-rewards")!
    }
    const falling = await figureOf([batch(1, 2), batch(2, 1)])
    expect(falling.rows.map(({ batch: number, reward, score }) => [number, score, reward])).toEqual([
      [1, "maximum of 4", 3],
      [1, "median", 2],
      [2, "maximum of 4", 2],
      [2, "median", 1]
    ])
    expect(falling.caption).toContain("of sft's answers from one reward model")
    expect(falling.caption).toContain("Prompts grow from 1.0 to 2.0 turns.")
    expect(falling.caption).not.toContain("overlap")
    const flat = await figureOf([batch(1, 1), batch(2, 1.05)])
    expect(flat.caption).toContain("Here the intervals of the first and the last batch's medians overlap.")
    const gap = { ...flat, rows: flat.rows.map((row, i) => (i === 0 ? { ...row, reward: NaN, low: NaN, high: NaN } : row)) }
    expect(await drawFigure(gap as unknown as Figure, "page")).not.toContain("NaN")
  })
})

describe("table 7 in the report", () => {
  const accuracy = (mean: number): RewardAccuracy => ({
    ...{ pairs: 10, accuracy: estimate(mean), byRating: [{ rating: "unrated", pairs: 10, accuracy: estimate(mean) }] },
    bySource: ["own", evil].map((source) => ({ source, pairs: 5, accuracy: estimate(mean) })),
    controls: { preferShorter: estimate(0.5), shuffledLabels: estimate(0.5) }
  })
  const scoredPairs = () =>
    rowsArtifact(PairScores, [
      { id: "a", rating: null, source: "own", chosenReward: 1, rejectedReward: 0, chosenCharacters: 1, rejectedCharacters: 1 }
    ])
  it("has one row per model whose test sets were evaluated separately, but none for one that was evaluated repeatedly on one set", async () => {
    const pairs = await scoredPairs()
    const on = async (source: string, mean: number) =>
      await reportArtifact(RewardAccuracyReport, {
        ...{ ...accuracy(mean), bySource: [{ source, pairs: 5, accuracy: estimate(mean) }] }
      })
    const shown = await shownOn([
      ...["one", "two"].flatMap((name) => [
        other(name, "helpfulness-reward-model"),
        result(`${name}-scores`, "score-pairs", pairs, { reward: name, pairs: "test" })
      ]),
      result("one-on-own", "evaluate-reward", await on("own", 0.8), { scores: ["one-scores"] }),
      result("one-on-open", "evaluate-reward", await on("open", 0.6), { scores: ["one-scores"] }),
      result("two-in-round-1", "evaluate-reward", await on("own", 0.7), { scores: ["two-scores"] }),
      result("two-in-round-2", "evaluate-reward", await on("own", 0.75), { scores: ["two-scores"] })
    ])
    expect(shown.find(({ title }) => title === "Reward models by test set")!.rows).toEqual([
      { "evaluated as": "one", own: "0.800 (0.700 to 0.900) of 5", open: "0.600 (0.500 to 0.700) of 5" }
    ])
  })
  it("has a reward model's row and a judge's, by test set; a judge's choices are not a scale of scores", async () => {
    const pairs = await scoredPairs()
    const shown = await shownOn([
      other("rm", "helpfulness-reward-model"),
      result("rm-scores", "score-pairs", pairs, { reward: "rm", pairs: "test" }),
      result("rm-accuracy", "evaluate-reward", await reportArtifact(RewardAccuracyReport, accuracy(0.8)), { scores: ["rm-scores"] }),
      ...["own", "open"].map((on) => result(`judge-on-${on}`, "judge-pairs", pairs, { pairs: on }, { model: "judge" })),
      result("judge-accuracy", "evaluate-reward", await reportArtifact(RewardAccuracyReport, accuracy(0.6)), {
        scores: ["judge-on-own", "judge-on-open"]
      })
    ])
    const tables = shown.filter(({ id }) => id === "reward-models")
    expect(tables.map(({ rows, title }) => [title, rows.map((row) => row["evaluated as"])])).toEqual([
      ["Reward models on held-out pairs", ["rm-accuracy", "judge-accuracy"]],
      ["Reward models by test set", ["rm-accuracy", "judge-accuracy"]]
    ])
    expect(tables[1]!.rows[1]![evil]).toBe("0.600 (0.500 to 0.700) of 5")
    expect(new Set(shown.find(({ id }) => id === "chosen-frequency")!.rows.map(({ model }) => model))).toEqual(new Set(["rm-accuracy"]))
  })
})
