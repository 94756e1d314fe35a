/**
 * Curves for the page: columns of float64. A body is the header's length (4 bytes, little-endian), the header (JSON), spaces up to a multiple of 8,
 * and then the columns one after another. A missing value is NaN; the header says where reported values are NaN or infinite.
 */
import * as Effect from "effect/Effect"
import { parquetRows } from "../../data/read/parquet.ts"
import { messageOf } from "../../runtime/errors.ts"
import { curvesOf } from "../../runtime/inspect/curves.ts"
import { loggedNodes, stepsPath } from "../../runtime/run/node-log.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { existsSync } from "node:fs"
import { Broken, type CurveLine, NotFound } from "./api.ts"
import { linesFrom } from "./tail.ts"

export interface CurveHeader {
  /** kept: from the complete file next to the result; live: while it is being reported. */
  readonly source: "kept" | "live"
  readonly rows: number
  /** For a live curve: the offset where the next part begins. */
  readonly next: number
  /** Values that are NaN or infinite: the step of the first, and how many. */
  readonly columns: ReadonlyArray<{ readonly name: string; readonly notNumbers: number; readonly firstAt: number | null }>
}

/** Collects rows by column. A NaN or infinite value is stored as NaN and counted; a missing value is NaN. */
class Columns {
  readonly #columns = new Map<string, { values: Float64Array<ArrayBuffer>; notNumbers: number; firstAt: number | null }>()
  #capacity = 1024
  rows = 0

  add(row: Readonly<Record<string, unknown>>): void {
    if (this.rows === this.#capacity) {
      this.#capacity *= 2
      for (const column of this.#columns.values()) {
        const grown = new Float64Array(this.#capacity).fill(NaN)
        grown.set(column.values)
        column.values = grown
      }
    }
    const step = typeof row.step === "number" ? row.step : this.rows + 1
    for (const [name, value] of Object.entries<unknown>({ ...row, step })) {
      const isText = value === "NaN" || value === "Infinity" || value === "-Infinity"
      if (typeof value !== "number" && !isText) continue
      let column = this.#columns.get(name)
      if (column === undefined)
        this.#columns.set(name, (column = { values: new Float64Array(this.#capacity).fill(NaN), notNumbers: 0, firstAt: null }))
      const number = Number(value)
      if (Number.isFinite(number)) column.values[this.rows] = number
      else {
        column.notNumbers++
        column.firstAt ??= step
      }
    }
    this.rows++
  }

  encode(source: CurveHeader["source"], next: number): Uint8Array<ArrayBuffer> {
    const header: CurveHeader = {
      ...{ source, next, rows: this.rows },
      columns: [...this.#columns].map(([name, { firstAt, notNumbers }]) => ({ name, notNumbers, firstAt }))
    }
    const text = Buffer.from(JSON.stringify(header))
    const begin = Math.ceil((4 + text.length) / 8) * 8
    const out = new Uint8Array(begin + 8 * this.rows * this.#columns.size).fill(0x20, 0, begin)
    new DataView(out.buffer).setUint32(0, text.length, true)
    out.set(text, 4)
    let at = begin
    for (const { values } of this.#columns.values()) {
      out.set(new Uint8Array(values.buffer, 0, 8 * this.rows), at)
      at += 8 * this.rows
    }
    return out
  }
}

const notShown = new Set(["total"])

/** The reported rows of a running node, from a byte offset of its file. */
const liveColumns = (path: string, from: number): { readonly columns: Columns; readonly next: number } => {
  const columns = new Columns()
  let offset = from
  for (;;) {
    const { lines, next } = linesFrom(path, offset)
    for (const line of lines) {
      try {
        const { at, ...report } = JSON.parse(line) as Record<string, unknown>
        const numbers = Object.entries(report).filter(([name]) => !notShown.has(name))
        if (numbers.some(([name, value]) => name !== "step" && typeof value !== "string") || "loss" in report)
          columns.add({ ...Object.fromEntries(numbers), seconds: Number(at) / 1000 })
      } catch {
        // Truncated by a kill.
      }
    }
    if (next === offset) return { columns, next }
    offset = next
  }
}

const runOf = Effect.fnUntraced(function* (id: string) {
  const run = yield* (yield* Journal).runOf(id)
  return run ?? (yield* new NotFound({ message: `The journal has no run ${id}.` }))
})

/** The nodes of a run that have a curve, complete or growing. */
export const curveLines = Effect.fnUntraced(function* (id: string) {
  const run = yield* runOf(id)
  const { home } = yield* Store
  const kept = (yield* curvesOf(run)).filter(({ path }) => path !== null)
  const names = new Set(kept.map(({ node }) => node))
  const live = loggedNodes(home, id).filter((node) => !names.has(node) && existsSync(stepsPath(home, id, node)))
  return [
    ...kept.map(({ node, stage }): CurveLine => ({ node, stage, source: "kept" })),
    ...live.map((node): CurveLine => ({ node, stage: null, source: "live" }))
  ]
})

export const curveBytes = Effect.fnUntraced(function* (id: string, node: string, from: number) {
  const run = yield* runOf(id)
  const { home } = yield* Store
  const steps = stepsPath(home, id, node)
  const attempt = <A>(body: () => Promise<A>) =>
    Effect.tryPromise({
      try: body,
      catch: (cause) =>
        new Broken({
          message: `Reading the curve of "${node}": ${messageOf(cause)}. If the file is damaged, rerun the node with --force.`
        })
    })
  const isLive = yield* Effect.sync(() => existsSync(steps))
  const path = isLive && from > 0 ? null : ((yield* curvesOf(run)).find((curve) => curve.node === node)?.path ?? null)
  if (path !== null) {
    return yield* attempt(async () => {
      const columns = new Columns()
      for await (const row of parquetRows(path)) columns.add(row as Record<string, unknown>)
      return columns.encode("kept", 0)
    })
  }
  if (!isLive)
    return yield* new NotFound({
      message: `"${node}" has no curve in this run: it reported no numbers, or its result has since been deleted or replaced.`
    })
  return yield* attempt(async () => {
    const { columns, next } = liveColumns(steps, from)
    return columns.encode("live", next)
  })
})
