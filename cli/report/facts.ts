/** What was run, in words: for the head of its report. */
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
    fetched: "fetched from shared results",
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
    ? `${without}; no GPU. What processors draw is not known to the software, so there is no energy and no carbon to tell.`
    : `${figure(gpuHours)} GPU-hours (${gpus.join("; ")}), ${figure(energyKwh)} kWh, ${figure(carbonKg)} kg CO2eq, and ${without}. A GPU each at its thermal design power and ${carbonIntensity} kg CO2eq per kWh, as table 2 of the paper reckons: without processors and cooling.`
}

/** Longer values of parameters are cut; of a path the folders above are nobody's business. */
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

/** What took how long, stage by stage, and what went wrong. */
export const workSection = ({ missing, outcomes }: Gathered): Section => ({
  title: "What took how long",
  text: [...outcomes.flatMap(({ error, node }) => (error === null ? [] : [`${node} failed: ${error}`])), ...missing],
  tables: [
    {
      id: "stages",
      title: "Stages by time",
      caption: "Of each stage's nodes together. What was found took its time in the run that made it.",
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

/** Where the data is from: the generated world and its oracle, or files. */
export const introductionOf = ({ files, outcomes, results }: Gathered): string => {
  if (results.isWorld)
    return "It is on a generated small world: dialogues of made-up words (spelling, counting, lists, facts, translations), some of them with a risk (illicit, hateful, advice), in phrasings of which some are kept for evaluation alone. An oracle that knows what is right grades helpfulness and safety, so that what reward models learned can be held against the truth."
  const imported = outcomes.filter(({ stage }) => stage.startsWith("import-")).length
  return files.length === 0
    ? "It has no data of the small world and no files."
    : `It is on data of the user's: ${new Set(files).size === 1 ? "one file or folder" : `${new Set(files).size} files or folders`}, read by ${count(imported, "stage")}. Nothing but models and labels says what is right, so all that is told of versions is by reward models or judges.`
}
