/** The tables of pipelines/studies/ppo-from.ts. R_c is left out: every arm has its own reward models. */
import type { RunResult } from "../../runtime/run/events.ts"
import { mean } from "../../stages/common/statistics.ts"
import { digestOf, type Judged, judgedIn, metricOf, measureNames, readRuns, seeded, UsageError } from "./runs.ts"
import { allArms, digits, interval, plusMinus, table } from "./tables.ts"

/** PPO iterations of a run, and how many of them led to the policies that were kept. */
const updatesOf = (runs: ReadonlyArray<RunResult>): string => {
  const total = (name: "iterations" | "kept") =>
    digits(
      mean(
        runs.map(({ nodes }) => nodes.filter(({ stage }) => stage === "ppo").reduce((sum, { metrics }) => sum + metricOf(metrics, name), 0))
      ),
      1
    )
  return `${total("iterations")} (${total("kept")})`
}

export const ppoFrom = (words: ReadonlyArray<string>): string => {
  const groups = words
    .join("\n")
    .split("\n--\n")
    .map((group) => group.split("\n"))
  const [first, ...others] = groups
  const named = [["after the last round", first!] as const, ...others.map(([name, ...files]) => [name!, files] as const)]
  const runs = named.map(([name, files]) => [name, readRuns(files, "ppo-from")] as const)
  const counts = new Set(runs.map(([, { length }]) => length))
  const isPaired = ([, all]: (typeof runs)[number]) =>
    all.every((run, i) => Object.values(seeded).every((node) => digestOf(run, node) === digestOf(runs[0]![1][i]!, node)))
  if (counts.size > 1 || !runs.every(isPaired)) throw new UsageError("Every arm needs the runs of the same seeds, in the same order.")
  const last = (run: RunResult) => judgedIn(run, allArms(run).at(-1)!)
  const beforePpo = (run: RunResult) => judgedIn(run, allArms(run)[0]!)
  const oracle = measureNames.filter((name) => name !== "R_c")
  const intervals = (pairs: ReadonlyArray<readonly [Judged, Judged]>) =>
    [...oracle, "kl" as const].map((measure) => interval(pairs.map(([ours, theirs]) => ours[measure] - theirs[measure])))
  const [, whole] = runs[0]!
  return [
    table(
      ["PPO", "version", ...oracle, "KL, nats per response", "PPO iterations (kept)"],
      runs.flatMap(([name, all]) =>
        allArms(all[0]!).map((arm, i, arms) => [
          ...[name, arm],
          ...[...oracle, "kl" as const].map((measure) => plusMinus(all.map((run) => judgedIn(run, arm)[measure]))),
          i === arms.length - 1 ? updatesOf(all) : ""
        ])
      )
    ),
    table(
      ["gain of the last round's PPO", ...oracle, "KL"],
      runs.map(([name, all]) => [name, ...intervals(all.map((run) => [last(run), beforePpo(run)]))])
    ),
    table(
      ["difference to PPO after the last round only", ...oracle, "KL"],
      runs.slice(1).map(([name, all]) => [name, ...intervals(all.map((run, i) => [last(run), last(whole[i]!)]))])
    )
  ].join("\n\n")
}
