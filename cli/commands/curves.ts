/** `caravan curves`: what the nodes of a run reported step by step. */
import * as Effect from "effect/Effect"
import { parquetRows } from "../../data/parquet.ts"
import { messageOf } from "../../runtime/errors.ts"
import { curvesOf, type KeptCurve } from "../../runtime/inspect/curves.ts"
import { resolveRunOrNode } from "../../runtime/inspect/resolve.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { type Command, exitCodes, UsageError } from "../command.ts"
import { sparkline } from "../display/live-view.ts"
import { number } from "../display/numbers.ts"
import { count, shortRun, table } from "../display/units.ts"
import { plain } from "../display/width.ts"
import { print, withStore } from "../open-store.ts"
import { write } from "../output.ts"

/** A report's numbers by column; null: it had none of that. */
type Row = Readonly<Record<string, number | null>>

/** Columns of a sparkline. */
const lineWidth = 40

/** A node by its name or by that of an output. */
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
      `Run ${shortRun(run.id)} has no curve of "${name}" (${found.status}): its stage reported no numbers, was killed before it could keep them, or the result was deleted or replaced since.`
    )
  return { ...found, path }
}

/** The file's rows, a few in memory at a time. */
async function* rowsOf(path: string): AsyncGenerator<Row> {
  try {
    for await (const row of parquetRows(path)) yield row as Row
  } catch (cause) {
    throw new UsageError(`Reading the curve ${path}: ${messageOf(cause)}. If the file is damaged, run the node again with --force.`)
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

/** JSON has no NaN and no infinity: they are texts. What a report did not have is left out. */
const jsonRow = (row: Row) =>
  Object.fromEntries(
    Object.entries(row).flatMap(([name, value]) => (value === null ? [] : [[name, Number.isFinite(value) ? value : String(value)]]))
  )

/** As many values as a line has columns: means of consecutive ones. */
const thinned = (values: ReadonlyArray<number>): ReadonlyArray<number> => {
  if (values.length <= lineWidth) return values
  return Array.from({ length: lineWidth }, (_, i) => {
    const part = values.slice(Math.floor((i * values.length) / lineWidth), Math.floor(((i + 1) * values.length) / lineWidth))
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
}

/** A line for each series. */
const summary = async (path: string): Promise<ReadonlyArray<string>> => {
  const columns = new Map<string, Array<number>>()
  let rows = 0
  for await (const row of rowsOf(path)) {
    rows++
    for (const [name, value] of Object.entries(row)) {
      const series = columns.get(name) ?? []
      columns.set(name, series)
      if (value !== null) series.push(value)
    }
  }
  const lines = [...columns].flatMap(([name, values]) => {
    if (name === "step" || values.length === 0) return []
    let [least, most] = [Infinity, -Infinity]
    for (const value of values) {
      if (!Number.isFinite(value)) continue
      least = Math.min(least, value)
      most = Math.max(most, value)
    }
    const shown = [values[0]!, values.at(-1)!, least, most].map((value) => number(value))
    return [[plain(name), String(values.length), ...shown, sparkline(thinned(values))]]
  })
  return [`${count(rows, "row")} in ${path}`, ...table([["", "values", "first", "last", "least", "greatest"], ...lines], "  ")]
}

export const command: Command = {
  name: "curves",
  summary:
    "Prints the numbers that a node's stage reported step by step (loss, learning rate, KL, throughput, memory), also when its result was found and not made; without a node, lists the nodes that have some.",
  positionals: ["<run|node>", "[node]"],
  flags: {
    csv: { help: "print every row as CSV" },
    json: { help: "print one JSON document, with every row" }
  },
  examples: ["caravan curves latest", "caravan curves latest sft", "caravan curves latest sft --csv > sft.csv"],
  run: (given) =>
    withStore(
      Effect.gen(function* () {
        const { node: named, run } = yield* resolveRunOrNode(given.positionals[0]!)
        const curves = yield* curvesOf(run)
        const name = given.positionals[1] ?? named
        const json = given.has("json")
        if (name === undefined) {
          if (given.has("csv")) throw new UsageError("--csv prints the rows of one node: name it. Without --csv, the nodes are listed.")
          const kept = curves.filter(({ path }) => path !== null)
          print(json, { run: run.id, pipeline: run.pipeline, curves: kept }, [
            ...table(kept.map(({ node, stage, status, path }) => [plain(node), stage ?? "", status, path!])),
            `${count(kept.length, "node")} of ${curves.length} in run ${shortRun(run.id)} with a curve.`
          ])
          return exitCodes.ok
        }
        const { node, stage, path } = find(run, curves, name)
        yield* Effect.promise(async () => {
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
