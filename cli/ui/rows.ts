/** Rows of any dataset, a few at a time: reads only the record batches that contain them. */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { fileName, openAnyRows, type OpenDataset } from "../../schemas/dataset-file.ts"
import { messageOf } from "../../runtime/errors.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { Broken, NotFound, type ResultLine, type RowsPart } from "./api.ts"

const maxRows = 200
/** Milliseconds after which a search returns its results so far and where to continue. */
const searchTime = 1500

/** Numbers that JSON lacks, and wide integers, become strings. */
export const plainRow = (value: unknown): unknown => {
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value)
  if (typeof value === "bigint") return String(value)
  if (Array.isArray(value)) return value.map(plainRow)
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plainRow(field)]))
  return value ?? null
}

/** A row's text in lower case, for searching. */
const textsOf = (value: unknown): string =>
  typeof value === "string"
    ? value
    : typeof value === "object" && value !== null
      ? Object.values(value).map(textsOf).join("\n")
      : String(value ?? "")

/** A result's folder; fails if no run here made it or it has been deleted. */
export const placeOf = Effect.fnUntraced(function* (digest: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const artifact = yield* journal.artifact(digest)
  if (artifact === undefined) return yield* new NotFound({ message: `No run here made a result ${digest.slice(0, 12)}.` })
  if (!(yield* store.present(digest)))
    return yield* new NotFound({
      message: `The result ${digest.slice(0, 12)} is no longer in the store: gc has deleted it. A run that needs it recomputes it.`
    })
  return { artifact, path: store.path(digest) }
})

/** Opens the dataset with this digest within the current scope. */
export const openDataset = Effect.fnUntraced(function* (digest: string) {
  const { artifact, path } = yield* placeOf(digest)
  if (!artifact.type.startsWith("dataset:"))
    return yield* new NotFound({ message: `The result ${digest.slice(0, 12)} is a ${artifact.type}, and has no rows.` })
  const file = yield* Effect.acquireRelease(
    openAnyRows(join(path, fileName)).pipe(Effect.mapError((error) => new Broken({ message: messageOf(error) }))),
    (opened) => Effect.promise(() => opened.close())
  )
  return { file, type: artifact.type.slice("dataset:".length) }
})

export const readBatch = (file: OpenDataset, index: number, rows?: Uint32Array): Effect.Effect<Array<Record<string, unknown>>, Broken> =>
  Effect.tryPromise({
    try: () => file.batch(index, rows === undefined ? {} : { rows }) as Promise<Array<Record<string, unknown>>>,
    catch: (cause) => new Broken({ message: messageOf(cause) })
  })

/** The record batches of a file from a row on, each with the index of its first row. */
export const batchesFrom = (
  file: OpenDataset,
  from: number
): ReadonlyArray<{ readonly batch: number; readonly first: number; readonly size: number }> => {
  let first = 0
  return file.sizes.flatMap((size, batch) => {
    const begin = first
    first += size
    return begin + size <= from ? [] : [{ batch, first: begin, size }]
  })
}

export const rowsPart = (digest: string, from: number, wanted: number, search: string) =>
  Effect.gen(function* () {
    const { file, type } = yield* openDataset(digest)
    const limit = Math.min(wanted, maxRows)
    const text = search.toLowerCase()
    const rows: Array<{ readonly index: number; readonly row: Record<string, unknown> }> = []
    const began = performance.now()
    let next: number | null = null
    for (const { batch, first, size } of batchesFrom(file, from)) {
      const begin = Math.max(first, from)
      const end = text === "" ? Math.min(first + size, begin + limit - rows.length) : first + size
      const read = yield* readBatch(
        file,
        batch,
        Uint32Array.from({ length: end - begin }, (_, i) => begin - first + i)
      )
      let at = begin
      for (const row of read) {
        if (rows.length === limit) break
        if (text === "" || textsOf(row).toLowerCase().includes(text))
          rows.push({ index: at, row: plainRow(row) as Record<string, unknown> })
        at++
      }
      const isOver = rows.length === limit || performance.now() - began > searchTime
      if (isOver) {
        next = at < file.rowCount ? at : null
        break
      }
    }
    const node = (yield* (yield* Journal).executionsWith(digest, "any")).at(-1)?.node
    return { type, name: node ?? digest.slice(0, 12), total: file.rowCount, rows, next } satisfies RowsPart
  }).pipe(Effect.scoped)

/** The results that a run has made or reused. */
export const resultLines = Effect.fnUntraced(function* (run: string) {
  const [journal, store] = [yield* Journal, yield* Store]
  const lines = yield* journal.read((tables) => {
    const last = new Map(tables.outcomesOf(run).map((outcome) => [outcome.node, outcome]))
    return [...last.values()].flatMap(({ digest, node, stage }) =>
      digest === null ? [] : [{ node, stage, digest, type: tables.artifact(digest)?.type ?? "unknown" }]
    )
  })
  const presences = yield* store.presences(lines.map(({ digest }) => digest))
  return lines.map((line, i): ResultLine => ({ ...line, isThere: presences[i] !== "missing" }))
})
