/** MT-Bench over the versions of a run: each version's grades, the last version's difference to the others on the same questions, and its wins in comparisons. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readReport, writeReport } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper } from "../../../schemas/hyper.ts"
import { EstimateSchema } from "../../../schemas/metrics.ts"
import { report } from "../../../schemas/report.ts"
import { checkNames, meanByPrompt, PairingError } from "../../common/pairing.ts"
import { pairedBootstrap } from "../../common/statistics.ts"
import { MtBenchWins, MtBenchWinsReport } from "./compare.ts"
import { type GradedTurn, MtBenchGrades, MtBenchGradesReport } from "./grade.ts"

const { turns: _grades, ...gradeFields } = MtBenchGrades.fields
const { turns: _wins, ...winFields } = MtBenchWins.fields

export const MtBench = Schema.Struct({
  versions: Schema.Array(Schema.Struct({ name: Schema.String, ...gradeFields })),
  /** The last version's grade minus each other version's, paired by question: mean over its turns with both grades. */
  change: Schema.Array(Schema.Struct({ over: Schema.String, score: Schema.NullOr(EstimateSchema) })),
  /** The last version's comparison with another in both orders; null if none was made. */
  wins: Schema.NullOr(Schema.Struct({ over: Schema.String, ...winFields }))
})
export type MtBench = typeof MtBench.Type
export const MtBenchReport = report(MtBench, "mt-bench/1")

/** Null if no turn has both grades. */
export const changeOf = (ours: ReadonlyArray<GradedTurn>, others: ReadonlyArray<GradedTurn>, seed: number) => {
  const keyOf = ({ id, turn }: GradedTurn) => JSON.stringify([id, turn])
  const before = new Map(others.map((one) => [keyOf(one), one.grade]))
  const both = ours.flatMap((one) => {
    const other = before.get(keyOf(one)) ?? null
    return one.grade === null || other === null ? [] : [{ promptId: one.id, by: one.grade - other }]
  })
  const differences = [...meanByPrompt(both, ({ by }) => by).values()]
  return differences.length === 0
    ? null
    : pairedBootstrap(
        differences,
        differences.map(() => 0),
        seed
      )
}

export const mtBench = Stage.make("mt-bench", {
  description: "MT-Bench over versions: scores, differences paired by question, wins in comparisons",
  config: Schema.Struct({
    names: Schema.Array(Schema.String).annotate({
      description: "names of the versions, in the order of the input; the last one is compared with all others"
    }),
    over: hyper("", "name of the version that the last one was compared with")
  }),
  inputs: { grades: Stage.many(MtBenchGradesReport), wins: Stage.optional(MtBenchWinsReport) },
  output: MtBenchReport,
  run: Effect.fn("mt-bench")(function* ({ config, inputs, output, seed }) {
    const { names, over } = config
    yield* checkNames(names, inputs.grades.length, "Comparing MT-Bench's grades")
    const grades = yield* Effect.forEach(inputs.grades, (one) => readReport(one, MtBenchGradesReport))
    const wins = inputs.wins === undefined ? undefined : yield* readReport(inputs.wins, MtBenchWinsReport)
    const judges = new Set(grades.map(({ judge }) => judge))
    if (judges.size > 1)
      return yield* PairingError.of({
        doing: "Comparing MT-Bench's grades",
        expected: "grades from one judge",
        found: `grades from ${[...judges].join(", ")}`,
        hint: "Grade every version with the same judge."
      })
    const last = grades.at(-1)!.turns
    // Writing drops the single turns, which are not in the schema.
    return yield* writeReport(output, {
      versions: grades.map((one, i) => ({ name: names[i]!, ...one })),
      change: grades.slice(0, -1).map(({ turns }, i) => ({ over: names[i]!, score: changeOf(last, turns, seed) })),
      wins: wins === undefined ? null : { over, ...wins }
    })
  })
})
