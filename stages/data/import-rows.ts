/** Rows of a user's file: those that fit go on, the others are skipped and named by file, line and field. */
import * as Effect from "effect/Effect"
import { newCounts, readParsed } from "../../data/records.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import { ArtifactError, type Written, written } from "../../schemas/artifact.ts"

/**
 * Streams the parsed rows of a file into the output: `parse` gives a row or throws BadRow. Fails with TooManySkipped where too many do not fit, and with an
 * ArtifactError where none does or the file is at fault.
 */
export const importRows = Effect.fn("importRows")(function* <Row, A>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  skipped: SkippedRows,
  write: (rows: AsyncIterable<Row>) => Effect.Effect<Written<A>>
) {
  const counts = newCounts()
  const rows = readParsed(path, parse, counts, ({ line, value }, { field, message, reason }) =>
    skipped.add({ what: "rows", reason, ...(reason.endsWith(message) ? {} : { found: message }), file: path, line, field, row: value })
  )
  const result = yield* write(rows).pipe(
    Effect.catchDefect((defect) => (defect instanceof ArtifactError ? Effect.fail(defect) : Effect.die(defect)))
  )
  yield* skipped.check("rows", counts.rows)
  if (counts.bad === counts.rows)
    return yield* ArtifactError.of({
      doing: `Reading ${path}`,
      expected: "rows that fit",
      found: `none among the first ${counts.rows}`,
      hint: "Name the right format, or fix the file."
    })
  return written(result.slot, { ...result.metrics, rowsRead: counts.rows, rowsSkipped: counts.bad })
})
