/** Collects the rows that a stage skips: one JSON object a line in a file of its sidecar (store/sidecar.ts), counts by reason in memory. */
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { visibleJson } from "../../schemas/visible.ts"
import { type SkippedCount, type SkippedRow, type SkippedRows, skippedText } from "../define/skipped.ts"
import { messageOf, StageError } from "../errors.ts"
import { skippedFile } from "../store/sidecar.ts"

/** Characters that are written at once. */
const pieceLength = 1 << 16

export interface CollectedRows extends SkippedRows {
  /** What was skipped in all; also of rows that were never checked. Writes what is left. */
  readonly finish: Effect.Effect<ReadonlyArray<SkippedCount>, StageError>
}

/** `folder`: where the file goes; undefined: nowhere, rows are only counted. `most`: the largest share that may be skipped. */
export const collectSkipped = (stage: string, folder: string | undefined, most: number): CollectedRows => {
  let file: number | undefined
  let waiting = ""
  let failed: StageError | undefined
  /** How many rows by reason, by what they are: of those that were not checked yet. */
  const open = new Map<string, Map<string, number>>()
  const counts: Array<SkippedCount> = []
  const attempt = (body: () => void) => {
    try {
      body()
    } catch (cause) {
      failed ??= new StageError({
        reason: "SkippedRows",
        message: `Writing the rows that stage ${stage} skipped: ${messageOf(cause)}. Free some space, then run again.`
      })
    }
  }
  const flush = () =>
    attempt(() => {
      if (folder === undefined || waiting === "" || failed !== undefined) return
      if (file === undefined) {
        mkdirSync(folder, { recursive: true })
        file = openSync(join(folder, skippedFile), "a", 0o600)
      }
      writeSync(file, waiting)
      waiting = ""
    })
  const add = (row: SkippedRow) => {
    const reasons = open.get(row.what) ?? new Map<string, number>()
    open.set(row.what, reasons.set(row.reason, (reasons.get(row.reason) ?? 0) + 1))
    if (folder === undefined) return
    attempt(() => (waiting += `${visibleJson(row)}\n`))
    if (waiting.length > pieceLength) flush()
  }
  const check: SkippedRows["check"] = Effect.fnUntraced(function* (what, of) {
    const reasons = open.get(what) ?? new Map<string, number>()
    open.delete(what)
    const skipped = [...reasons.values()].reduce((sum, count) => sum + count, 0)
    const count = { what, of, skipped, reasons: Object.fromEntries(reasons) }
    if (skipped === 0) return
    flush()
    counts.push(count)
    if (failed !== undefined) return yield* failed
    if (skipped > most * of)
      return yield* new StageError({
        reason: "TooManySkipped",
        message: `Stage ${stage} ${skippedText(count)}. At most ${100 * most}% may be skipped. Mend the data, or allow more with --max-skipped (a share, 0 to 1).`
      })
  })
  return {
    add,
    check,
    finish: Effect.gen(function* () {
      if (open.size > 0)
        return yield* new StageError({
          reason: "Defect",
          message: `Stage ${stage} skipped rows and did not say of how many: call skipped.check(what, of) after the last row.`
        })
      flush()
      if (file !== undefined) closeSync(file)
      file = undefined
      return failed === undefined ? counts : yield* failed
    })
  }
}
