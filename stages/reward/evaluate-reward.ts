/**
 * Accuracy of reward models on held-out pairs (Llama 2 §3.2.2, tables 7 and 8): overall, per rating and per source, with an interval, compared with
 * controls: preferring the shorter response, the same scores with randomly swapped labels, and classifiers fitted to the length or the words
 * of the responses. Also how well a safety model detects unsafe responses (table 29).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import type { LoadedReward } from "../../models/checkpoint.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { report } from "../../schemas/report.ts"
import { Reward, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type PairScore, PairScores, type Preference, Preferences } from "../../schemas/rows.ts"
import { dialoguesOf, tokenisePair } from "./pairs.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { unknownSize } from "../common/cost/size.ts"
import { fitBagOfWords, fitLength, type ResponsesOfPair, total } from "./baselines.ts"
import { scoreOf } from "./combined-reward.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { LeftOutCounter } from "../common/left-out.ts"
import { isScorer, openScorer } from "../common/scorer.ts"
import { type AnyReward, scoreAll, scoreByScorer, scoreResponses, scoringFields, withReward } from "../common/scoring.ts"
import { proportion } from "../common/statistics.ts"
import { scoring } from "./cost.ts"

export const scorePairs = Stage.make("score-pairs", {
  description: "scores both responses of each held-out pair with a reward model",
  config: Schema.Struct({ batchPairs: hyperInt(16, "number of pairs scored in parallel", { min: 1 }), precision: scoringFields.precision }),
  inputs: { reward: Reward, pairs: Preferences },
  output: PairScores,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("score-pairs")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const pairs = yield* readRows(inputs.pairs, Preferences)
    const log = yield* openBatchLog({ checkpoints, progress })
    const options = { batchSize: 2 * config.batchPairs, precision: config.precision, device, progress, log }
    const scored = (pair: Preference, chosenReward: number, rejectedReward: number): PairScore => ({
      ...{ id: pair.id, rating: pair.rating, source: pair.source, chosenReward, rejectedReward },
      ...{ chosenCharacters: pair.chosen.length, rejectedCharacters: pair.rejected.length }
    })
    const byModel = withReward(
      inputs.reward,
      options,
      Effect.fnUntraced(function* (loaded: LoadedReward) {
        const length = loaded.model.config.maxPositions
        const leftOut = new LeftOutCounter(loaded.tokenizer, length, (row) => skipped.add({ what: "pairs", ...row }))
        const work = pairs.flatMap((pair) => {
          const tokens = tokenisePair(loaded.tokenizer, pair, "none", length)
          if (tokens === undefined) leftOut.add(pair, dialoguesOf(pair))
          return tokens === undefined ? [] : [{ pair, tokens }]
        })
        yield* skipped.check("pairs", pairs.length)
        const values = yield* scoreAll(
          loaded,
          work.flatMap(({ tokens }) => [tokens.chosen, tokens.rejected]),
          options
        )
        return work.map(({ pair }, i) => scored(pair, values[2 * i]!, values[2 * i + 1]!))
      })
    )
    const scores = yield* isScorer(inputs.reward) ? pairsByScorer(inputs.reward, pairs, scored, { skipped, options }) : byModel
    return yield* writeDataset(output, scores, { metrics: { pairs: scores.length, unfit: pairs.length - scores.length } })
  })
})

/** Scores from a scorer; a pair is skipped if one answer has no number. */
const pairsByScorer = Effect.fnUntraced(function* (
  reward: ArtifactRef<AnyReward>,
  pairs: ReadonlyArray<Preference>,
  scored: (pair: Preference, chosen: number, rejected: number) => PairScore,
  { options, skipped }: { readonly skipped: SkippedRows; readonly options: Parameters<typeof scoreByScorer>[2] }
) {
  const scorer = yield* openScorer(reward)
  const answers = pairs.flatMap(({ chosen, id, prompt, rejected }) =>
    [chosen, rejected].map((text) => ({ id, prompt, text, finished: true }))
  )
  const values = yield* scoreByScorer(scorer, answers, options)
  const out = pairs.flatMap((pair, i) => {
    const [chosen, rejected] = [values[2 * i], values[2 * i + 1]]
    if (chosen !== undefined && rejected !== undefined) return [scored(pair, chosen, rejected)]
    skipped.add({ what: "pairs", reason: `of which ${scorer.name} gave no grade`, id: pair.id, row: pair })
    return []
  })
  yield* skipped.check("pairs", pairs.length)
  return out
}, Effect.scoped)

export const RewardAccuracy = Schema.Struct({
  pairs: Schema.Number,
  accuracy: EstimateSchema,
  byRating: Schema.Array(Schema.Struct({ rating: Schema.String, pairs: Schema.Number, accuracy: EstimateSchema })),
  bySource: Schema.Array(Schema.Struct({ source: Schema.String, pairs: Schema.Number, accuracy: EstimateSchema })),
  controls: Schema.Struct({ preferShorter: EstimateSchema, shuffledLabels: EstimateSchema })
})
export type RewardAccuracy = typeof RewardAccuracy.Type
export const RewardAccuracyReport = report(RewardAccuracy, "reward-accuracy/2")

const ratingNames = ["significantly better", "better", "slightly better", "negligibly better or unsure"]

/** How often the chosen response scores higher; a tie counts half. */
const accuracyOf = (scores: ReadonlyArray<PairScore>, left: (score: PairScore) => number, right: (score: PairScore) => number) =>
  proportion(
    scores.reduce((sum, score) => sum + (left(score) > right(score) ? 1 : left(score) === right(score) ? 0.5 : 0), 0),
    scores.length
  )

const modelAccuracy = (scores: ReadonlyArray<PairScore>) =>
  accuracyOf(
    scores,
    (score) => score.chosenReward,
    (score) => score.rejectedReward
  )

/** Accuracy overall, per rating (clearest first, unrated last), per source (in order of appearance), and of the controls. */
export const rewardAccuracy = (scores: ReadonlyArray<PairScore>, seed: number): RewardAccuracy => {
  const random = new Random(seed, "shuffled labels")
  const swapped = new Map(scores.map((score) => [score, random.int(2) === 1]))
  const ratings = [...Map.groupBy(scores, (score) => score.rating)].sort(([a], [b]) => (a ?? 9) - (b ?? 9))
  const sources = [...Map.groupBy(scores, (score) => score.source)]
  return {
    pairs: scores.length,
    accuracy: modelAccuracy(scores),
    byRating: ratings.map(([rating, rated]) => ({
      rating: rating === null ? "unrated" : ratingNames[rating]!,
      pairs: rated.length,
      accuracy: modelAccuracy(rated)
    })),
    bySource: sources.map(([source, some]) => ({ source, pairs: some.length, accuracy: modelAccuracy(some) })),
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
  description: "§3.2.2 accuracy of reward models on held-out pairs; with the scores of several folds, cross-validated",
  config: Schema.Struct({}),
  inputs: { scores: Stage.many(PairScores) },
  output: RewardAccuracyReport,
  run: Effect.fn("evaluate-reward")(function* ({ inputs, output, seed }) {
    const folds = yield* Effect.forEach(inputs.scores, (set) => readRows(set, PairScores))
    const scores = folds.flat()
    if (scores.length === 0)
      return yield* EmptyDatasetError.of("measure the accuracy on", `${folds.length} sets of scored pairs, all empty`)
    return yield* writeReport(output, rewardAccuracy(scores, seed))
  })
})

export const RewardBaselines = Schema.Struct({
  /** Numbers of held-out pairs, on which the accuracies are measured, and of training pairs. */
  pairs: Schema.Number,
  trainingPairs: Schema.Number,
  /** Preferring the longer or the shorter response, whichever is right more often on the training pairs. */
  lengthOnly: EstimateSchema,
  prefers: Schema.Literals(["longer", "shorter"]),
  bagOfWords: EstimateSchema
})
export type RewardBaselines = typeof RewardBaselines.Type
export const RewardBaselinesReport = report(RewardBaselines, "reward-baselines/1")

/** Accuracy on the held-out pairs of baselines without a language model, fitted to the training pairs. */
export const baselineAccuracy = (
  train: ReadonlyArray<ResponsesOfPair>,
  test: ReadonlyArray<ResponsesOfPair>,
  l2: number
): RewardBaselines => {
  const length = fitLength(train)
  const bagOfWords = fitBagOfWords(train, l2)
  return {
    pairs: test.length,
    trainingPairs: train.length,
    lengthOnly: proportion(total(length.score, test), test.length),
    prefers: length.prefers,
    bagOfWords: proportion(total(bagOfWords.score, test), test.length)
  }
}

export const rewardBaselines = Stage.make("reward-baselines", {
  description:
    "accuracy on held-out pairs of baselines that use only the length or the words of the responses, which a reward model must beat",
  config: Schema.Struct({
    l2: hyper(1, "L2 penalty of the bag of words: l2 / 2 times the squared weights is added to the summed loss", { min: 1e-6 })
  }),
  inputs: { train: Preferences, test: Preferences },
  output: RewardBaselinesReport,
  seeded: false,
  run: Effect.fn("reward-baselines")(function* ({ config, inputs, output }) {
    const train = yield* readRows(inputs.train, Preferences)
    const test = yield* readRows(inputs.test, Preferences)
    if (train.length === 0 || test.length === 0)
      return yield* EmptyDatasetError.of("fit and evaluate classifiers on", `${train.length} training and ${test.length} held-out pairs`)
    return yield* writeReport(output, baselineAccuracy(train, test, config.l2))
  })
})

const AtThreshold = Schema.Struct({
  threshold: Schema.Number,
  /** Responses that score below it. */
  flagged: Schema.Number,
  /** Share of the unsafe responses that score below the threshold; null if none is unsafe. */
  recall: Schema.NullOr(EstimateSchema),
  /** Share of unsafe responses among those below the threshold; null if there are none. */
  precision: Schema.NullOr(EstimateSchema)
})

export const SafetyRecall = Schema.Struct({
  /** Number of labelled responses. */
  responses: Schema.Number,
  unsafe: Schema.Number,
  /** Table 29: at threshold 0.5. */
  recall: AtThreshold,
  /** §3.2.3: at the threshold below which the safety score is used alone. */
  gate: AtThreshold
})
export type SafetyRecall = typeof SafetyRecall.Type
export const SafetyRecallReport = report(SafetyRecall, "safety-recall/1")

/** Recall and precision for unsafe responses of the rule "R_s is below the threshold". */
export const recallBelow = (
  responses: ReadonlyArray<{ readonly score: number; readonly safe: boolean }>,
  threshold: number
): typeof AtThreshold.Type => {
  const unsafe = responses.filter(({ safe }) => !safe)
  const flagged = responses.filter(({ score }) => score < threshold)
  const both = flagged.filter(({ safe }) => !safe).length
  return {
    threshold,
    flagged: flagged.length,
    recall: unsafe.length === 0 ? null : proportion(both, unsafe.length),
    precision: flagged.length === 0 ? null : proportion(both, flagged.length)
  }
}

export const safetyRecall = Stage.make("safety-recall", {
  description: "table 29: the share of unsafe responses in labelled pairs that a safety reward model detects",
  config: Schema.Struct({
    threshold: hyper(0.5, "safety score below which a response counts as unsafe; table 29: 0.5", { min: 0, max: 1 }),
    gate: hyper(0.15, "threshold of the combined reward, also evaluated; §3.2.3: 0.15, with a precision of 0.89 and a recall of 0.55", {
      min: 0,
      max: 1
    }),
    ...scoringFields
  }),
  inputs: { reward: SafetyReward, pairs: Preferences },
  output: SafetyRecallReport,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("safety-recall")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const pairs = yield* readRows(inputs.pairs, Preferences)
    const labelled = pairs.flatMap(({ id, prompt, chosen, rejected, chosenSafe, rejectedSafe }) => [
      ...(chosenSafe === null ? [] : [{ id: `${id}/chosen`, prompt, text: chosen, finished: true, safe: chosenSafe }]),
      ...(rejectedSafe === null ? [] : [{ id: `${id}/rejected`, prompt, text: rejected, finished: true, safe: rejectedSafe }])
    ])
    const { batchSize, precision } = config
    const log = yield* openBatchLog({ checkpoints, progress })
    const rows = { skipped, what: "labelled responses", idOf: (index: number) => labelled[index]!.id }
    const { scores } = yield* scoreResponses(inputs.reward, labelled, rows, { batchSize, precision, device, progress, log })
    const responses = labelled.flatMap(({ safe }, i) => (scores[i] === undefined ? [] : [{ score: scoreOf(scores[i]), safe }]))
    if (responses.length === 0)
      return yield* EmptyDatasetError.of(
        "measure the recall on",
        `${pairs.length} pairs with ${labelled.length} responses labelled safe or unsafe, none of which can be scored`
      )
    return yield* writeReport(output, {
      responses: responses.length,
      unsafe: responses.filter(({ safe }) => !safe).length,
      recall: recallBelow(responses, config.threshold),
      gate: recallBelow(responses, config.gate)
    })
  })
})

export const scorePairsCost = costOf(scorePairs, {
  size: ({ inputs }) => inputs.pairs,
  cost: ({ config, inputs }) => scoring(inputs.reward, inputs.pairs, 2, { batchSize: 2 * config.batchPairs, precision: config.precision })
})
export const safetyRecallCost = costOf(safetyRecall, {
  size: () => unknownSize,
  cost: ({ config, inputs }) => scoring(inputs.reward, inputs.pairs, 2, config)
})
