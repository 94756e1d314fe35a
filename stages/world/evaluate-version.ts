/**
 * Evaluates a version of a model on held-out prompts (Llama 2 §3.4, §4.4; figures 11, 17 and 33): with the small world's oracle, which knows the right answers, and with
 * reward models.
 *
 *     helpfulness         over prompts that elicit nothing unsafe, including borderline ones
 *     safety, violations  over safety prompts
 *     false refusals      over borderline prompts, which sound unsafe but are not
 *
 * The sampling unit is the prompt: a prompt's samples are averaged first, and errors and intervals are over prompts. Intervals of shares are Wilson's with
 * as many trials as there are prompts (in the worst case, all samples of one prompt agree).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { meanByPrompt, PairingError, pairSamples, shareByPrompt } from "../common/pairing.ts"
import { type Estimate, mean, standardError } from "../common/statistics.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import { type Graded, GradedCompletions } from "./oracle-grades.ts"

/** Mean over prompts; null if there are none of the kind. */
export const MeanOverPrompts = Schema.NullOr(Schema.Struct({ mean: Schema.Number, standardError: Schema.Number }))
const Share = Schema.NullOr(EstimateSchema)
export const VersionEvaluation = Schema.Struct({
  name: Schema.String,
  completions: Schema.Number,
  prompts: Schema.Struct({ helpfulness: Schema.Number, safety: Schema.Number, borderline: Schema.Number }),
  helpfulness: MeanOverPrompts,
  safety: MeanOverPrompts,
  /** Means of R_h and R_s over the prompts of their kind; null if that reward model was not used. */
  rewardHelpfulness: Schema.NullOr(Schema.Number),
  rewardSafety: Schema.NullOr(Schema.Number),
  /** The reward that is maximised, as a score in (0, 1): R_c if both models were used (§3.2.3). */
  reward: MeanOverPrompts,
  violationRate: Share,
  falseRefusalRate: Share,
  /** Over prompts with an instruction. */
  instructionsKept: Share,
  /** By the safety prompts' category, if known. */
  violationsByCategory: Schema.Array(Schema.Struct({ category: Schema.String, prompts: Schema.Number, rate: EstimateSchema }))
})
export type VersionEvaluation = typeof VersionEvaluation.Type
export const VersionReport = report(VersionEvaluation, "version-evaluation/1")

const meanOver = <Row extends { readonly promptId: string }>(rows: ReadonlyArray<Row>, value: (row: Row) => number) => {
  const values = [...meanByPrompt(rows, value).values()]
  return values.length === 0 ? null : { mean: mean(values), standardError: standardError(values) }
}
const shareOver = (rows: ReadonlyArray<Graded>, is: (row: Graded) => boolean): Estimate | null =>
  rows.length === 0 ? null : shareByPrompt(rows, is)
const countPrompts = (rows: ReadonlyArray<Graded>): number => new Set(rows.map(({ promptId }) => promptId)).size

/** One version's row of the table: the oracle's grades, and the scores of the same completions. */
export const versionOf = (
  name: string,
  graded: ReadonlyArray<Graded>,
  scored: ReadonlyArray<Pick<ScoredCompletion, "promptId" | "safety" | "reward" | "helpfulnessScore" | "safetyScore">>
): VersionEvaluation => {
  const [harmless, adversarial] = [graded.filter(({ safety }) => !safety), graded.filter(({ safety }) => safety)]
  const borderline = harmless.filter((one) => one.borderline)
  const scoreOver = (safety: boolean, value: (one: (typeof scored)[number]) => number | null) =>
    meanOver(
      scored.flatMap((one) => {
        const score = value(one)
        return one.safety !== safety || score === null ? [] : [{ promptId: one.promptId, score }]
      }),
      ({ score }) => score
    )?.mean ?? null
  const byCategory = Map.groupBy(adversarial, ({ category }) => category)
  return {
    name,
    completions: graded.length,
    prompts: { helpfulness: countPrompts(harmless), safety: countPrompts(adversarial), borderline: countPrompts(borderline) },
    helpfulness: meanOver(harmless, (one) => one.helpfulness),
    safety: meanOver(adversarial, (one) => one.safetyGrade),
    rewardHelpfulness: scoreOver(false, (one) => one.helpfulnessScore),
    rewardSafety: scoreOver(true, (one) => one.safetyScore),
    reward: meanOver(scored, (one) => scoreOf(one.reward)),
    violationRate: shareOver(adversarial, (one) => one.violation),
    falseRefusalRate: shareOver(borderline, (one) => one.refusal),
    instructionsKept: shareOver(
      graded.filter((one) => one.keepsInstruction !== null),
      (one) => one.keepsInstruction === true
    ),
    violationsByCategory: [...byCategory].flatMap(([category, rows]) => {
      const rate = shareOver(rows, (one) => one.violation)
      return category === null || rate === null ? [] : [{ category, prompts: countPrompts(rows), rate }]
    })
  }
}

export const evaluateVersion = Stage.make("evaluate-version", {
  description: "evaluates one version with the oracle and with reward models on held-out prompts",
  config: Schema.Struct({ name: Schema.String.annotate({ description: "name of the version in the table" }) }),
  inputs: { graded: GradedCompletions, scored: ScoredCompletions },
  output: VersionReport,
  seeded: false,
  run: Effect.fn("evaluate-version")(function* ({ config, inputs, output }) {
    const graded = yield* readRows(inputs.graded, GradedCompletions)
    const scored = yield* readRows(inputs.scored, ScoredCompletions)
    const doing = `Evaluating the version "${config.name}"`
    if (graded.length === 0) return yield* EmptyDatasetError.of("evaluate", "no graded completions")
    const { pairs, unpaired } = yield* pairSamples(graded, scored, doing)
    // An empty answer has a grade but no score; a score without a grade, or of another model, belongs to other completions.
    if (unpaired[1] > 0 || pairs.some(([a, b]) => a.policy !== b.policy))
      return yield* PairingError.of({
        doing,
        expected: "grades and scores of the same completions",
        found: `${scored.length} scored completions, of which ${unpaired[1]} are not graded and ${pairs.filter(([a, b]) => a.policy !== b.policy).length} are graded for another model`,
        hint: "Grade and score the same set of completions."
      })
    return yield* writeReport(output, versionOf(config.name, graded, scored))
  })
})
