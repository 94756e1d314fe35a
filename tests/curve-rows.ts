/** Curves for comparison in tests: their rows, without columns that depend on the clock and the machine. */
import * as Effect from "effect/Effect"
import { parquetRows } from "../data/read/parquet.ts"
import { curvesOf } from "../runtime/inspect/curves.ts"
import { resolveRun } from "../runtime/inspect/resolve.ts"
import type { Journal } from "../runtime/store/journal.ts"
import type { Store } from "../runtime/store/store.ts"

export type CurveRow = Readonly<Record<string, number | null>>

export const rowsIn = async (path: string): Promise<ReadonlyArray<CurveRow>> => {
  const rows: Array<CurveRow> = []
  for await (const row of parquetRows(path)) rows.push(row as CurveRow)
  return rows
}

const measuredByClock = ["seconds", "memory", "tokensPerSecond"]
export const measured = (rows: ReadonlyArray<CurveRow>) =>
  rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => !measuredByClock.includes(name))))

/** The curve of a node in the latest run. */
export const latestCurve = (node: string): Effect.Effect<ReturnType<typeof measured>, unknown, Store | Journal> =>
  Effect.gen(function* () {
    const curves = yield* curvesOf(yield* resolveRun("latest"))
    const path = curves.find((curve) => curve.node === node)?.path
    if (path === null || path === undefined) throw new Error(`there is no curve of ${node}`)
    return measured(yield* Effect.promise(() => rowsIn(path)))
  })
