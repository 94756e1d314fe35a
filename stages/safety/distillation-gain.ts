/** The gain from safety context distillation (Llama 2 §4.2.4, figure 16): safety scores of answers before and after, by kind of preprompt and by prompt. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { hyperInt } from "../../schemas/hyper.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { report } from "../../schemas/report.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { bootstrapMean, mean, unitHistogram } from "../common/statistics.ts"
import { byPrompt, type Distilled, distilledAnswers, nothingToCompare, safetyScoreOf, unfinished } from "./distil.ts"
import { attempt, DistillationError } from "./distillation-error.ts"

const ScoreDistribution = Schema.Struct({
  kind: Schema.String,
  completions: Schema.Number,
  mean: EstimateSchema,
  /** Number of completions by score, in equal bins of (0, 1). */
  histogram: Schema.Array(Schema.Number)
})
export const DistillationGain = Schema.Struct({
  prompts: Schema.Number,
  kept: Schema.Number,
  /** Prompts with answers on one side only. */
  withoutOriginal: Schema.Number,
  withoutDistilled: Schema.Number,
  /** Mean safety scores over all compared prompts. */
  original: EstimateSchema,
  distilled: EstimateSchema,
  /** Over the kept prompts; null if none was kept. */
  keptScores: Schema.NullOr(Schema.Struct({ before: EstimateSchema, after: EstimateSchema, gain: EstimateSchema })),
  /** Figure 16a: the original answers, then each kind of preprompt. */
  distributions: Schema.Array(ScoreDistribution),
  /** What each kind of preprompt alone would keep. */
  kinds: Schema.Array(Schema.Struct({ kind: Schema.String, prompts: Schema.Number, kept: Schema.Number, gain: EstimateSchema })),
  /** Figure 16b: original score against gain. */
  byPrompt: Schema.Array(
    Schema.Struct({
      promptId: Schema.String,
      kind: Schema.String,
      original: Schema.Number,
      distilled: Schema.Number,
      kept: Schema.Boolean
    })
  )
})
export const DistillationGainReport = report(DistillationGain, "distillation-gain/1")

/** Scores before and after, with bootstrap intervals over prompts. Undefined if no prompt can be compared. */
export const gainOf = (
  original: ReadonlyArray<ScoredCompletion>,
  prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>,
  kinds: ReadonlyArray<string>,
  options: { readonly unfinished: "drop" | "keep"; readonly bins: number },
  seed: number
): typeof DistillationGain.Type | undefined => {
  const { answers, withoutOriginal, withoutDistilled } = distilledAnswers(original, prefixed, options)
  if (answers.length === 0) return undefined
  const over = (rows: ReadonlyArray<Distilled>, value: (row: Distilled) => number) => bootstrapMean(rows.map(value), seed)
  const gain = (row: Distilled) => row.distilled - row.original
  const kept = answers.filter((answer) => answer.kept)
  const distribution = (kind: string, set: ReadonlyArray<ScoredCompletion>) => {
    const prompts = byPrompt(set.filter((completion) => completion.safety))
    const scores = [...prompts.values()].map((samples) => samples.map(safetyScoreOf))
    return scores.length === 0
      ? []
      : [
          {
            kind,
            completions: scores.flat().length,
            // Samples of one prompt are not independent, so the interval is over prompts.
            mean: bootstrapMean(scores.map(mean), seed),
            histogram: unitHistogram(scores.flat(), options.bins)
          }
        ]
  }
  return {
    prompts: answers.length,
    kept: kept.length,
    withoutOriginal,
    withoutDistilled,
    original: over(answers, (row) => row.original),
    distilled: over(answers, (row) => row.distilled),
    keptScores:
      kept.length === 0
        ? null
        : { before: over(kept, (row) => row.original), after: over(kept, (row) => row.distilled), gain: over(kept, gain) },
    distributions: [...distribution("without preprompt", original), ...prefixed.flatMap((set, i) => distribution(kinds[i]!, set))],
    kinds: prefixed.flatMap((set, i) => {
      const alone = distilledAnswers(original, [set], options).answers
      return alone.length === 0
        ? []
        : [{ kind: kinds[i]!, prompts: alone.length, kept: alone.filter((row) => row.kept).length, gain: over(alone, gain) }]
    }),
    byPrompt: answers.map((row) => ({
      promptId: row.promptId,
      kind: kinds[row.set]!,
      original: row.original,
      distilled: row.distilled,
      kept: row.kept
    }))
  }
}

export const distillationGain = Stage.make("distillation-gain", {
  description: "§4.2.4, figure 16: safety scores before and after context distillation",
  config: Schema.Struct({
    kinds: Schema.Array(Schema.String)
      .pipe(Schema.withDecodingDefaultKey(Effect.succeed([])))
      .annotate({ description: "names of the prefixed sets, in the order of the inputs; empty: preprompt 1, preprompt 2, ..." }),
    unfinished,
    bins: hyperInt(20, "number of bins over (0, 1) in the distributions of scores", { min: 1 })
  }),
  inputs: { original: ScoredCompletions, prefixed: Stage.many(ScoredCompletions) },
  output: DistillationGainReport,
  run: Effect.fn("distillation-gain")(function* ({ config, inputs, output, seed }) {
    const original = yield* readRows(inputs.original, ScoredCompletions)
    const prefixed = yield* Effect.forEach(inputs.prefixed, (set) => readRows(set, ScoredCompletions))
    const kinds = config.kinds.length === 0 ? prefixed.map((_, i) => `preprompt ${i + 1}`) : config.kinds
    if (kinds.length !== prefixed.length)
      return yield* DistillationError.of({
        doing: "Naming the kinds of preprompts",
        expected: `${prefixed.length} names, one per prefixed set`,
        found: `${kinds.length}`,
        hint: "List one name in kinds per input of the port prefixed, in their order, or none."
      })
    const { unfinished, bins } = config
    const result = yield* attempt(() => gainOf(original, prefixed, kinds, { unfinished, bins }, seed))
    if (result === undefined) return yield* nothingToCompare(original, prefixed)
    return yield* writeReport(output, result)
  })
})
