/** Collects the rows that a stage skips: one JSON object per line in a file of its sidecar (store/sidecar.ts), with counts by reason in memory. */
import { appendFileSync, closeSync, mkdirSync, openSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { isTransient } from "../../schemas/explained-error.ts"
import { visibleJson } from "../../schemas/visible.ts"
import { percentOf, type SkippedCount, type SkippedRow, type SkippedRows, skippedText, defaultSkippedShare } from "../define/skipped.ts"
import { messageOf, StageError } from "../errors.ts"
import { skippedFile } from "../store/sidecar.ts"

/** Characters per write. */
const pieceLength = 1 << 16

export interface CollectedRows extends SkippedRows {
  /** The total counts. Writes pending rows. */
  readonly finish: Effect.Effect<ReadonlyArray<SkippedCount>, StageError>
  /** Writes pending rows, also for a failed stage, and closes the file. */
  readonly close: Effect.Effect<void>
}

/** A row's location and what was found there: `line 4 of pairs.jsonl, field chosen: missing; there are question, answer`. */
/** Without a full stop at the end. */
const described = ({ field, file, found, id, line }: SkippedRow): string => {
  const column = field === undefined || field.startsWith("(") ? "" : `, field ${field}`
  const place = `${file === undefined || line === undefined ? JSON.stringify(id ?? "(no id)") : `line ${line} of ${file}`}${column}`
  return `${place}${found === undefined ? "" : `: ${found.length > longestFound ? `${found.slice(0, longestFound)}...` : found.replace(/\.$/, "")}`}`
}
const longestFound = 200

/** A line of JSON; if JSON can't represent the row (nested too deep), the reason. */
const lineOf = (row: SkippedRow): string => {
  try {
    return `${visibleJson(row)}\n`
  } catch (cause) {
    return `${visibleJson({ ...row, row: `(can't be written as JSON: ${messageOf(cause)})` })}\n`
  }
}

/** `folder`: where the file goes; undefined: rows are only counted. `limit`: set by the node or the run, if at all. */
export const collectSkipped = (stage: string, folder: string | undefined, limit: number | undefined): CollectedRows => {
  let file: number | undefined
  let waiting = ""
  let failed: StageError | undefined
  /** Number of rows by reason, for each kind of rows that was not checked yet. */
  const open = new Map<string, { readonly first: SkippedRow; readonly reasons: Map<string, number> }>()
  const counts: Array<SkippedCount> = []
  const attempt = (body: () => void) => {
    try {
      body()
    } catch (cause) {
      failed ??= new StageError({
        reason: "SkippedRows",
        message: `Writing the rows that stage ${stage} skipped: ${messageOf(cause)}. Free some space, then run again.`,
        isRetryable: isTransient(cause)
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
      appendFileSync(file, waiting)
      waiting = ""
    })
  const add = (row: SkippedRow) => {
    let kind = open.get(row.what)
    if (kind === undefined) open.set(row.what, (kind = { first: row, reasons: new Map() }))
    kind.reasons.set(row.reason, (kind.reasons.get(row.reason) ?? 0) + 1)
    if (folder === undefined) return
    waiting += lineOf(row)
    if (waiting.length > pieceLength) flush()
  }
  const check: SkippedRows["check"] = Effect.fnUntraced(function* (what, of, most = defaultSkippedShare) {
    const kind = open.get(what)
    if (kind === undefined) return
    open.delete(what)
    const { first, reasons } = kind
    const skipped = [...reasons.values()].reduce((sum, count) => sum + count, 0)
    const count = { what, of, skipped, reasons: Object.fromEntries(reasons) }
    flush()
    counts.push(count)
    if (failed !== undefined) return yield* failed
    const share = limit ?? most
    if (skipped > share * of)
      return yield* new StageError({
        reason: "TooManySkipped",
        message: `Stage ${stage} ${skippedText(count)}. The first: ${described(first)}. At most ${percentOf(share)} may be skipped.`,
        isRetryable: false
      })
  })
  const close = () => {
    flush()
    if (file !== undefined) closeSync(file)
    file = undefined
  }
  return {
    add,
    check,
    close: Effect.sync(close),
    finish: Effect.gen(function* () {
      close()
      if (open.size > 0)
        return yield* new StageError({
          reason: "Defect",
          message: `Stage ${stage} skipped rows without giving their total: call skipped.check(what, of) after the last row.`,
          isRetryable: false
        })
      return failed === undefined ? counts : yield* failed
    })
  }
}
