/** Rows that stages could not use, in words. */
import { isNoticeable, skippedText } from "../../runtime/define/skipped.ts"
import type { ToldOfSkipped } from "../../runtime/store/sidecar.ts"

/** A line for each kind of rows; the last names the file that lists them. */
export const skippedLines = ({ skipped, skippedRows }: ToldOfSkipped): ReadonlyArray<string> =>
  skipped.map((count, i) => {
    const where = i === skipped.length - 1 && skippedRows !== null ? `. They are listed in ${skippedRows}` : ""
    return `${isNoticeable(count) ? "WARNING: " : ""}${skippedText(count)}${where}`
  })
