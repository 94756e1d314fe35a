/** A row as read from a user's file, and the faults that it can have. */

export interface Record {
  /** From 1: the line on which it begins, or its row number in the file. */
  readonly line: number
  /** The unit of `line`: lines of a text file, rows of a Parquet or Arrow file. */
  readonly unit: "line" | "row"
  /** The row's value; the text of a line that can't be read. */
  readonly value: unknown
  /** Why it can't be read. */
  readonly fault?: BadRow
}

/** The kind of a fault in a field, without list indices: "field messages[].role: not text". */
export const inField = (field: string, why: string): string =>
  field.startsWith("(") ? why : `field ${field.replaceAll(/\[\d+\]/g, "[]")}: ${why}`

/** An invalid row: the field and the fault. */
export class BadRow extends Error {
  readonly field: string
  /** The kind of fault, for grouping rows: "not JSON", "field chosen: missing". */
  readonly reason: string
  constructor(field: string, why: string, reason: string = inField(field, why)) {
    super(why)
    this.field = field
    this.reason = reason
  }
}

/** A valid row without the required information, such as a tie between two answers. It is not a fault; it is counted by reason. */
export class LeftOut extends Error {}
