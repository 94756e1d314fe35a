/** Imports rows from the user's files: detects or uses a given shape, passes on the rows that fit, and skips the others, reporting file, line and field. */
import * as Effect from "effect/Effect"
import type { Documents } from "../../data/read/lines.ts"
import { newCounts, readRecords } from "../../data/records.ts"
import { BadLabel } from "../../data/shapes/fields.ts"
import { chooseShape, sampledRows, readShaped, type Reading } from "../../data/shapes/shaped.ts"
import { type Given, type Kind, type ReaderOptions, shapes, shapesGiving } from "../../data/shapes/shapes.ts"
import type { Progress } from "../../runtime/define/stage-info.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import { ArtifactError, type Written, written } from "../../schemas/artifact.ts"
import { hyper } from "../../schemas/hyper.ts"

/** The config field with the shape of files that give rows of a kind. */
export const shapeHyper = (kind: Kind) =>
  hyper("auto", `shape of the file's rows (docs/data.md); auto: detected from the first ${sampledRows} rows`, [
    "auto",
    ...shapesGiving(kind)
  ])

/** The columns of the shapes that give rows of a kind. */
export const columnsGiving = (kind: Kind): ReadonlyArray<string> => [
  ...new Set(shapes.filter((shape) => shape[kind] !== undefined).flatMap(({ columns }) => columns))
]

/** The noun for a record of a file. */
export const unitOf = (path: string): Effect.Effect<"line" | "row"> =>
  Effect.promise(async () => {
    for await (const { unit } of readRecords(path)) return unit
    return "line"
  })

/** The plural noun for rows of each kind. */
const rowsOf: Readonly<Record<Kind, string>> = { preferences: "pairs", demonstrations: "dialogues", prompts: "prompts", texts: "texts" }

/** The error for a rating or label outside the allowed set. */
const badLabel = Effect.fnUntraced(function* (given: string, kind: Kind, { line, field, expected, file, found }: BadLabel) {
  const path = file ?? given
  const unit = yield* unitOf(path)
  return yield* ArtifactError.of({
    doing: `Importing the ${rowsOf[kind]} of ${path}, ${unit} ${line}, field ${field}`,
    expected,
    found,
    hint: "Rows with an invalid value are never skipped: fix the value, or convert the field of every row to this scale, and run again."
  })
})

/** What to read, and how. */
export interface From<K extends Kind> {
  readonly path: string
  readonly kind: K
  readonly shape: string
  readonly map: Reading["map"]
  readonly documents?: Documents
  readonly options?: Omit<ReaderOptions, "leaveOut">
}

/** The parts of the running stage that the import needs. */
interface Stage {
  readonly progress: (progress: Progress) => Effect.Effect<void>
  readonly skipped: SkippedRows
}

/** The options for shapes without judgements. */
const nothingJudged: Omit<ReaderOptions, "leaveOut"> = { source: "", judgement: "helpfulness", thresholds: undefined, pairs: "all" }

/**
 * Streams the rows of a path into the output: `check` receives each row and may change it or throw BadRow. Fails with TooManySkipped if too many rows are invalid,
 * and with ArtifactError if all are or a file is invalid.
 */
export const importRows = Effect.fn("importRows")(function* <K extends Kind, Row, A>(
  { documents = "line", kind, map, options = nothingJudged, path, shape: wanted }: From<K>,
  check: (row: Given[K], line: number) => Row,
  { progress, skipped }: Stage,
  write: (batches: AsyncIterable<ReadonlyArray<Row>>) => Effect.Effect<Written<A>>
) {
  const reading: Reading = { shape: wanted, map, documents }
  const shape = yield* Effect.tryPromise({ try: () => chooseShape(path, reading, kind), catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (cause instanceof ArtifactError ? Effect.fail(cause) : Effect.die(cause)))
  )
  if (wanted === "auto") yield* progress({ note: `The rows have the shape ${shape.name}: ${shape.form}.` })
  const counts = newCounts()
  const leftOut = new Map<string, number>()
  /** Location of the first invalid row, and the reason. */
  let first: string | undefined
  const named = { ...options, source: options.source === "" ? shape.name : options.source }
  const batches = readShaped(path, shape, kind, reading, named, check, counts, {
    leaveOut: (reason) => leftOut.set(reason, (leftOut.get(reason) ?? 0) + 1),
    skip: ({ line, unit, value }, { field, message, reason }, file) => {
      first ??= `${unit} ${line}${field.startsWith("(") ? "" : `, field ${field}`}: ${message}`
      skipped.add({
        what: "rows",
        reason,
        ...(reason.endsWith(message) ? {} : { found: message }),
        file: file.path,
        line,
        field,
        row: value
      })
    }
  })
  const result = yield* write(batches).pipe(
    Effect.catchDefect((defect) =>
      defect instanceof BadLabel ? badLabel(path, kind, defect) : defect instanceof ArtifactError ? Effect.fail(defect) : Effect.die(defect)
    )
  )
  yield* skipped.check("rows", counts.rows)
  if (counts.bad === counts.rows)
    return yield* ArtifactError.of({
      doing: `Reading ${path}`,
      expected: `rows of the shape ${shape.name} (${shape.form})`,
      found: `none in the first ${counts.rows} rows; ${first}`,
      hint: "Set the correct shape, or fix the file."
    })
  for (const [reason, count] of leftOut) yield* progress({ note: `Left out: ${count} ${reason}.` })
  const leftOutOf = [...leftOut.values()].reduce((sum, count) => sum + count, 0)
  return written(result.slot, {
    ...result.metrics,
    rowsRead: counts.rows,
    rowsSkipped: counts.bad,
    ...(leftOutOf === 0 ? {} : { leftOut: leftOutOf })
  })
})
