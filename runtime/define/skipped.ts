/**
 * Rows that a stage can't use. They are counted by reason, listed in a file next to the stage's result, and limited: a stage that would skip most of
 * its data probably has the wrong data. Rows that a stage excludes on purpose (a filter, a selection) do not count as skipped; report them as
 * metrics.
 */
import type * as Effect from "effect/Effect"
import type { StageError } from "../errors.ts"

export interface SkippedRow {
  /** What the rows are, in the plural: "demonstrations". */
  readonly what: string
  /** The kind of fault, shared by many rows, in words that follow "90 rows:": "longer than 4096 tokens". */
  readonly reason: string
  /** What was found in this row, if the reason does not already say it. */
  readonly found?: string
  readonly id?: string
  /** The location, for rows of a user's file: lines and rows count from 1. */
  readonly file?: string
  readonly line?: number
  readonly field?: string
  /** The row itself, as a JSON value. */
  readonly row: unknown
}

/** The number of skipped rows in one set of rows. */
export interface SkippedCount {
  readonly what: string
  /** Total number of rows. */
  readonly of: number
  readonly skipped: number
  /** Number of rows by reason. */
  readonly reasons: Readonly<Record<string, number>>
}

export interface SkippedRows {
  /** Skips a row. Cheap: rows are written in batches. */
  readonly add: (row: SkippedRow) => void
  /**
   * Call this with the total after all rows of a kind have been checked and before working on them. Fails with `TooManySkipped` if the skipped
   * fraction exceeds the limit: the node's, otherwise the run's, otherwise `limit` (default 20%).
   */
  readonly check: (what: string, of: number, limit?: number) => Effect.Effect<void, StageError>
}

/** Default limit on the fraction of rows that a stage may skip. */
export const defaultSkippedShare = 0.2
/** A larger skipped fraction is shown as a warning. */
export const warningShare = 0.01

export const needsWarning = ({ of, skipped }: SkippedCount): boolean => skipped > warningShare * of

/** "20.2%", at most three digits. */
export const percentOf = (share: number): string => `${Number((100 * share).toPrecision(3))}%`

/** "skipped 90 of 101 demonstrations (89.1%): 80 longer than 4096 tokens, 10 with a tag of the chat format". */
export const skippedText = ({ what, of, skipped, reasons }: SkippedCount): string => {
  const parts = Object.entries(reasons)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${count} ${reason}`)
  return `skipped ${skipped} of ${of} ${what} (${percentOf(of === 0 ? 0 : skipped / of)})${parts.length === 0 ? "" : `: ${parts.join(", ")}`}`
}
