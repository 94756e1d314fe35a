/** Compares one version with others using the oracle's grades on the same prompts, with paired bootstrap intervals over prompts. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { checkNames, meanByPrompt, PairingError } from "../common/pairing.ts"
import { pairedBootstrap } from "../common/statistics.ts"
import { type Graded, GradedCompletions } from "./oracle-grades.ts"

/** null if the two share no prompt of the kind. */
const Difference = Schema.NullOr(Schema.Struct({ ...EstimateSchema.fields, prompts: Schema.Number }))
export const VersionGain = Schema.Struct({ over: Schema.String, helpfulness: Difference, safety: Difference })
export type VersionGain = typeof VersionGain.Type
const VersionComparison = Schema.Struct({ version: Schema.String, gains: Schema.Array(VersionGain) })
export const VersionComparisonReport = report(VersionComparison, "version-comparison/1")

/** The difference of one version's grades over another's, prompt by prompt; prompts that only one of them answered are left out. */
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
  description:
    "difference between one version and each of the others according to the oracle, with 95% paired bootstrap intervals over prompts",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({ description: "names of the versions, in the order of the input" }),
    version: Schema.String.annotate({ description: "the version to compare with each of the others" })
  }),
  inputs: { versions: Stage.many(GradedCompletions) },
  output: VersionComparisonReport,
  run: Effect.fn("compare-versions")(function* ({ config, inputs, output, seed }) {
    const { names, version } = config
    const doing = "Comparing versions"
    yield* checkNames(names, inputs.versions.length, doing)
    const place = names.indexOf(version)
    if (place === -1)
      return yield* PairingError.of({
        doing,
        expected: `"${version}" to be one of the versions`,
        found: names.join(", "),
        hint: "Choose one of the names of the input."
      })
    const versions = yield* Effect.forEach(inputs.versions, (set) => readRows(set, GradedCompletions))
    const gains = versions.flatMap((other, i) => (i === place ? [] : [gainOver(names[i]!, versions[place]!, other, seed)]))
    const apart = gains.find(({ helpfulness, safety }) => helpfulness === null && safety === null)
    if (apart !== undefined)
      return yield* PairingError.of({
        doing,
        expected: "versions that answered the same prompts",
        found: `no prompt that both "${version}" and "${apart.over}" answered`,
        hint: "Sample every version from the same prompts."
      })
    return yield* writeReport(output, { version, gains })
  })
})
