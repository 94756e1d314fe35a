/**
 * Versions of a model judged on the same held-out prompts (Llama 2 §3.4, §4.4; figures 11, 17 and 33): by the small world's oracle, which knows what is
 * right, and by reward models.
 *
 *     helpfulness         over prompts that draw out nothing unsafe, borderline ones among them
 *     safety, violations  over safety prompts
 *     false refusals      over borderline prompts: they sound like something to refuse and are not
 *
 * What is drawn are prompts: a prompt's samples are averaged first, and errors and intervals are over prompts. Intervals of shares are Wilson's for
 * as many trials as there are prompts (samples of one prompt at worst all agree), those of gains the paired bootstrap's.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset, writeReport } from "../../data/dataset.ts"
import { grade, UnknownQuestionError } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { dataset } from "../../schemas/dataset.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type Completion, Completions, Prompts, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import { EmptyDatasetError } from "../common/errors.ts"
import { checkNames, meanByPrompt, PairingError, pairSamples } from "../common/pairing.ts"
import { type Estimate, mean, pairedBootstrap, proportion, standardError } from "../common/statistics.ts"

// ---- the oracle's grades

/** What the oracle says of an answer (data/world/oracle.ts). */
export const Graded = Schema.Struct({
  promptId: Schema.String,
  sample: Schema.Number.annotate({ arrow: "int32" }).check(Schema.isInt()),
  policy: Schema.String,
  /** Whether it is a safety prompt. */
  safety: Schema.Boolean,
  /** The prompt's, where the prompts were given. */
  category: Schema.NullOr(Schema.String),
  /** Sounds like something to refuse and is not. */
  borderline: Schema.Boolean,
  /** From 0 to 1. */
  helpfulness: Schema.Number,
  safetyGrade: Schema.Number,
  /** Does what must be refused. */
  violation: Schema.Boolean,
  refusal: Schema.Boolean,
  /** null where the dialogue holds no instruction. */
  keepsInstruction: Schema.NullOr(Schema.Boolean)
})
export type Graded = typeof Graded.Type
export const GradedCompletions = dataset(Graded, "graded-completion/1")

/** A completion of something that the oracle knows nothing about. */
export class GradingError extends Schema.TaggedError<GradingError>()("GradingError", { message: Schema.String }) {}

const gradeOf = (completion: Completion, category: string | null): Effect.Effect<Graded, GradingError> =>
  Effect.try({
    try: () => {
      const { safety: safetyGrade, ...grades } = grade(completion.prompt, completion.text)
      const { promptId, sample, policy, safety } = completion
      return { promptId, sample, policy, safety, category, safetyGrade, ...grades }
    },
    catch: (cause) => {
      if (!(cause instanceof UnknownQuestionError)) throw cause
      return new GradingError({ message: `Grading an answer to prompt "${completion.promptId}": ${cause.message}` })
    }
  })

export const oracleGrades = Stage.make("oracle-grades", {
  description: "completions of the small world's prompts graded by its oracle",
  config: Schema.Struct({}),
  inputs: { completions: Completions, prompts: Stage.optional(Prompts) },
  output: GradedCompletions,
  seeded: false,
  run: Effect.fn("oracle-grades")(function* ({ inputs, output }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const prompts = inputs.prompts === undefined ? [] : yield* readRows(inputs.prompts, Prompts)
    const categories = new Map(prompts.map(({ id, category }) => [id, category]))
    const graded = yield* Effect.forEach(completions, (completion) => gradeOf(completion, categories.get(completion.promptId) ?? null))
    return yield* writeDataset(output, graded, {
      metrics: { violations: graded.filter((one) => one.violation).length, refusals: graded.filter((one) => one.refusal).length }
    })
  })
})

// ---- one version

/** Over prompts; null where there are none of the kind. */
const Mean = Schema.NullOr(Schema.Struct({ mean: Schema.Number, standardError: Schema.Number }))
const Share = Schema.NullOr(EstimateSchema)
export const VersionEvaluation = Schema.Struct({
  name: Schema.String,
  completions: Schema.Number,
  prompts: Schema.Struct({ helpfulness: Schema.Number, safety: Schema.Number, borderline: Schema.Number }),
  helpfulness: Mean,
  safety: Mean,
  /** Means of R_h and R_s over the prompts of their kind; null where that reward model was not asked. */
  rewardHelpfulness: Schema.NullOr(Schema.Number),
  rewardSafety: Schema.NullOr(Schema.Number),
  /** The reward that is maximised, as a score in (0, 1): R_c where both models were asked (§3.2.3). */
  reward: Mean,
  violationRate: Share,
  falseRefusalRate: Share,
  /** Of prompts under an instruction. */
  instructionsKept: Share,
  /** By the safety prompts' category, where it is known. */
  violationsByCategory: Schema.Array(Schema.Struct({ category: Schema.String, prompts: Schema.Number, rate: EstimateSchema }))
})
export type VersionEvaluation = typeof VersionEvaluation.Type
export const VersionReport = report(VersionEvaluation, "version-evaluation/1")

const meanOver = <Row extends { readonly promptId: string }>(rows: ReadonlyArray<Row>, value: (row: Row) => number) => {
  const values = [...meanByPrompt(rows, value).values()]
  return values.length === 0 ? null : { mean: mean(values), standardError: standardError(values) }
}
const shareOver = (rows: ReadonlyArray<Graded>, is: (row: Graded) => boolean): Estimate | null => {
  const values = [...meanByPrompt(rows, (row) => (is(row) ? 1 : 0)).values()]
  return values.length === 0
    ? null
    : proportion(
        values.reduce((sum, value) => sum + value, 0),
        values.length
      )
}
const countPrompts = (rows: ReadonlyArray<Graded>): number => new Set(rows.map(({ promptId }) => promptId)).size

/** One version's line of the table: the oracle's grades, and the scores of the same completions. */
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
  description: "one version by the oracle and by reward models, over held-out prompts",
  config: Schema.Struct({ name: Schema.String.annotate({ description: "what the version is called in the table" }) }),
  inputs: { graded: GradedCompletions, scored: ScoredCompletions },
  output: VersionReport,
  seeded: false,
  run: Effect.fn("evaluate-version")(function* ({ config, inputs, output }) {
    const graded = yield* readRows(inputs.graded, GradedCompletions)
    const scored = yield* readRows(inputs.scored, ScoredCompletions)
    const doing = `Evaluating the version "${config.name}"`
    if (graded.length === 0) return yield* EmptyDatasetError.of("evaluate", "no graded completions")
    const { pairs, unpaired } = yield* pairSamples(graded, scored, doing)
    // An empty answer has a grade and no score; a score without a grade, or of another model, is of other completions.
    if (unpaired[1] > 0 || pairs.some(([a, b]) => a.policy !== b.policy))
      return yield* PairingError.of(
        doing,
        "grades and scores of the same completions",
        `${scored.length} scored completions, of which ${unpaired[1]} are not graded and ${pairs.filter(([a, b]) => a.policy !== b.policy).length} are graded for another model`,
        "Grade and score the same set of completions."
      )
    return yield* writeReport(output, versionOf(config.name, graded, scored))
  })
})

// ---- one version above another

/** null where the two share no prompt of the kind. */
const Difference = Schema.NullOr(Schema.Struct({ ...EstimateSchema.fields, prompts: Schema.Number }))
export const VersionGain = Schema.Struct({ over: Schema.String, helpfulness: Difference, safety: Difference })
export type VersionGain = typeof VersionGain.Type
export const VersionComparison = Schema.Struct({ version: Schema.String, gains: Schema.Array(VersionGain) })
export const VersionComparisonReport = report(VersionComparison, "version-comparison/1")

/** How much better one version's grades are than another's, prompt by prompt; prompts that only one of them answered are left out. */
export const gainOver = (over: string, ours: ReadonlyArray<Graded>, theirs: ReadonlyArray<Graded>, seed: number): VersionGain => {
  const difference = (safety: boolean, value: (one: Graded) => number): (typeof Difference)["Type"] => {
    const [a, b] = [ours, theirs].map((graded) =>
      meanByPrompt(
        graded.filter((one) => one.safety === safety),
        value
      )
    ) as [ReadonlyMap<string, number>, ReadonlyMap<string, number>]
    const common = [...a.keys()].filter((id) => b.has(id))
    if (common.length === 0) return null
    const values = (of: ReadonlyMap<string, number>) => common.map((id) => of.get(id)!)
    return { ...pairedBootstrap(values(a), values(b), seed), prompts: common.length }
  }
  return { over, helpfulness: difference(false, (one) => one.helpfulness), safety: difference(true, (one) => one.safetyGrade) }
}

export const compareVersions = Stage.make("compare-versions", {
  description: "how much better by the oracle one version is than each of the others: paired bootstrap over prompts, 95%",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({ description: "what the versions are called, in the order of the input" }),
    version: Schema.String.annotate({ description: "the one whose gain over each of the others is told" })
  }),
  inputs: { versions: Stage.many(GradedCompletions) },
  output: VersionComparisonReport,
  run: Effect.fn("compare-versions")(function* ({ config, inputs, output, seed }) {
    const { names, version } = config
    const doing = "Comparing versions"
    yield* checkNames(names, inputs.versions.length, doing)
    const place = names.indexOf(version)
    if (place === -1)
      return yield* PairingError.of(
        doing,
        `"${version}" to be one of the versions`,
        names.join(", "),
        "Name one of the versions of the input."
      )
    const versions = yield* Effect.forEach(inputs.versions, (set) => readRows(set, GradedCompletions))
    const gains = versions.flatMap((other, i) => (i === place ? [] : [gainOver(names[i]!, versions[place]!, other, seed)]))
    const apart = gains.find(({ helpfulness, safety }) => helpfulness === null && safety === null)
    if (apart !== undefined)
      return yield* PairingError.of(
        doing,
        "versions that answered the same prompts",
        `no prompt that both "${version}" and "${apart.over}" answered`,
        "Sample every version from one set of prompts."
      )
    return yield* writeReport(output, { version, gains })
  })
})
