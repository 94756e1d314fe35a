/** The page of a run's report: sections in the paper's order, conclusions, dialogues; and its figures as files. */
import * as Effect from "effect/Effect"
import type { PastRun } from "../../runtime/store/executions.ts"
import { type Completion, Completions } from "../../schemas/rows.ts"
import { modelsChapter } from "../../stages/report/chapter-models.ts"
import { chapters } from "../../stages/report/chapters.ts"
import { scoreRows } from "../../stages/report/comparison-figures.ts"
import { runConclusions } from "../../stages/report/conclusions.ts"
import { trainingSection } from "../../stages/report/curve-figures.ts"
import { type AnswerSet, dialogues } from "../../stages/report/dialogues.ts"
import { asFile } from "../../stages/report/draw.ts"
import type { Cell, Figure, Rows, Section } from "../../stages/report/figure.ts"
import { pageOf } from "../../stages/report/page.ts"
import type { Results } from "../../stages/report/results.ts"
import { runRows } from "../../stages/report/run-figures.ts"
import { RunReport } from "../../stages/report/run-report.ts"
import { versionRows } from "../../stages/report/tables.ts"
import { type Version, versionsOf } from "../../stages/report/versions.ts"
import { WorldSummaryReport } from "../../stages/world/summary-report.ts"
import { shortRun } from "../display/units.ts"
import { factsOf, introductionOf, workSection } from "./facts.ts"
import type { Gathered } from "./gather.ts"

const csvCell = (value: Cell | undefined): string => {
  const text = value === null || value === undefined ? "" : String(value)
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
const csvOf = (rows: Rows): string => {
  const columns = Object.keys(rows[0] ?? {})
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((cells) => `${cells.map(csvCell).join(",")}\n`).join("")
}

/** Gives each figure's files a unique name. */
const named = (figures: ReadonlyArray<Figure>): ReadonlyArray<{ readonly name: string; readonly figure: Figure }> => {
  const taken = new Set<string>()
  return figures.map((figure) => {
    const base = [figure.id, figure.part?.replaceAll(/[^\w.-]+/g, "-").slice(0, 60)].filter((part) => part !== undefined).join("-")
    let name: string = base
    for (let i = 2; taken.has(name); i++) name = `${base}-${i}`
    taken.add(name)
    return { name, figure }
  })
}

/** One line per version: from the summary if there is one. */
const linesOf = Effect.fnUntraced(function* (run: Results, versions: ReadonlyArray<Version>) {
  const [world] = yield* run.reports(WorldSummaryReport)
  if (world !== undefined) return versionRows(world.content)
  const [own] = yield* run.reports(RunReport)
  return own === undefined ? scoreRows(versions) : runRows(own.content)
})

/** The side-by-side dialogues if no answers were scored: the last sets of answers to the same prompts. */
const unscored = Effect.fnUntraced(function* (run: Results) {
  const sets = run.of("sample", "sample-at-temperature")
  const last = sets.at(-1)
  if (last === undefined) return []
  const same = sets.filter((one) => run.input(one, "prompts")?.digest === run.input(last, "prompts")?.digest).slice(-6)
  const fields = ["promptId", "prompt", "safety", "sample", "text"] as const satisfies ReadonlyArray<keyof Completion>
  return yield* Effect.forEach(same, (one) =>
    Effect.map(run.fields(one, Completions, fields), (scored): AnswerSet => ({ name: run.input(one, "policy")?.node ?? one.node, scored }))
  )
})

/** For a run whose stages made nothing that a chapter shows. */
const nothingShown: Section = {
  title: "Results",
  text: [
    "There are no figures: no stage of this run trained a model, collected or rated preferences, scored answers of two versions to the same prompts, or wrote one of the reports that have a figure (docs/paper.md lists them)."
  ]
}

export const contentOf = Effect.fnUntraced(function* (run: PastRun, status: string, gathered: Gathered, shownDialogues: number) {
  const { curves, results } = gathered
  const readable = <A>(effect: Effect.Effect<A, { readonly message: string }>, otherwise: A) =>
    effect.pipe(Effect.catch(() => Effect.succeed(otherwise)))
  const versions = yield* readable(versionsOf(results), [])
  const models = yield* readable(modelsChapter(results, curves), [])
  const found = [...models, trainingSection(curves), ...(yield* chapters(results, versions))]
  const isEmpty = found.every(({ figures = [], tables = [], text = [] }) => figures.length + tables.length + text.length === 0)
  const sections = [...(isEmpty ? [nothingShown] : found), workSection(gathered)]
  const sets = versions.length > 0 ? versions : yield* readable(unscored(results), [])
  const lines = yield* readable(linesOf(results, versions), [])
  const conclusions = yield* readable(runConclusions(results, versions), [])
  const files = named(sections.flatMap(({ figures = [] }) => figures))
  return {
    titles: sections.flatMap(({ figures = [], tables = [], text = [], title }) =>
      figures.length + tables.length + text.length > 0 ? [title] : []
    ),
    draw: async () => {
      const drawn = new Map<Figure, string>()
      const page = await pageOf({
        title: `${run.pipeline}, run ${shortRun(run.id)}`,
        about: [introductionOf(gathered)],
        facts: factsOf(run, status, gathered),
        versions: lines,
        conclusions,
        sections,
        dialogues: dialogues(sets, shownDialogues),
        onDrawn: (figure, svg) => void drawn.set(figure, svg)
      })
      const figures = files.map(({ figure, name }) => ({ name, svg: asFile(drawn.get(figure)!), csv: csvOf(figure.rows) }))
      return { page, figures }
    }
  }
})
