/**
 * Accuracy of reward models on held-out pairs (Llama 2 §3.2.2, tables 7 and 8): overall and per rating, with an interval, beside two
 * controls: preferring the shorter response, and the same scores against labels swapped at random.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../data/dataset.ts"
import { Random } from "../engine/random.ts"
import { noGrad, scoped } from "../engine/tensor.ts"
import { loadReward } from "../models/checkpoint.ts"
import * as Stage from "../runtime/stage.ts"
import { report } from "../schemas/artifact.ts"
import { Reward } from "../schemas/checkpoint.ts"
import { hyperInt } from "../schemas/hyper.ts"
import { EstimateSchema } from "../schemas/metrics.ts"
import { type PairScore, PairScores, Preferences } from "../schemas/rows.ts"
import { tokenisePair } from "./reward-model.ts"
import { scoreSequences } from "./shared/scoring.ts"
import { chunks } from "./shared/sequences.ts"
import { proportion } from "./shared/statistics.ts"

export const scorePairs = Stage.make("score-pairs", {
  description: "both responses of each held-out pair scored by a reward model",
  config: Schema.Struct({ batchPairs: hyperInt(16, "pairs at once", { min: 1 }) }),
  inputs: { reward: Reward, pairs: Preferences },
  output: PairScores,
  seeded: false,
  resources: { tensors: true },
  run: Effect.fn("score-pairs")(function* ({ config, inputs, output, device, progress }) {
    const { model, tokenizer } = yield* loadReward(inputs.reward, { device })
    const pairs = yield* readRows(inputs.pairs, Preferences)
    const work = pairs.flatMap((pair) => {
      const tokens = tokenisePair(tokenizer, pair, "none", model.config.maxPositions)
      return tokens === undefined ? [] : [{ pair, tokens }]
    })
    const scores: Array<PairScore> = []
    for (const batch of chunks(work, config.batchPairs)) {
      const sequences = [...batch.map((item) => item.tokens.chosen), ...batch.map((item) => item.tokens.rejected)]
      const values = scoped(() => noGrad(() => scoreSequences(model, sequences, { padId: tokenizer.padId, device }).toNumbers()))
      batch.forEach(({ pair }, i) =>
        scores.push({
          id: pair.id,
          rating: pair.rating,
          source: pair.source,
          chosenReward: values[i]!,
          rejectedReward: values[batch.length + i]!,
          chosenCharacters: pair.chosen.length,
          rejectedCharacters: pair.rejected.length
        })
      )
      yield* progress({ step: scores.length, total: work.length })
    }
    return yield* writeDataset(output, scores, { metrics: { pairs: scores.length, tooLong: pairs.length - scores.length } })
  })
})

export const RewardAccuracy = Schema.Struct({
  pairs: Schema.Number,
  accuracy: EstimateSchema,
  byRating: Schema.Array(Schema.Struct({ rating: Schema.String, pairs: Schema.Number, accuracy: EstimateSchema })),
  controls: Schema.Struct({ preferShorter: EstimateSchema, shuffledLabels: EstimateSchema })
})
export type RewardAccuracy = typeof RewardAccuracy.Type
export const RewardAccuracyReport = report(RewardAccuracy, "reward-accuracy/1")

const ratingNames = ["significantly better", "better", "slightly better", "negligibly better or unsure"]

/** How often the chosen response scores higher; a tie counts half. */
const accuracyOf = (scores: ReadonlyArray<PairScore>, left: (score: PairScore) => number, right: (score: PairScore) => number) =>
  proportion(
    scores.reduce((sum, score) => sum + (left(score) > right(score) ? 1 : left(score) === right(score) ? 0.5 : 0), 0),
    scores.length
  )

/** Accuracy overall, per rating, and of the controls. */
export const rewardAccuracy = (scores: ReadonlyArray<PairScore>, seed: number): RewardAccuracy => {
  const random = new Random(seed, "shuffled labels")
  const swapped = new Map(scores.map((score) => [score, random.int(2) === 1]))
  const ratings = [...new Set(scores.map((score) => score.rating))].sort((a, b) => (a ?? 9) - (b ?? 9))
  return {
    pairs: scores.length,
    accuracy: accuracyOf(
      scores,
      (score) => score.chosenReward,
      (score) => score.rejectedReward
    ),
    byRating: ratings.map((rating) => {
      const rated = scores.filter((score) => score.rating === rating)
      return {
        rating: rating === null ? "unrated" : ratingNames[rating]!,
        pairs: rated.length,
        accuracy: accuracyOf(
          rated,
          (score) => score.chosenReward,
          (score) => score.rejectedReward
        )
      }
    }),
    controls: {
      preferShorter: accuracyOf(
        scores,
        (score) => -score.chosenCharacters,
        (score) => -score.rejectedCharacters
      ),
      shuffledLabels: accuracyOf(
        scores,
        (score) => (swapped.get(score) === true ? score.rejectedReward : score.chosenReward),
        (score) => (swapped.get(score) === true ? score.chosenReward : score.rejectedReward)
      )
    }
  }
}

export const evaluateReward = Stage.make("evaluate-reward", {
  description: "§3.2.2 accuracy of reward models on held-out pairs; given several folds' scores, cross-validated",
  config: Schema.Struct({}),
  inputs: { scores: Stage.many(PairScores) },
  output: RewardAccuracyReport,
  run: Effect.fn("evaluate-reward")(function* ({ inputs, output, seed }) {
    const folds = yield* Effect.forEach(inputs.scores, (set) => readRows(set, PairScores))
    return yield* writeReport(output, rewardAccuracy(folds.flat(), seed))
  })
})
