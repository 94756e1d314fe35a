/**
 * Compares reward models' scores with ratings from people or others who made none of the training labels (Llama 2 A.3.4, figure 29): R_h over prompts to help with, R_s over safety prompts.
 * An answer's rating is the median over its raters; the paper has three.
 *
 * Answers from policies that generated pairs on which the reward models may be trained are left out and counted: the models have seen such answers.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { readRows, streamRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { report } from "../../schemas/report.ts"
import { ResponsePairs, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { mean, median, spearman } from "../common/statistics.ts"
import { type Rating, Ratings } from "./ratings.ts"

const ByScore = Schema.Struct({
  /** The centre of the bin of (0, 1). */
  score: Schema.Number,
  answers: Schema.Number,
  /** Median and quartiles of the answers' ratings. */
  median: Schema.Number,
  low: Schema.Number,
  high: Schema.Number
})
const ByRating = Schema.Struct({
  rating: Schema.Number,
  answers: Schema.Number,
  /** Mean of the answers' scores, and their standard deviation (population). */
  mean: Schema.Number,
  deviation: Schema.Number
})
const Panel = Schema.Struct({
  answers: Schema.Number,
  byScore: Schema.Array(ByScore),
  byRating: Schema.Array(ByRating),
  /** Spearman's correlation of scores and ratings; null if one of them does not vary. */
  correlation: Schema.NullOr(Schema.Number)
})
type Panel = typeof Panel.Type

const Calibration = Schema.Struct({
  /** R_h and R_s; null if no answer has both that score and a rating. */
  helpfulness: Schema.NullOr(Panel),
  safety: Schema.NullOr(Panel),
  raters: Schema.Number,
  /** Number of policies whose answers are counted. */
  policies: Schema.Number,
  /** Answers left out: from policies that generated training pairs; without a rating; without the score. */
  leftOut: Schema.Struct({ trainedOn: Schema.Number, unrated: Schema.Number, unscored: Schema.Number })
})
export type Calibration = typeof Calibration.Type
export const CalibrationReport = report(Calibration, "calibration/1")

export interface ScoredAndRated {
  /** In (0, 1). */
  readonly score: number
  /** 1 to 7. */
  readonly rating: number
}

/** The quantile of sorted values at a share: the ceil(share n)-th smallest value (the first for a share of 0). */
const quantile = (sorted: ReadonlyArray<number>, share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!

/** Both directions of figure 29; bins of scores, and ratings, with fewer than `least` answers are left out. */
export const panelOf = (
  answers: ReadonlyArray<ScoredAndRated>,
  { bins, least }: { readonly bins: number; readonly least: number }
): Panel | null => {
  if (answers.length === 0) return null
  const grouped = (key: (one: ScoredAndRated) => number) =>
    [...Map.groupBy(answers, key)].filter(([, some]) => some.length >= least).toSorted(([a], [b]) => a - b)
  return {
    answers: answers.length,
    byScore: grouped(({ score }) => Math.min(bins - 1, Math.floor(score * bins))).map(([bin, some]) => {
      const ratings = some.map(({ rating }) => rating).toSorted((a, b) => a - b)
      return {
        ...{ score: (bin + 0.5) / bins, answers: some.length },
        ...{ median: median(ratings), low: quantile(ratings, 0.25), high: quantile(ratings, 0.75) }
      }
    }),
    byRating: grouped(({ rating }) => Math.round(rating)).map(([rating, some]) => {
      const scores = some.map(({ score }) => score)
      const middle = mean(scores)
      return { rating, answers: some.length, mean: middle, deviation: Math.sqrt(mean(scores.map((score) => (score - middle) ** 2))) }
    }),
    correlation: spearman(
      answers.map(({ score }) => score),
      answers.map(({ rating }) => rating)
    )
  }
}

const keyOf = ({ policy, promptId, sample }: Pick<Rating, "policy" | "promptId" | "sample">): string =>
  JSON.stringify([policy, promptId, sample])

export const calibration = Stage.make("calibration", {
  description: "figure 29: compares reward models' scores, R_h and R_s, with ratings that they were not trained on",
  config: Schema.Struct({
    bins: hyperInt(10, "number of bins over (0, 1) for the scores", { min: 2, max: 50 }),
    least: hyperInt(5, "minimum number of answers per group; smaller groups are left out", { min: 1 })
  }),
  inputs: { scored: Stage.many(ScoredCompletions), ratings: Stage.many(Ratings), trainedOn: Stage.many(ResponsePairs) },
  output: CalibrationReport,
  seeded: false,
  run: Effect.fn("calibration")(function* ({ config, inputs, output }) {
    const { bins, least } = config
    const ratings = (yield* Effect.forEach(inputs.ratings, (set) => readRows(set, Ratings))).flat()
    const fields = ["promptId", "sample", "policy", "safety", "helpfulnessScore", "safetyScore"] as const
    type Scored = Pick<ScoredCompletion, (typeof fields)[number]>
    const scored: ReadonlyArray<Scored> = (yield* Effect.forEach(inputs.scored, (set) =>
      Stream.runCollect(streamRows(set, ScoredCompletions, fields))
    )).flat()
    const drawn = (yield* Effect.forEach(inputs.trainedOn, (set) =>
      Stream.runCollect(streamRows(set, ResponsePairs, ["policyA", "policyB"]))
    )).flat()
    const trainedOn = new Set(drawn.flatMap(({ policyA, policyB }) => [policyA, policyB]))
    const outside = scored.filter(({ policy }) => !trainedOn.has(policy))
    const byAnswer = Map.groupBy(ratings, keyOf)
    const rated = outside.flatMap((one) => {
      const given = byAnswer.get(keyOf(one))
      return given === undefined ? [] : [{ ...one, rating: median(given.map(({ rating }) => rating)) }]
    })
    const usable = rated.flatMap(({ helpfulnessScore, policy, rating, safety, safetyScore }) => {
      const score = safety ? safetyScore : helpfulnessScore
      return score === null ? [] : [{ policy, safety, score, rating }]
    })
    if (usable.length === 0)
      return yield* EmptyDatasetError.of(
        "compare scores with ratings on",
        `${scored.length} scored answers, of which ${scored.length - outside.length} are from policies that generated training pairs, ${outside.length - rated.length} have no rating and ${rated.length} have a rating but no score`
      )
    const part = (safety: boolean) =>
      panelOf(
        usable.filter((one) => one.safety === safety),
        { bins, least }
      )
    return yield* writeReport(output, {
      ...{ helpfulness: part(false), safety: part(true) },
      raters: new Set(ratings.map(({ rater }) => rater)).size,
      policies: new Set(usable.map(({ policy }) => policy)).size,
      leftOut: {
        ...{ trainedOn: scored.length - outside.length, unrated: outside.length - rated.length },
        unscored: rated.length - usable.length
      }
    })
  })
})
