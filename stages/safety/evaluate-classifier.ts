/**
 * The quality of the safety classifier (accuracy, precision, recall, F1, average precision as in Llama Guard; by category), separately for prompts and for
 * responses. A positive is an unsafe text.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { SafetyClassifier } from "../../schemas/checkpoint.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { Preferences, Prompts } from "../../schemas/rows.ts"
import { type Classification, classifyingFields, classifyTexts, loadClassifier } from "./classifier.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { promptLength, rowCount, unknownSize } from "../common/cost/size.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { type TextKind, labelledTexts, skipEmpty } from "./classifier-task.ts"
import { type Estimate, proportion } from "../common/statistics.ts"
import { classifying, labelledSize } from "./cost.ts"

/** null where the denominator is 0: no text was classified as unsafe, or none is unsafe. Intervals are Wilson's. */
const Rates = {
  precision: Schema.NullOr(EstimateSchema),
  recall: Schema.NullOr(EstimateSchema),
  f1: Schema.NullOr(Schema.Number)
}
export const ClassifierQuality = Schema.Struct({
  texts: Schema.Number,
  unsafe: Schema.Number,
  accuracy: EstimateSchema,
  ...Rates,
  /** Area under the precision-recall curve, which is independent of the threshold. */
  averagePrecision: Schema.NullOr(Schema.Number),
  byCategory: Schema.Array(
    Schema.Struct({
      category: Schema.String,
      texts: Schema.Number,
      /** Share classified as unsafe, whatever the category. */
      detected: Schema.NullOr(EstimateSchema),
      /** This category against all other texts: a text counts as detected if it was assigned this category. */
      ...Rates
    })
  )
})
export type ClassifierQuality = typeof ClassifierQuality.Type

/** A text's label and the classifier's result. */
export interface ClassifiedText {
  readonly truth: { readonly unsafe: boolean; readonly category: string | null }
  readonly classification: Classification
}

const share = (successes: number, n: number): Estimate | null => (n === 0 ? null : proportion(successes, n))

/** Precision TP / (TP + FP), recall TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN). */
const ratesOf = (texts: ReadonlyArray<ClassifiedText>, is: (text: ClassifiedText) => boolean, found: (text: ClassifiedText) => boolean) => {
  const positives = texts.filter(is)
  const hits = positives.filter(found).length
  const claimed = texts.filter(found).length
  return {
    precision: share(hits, claimed),
    recall: share(hits, positives.length),
    f1: positives.length + claimed === 0 ? null : (2 * hits) / (positives.length + claimed)
  }
}

/**
 * Average precision: the sum over thresholds of the increase in recall times the precision at that threshold; texts with equal probability count together. null
 * without a positive.
 */
export const averagePrecision = (scored: ReadonlyArray<{ readonly probability: number; readonly unsafe: boolean }>): number | null => {
  const positives = scored.filter(({ unsafe }) => unsafe).length
  if (positives === 0) return null
  const steps = [...Map.groupBy(scored, ({ probability }) => probability)].sort(([a], [b]) => b - a)
  let [hits, claimed, area] = [0, 0, 0]
  for (const [, texts] of steps) {
    const found = texts.filter(({ unsafe }) => unsafe).length
    hits += found
    claimed += texts.length
    area += (found * hits) / claimed
  }
  return area / positives
}

/** An unsafe text whose category is unknown provides no information on categories, and is excluded from those counts. */
export const classifierQuality = (texts: ReadonlyArray<ClassifiedText>, categories: ReadonlyArray<string>): ClassifierQuality => {
  const known = texts.filter(({ truth }) => !truth.unsafe || (truth.category !== null && categories.includes(truth.category)))
  return {
    texts: texts.length,
    unsafe: texts.filter(({ truth }) => truth.unsafe).length,
    accuracy: proportion(texts.filter(({ truth, classification }) => truth.unsafe === classification.unsafe).length, texts.length),
    ...ratesOf(
      texts,
      ({ truth }) => truth.unsafe,
      ({ classification }) => classification.unsafe
    ),
    averagePrecision: averagePrecision(
      texts.map(({ truth, classification }) => ({ probability: classification.probability, unsafe: truth.unsafe }))
    ),
    byCategory: categories.map((category) => {
      const own = known.filter(({ truth }) => truth.unsafe && truth.category === category)
      return {
        category,
        texts: own.length,
        detected: share(own.filter(({ classification }) => classification.unsafe).length, own.length),
        ...ratesOf(
          known,
          ({ truth }) => truth.unsafe && truth.category === category,
          ({ classification }) => classification.unsafe && classification.category === category
        )
      }
    })
  }
}

const ClassifierEvaluation = Schema.Struct({
  /** null if there are no labelled texts of the kind. */
  prompts: Schema.NullOr(ClassifierQuality),
  responses: Schema.NullOr(ClassifierQuality),
  /** Number of texts that do not fit the classifier's context. */
  tooLong: Schema.Number
})
export const ClassifierEvaluationReport = report(ClassifierEvaluation, "classifier-evaluation/1")

export const evaluateClassifier = Stage.make("evaluate-classifier", {
  description:
    "precision, recall, F1 and accuracy of the safety classifier on held-out labels, by category, separately for prompts and responses",
  config: Schema.Struct(classifyingFields),
  inputs: {
    classifier: SafetyClassifier,
    prompts: Stage.many(Prompts),
    preferences: Stage.many(Preferences),
    /** The prompts for which the pairs were collected, to find the category of responses. */
    collected: Stage.optional(Prompts)
  },
  output: ClassifierEvaluationReport,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("evaluate-classifier")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const { task, threshold, batchSize, precision: dtype } = config
    const prompts = (yield* Effect.forEach(inputs.prompts, (set) => readRows(set, Prompts))).flat()
    const preferences = (yield* Effect.forEach(inputs.preferences, (set) => readRows(set, Preferences))).flat()
    const collected = inputs.collected === undefined ? [] : yield* readRows(inputs.collected, Prompts)
    const { texts, unlabelled, empty } = labelledTexts(prompts, preferences, collected)
    yield* skipEmpty(skipped, empty, texts)
    if (texts.length === 0)
      return yield* EmptyDatasetError.of(
        "evaluate a safety classifier on",
        `no prompts, and ${unlabelled} responses without a safety label`
      )
    const kinds = [...new Set(texts.map((text) => text.kind))]
    const loaded = yield* loadClassifier(inputs.classifier, task, kinds, { device, dtype })
    const classified = { skipped, what: "texts", idOf: (index: number) => texts[index]!.id }
    const log = yield* openBatchLog({ checkpoints, progress })
    const classifications = yield* classifyTexts(loaded, texts, { task, threshold, batchSize, device, progress, log, rows: classified })
    const qualityOf = (kind: TextKind): ClassifierQuality | null => {
      const rows = texts.flatMap((truth, i): Array<ClassifiedText> => {
        const classification = classifications[i]
        return truth.kind === kind && classification !== undefined ? [{ truth, classification }] : []
      })
      const categories = task.categories.map(({ category }) => category)
      return rows.length === 0 ? null : classifierQuality(rows, categories)
    }
    return yield* writeReport(output, {
      prompts: qualityOf("prompt"),
      responses: qualityOf("response"),
      tooLong: classifications.filter((classification) => classification === undefined).length
    })
  })
})

export const evaluateClassifierCost = costOf(evaluateClassifier, {
  size: () => unknownSize,
  cost: ({ config, inputs }) => {
    const texts = labelledSize(inputs.prompts, inputs.preferences)
    return classifying(inputs.classifier, rowCount(texts, "labelled texts"), promptLength(texts, "the labelled texts"), config)
  }
})
