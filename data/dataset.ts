/** Reads and writes datasets and reports in stages. */
import { deserialize, serialize } from "node:v8"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  type ArtifactError,
  type ArtifactRef,
  type Dataset,
  type DatasetType,
  type OutputSlot,
  type Report,
  type ReportType,
  type Written,
  written
} from "../schemas/artifact.ts"
import type { Kind } from "../schemas/arrow.ts"
import type { Selection } from "../schemas/arrow-rows.ts"
import type { OpenDataset } from "../schemas/dataset-file.ts"
import { readContent, writeContent } from "../schemas/report.ts"

// The Arrow library is loaded when rows are read or written, not when a pipeline is defined.
const files = Effect.promise(() => import("../schemas/dataset-file.ts"))
const openRows = (path: string, type: DatasetType<any>): Effect.Effect<OpenDataset, ArtifactError> =>
  Effect.flatMap(files, (file) => file.openRows(path, type))

export interface WriteOptions {
  /** Whether a row was read unchanged from a dataset of this type, so that it need not be checked again. */
  readonly isChecked?: (row: unknown) => boolean
  /** Numbers for the trace; `rows` is added. */
  readonly metrics?: Readonly<Record<string, number>>
}

const batchOf = <Row>(file: OpenDataset, index: number, selection: Selection = {}): Effect.Effect<Array<Row>, ArtifactError> =>
  Effect.tryPromise({ try: () => file.batch(index, selection), catch: (cause) => cause as ArtifactError })

/**
 * Writes rows as the stage's output, batch by batch: the rows may come from a generator and need not fit in memory. A row that does not match the schema
 * is a bug in the stage and dies with a defect (ArtifactError), as does an exception from the generator.
 */
export const writeDataset = Effect.fn("writeDataset")(function* <Row>(
  slot: OutputSlot<Dataset<Row>>,
  rows: Iterable<Row> | AsyncIterable<Row>,
  options: WriteOptions = {}
): Effect.fn.Return<Written<Dataset<Row>>> {
  const { writeRows } = yield* files
  const count = yield* Effect.promise(() => writeRows(slot.path, slot.type as DatasetType<Row>, rows, options.isChecked))
  return written(slot, { rows: count, ...options.metrics })
})

/** Like writeDataset, for rows that come in batches, which is faster. */
export const writeDatasetBatches = Effect.fn("writeDatasetBatches")(function* <Row>(
  slot: OutputSlot<Dataset<Row>>,
  batches: AsyncIterable<Iterable<Row>>,
  options: WriteOptions = {}
): Effect.fn.Return<Written<Dataset<Row>>> {
  const { writeRowBatches } = yield* files
  const count = yield* Effect.promise(() => writeRowBatches(slot.path, slot.type as DatasetType<Row>, batches, options.isChecked))
  return written(slot, { rows: count, ...options.metrics })
})

/** All rows of a dataset, in memory. */
export const readRows = Effect.fn("readRows")(function* <Row>(
  ref: ArtifactRef<Dataset<Row>>,
  type: DatasetType<Row>
): Effect.fn.Return<Array<Row>, ArtifactError> {
  const file = yield* openRows(ref.path, type)
  return yield* Effect.gen(function* () {
    const rows: Array<Row> = []
    for (let i = 0; i < file.batches; i++) for (const row of yield* batchOf<Row>(file, i)) rows.push(row)
    return rows
  }).pipe(Effect.ensuring(Effect.promise(() => file.close())))
})

/** Streams the rows of a dataset, one record batch at a time; only the named fields if any are named. */
export const streamRows = <Row, Field extends keyof Row & string = keyof Row & string>(
  ref: ArtifactRef<Dataset<Row>>,
  type: DatasetType<Row>,
  fields?: ReadonlyArray<Field>
): Stream.Stream<Pick<Row, Field>, ArtifactError> =>
  Stream.unwrap(
    Effect.map(
      Effect.acquireRelease(openRows(ref.path, type), (file) => Effect.promise(() => file.close())),
      (file) =>
        Stream.fromIterable(Array.from({ length: file.batches }, (_, i) => i)).pipe(
          Stream.mapEffect((i) => batchOf<Pick<Row, Field>>(file, i, fields === undefined ? {} : { fields })),
          Stream.flatMap((rows) => Stream.fromIterable(rows))
        )
    )
  )

/** An open dataset, closed with its scope. */
const scopedRows = (ref: ArtifactRef<Dataset<any>>, type: DatasetType<any>): Effect.Effect<OpenDataset, ArtifactError, Scope.Scope> =>
  Effect.acquireRelease(openRows(ref.path, type), (file) => Effect.promise(() => file.close()))

/** Writes rows that are read lazily. A batch that can't be read is a failure; any other exception is a defect. */
const writeRead = <Row>(
  slot: OutputSlot<Dataset<Row>>,
  batches: (read: (file: OpenDataset, batch: number, selection?: Selection) => Promise<Array<any>>) => AsyncIterable<Iterable<Row>>,
  options: WriteOptions = {}
): Effect.Effect<Written<Dataset<Row>>, ArtifactError> =>
  Effect.suspend(() => {
    let damage: ArtifactError | undefined
    const read = (file: OpenDataset, batch: number, selection?: Selection) =>
      file.batch(batch, selection).catch((cause: ArtifactError) => {
        damage = cause
        throw cause
      })
    return writeDatasetBatches(slot, batches(read), options).pipe(
      Effect.catchDefect((defect) => (damage === undefined ? Effect.die(defect) : Effect.fail(damage)))
    )
  })

/** The number of rows of a dataset. */
export const countRows = Effect.fn("countRows")(function* (
  ref: ArtifactRef<Dataset<any>>,
  type: DatasetType<any>
): Effect.fn.Return<number, ArtifactError, Scope.Scope> {
  return (yield* scopedRows(ref, type)).rowCount
}, Effect.scoped)

/**
 * Transforms the rows of a dataset and writes them as the stage's output, one record batch at a time: `derive` returns the rows that replace a row, and
 * `metrics` is called after all rows are written. An exception from `derive` is a defect.
 */
export const deriveDataset = Effect.fn("deriveDataset")(function* <Row, Derived>(
  from: { readonly ref: ArtifactRef<Dataset<Row>>; readonly type: DatasetType<Row> },
  slot: OutputSlot<Dataset<Derived>>,
  derive: (row: Row) => Iterable<Derived>,
  metrics: () => Readonly<Record<string, number>> = () => ({})
): Effect.fn.Return<Written<Dataset<Derived>>, ArtifactError, Scope.Scope> {
  const file = yield* scopedRows(from.ref, from.type)
  let current: unknown
  function* derived(rows: ReadonlyArray<Row>): Generator<Derived> {
    for (const row of rows) {
      current = row
      yield* derive(row)
    }
  }
  const result = yield* writeRead(
    slot,
    async function* (read) {
      for (let i = 0; i < file.batches; i++) yield derived((await read(file, i)) as Array<Row>)
    },
    // An unchanged row.
    from.type.name === slot.type.name ? { isChecked: (row) => row === current } : {}
  )
  return written(result.slot, { ...result.metrics, ...metrics() })
}, Effect.scoped)

/** Maximum bytes of rows held in memory while they are reordered. */
const heldBytes = 160 << 20

/** Bytes per piece of the held rows. */
const pieceBytes = 8 << 20

/** Whether rows may have numbers that JSON can't represent: NaN and the infinities. */
const hasFloats = (kind: Kind): boolean =>
  kind.tag === "list"
    ? hasFloats(kind.element)
    : kind.tag === "struct"
      ? kind.fields.some((field) => hasFloats(field.kind))
      : kind.tag.startsWith("float")

/** Rows held as bytes until they are written: long-lived objects would burden the garbage collector. */
class HeldRows {
  readonly #asJson: boolean
  readonly #pieces: Array<Buffer> = []
  #piece = 0
  #end = 0
  /** For each position: its piece, the offset in it, and the length. */
  readonly #at: Uint32Array
  constructor(places: number, kind: Kind) {
    this.#at = new Uint32Array(3 * places)
    this.#asJson = !hasFloats(kind)
  }
  put(place: number, row: unknown): void {
    // A character of JSON needs at most three bytes.
    const value = this.#asJson ? JSON.stringify(row) : serialize(row)
    const piece = this.#pieceFor(typeof value === "string" ? 3 * value.length : value.length)
    const length = typeof value === "string" ? piece.write(value, this.#end) : value.copy(piece, this.#end)
    this.#at[3 * place] = this.#piece
    this.#at[3 * place + 1] = this.#end
    this.#at[3 * place + 2] = length
    this.#end += length
  }
  /** A piece with room for at least `most` bytes. */
  #pieceFor(most: number): Buffer {
    const piece = this.#pieces[this.#piece]
    if (piece !== undefined && this.#end + most <= piece.length) return piece
    if (piece !== undefined) this.#piece++
    this.#end = 0
    const next = this.#pieces[this.#piece]
    return next !== undefined && most <= next.length
      ? next
      : (this.#pieces[this.#piece] = Buffer.allocUnsafeSlow(Math.max(pieceBytes, most)))
  }
  /** The rows of the first `places` positions, in order. */
  *first(places: number): Generator {
    for (let place = 0; place < places; place++) yield this.#get(place)
  }
  #get(place: number): unknown {
    const start = this.#at[3 * place + 1]!
    const bytes = this.#pieces[this.#at[3 * place]!]!.subarray(start, start + this.#at[3 * place + 2]!)
    return this.#asJson ? (JSON.parse(bytes.toString("utf8")) as unknown) : deserialize(bytes)
  }
  clear(): void {
    this.#piece = 0
    this.#end = 0
  }
}

/**
 * Writes rows of several datasets in a new order as the stage's output: `order` has the index of each row to write, counted through the concatenated datasets.
 * An index may occur several times. At most `held` rows are in memory (by default 160 MiB of them), and the datasets are read as many times as that
 * requires; only rows that are needed are decoded.
 */
export const writeReordered = Effect.fn("writeReordered")(function* <Row>(
  from: { readonly refs: ReadonlyArray<ArtifactRef<Dataset<Row>>>; readonly type: DatasetType<Row> },
  slot: OutputSlot<Dataset<Row>>,
  order: ArrayLike<number>,
  { held: most, metrics = {} }: WriteOptions & { readonly held?: number } = {}
): Effect.fn.Return<Written<Dataset<Row>>, ArtifactError, Scope.Scope> {
  const files = yield* Effect.forEach(from.refs, (ref) => scopedRows(ref, from.type))
  const [bytes, rows] = [files.reduce((sum, file) => sum + file.bytes, 0), files.reduce((sum, file) => sum + file.rowCount, 0)]
  const held = Math.min(order.length, most ?? Math.max(1000, Math.floor(heldBytes / Math.max(1, bytes / Math.max(1, rows)))))
  const { columnsOf } = yield* Effect.promise(() => import("../schemas/arrow.ts"))
  const waiting = new HeldRows(held, columnsOf(from.type.row))
  const result = yield* writeRead(
    slot,
    async function* (read) {
      for (let start = 0; start < order.length; start += held) {
        const count = Math.min(held, order.length - start)
        // Positions of this part of the order, sorted by source row.
        const places = Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => order[start + a]! - order[start + b]!)
        let [first, next] = [0, 0]
        for (const file of files)
          for (let i = 0; i < file.batches; i++) {
            const end = first + file.sizes[i]!
            const begin = next
            while (next < count && order[start + places[next]!]! < end) next++
            if (next > begin) {
              const wanted = Uint32Array.from({ length: next - begin }, (_, at) => order[start + places[begin + at]!]! - first)
              const batch = await read(file, i, { rows: wanted })
              for (let at = begin; at < next; at++) waiting.put(places[at]!, batch[at - begin])
            }
            first = end
          }
        yield waiting.first(count) as Iterable<Row>
        waiting.clear()
      }
    },
    // All rows were read from datasets of this type.
    { isChecked: () => from.type.name === slot.type.name }
  )
  return written(result.slot, { ...result.metrics, ...metrics })
}, Effect.scoped)

/** Writes a report as the stage's output. */
export const writeReport = Effect.fn("writeReport")(function* <Content>(
  slot: OutputSlot<Report<Content>>,
  content: Content
): Effect.fn.Return<Written<Report<Content>>, ArtifactError> {
  yield* writeContent(slot.path, slot.type as ReportType<Content>, content)
  return written(slot)
})

export const readReport = <Content>(ref: ArtifactRef<Report<Content>>, type: ReportType<Content>): Effect.Effect<Content, ArtifactError> =>
  readContent(ref.path, type)
