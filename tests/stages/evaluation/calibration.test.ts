/** Figure 29: reward scores compared with ratings that were not used for training labels. */
import { describe, expect, it } from "vitest"
import { Completions, ResponsePairs, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { calibration, CalibrationReport, panelOf } from "../../../stages/evaluation/calibration.ts"
import { judgeRatings, type Rating, Ratings, readRating } from "../../../stages/evaluation/ratings.ts"
import { judgeServer } from "../judge-server.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"

const answer = (id: number, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  ...{ promptId: `p${id}`, prompt: [{ role: "user" as const, content: `question ${id}` }], safety: false, sample: 0, text: `answer ${id}` },
  ...{
    tokens: [1],
    logProbabilities: [0],
    finished: true,
    temperature: 1,
    policy: "outside",
    reward: 0,
    helpfulnessScore: 0.5,
    safetyScore: 0.5
  },
  ...over
})
const rating = (id: number, value: number, rater = "a", policy = "outside"): Rating => ({
  ...{ promptId: `p${id}`, sample: 0, policy, rater, rating: value }
})

describe("a panel of figure 29", () => {
  it("shows the median and the quartiles of the ratings by score, and the mean and standard deviation of the scores by rating", () => {
    const panel = panelOf(
      [
        { score: 0.05, rating: 1 },
        { score: 0.02, rating: 3 },
        { score: 0.09, rating: 2 },
        { score: 0.04, rating: 2 },
        { score: 1, rating: 7 },
        { score: 0.9, rating: 7 },
        { score: 0.95, rating: 5 }
      ],
      { bins: 10, least: 2 }
    )!
    // Sorted ratings of the first bin: 1 2 2 3; the first quartile is the first, the third is the third.
    expect(panel.byScore).toEqual([
      { score: 0.05, answers: 4, median: 2, low: 1, high: 2 },
      { score: 0.95, answers: 3, median: 7, low: 5, high: 7 }
    ])
    // Ratings with a single answer are left out. Scores of those rated 2: 0.09 and 0.04; rated 7: 1 and 0.9.
    expect(panel.byRating.map((one) => [one.rating, one.answers])).toEqual([
      [2, 2],
      [7, 2]
    ])
    expect(panel.byRating[0]!.mean).toBeCloseTo(0.065, 12)
    expect(panel.byRating[0]!.deviation).toBeCloseTo(0.025, 12)
    expect(panel.byRating[1]!.mean).toBeCloseTo(0.95, 12)
  })
  it("is absent without answers, and has no correlation where one side is constant", () => {
    expect(panelOf([], { bins: 10, least: 1 })).toBeNull()
    expect(panelOf([{ score: 0.5, rating: 4 }], { bins: 10, least: 1 })!.correlation).toBeNull()
    const up = [1, 2, 3].map((value) => ({ score: value / 10, rating: value }))
    expect(panelOf(up, { bins: 10, least: 1 })!.correlation).toBeCloseTo(1, 12)
  })
})

describe("the stage of figure 29", () => {
  const pair = {
    ...{ id: "x", prompt: [{ role: "user" as const, content: "x" }], safety: false, category: null, followUps: [] },
    ...{ responseA: "a", responseB: "b", policyA: "seen", policyB: "seen too", temperatureA: 1, temperatureB: 1 }
  }
  it("uses the median of each answer's ratings, R_h for helpfulness prompts and R_s for the others, and no policies that produced training pairs", async () => {
    const scored = await rowsArtifact(ScoredCompletions, [
      answer(0, { helpfulnessScore: 0.1, safetyScore: 0.9 }),
      answer(1, { helpfulnessScore: 0.9 }),
      answer(2, { safety: true, helpfulnessScore: 0.1, safetyScore: 0.7 }),
      answer(3, { policy: "seen" }),
      answer(4, { policy: "seen too" }),
      answer(5),
      answer(6, { safety: true, safetyScore: null })
    ])
    const ratings = await rowsArtifact(Ratings, [
      ...[1, 2, 6].map((value, i) => rating(0, value, `rater ${i}`)),
      rating(1, 7),
      rating(2, 5),
      rating(3, 7, "a", "seen"),
      rating(6, 4)
    ])
    const trainedOn = await rowsArtifact(ResponsePairs, [pair])
    const report = await reportIn(
      await runStage(calibration, { scored: [scored], ratings: [ratings], trainedOn: [trainedOn] }, { least: 1 }),
      CalibrationReport
    )
    expect(report.leftOut).toEqual({ trainedOn: 2, unrated: 1, unscored: 1 })
    expect([report.raters, report.policies]).toEqual([4, 1])
    expect(report.helpfulness!.byScore.map(({ median, score }) => [score, median])).toEqual([
      [0.15, 2],
      [0.95, 7]
    ])
    expect(report.safety!.byScore.map(({ median, score }) => [score, median])).toEqual([[0.75, 5]])
  })
  it("explains why there is nothing to compare", async () => {
    const scored = [await rowsArtifact(ScoredCompletions, [answer(0, { policy: "seen" }), answer(1)])]
    const inputs = { scored, ratings: [await rowsArtifact(Ratings, [])], trainedOn: [await rowsArtifact(ResponsePairs, [pair])] }
    expect(await failureOf(calibration, inputs)).toMatch(
      /2 scored answers, of which 1 are from policies that generated training pairs, 1 have no rating and 0 have a rating but no score/
    )
  })
})

describe("a judge's ratings", () => {
  it("are whole numbers from 1 to 7; anything else is rejected", () => {
    expect(['{"rating": 7}', '```json\n{"rating": 1}\n```'].map(readRating)).toEqual([7, 1])
    expect(['{"rating": 0}', '{"rating": 8}', '{"rating": 2.5}', '{"rating": "3"}', "3", "null", "[]", "good"].map(readRating)).toEqual(
      new Array(8).fill(null)
    )
  })
  it("are collected for each answer; an unreadable rating leaves its row out, and too many stop the stage", async () => {
    const said = (question: string) => (question.includes("answer 2") ? "I can't" : `{"rating": ${question.includes("answer 1") ? 6 : 3}}`)
    const server = await judgeServer(said)
    try {
      const completions = await rowsArtifact(
        Completions,
        [answer(0), answer(1, { safety: true }), answer(2)].map(({ helpfulnessScore: _h, reward: _r, safetyScore: _s, ...one }) => one)
      )
      const config = { url: server.url, model: "judge" }
      const made = await runStage(judgeRatings, { completions }, config)
      expect((await rowsIn(made, Ratings)).map(({ promptId, rater, rating: value }) => [promptId, rater, value])).toEqual([
        ["p0", "judge", 3],
        ["p1", "judge", 6]
      ])
      expect(server.questions.find((one) => one.includes("answer 1"))).toMatch(/how safe the answer is/)
      expect(server.questions.find((one) => one.includes("answer 0"))).toMatch(/how well the answer serves/)
      expect(made.skippedRows).toMatchObject([{ reason: "on which the judge's answer is not a rating", id: "p2#0" }])
      expect(await failureOf(judgeRatings, { completions }, { ...config, maxUnreadable: 0 })).toMatch(
        /1 of 3 answers without a readable verdict/
      )
    } finally {
      await server.close()
    }
  })
})
