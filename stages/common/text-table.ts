/** Formats figures as text, for reports printed in a terminal. */
import type { Estimate } from "./statistics.ts"

/** Aligns columns, two spaces apart; the last is not padded. */
export const columns = (rows: ReadonlyArray<ReadonlyArray<string>>): Array<string> => {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd()
  )
}

export const digits = (value: number | null): string => (value === null ? "–" : value.toFixed(3))
export const plusMinus = (value: { readonly mean: number; readonly standardError: number } | null): string =>
  value === null ? "–" : `${value.mean.toFixed(3)} ± ${value.standardError.toFixed(3)}`
export const within = (value: Estimate | null): string =>
  value === null ? "–" : `${value.mean.toFixed(3)} (${value.low.toFixed(3)} to ${value.high.toFixed(3)})`
