/** Rows of a user's files: their shape is found or named, those that fit go on, the others are skipped and named by file, line and field. */
import * as Effect from "effect/Effect"
import type { Documents } from "../../data/read/lines.ts"
import { newCounts, readRecords } from "../../data/records.ts"
import { BadLabel } from "../../data/shapes/fields.ts"
import { chooseShape, lookedAt, readShaped, type Reading } from "../../data/shapes/shaped.ts"
import { type Given, type Kind, type ReaderOptions, shapes, shapesGiving } from "../../data/shapes/shapes.ts"
import type { Progress } from "../../runtime/define/stage-info.ts"
import type { SkippedRows } from "../../runtime/define/skipped.ts"
import { ArtifactError, type Written, written } from "../../schemas/artifact.ts"
import { hyper } from "../../schemas/hyper.ts"

/** The field that names a shape which gives rows of a kind. */
export const shapeHyper = (kind: Kind) =>
  hyper("auto", `the shape of the file's rows (docs/data.md); auto: as the first ${lookedAt} rows look`, ["auto", ...shapesGiving(kind)])

/** The columns of the shapes that give rows of a kind. */
export const columnsGiving = (kind: Kind): ReadonlyArray<string> => [
  ...new Set(shapes.filter((shape) => shape[kind] !== undefined).flatMap(({ columns }) => columns))
]

/** What the records of a file are called. */
export const unitOf = (path: string): Effect.Effect<"line" | "row"> =>
  Effect.promise(async () => {
    for await (const { unit } of readRecords(path)) return unit
    return "line"
  })

/** What rows of each kind are called. */
const rowsOf: Readonly<Record<Kind, string>> = { preferences: "pairs", demonstrations: "dialogues", prompts: "prompts", texts: "texts" }

/** The error of a rating or label that is none of the set. */
const badLabel = Effect.fnUntraced(function* (given: string, kind: Kind, { line, field, expected, file, found }: BadLabel) {
  const path = file ?? given
  const unit = yield* unitOf(path)
  return yield* ArtifactError.of({
    doing: `Importing the ${rowsOf[kind]} of ${path}, ${unit} ${line}, field ${field}`,
    expected,
    found,
    hint: "A row that has one is never skipped: fix it, or convert the field of every row to this scale, and run again."
  })
})

/** What is read, and how. */
export interface From<K extends Kind> {
  readonly path: string
  readonly kind: K
  readonly shape: string
  readonly map: Reading["map"]
  readonly documents?: Documents
  readonly options?: Omit<ReaderOptions, "leaveOut">
}

/** What a stage hands on of itself. */
interface Stage {
  readonly progress: (progress: Progress) => Effect.Effect<void>
  readonly skipped: SkippedRows
}

/** Of shapes in which nothing was judged. */
const nothingJudged: Omit<ReaderOptions, "leaveOut"> = { source: "", judgement: "helpfulness", thresholds: undefined, pairs: "all" }

/**
 * Streams the rows that a path gives into the output: `check` sees each, may change it, or throws BadRow. Fails with TooManySkipped where too many do not fit,
 * and with an ArtifactError where none does or the files are at fault.
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
  /** Where the first row that does not fit is, and why. */
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
      found: `none among the first ${counts.rows}; ${first}`,
      hint: "Name the right shape, or fix the file."
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
