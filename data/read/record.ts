/** A row of a user's file as it was read, and what can be wrong with it. */

export interface Record {
  /** From 1: the line on which it begins, or which row of the file it is. */
  readonly line: number
  /** What is counted: lines of a text file, rows of a Parquet or Arrow file. */
  readonly unit: "line" | "row"
  /** What the file holds there; of a line that can't be read, its text. */
  readonly value: unknown
  /** Why it can't be read. */
  readonly fault?: BadRow
}

/** A kind of fault in a field, whichever of a list: "field messages[].role: not text". */
export const inField = (field: string, why: string): string =>
  field.startsWith("(") ? why : `field ${field.replaceAll(/\[\d+\]/g, "[]")}: ${why}`

/** A row that does not fit: which field, and why. */
export class BadRow extends Error {
  readonly field: string
  /** The kind of fault, for many rows alike: "not JSON", "field chosen: missing". */
  readonly reason: string
  constructor(field: string, why: string, reason: string = inField(field, why)) {
    super(why)
    this.field = field
    this.reason = reason
  }
}

/** A row that says nothing of what is asked of it, as it should: two answers that were judged alike. Not a fault: it is counted by its reason. */
export class LeftOut extends Error {}
