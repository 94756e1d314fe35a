/** Tables of studies: means over seeds, and differences paired by seed. */
import type { RunResult } from "../../runtime/run/events.ts"
import { mean, standardError, studentMean } from "../../stages/common/statistics.ts"
import type { VersionEvaluation } from "../../stages/world/evaluate-version.ts"
import { judgedIn, measureNames, measures, report } from "./runs.ts"

export const digits = (value: number, places = 3) => (Number.isFinite(value) ? value.toFixed(places) : "–")
export const plusMinus = (values: ReadonlyArray<number>) => `${digits(mean(values))} ± ${digits(standardError(values))}`
export const interval = (values: ReadonlyArray<number>): string => {
  const { high, low, mean: middle } = studentMean(values)
  const sign = (value: number) => `${value >= 0 ? "+" : ""}${digits(value)}`
  return `${sign(middle)} (${sign(low)} to ${sign(high)})`
}
export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")

/** A column about an arm that is not in its evaluation. */
export type Column = readonly [head: string, cell: (arm: string) => string]

export const armsTable = (runs: ReadonlyArray<RunResult>, arms: ReadonlyArray<string>, columns: ReadonlyArray<Column> = []): string =>
  table(
    ["arm", ...measureNames, "KL, nats per response", ...columns.map(([head]) => head)],
    arms.map((arm) => {
      const judged = runs.map((run) => judgedIn(run, arm))
      return [
        arm,
        ...[...measureNames, "kl" as const].map((name) => plusMinus(judged.map((one) => one[name]))),
        ...columns.map(([, cell]) => cell(arm))
      ]
    })
  )

/** Arm - other, paired by seed. */
export const differences = (
  runs: ReadonlyArray<RunResult>,
  pairs: ReadonlyArray<readonly [name: string, ours: Chosen, theirs: Chosen]>
): string =>
  table(
    ["difference", ...measureNames, "KL"],
    pairs.map(([name, ours, theirs]) => [
      name,
      ...[...measureNames, "kl" as const].map((measure) =>
        interval(runs.map((run, i) => judgedIn(run, ours[i]!)[measure] - judgedIn(run, theirs[i]!)[measure]))
      )
    ])
  )

/** The arm that represents a method, per seed. */
type Chosen = ReadonlyArray<string>

/** Per seed, the arm that scores highest on the tuning prompts of the other seeds. */
const chosen = (runs: ReadonlyArray<RunResult>, arms: ReadonlyArray<string>): Chosen => {
  const score = (run: RunResult, arm: string) => {
    const evaluation = report(run, `tuning-${arm}`) as VersionEvaluation
    return (measures.helpfulness(evaluation) + measures.safety(evaluation)) / 2
  }
  const scores = arms.map((arm) => runs.map((run) => score(run, arm)))
  return runs.map((_, seed) => {
    const ofOthers = scores.map((perSeed) => mean(perSeed.filter((__, i) => i !== seed)))
    return arms[ofOthers.indexOf(Math.max(...ofOthers))]!
  })
}

export const armsOf = (run: RunResult, prefix: string, suffix = ""): ReadonlyArray<string> =>
  Object.keys(run.outputs).filter((name) => name.startsWith(prefix) && name.endsWith(suffix))
export const allArms = (run: RunResult) => Object.keys(run.outputs).filter((name) => !/^(kl|tuning)-/.test(name))

/** Methods compared with one of them, and all of them compared with their initial policy. */
export const compared = (
  runs: ReadonlyArray<RunResult>,
  start: string,
  methods: ReadonlyArray<readonly [name: string, arms: ReadonlyArray<string>]>,
  columns: ReadonlyArray<Column> = []
) => {
  const best = methods.map(([name, arms]) => [name, chosen(runs, arms)] as const)
  const from = runs.map(() => start)
  const [first, ...others] = best
  return [
    armsTable(runs, allArms(runs[0]!), columns),
    `Setting chosen for each seed: ${best.map(([name, arms]) => `${name} ${arms.join(", ")}`).join("; ")}.`,
    differences(runs, [
      ...best.map(([name, arms]) => [`${name} - ${start}`, arms, from] as const),
      ...others.map(([name, arms]) => [`${name} - ${first![0]}`, arms, first![1]] as const)
    ])
  ].join("\n\n")
}
