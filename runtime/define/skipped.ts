/**
 * Rows that a stage can't use. They are counted by reason, written beside the stage's result for its user to look at, and limited: a stage that would
 * skip most of its data has been given the wrong data. What a stage leaves out on purpose (a filter, a selection) is not skipped: that is a metric.
 */
import type * as Effect from "effect/Effect"
import type { StageError } from "../errors.ts"

export interface SkippedRow {
  /** What the rows are, in the plural: "demonstrations". */
  readonly what: string
  /** The kind of fault, for many rows alike, as what follows "90 rows:": "longer than 4096 tokens". */
  readonly reason: string
  /** What was found in this row, where the reason does not say it all. */
  readonly found?: string
  readonly id?: string
  /** Where it stands, for rows of a user's file: lines and rows count from 1. */
  readonly file?: string
  readonly line?: number
  readonly field?: string
  /** The row itself, as JSON can hold it. */
  readonly row: unknown
}

/** What was skipped of one set of rows. */
export interface SkippedCount {
  readonly what: string
  /** How many there were in all. */
  readonly of: number
  readonly skipped: number
  /** How many by reason. */
  readonly reasons: Readonly<Record<string, number>>
}

export interface SkippedRows {
  /** Skips a row. Cheap: rows are written together. */
  readonly add: (row: SkippedRow) => void
  /**
   * Call it once all rows of a kind were looked at and before the work on them begins, with how many there were. Fails with `TooManySkipped` when
   * the share that was skipped is above the limit: the node's, the run's, or else `most`, which is 20% unless given.
   */
  readonly check: (what: string, of: number, most?: number) => Effect.Effect<void, StageError>
}

/** Largest share of its rows that a stage may skip, unless the run or the node says otherwise. */
export const usualSkippedShare = 0.2
/** A larger share than this is worth a warning. */
export const noticeableShare = 0.01

export const isNoticeable = ({ of, skipped }: SkippedCount): boolean => skipped > noticeableShare * of

/** "20.2%", three digits at most. */
export const percentOf = (share: number): string => `${Number((100 * share).toPrecision(3))}%`

/** "skipped 90 of 101 demonstrations (89.1%): 80 longer than 4096 tokens, 10 with a tag of the chat format". */
export const skippedText = ({ what, of, skipped, reasons }: SkippedCount): string => {
  const parts = Object.entries(reasons)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, count]) => `${count} ${reason}`)
  return `skipped ${skipped} of ${of} ${what} (${percentOf(of === 0 ? 0 : skipped / of)})${parts.length === 0 ? "" : `: ${parts.join(", ")}`}`
}
