/** Reading the runs of a study, and measures of their arms. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { NodeResult, RunResult } from "../../runtime/run/events.ts"
import type { VersionEvaluation } from "../../stages/world/evaluate-version.ts"

export class UsageError extends Error {}

export const report = (run: RunResult, output: string): unknown => {
  const found = run.outputs[output]
  if (found === undefined) throw new UsageError(`Run ${run.run} of ${run.pipeline} has no output "${output}": did it fail?`)
  return JSON.parse(readFileSync(join(found.path, "report.json"), "utf8"))
}
/** The nodes whose results differ between run seeds and between judging seeds. */
export const seeded = { "run seed": "sft", judgingSeed: "judging" } as const
export const digestOf = (run: RunResult, node: string): string | undefined => run.nodes.find(({ id }) => id === node)?.digest ?? undefined
export const readRun = (file: string): RunResult => JSON.parse(readFileSync(file, "utf8")) as RunResult
/** A metric of a node. Throws a UsageError if the document has none: it was made before `caravan run --json` printed metrics. */
export const metricOf = (metrics: NodeResult["metrics"] | undefined, name: string): number => {
  const found = metrics?.[name]
  if (found === undefined)
    throw new UsageError(`A document lacks the metric "${name}": make it again by the same command, which finds all results in the store.`)
  return found
}
/** The runs of a study, one per seed. Throws a UsageError if they are not independent. */
export const readRuns = (files: ReadonlyArray<string>, pipeline: string): ReadonlyArray<RunResult> => {
  const runs = files.map(readRun)
  if (new Set(runs.map(({ run }) => run)).size < runs.length) throw new UsageError("The same run was given twice: give one run per seed.")
  if (runs.length < 2) throw new UsageError("An interval over seeds needs the runs of at least two seeds.")
  for (const [i, run] of runs.entries())
    if (run.pipeline !== pipeline) throw new UsageError(`${files[i]} is a run of "${run.pipeline}", not of "${pipeline}".`)
  for (const [seed, node] of Object.entries(seeded)) {
    const digests = runs.map((run) => digestOf(run, node))
    const again = digests.findIndex((digest, i) => digest !== undefined && digests.indexOf(digest) < i)
    if (again !== -1)
      throw new UsageError(
        `${files[digests.indexOf(digests[again])]} and ${files[again]} have the same ${seed}: their differences are not independent. Give each run its own --seed and --set judgingSeed.`
      )
  }
  return runs
}

export const measures = {
  helpfulness: (one: VersionEvaluation) => one.helpfulness?.mean ?? NaN,
  safety: (one: VersionEvaluation) => one.safety?.mean ?? NaN,
  R_c: (one: VersionEvaluation) => one.reward?.mean ?? NaN,
  violations: (one: VersionEvaluation) => one.violationRate?.mean ?? NaN
}
export type Measure = keyof typeof measures
export const measureNames = Object.keys(measures) as ReadonlyArray<Measure>

/** One seed's results for an arm. */
export type Judged = Readonly<Record<Measure | "kl", number>>
export const judgedIn = (run: RunResult, arm: string): Judged => {
  const evaluation = report(run, arm) as VersionEvaluation
  const { kl } = report(run, `kl-${arm}`) as { readonly kl: { readonly mean: number } }
  return { ...Object.fromEntries(measureNames.map((name) => [name, measures[name](evaluation)])), kl: kl.mean } as Judged
}
