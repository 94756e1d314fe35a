/** The facts about a run, in words: for the head of its report. */
import { basename, isAbsolute } from "node:path"
import { carbonIntensity } from "../../models/cost.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import type { Section } from "../../stages/report/figure.ts"
import { duration } from "../display/numbers.ts"
import { count, moment, shown } from "../display/units.ts"
import { computeOf } from "../export/history.ts"
import { version } from "../export/card.ts"
import type { Gathered, Outcome } from "./gather.ts"

const figure = (value: number): string => (value === 0 ? "0" : String(Number(value.toPrecision(3))))

/** "3 ran, 2 found in the store". */
const statuses = (outcomes: ReadonlyArray<Outcome>): string => {
  const words: Readonly<Record<string, string>> = {
    hit: "found in the store",
    ran: "ran",
    fetched: "copied from shared results",
    failed: "failed",
    skipped: "skipped"
  }
  return [...Map.groupBy(outcomes, ({ status }) => status)].map(([status, some]) => `${some.length} ${words[status] ?? status}`).join(", ")
}

const machines = (outcomes: ReadonlyArray<Outcome>): string =>
  [
    ...new Set(
      outcomes.flatMap(({ numerics }) =>
        numerics === null ? [] : [numerics.device === "cuda" ? (numerics.gpu ?? "a GPU") : (numerics.cpu ?? "CPU")]
      )
    )
  ].join("; ") || "no stage with tensors"

const compute = (outcomes: ReadonlyArray<Outcome>): string => {
  const taken = outcomes.flatMap(({ milliseconds, numerics }) => (milliseconds === null ? [] : [{ milliseconds, numerics }]))
  const { carbonKg, energyKwh, gpuHours, gpus, otherHours } = computeOf(taken)
  const without = `${duration(otherHours * 3_600_000)} of stages without a GPU`
  return gpuHours === 0
    ? `${without}. CPU power is unknown to the software, so energy and carbon are not reported.`
    : `${figure(gpuHours)} GPU-hours (${gpus.join("; ")}), ${figure(energyKwh)} kWh, ${figure(carbonKg)} kg CO2eq, and ${without}. One GPU per stage at its thermal design power and ${carbonIntensity} kg CO2eq per kWh, as in table 2 of the paper; CPUs and cooling are not included.`
}

/** Long parameter values are cut; a path's folders are private and removed. */
const short = (text: string): string => {
  const told = isAbsolute(text) ? basename(text) : text
  return told.length > 120 ? `${told.slice(0, 120)}…` : told
}

export const factsOf = (run: PastRun, status: string, gathered: Gathered): ReadonlyArray<readonly [string, string]> => {
  const asked = askedOf(run)
  const params = Object.entries({ ...asked?.params, ...asked?.settings }).map(([name, value]) => `${name}=${short(shown(value))}`)
  const finished = run.finished === null ? "" : `, took ${duration(run.finished - run.started)}`
  return [
    ["Pipeline", run.pipeline],
    ["Run", `${run.id}, ${status}, started ${moment(run.started)}${finished}`],
    ...(asked === undefined ? [] : [["Seed", String(asked.seed)] as const]),
    ["Nodes", statuses(gathered.outcomes)],
    ["On", machines(gathered.outcomes)],
    ["Compute", compute(gathered.outcomes)],
    ...(gathered.files.length === 0
      ? []
      : [["Your files", [...new Set(gathered.files.map((path) => basename(path)))].join(", ")] as const]),
    ...(params.length === 0 ? [] : [["Parameters", params.join(", ")] as const]),
    ["Caravan", version]
  ]
}

/** How long each stage took, and what failed. */
export const workSection = ({ missing, outcomes }: Gathered): Section => ({
  title: "Time by stage",
  text: [...outcomes.flatMap(({ error, node }) => (error === null ? [] : [`${node} failed: ${error}`])), ...missing],
  tables: [
    {
      id: "stages",
      title: "Stages by time",
      caption: "Summed over each stage's nodes. Reused results count the time of the run that made them.",
      rows: [...Map.groupBy(outcomes, ({ stage }) => stage)]
        .map(([stage, some]) => ({ stage, some, milliseconds: some.reduce((sum, one) => sum + (one.milliseconds ?? 0), 0) }))
        .toSorted((a, b) => b.milliseconds - a.milliseconds)
        .map(({ milliseconds, some, stage }) => ({
          stage,
          nodes: some.length,
          found: some.filter(({ status }) => status === "hit").length,
          time: duration(milliseconds),
          "most of it": some.reduce((most, one) => ((one.milliseconds ?? 0) > (most.milliseconds ?? 0) ? one : most)).node
        }))
    }
  ]
})

/** The origin of the data: the generated world and its oracle, or files. */
export const introductionOf = ({ files, outcomes, results }: Gathered): string => {
  if (results.isWorld)
    return "This run uses a generated small world: dialogues of made-up words (spelling, counting, lists, facts, translations), some of them with a risk (illicit, hateful, advice), in phrasings some of which are held out for evaluation. An oracle that knows the correct answers grades helpfulness and safety, so reward models can be compared with the truth."
  const imported = outcomes.filter(({ stage }) => stage.startsWith("import-")).length
  return files.length === 0
    ? "This run uses neither small-world data nor files."
    : `This run uses the user's data: ${new Set(files).size === 1 ? "one file or folder" : `${new Set(files).size} files or folders`}, read by ${count(imported, "stage")}. Correctness is known only through models and labels, so versions are compared by reward models or judges.`
}
