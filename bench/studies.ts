/**
 * The tables of the studies that compare methods, from the documents of `caravan run pipelines/studies/<study>.ts --json`, one per run seed.
 *
 *     node bench/studies.ts policy-optimisation a-0.json a-1.json ...
 *     node bench/studies.ts from-sft b-0.json b-1.json ...
 *     node bench/studies.ts ppo-from from5-0.json from5-1.json ... -- from4 from4-0.json from4-1.json ... -- samples samples-0.json ...
 *
 * Every seed has its own evaluation prompts, drawn from about 2,000 questions of each kind: two seeds share some. Differences are paired by seed; intervals are Student's, 95%, over seeds, each for one
 * comparison: they are not corrected for the number of comparisons. After ± are standard errors over seeds. The setting of a method is chosen on tuning prompts, by the mean of the oracle's
 * helpfulness and safety over the other seeds: a setting is never chosen on the questions or the seed on which it is evaluated.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { RunResult } from "../runtime/run/events.ts"
import { mean, standardError, studentMean } from "../stages/common/statistics.ts"
import type { VersionEvaluation } from "../stages/world/evaluate-version.ts"

class UsageError extends Error {}

const report = (run: RunResult, output: string): unknown => {
  const found = run.outputs[output]
  if (found === undefined) throw new UsageError(`Run ${run.run} of ${run.pipeline} has no output "${output}": did it fail?`)
  return JSON.parse(readFileSync(join(found.path, "report.json"), "utf8"))
}
/** The nodes whose results differ between run seeds and between judging seeds. */
const seeded = { "run seed": "sft", judgingSeed: "judging" } as const
const digestOf = (run: RunResult, node: string): string | undefined => run.nodes.find(({ id }) => id === node)?.digest ?? undefined
const readRuns = (files: ReadonlyArray<string>, pipeline: string): ReadonlyArray<RunResult> => {
  const runs = files.map((file) => JSON.parse(readFileSync(file, "utf8")) as RunResult)
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

const measures = {
  helpfulness: (one: VersionEvaluation) => one.helpfulness?.mean ?? NaN,
  safety: (one: VersionEvaluation) => one.safety?.mean ?? NaN,
  R_c: (one: VersionEvaluation) => one.reward?.mean ?? NaN,
  violations: (one: VersionEvaluation) => one.violationRate?.mean ?? NaN
}
type Measure = keyof typeof measures
const measureNames = Object.keys(measures) as ReadonlyArray<Measure>

/** One seed's results for an arm. */
type Judged = Readonly<Record<Measure | "kl", number>>
const judgedIn = (run: RunResult, arm: string): Judged => {
  const evaluation = report(run, arm) as VersionEvaluation
  const { kl } = report(run, `kl-${arm}`) as { readonly kl: { readonly mean: number } }
  return { ...Object.fromEntries(measureNames.map((name) => [name, measures[name](evaluation)])), kl: kl.mean } as Judged
}

const digits = (value: number, places = 3) => (Number.isFinite(value) ? value.toFixed(places) : "–")
const plusMinus = (values: ReadonlyArray<number>) => `${digits(mean(values))} ± ${digits(standardError(values))}`
const interval = (values: ReadonlyArray<number>): string => {
  const { high, low, mean: middle } = studentMean(values)
  const sign = (value: number) => `${value >= 0 ? "+" : ""}${digits(value)}`
  return `${sign(middle)} (${sign(low)} to ${sign(high)})`
}
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")

const armsTable = (runs: ReadonlyArray<RunResult>, arms: ReadonlyArray<string>): string =>
  table(
    ["arm", ...measureNames, "KL, nats per response"],
    arms.map((arm) => {
      const judged = runs.map((run) => judgedIn(run, arm))
      return [arm, ...[...measureNames, "kl" as const].map((name) => plusMinus(judged.map((one) => one[name])))]
    })
  )

/** Arm - other, paired by seed. */
const differences = (runs: ReadonlyArray<RunResult>, pairs: ReadonlyArray<readonly [name: string, ours: Chosen, theirs: Chosen]>): string =>
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

const armsOf = (run: RunResult, prefix: string, suffix = ""): ReadonlyArray<string> =>
  Object.keys(run.outputs).filter((name) => name.startsWith(prefix) && name.endsWith(suffix))
const allArms = (run: RunResult) => Object.keys(run.outputs).filter((name) => !/^(kl|tuning)-/.test(name))

/** Methods compared with one of them, and all of them compared with their initial policy. */
const compared = (
  runs: ReadonlyArray<RunResult>,
  start: string,
  methods: ReadonlyArray<readonly [name: string, arms: ReadonlyArray<string>]>
) => {
  const best = methods.map(([name, arms]) => [name, chosen(runs, arms)] as const)
  const from = runs.map(() => start)
  const [first, ...others] = best
  return [
    armsTable(runs, allArms(runs[0]!)),
    `Setting chosen for each seed: ${best.map(([name, arms]) => `${name} ${arms.join(", ")}`).join("; ")}.`,
    differences(runs, [
      ...best.map(([name, arms]) => [`${name} - ${start}`, arms, from] as const),
      ...others.map(([name, arms]) => [`${name} - ${first![0]}`, arms, first![1]] as const)
    ])
  ].join("\n\n")
}

const policyOptimisation = (files: ReadonlyArray<string>): string => {
  const runs = readRuns(files, "policy-optimisation")
  return compared(
    runs,
    "start",
    ["ppo", "rloo", "grpo", "dpo"].map((method) => [method, armsOf(runs[0]!, `${method}-`)])
  )
}

/** Nodes that only evaluate. */
const evaluating = /^(tuning|judged-answers|grades|rewards|evaluation|kl|judging)-/
/** Seconds of all stages of an arm after SFT. NaN if one of them was cached, because its time is then not in this run; to measure times, start with an empty store. */
const secondsOf = (run: RunResult, arm: string): number => {
  const beforeSft = /^(tokenizer|world-texts|base$|public-dialogues|filter-demonstrations|sft|demonstrations$)/
  const [method, beta] = arm.split("-") as [string, string]
  const isOwn = ({ id }: { readonly id: string }) =>
    method === "recipe"
      ? id.startsWith(`${method}-${beta}-`) || !(/^(recipe|dpo|rloo)-[\d.e-]+-/.test(id) || evaluating.test(id) || beforeSft.test(id))
      : id.startsWith(`${method}-${beta}-`)
  const own = run.nodes.filter(isOwn)
  return own.every(({ status }) => status === "ran") ? own.reduce((sum, node) => sum + node.milliseconds, 0) / 1000 : NaN
}

const fromSft = (files: ReadonlyArray<string>): string => {
  const runs = readRuns(files, "from-sft")
  const methods = ["recipe", "dpo", "rloo"].map((method) => {
    const all = armsOf(runs[0]!, `${method}-`)
    const lastRound = Math.max(...all.map((name) => Number(/-v(\d+)$/.exec(name)?.[1])))
    return [method, all.filter((name) => name.endsWith(`-v${lastRound}`))] as const
  })
  const times = table(
    ["method", "seconds after SFT, one setting"],
    methods.map(([name, arms]) => [name, plusMinus(runs.map((run) => secondsOf(run, arms[0]!)))])
  )
  return [compared(runs, "sft", methods), times].join("\n\n")
}

const ppoFrom = (words: ReadonlyArray<string>): string => {
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
  const oracle = measureNames.filter((name) => name !== "R_c")
  const [, whole] = runs[0]!
  return [
    table(
      ["PPO", ...oracle, "KL, nats per response"],
      runs.map(([name, all]) => [name, ...[...oracle, "kl" as const].map((measure) => plusMinus(all.map((run) => last(run)[measure])))])
    ),
    table(
      ["difference to PPO after the last round only", ...oracle, "KL"],
      runs
        .slice(1)
        .map(([name, all]) => [
          name,
          ...[...oracle, "kl" as const].map((measure) => interval(all.map((run, i) => last(run)[measure] - last(whole[i]!)[measure])))
        ])
    )
  ].join("\n\n")
}

const studies: Readonly<Record<string, (words: ReadonlyArray<string>) => string>> = {
  "policy-optimisation": policyOptimisation,
  "from-sft": fromSft,
  "ppo-from": ppoFrom
}
const [study = "", ...words] = process.argv.slice(2)
try {
  if (!Object.hasOwn(studies, study) || words.length === 0)
    throw new UsageError(`Usage: node bench/studies.ts ${Object.keys(studies).join(" | ")} <run.json>... [-- <name> <run.json>...]`)
  process.stdout.write(`${studies[study]!(words)}\n`)
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 2
}
