/**
 * Makes the tables of docs/study.md and docs/ablations.md from the results of runs: the documents of `caravan run pipelines/study.ts --json` (or demo.ts).
 *
 *     node bench/tables.ts study seed-0.json seed-1.json ...
 *     node bench/tables.ts ablations whole-0.json whole-1.json -- margin margin-0.json margin-1.json -- ppo ppo-0.json ppo-1.json ...
 *
 * For ablations, the files of each part are in the same order as those of the complete recipe: one per seed.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { RunResult } from "../runtime/run/events.ts"
import type { WorldSummary } from "../stages/world/summary-report.ts"

type Version = WorldSummary["versions"][number]

const summaryOf = (file: string): WorldSummary => {
  const { outputs } = JSON.parse(readFileSync(file, "utf8")) as RunResult
  return JSON.parse(readFileSync(join(outputs["summary"]!.path, "report.json"), "utf8")) as WorldSummary
}

const digits = (value: number | null, places = 3): string => (value === null ? "–" : value.toFixed(places))
const plusMinus = (value: Version["reward"]): string => (value === null ? "–" : `${digits(value.mean)} ± ${digits(value.standardError)}`)
const within = (value: { readonly mean: number; readonly low: number; readonly high: number } | null): string =>
  value === null ? "–" : `${digits(value.mean)} (${digits(value.low)} to ${digits(value.high)})`
const line = (cells: ReadonlyArray<string>): string => `| ${cells.join(" | ")} |`
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [line(head), `|${head.map(() => "---|").join("")}`, ...rows.map(line)].join("\n")

const models = ["helpfulness", "safety"] as const

const studyOf = (summary: WorldSummary): string => {
  const { contextDistillation: distilled, controls, gain, ghostAttention: ghost, rewardModels, versions, winRates } = summary
  const wins = winRates.at(-1)!
  const turns = (kept: NonNullable<NonNullable<typeof ghost>["withTurns"]>) => kept.map((one) => digits(one.kept.mean, 2)).join(", ")
  return [
    table(
      ["version", "helpfulness", "safety", "R_h", "R_s", "R_c", "violations", "false refusals"],
      [...versions, ...controls.map((control) => ({ ...control, name: `control: ${control.name}` }))].map((one) => [
        ...[one.name, plusMinus(one.helpfulness), plusMinus(one.safety), digits(one.rewardHelpfulness), digits(one.rewardSafety)],
        ...[plusMinus(one.reward), digits(one.violationRate), digits(one.falseRefusalRate)]
      ])
    ),
    table(
      ["gain of the last version over", "helpfulness", "safety"],
      gain.map(({ over, helpfulness, safety }) => [over, within(helpfulness), within(safety)])
    ),
    table(
      ["reward model", "accuracy", "length only", "bag of words", "by rating (pairs)"],
      models.flatMap((name) => {
        const model = rewardModels[name]
        if (model === null) return []
        const byRating = model.byRating.map((one) => `${one.rating.replace(" or unsure", "")} ${digits(one.accuracy.mean)} (${one.pairs})`)
        return [[name, within(model.accuracy), digits(model.lengthOnly.mean), digits(model.bagOfWords.mean), byRating.join(", ")]]
      })
    ),
    `Win rate of the last version over SFT: by the oracle ${within(wins.oracle.helpfulness?.rate ?? null)} in helpfulness and ${within(wins.oracle.safety?.rate ?? null)} in safety; by the reward models ${within(wins.rewardModels.helpfulness?.rate ?? null)} and ${within(wins.rewardModels.safety?.rate ?? null)}.`,
    ...(ghost?.withTurns && ghost.withoutTurns
      ? [
          `Ghost Attention, share of answers that keep the first turn's instruction at turns 1 to ${ghost.withTurns.length}: with ${turns(ghost.withTurns)}; without ${turns(ghost.withoutTurns)}.`
        ]
      : []),
    ...(distilled === null
      ? []
      : [
          `Context distillation: kept ${distilled.kept} of ${distilled.prompts} prompts; the oracle's safety of those ${digits(distilled.before)} before, ${digits(distilled.after)} after, gain ${within(distilled.gain)}.`
        ])
  ].join("\n\n")
}

/** The last version of a run, which the ablations compare. */
const last = ({ versions }: WorldSummary): Version => versions.at(-1)!
const kept = ({ ghostAttention }: WorldSummary, turn: number): number | null =>
  (ghostAttention?.withTurns ?? ghostAttention?.withoutTurns)?.find((one) => one.turn === turn)?.kept.mean ?? null
const columns: Readonly<Record<string, (summary: WorldSummary) => number | null>> = {
  helpfulness: (summary) => last(summary).helpfulness?.mean ?? null,
  safety: (summary) => last(summary).safety?.mean ?? null,
  violations: (summary) => last(summary).violationRate,
  "helpfulness model's accuracy": ({ rewardModels }) => rewardModels.helpfulness.accuracy.mean,
  "instruction kept at turn 4": (summary) => kept(summary, 4)
}
const signed = (value: number): string => `${value >= 0 ? "+" : ""}${digits(value)}`

const ablationsOf = (
  whole: ReadonlyArray<WorldSummary>,
  parts: ReadonlyArray<readonly [name: string, runs: ReadonlyArray<WorldSummary>]>
): string => {
  const change = (runs: ReadonlyArray<WorldSummary>, value: (summary: WorldSummary) => number | null): string => {
    const changes = runs.map((run, i) => (value(run) ?? NaN) - (value(whole[i]!) ?? NaN))
    const mean = changes.reduce((sum, one) => sum + one, 0) / changes.length
    return Number.isNaN(mean) ? "–" : `${signed(mean)} (${changes.map(signed).join(", ")})`
  }
  const row = (name: string, summary: WorldSummary): ReadonlyArray<string> => {
    const { falseRefusalRate, helpfulness, safety, violationRate } = last(summary)
    const gain = summary.gain.find(({ over }) => over === "sft")!
    return [
      ...[name, plusMinus(helpfulness), plusMinus(safety), within(gain.helpfulness), within(gain.safety)],
      ...[
        digits(violationRate),
        digits(falseRefusalRate),
        ...models.map((model) => digits(summary.rewardModels[model]?.accuracy.mean ?? null))
      ],
      `${digits(kept(summary, 4), 2)}, ${digits(kept(summary, 6), 2)}`
    ]
  }
  const head = ["left out", "helpfulness", "safety", "gain over SFT: helpfulness", "safety", "violations", "false refusals"]
  return [
    table(
      ["left out", ...Object.keys(columns).map((name) => `${name}, change`)],
      parts.map(([name, runs]) => [name, ...Object.values(columns).map((value) => change(runs, value))])
    ),
    ...whole.map((summary, i) =>
      table(
        [...head, "helpfulness model's accuracy", "safety model's", "instruction kept at turns 4, 6"],
        [row("nothing", summary), ...parts.map(([name, runs]) => row(name, runs[i]!))]
      )
    )
  ].join("\n\n")
}

const [what, ...files] = process.argv.slice(2)
if (what === "study" && files.length > 0) process.stdout.write(`${files.map((file) => studyOf(summaryOf(file))).join("\n\n")}\n`)
else if (what === "ablations" && files.includes("--")) {
  const groups = files
    .join("\n")
    .split("\n--\n")
    .map((group) => group.split("\n"))
  const parts = groups.slice(1).map(([name, ...runs]) => [name!, runs.map(summaryOf)] as const)
  process.stdout.write(`${ablationsOf(groups[0]!.map(summaryOf), parts)}\n`)
} else {
  process.stderr.write("Usage: node bench/tables.ts study <run.json>... | ablations <run.json>... -- <part> <run.json>... [-- ...]\n")
  process.exitCode = 2
}
