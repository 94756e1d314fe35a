/** `caravan curves`: the numbers that the nodes of a run reported at each step. */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { parquetRows } from "../../data/read/parquet.ts"
import { messageOf } from "../../runtime/errors.ts"
import { curvesOf, type KeptCurve } from "../../runtime/inspect/curves.ts"
import { resolveRunOrNode } from "../../runtime/inspect/resolve.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import type { PastExecution, PastRun } from "../../runtime/store/executions.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { folderOf, writeCurveEvents } from "../export/curve-events.ts"
import { curveFigure, thinned } from "../display/curve-figure.ts"
import { sparkline } from "../display/live-view.ts"
import { number } from "../display/numbers.ts"
import { count, shortRun, table } from "../display/units.ts"
import { plain } from "../display/width.ts"
import { print, withStore } from "../open-store.ts"
import { write } from "../output.ts"

/** One report's numbers by column; null where the report has no value for that column. */
type Row = Readonly<Record<string, number | null>>

/** Width of a sparkline, in columns. */
const lineWidth = 40

/** Finds a node by its own name or by an output's name. */
const find = (run: PastRun, curves: ReadonlyArray<KeptCurve>, name: string): KeptCurve & { readonly path: string } => {
  const outputs = askedOf(run)?.outputs ?? {}
  const id = Object.hasOwn(outputs, name) ? outputs[name] : undefined
  const found = curves.find(({ node }) => node === name) ?? curves.find(({ node }) => node === id)
  if (found === undefined) {
    const known = [...curves.map(({ node }) => node), ...Object.keys(outputs)]
    throw new UsageError(
      `Run ${shortRun(run.id)} has no node "${name}".${didYouMean(name, known)} \`caravan curves ${shortRun(run.id)}\` lists those with curves.`
    )
  }
  const { path } = found
  if (path === null)
    throw new UsageError(
      `Run ${shortRun(run.id)} has no curve of "${name}" (${found.status}): its stage reported no numbers, was killed before it could save them, or the result has since been deleted or replaced.`
    )
  return { ...found, path }
}

/** The file's rows, a few in memory at a time. */
async function* rowsOf(path: string): AsyncGenerator<Row> {
  try {
    for await (const row of parquetRows(path)) yield row as Row
  } catch (cause) {
    throw new UsageError(`Reading the curve ${path}: ${messageOf(cause)}. If the file is damaged, rerun the node with --force.`)
  }
}

const csvCell = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

const printCsv = async (path: string): Promise<void> => {
  let first = true
  for await (const row of rowsOf(path)) {
    if (first) write(`${Object.keys(row).map(csvCell).join(",")}\n`)
    first = false
    write(
      `${Object.values(row)
        .map((value) => (value === null ? "" : String(value)))
        .join(",")}\n`
    )
  }
}

/** JSON has no NaN or infinity, so they are written as strings. Missing values are left out. */
const jsonRow = (row: Row) =>
  Object.fromEntries(
    Object.entries(row).flatMap(([name, value]) => (value === null ? [] : [[name, Number.isFinite(value) ? value : String(value)]]))
  )

interface Series {
  readonly steps: Array<number>
  readonly values: Array<number>
}

/** Each column except the step, with the rows that have a value. */
const seriesOf = async (path: string): Promise<{ readonly rows: number; readonly series: ReadonlyMap<string, Series> }> => {
  const series = new Map<string, Series>()
  let rows = 0
  for await (const row of rowsOf(path)) {
    rows++
    for (const [name, value] of Object.entries(row)) {
      if (name === "step" || value === null) continue
      const { steps, values } = series.get(name) ?? { steps: [], values: [] }
      if (values.length === 0) series.set(name, { steps, values })
      steps.push(row.step ?? rows)
      values.push(value)
    }
  }
  return { rows, series }
}

/** One line per series. */
const summary = async (path: string): Promise<ReadonlyArray<string>> => {
  const { rows, series } = await seriesOf(path)
  const lines = [...series].map(([name, { values }]) => {
    let [least, most] = [Infinity, -Infinity]
    for (const value of values) {
      if (!Number.isFinite(value)) continue
      least = Math.min(least, value)
      most = Math.max(most, value)
    }
    const shown = [values[0]!, values.at(-1)!, least, most].map((value) => number(value))
    return [plain(name), String(values.length), ...shown, sparkline(thinned(values, lineWidth))]
  })
  return [`${count(rows, "row")} in ${path}`, ...table([["", "values", "first", "last", "min", "max"], ...lines], "  ")]
}

/** Draws the curve into a file. The plotting libraries are loaded only here. */
const draw = async (node: string, path: string, file: string): Promise<void> => {
  if (!file.endsWith(".svg"))
    throw new UsageError(`--figure must be the name of an SVG file, got "${file}". For example: --figure ${node}.svg`)
  const { drawFigure } = await import("../../stages/report/draw.ts")
  const { series } = await seriesOf(path)
  const svg = await drawFigure(curveFigure(node, series))
  try {
    await writeFile(file, svg)
  } catch (cause) {
    throw new UsageError(`Writing the figure ${file}: ${messageOf(cause)}. Choose a file in a writable folder.`)
  }
}

/** Writes TensorBoard event files, one folder per run and node. */
const writeEvents = async (
  folder: string,
  run: PastRun,
  curves: ReadonlyArray<KeptCurve & { readonly path: string }>,
  executions: ReadonlyMap<string, PastExecution>
) => {
  const written = []
  for (const { node, path } of curves) {
    const execution = executions.get(node)
    // A reused result's curve comes from another run, so this execution's start time does not apply.
    const began = execution !== undefined && execution.status !== "hit" ? execution.at - execution.milliseconds : run.started
    try {
      written.push({
        node,
        ...(await writeCurveEvents(join(folder, folderOf(`${run.pipeline}-${shortRun(run.id)}`)), { node, began, rows: rowsOf(path) }))
      })
    } catch (cause) {
      if (cause instanceof UsageError) throw cause
      throw new UsageError(`Writing event files to ${folder}: ${messageOf(cause)}. Choose a writable folder.`)
    }
  }
  return written
}

export const command: Command = {
  name: "curves",
  summary:
    "Prints the numbers that a node's stage reported at each step (loss, learning rate, KL, throughput, memory), also for reused results. Without a node, lists the nodes that have curves.",
  positionals: ["<run|node>", "[node]"],
  flags: {
    csv: { help: "print every row as CSV" },
    json: { help: "print one JSON document with every row" },
    figure: { value: "file.svg", help: "draw one panel per series into this file" },
    tensorboard: { value: "folder", help: "write TensorBoard event files, one folder per node: for the given node, or for all nodes" }
  },
  examples: [
    "caravan curves latest",
    "caravan curves latest sft",
    "caravan curves latest sft --csv > sft.csv",
    "caravan curves latest sft --figure sft.svg",
    "caravan curves latest --tensorboard events"
  ],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const { node: named, run } = yield* resolveRunOrNode(given.positionals[0]!)
        const curves = yield* curvesOf(run)
        const name = given.positionals[1] ?? named
        const json = given.has("json")
        const events = given.flag("tensorboard")
        if (events !== undefined) {
          const chosen =
            name === undefined
              ? curves.flatMap((curve) => (curve.path === null ? [] : [{ ...curve, path: curve.path }]))
              : [find(run, curves, name)]
          const executions = new Map((yield* (yield* Journal).executionsOf(run.id)).map((execution) => [execution.node, execution]))
          const written = yield* Effect.promise(() => writeEvents(events, run, chosen, executions))
          print(json, { run: run.id, pipeline: run.pipeline, files: written }, [
            ...table(written.map(({ node, path, scalars }) => [plain(node), String(scalars), path])),
            `${count(written.length, "event file")}. To view them: tensorboard --logdir ${events}`
          ])
          return exitCodes.ok
        }
        if (name === undefined) {
          const ofOne = given.has("csv") ? "--csv prints" : given.flag("figure") === undefined ? undefined : "--figure draws"
          if (ofOne !== undefined)
            throw new UsageError(`${ofOne} the rows of one node. Add a node's name; without flags, the command lists the nodes.`)
          const kept = curves.filter(({ path }) => path !== null)
          print(json, { run: run.id, pipeline: run.pipeline, curves: kept }, [
            ...table(kept.map(({ node, stage, status, path }) => [plain(node), stage ?? "", status, path!])),
            `${count(kept.length, "node")} of ${curves.length} in run ${shortRun(run.id)} with a curve.`
          ])
          return exitCodes.ok
        }
        const { node, stage, path } = find(run, curves, name)
        yield* Effect.promise(async () => {
          const figure = given.flag("figure")
          if (figure !== undefined) return draw(node, path, figure)
          if (given.has("csv")) return printCsv(path)
          if (!json) return print(false, undefined, await summary(path))
          const rows = []
          for await (const row of rowsOf(path)) rows.push(jsonRow(row))
          print(true, { run: run.id, pipeline: run.pipeline, node, stage, path, rows }, [])
        })
        return exitCodes.ok
      })
    )
}
