/** Skipped rows, in words. */
import { needsWarning, skippedText } from "../../runtime/define/skipped.ts"
import type { SkippedReport } from "../../runtime/store/sidecar.ts"

/** One line per kind of rows; the last line names the file that lists them. */
export const skippedLines = ({ skipped, skippedRows }: SkippedReport): ReadonlyArray<string> =>
  skipped.map((count, i) => {
    const where = i === skipped.length - 1 && skippedRows !== null ? `. They are listed in ${skippedRows}` : ""
    return `${needsWarning(count) ? "WARNING: " : ""}${skippedText(count)}${where}`
  })
