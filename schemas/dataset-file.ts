/** The file of a dataset: `data.arrow`, Arrow IPC with uncompressed record batches. Written and read batch by batch. */
import { createHash, type Hash } from "node:crypto"
import { type FileHandle, open } from "node:fs/promises"
import * as arrow from "apache-arrow"
import * as Effect from "effect/Effect"
import { arrowSchema, columnsOf, describeArrow, describeKind, type StructKind, toBatch, toRows } from "./arrow.ts"
import { ArtifactError, type DatasetType } from "./artifact.ts"

export const fileName = "data.arrow"

/** Rows of one record batch: small enough to hold several in memory, large enough for columns to pay. */
const batchRows = 4096

const wrong = (path: string, expected: string, found: string, hint = "The file is damaged or not Caravan's: make it again.") =>
  ArtifactError.of({ doing: `Reading the dataset ${path}`, expected, found, hint })

/** Writes rows to a file; returns how many. Each is encoded by its schema on the way, so that no other row than the schema's gets out. */
export const writeRows = async (directory: string, type: DatasetType<any>, rows: Iterable<any> | AsyncIterable<any>): Promise<number> => {
  const kind = columnsOf(type.row)
  const schema = arrowSchema(kind)
  const file = await open(`${directory}/${fileName}`, "w")
  try {
    const writer = new arrow.RecordBatchFileWriter()
    // What the writer has queued. Its own toUint8Array(true) gives the bytes again and again, its streams ignore backpressure.
    const queue = (writer as unknown as { readonly _sink: { readonly _values: Array<Uint8Array> } })._sink._values
    const drain = async () => {
      const chunks = queue.splice(0)
      if (chunks.length > 0) await file.appendFile(Buffer.concat(chunks))
    }
    let pending: Array<any> = []
    let count = 0
    const flush = async () => {
      writer.write(toBatch(kind, schema, pending) as arrow.RecordBatch)
      count += pending.length
      pending = []
      await drain()
    }
    for await (const row of rows) {
      pending.push(row)
      if (pending.length === batchRows) await flush()
    }
    if (pending.length > 0 || count === 0) await flush()
    writer.finish()
    await drain()
    return count
  } finally {
    await file.close()
  }
}

export interface OpenDataset {
  readonly rowCount: number
  readonly batches: number
  readonly batch: (index: number) => Promise<Array<any>>
  readonly close: () => Promise<void>
}

/** Opens a dataset file: checks its frame (magic, footer within the file) before anything is allocated by it, and its schema. */
export const openRows = (directory: string, type: DatasetType<any>): Effect.Effect<OpenDataset, ArtifactError> => {
  const path = `${directory}/${fileName}`
  return Effect.gen(function* () {
    const handle = yield* Effect.tryPromise({ try: () => open(path), catch: () => wrong(path, `a file ${fileName}`, "none", "Give the folder of a dataset.") })
    return yield* Effect.gen(function* () {
      yield* checkFrame(handle, path)
      const kind = columnsOf(type.row)
      const reader = yield* Effect.tryPromise({
        try: async () => (await arrow.RecordBatchReader.from(handle)).open(),
        catch: (cause) => wrong(path, "an Arrow IPC file", `one that does not open (${String(cause instanceof Error ? cause.message : cause)})`)
      })
      const found = describeArrow(reader.schema)
      if (found !== describeKind(kind)) {
        return yield* wrong(path, `the columns ${describeKind(kind)}`, found, "It was written by another version, or is another kind of dataset.")
      }
      return yield* Effect.tryPromise({
        try: () => describeBatches(reader as arrow.AsyncRecordBatchFileReader, kind, handle, path),
        catch: (cause) => wrong(path, "record batches within the file", cause instanceof Error ? cause.message : String(cause))
      })
    }).pipe(Effect.onError(() => Effect.promise(() => handle.close())))
  })
}

const describeBatches = async (reader: arrow.AsyncRecordBatchFileReader, kind: StructKind, handle: FileHandle, path: string): Promise<OpenDataset> => {
  const count = reader.numRecordBatches
  const { size } = await handle.stat()
  // The reader allocates what a block's header says: check each against the file first.
  const footer = (reader as any)._impl?._footer as { getRecordBatch(i: number): { offset: number; bodyLength: number; metaDataLength: number } | null } | undefined
  for (let i = 0; i < count; i++) {
    const block = footer?.getRecordBatch(i)
    if (block === null || block === undefined || block.offset < 8 || block.metaDataLength < 0 || block.bodyLength < 0 || block.offset + block.metaDataLength + block.bodyLength > size) {
      throw new Error(`batch ${i} outside the file of ${size} bytes`)
    }
  }
  const batch = async (index: number) => {
    const read = await reader.readRecordBatch(index)
    if (read === null) throw new Error(`${path}: no record batch ${index}`)
    return toRows(kind, read)
  }
  let rowCount = 0
  for (let i = 0; i < count; i++) rowCount += (await reader.readRecordBatch(i))?.numRows ?? 0
  return { rowCount, batches: count, batch, close: () => handle.close() }
}

const magic = "ARROW1"

const checkFrame = (handle: FileHandle, path: string): Effect.Effect<void, ArtifactError> =>
  Effect.gen(function* () {
    const { size, head, tail } = yield* Effect.promise(async () => {
      const { size } = await handle.stat()
      const head = Buffer.alloc(6)
      const tail = Buffer.alloc(10)
      await handle.read(head, 0, 6, 0)
      if (size >= 10) await handle.read(tail, 0, 10, size - 10)
      return { size, head: head.toString("latin1"), tail }
    })
    if (head !== magic) return yield* wrong(path, "an Arrow IPC file (it begins with ARROW1)", `${size} bytes that begin otherwise`)
    if (size < 20 || tail.subarray(4).toString("latin1") !== magic) return yield* wrong(path, "an Arrow IPC file (it ends with ARROW1)", `${size} bytes that end otherwise: it is truncated`)
    const footer = tail.readInt32LE(0)
    if (footer <= 0 || footer > size - 18) return yield* wrong(path, `a footer within the file of ${size} bytes`, `one that claims ${footer} bytes`)
  })

/** Checks that the directory holds a dataset of this type. */
export const validateDataset = (directory: string, type: DatasetType<any>): Effect.Effect<void, ArtifactError> =>
  Effect.flatMap(openRows(directory, type), (file) => Effect.promise(() => file.close()))

/**
 * sha256 over the schema and the values, 4096 rows at a time: the same rows have the same digest however they were batched, padded or encoded.
 * Every value is preceded by its length or a tag, so that ["ab", "c"] and ["a", "bc"], or null and 0, differ.
 */
export const datasetDigest = (directory: string, type: DatasetType<any>): Effect.Effect<string, ArtifactError> =>
  Effect.gen(function* () {
    const kind = columnsOf(type.row)
    const file = yield* openRows(directory, type)
    return yield* Effect.tryPromise({
      try: async () => {
        const whole = createHash("sha256").update(`caravan dataset 1\n${type.name}\n${describeKind(kind)}\n${file.rowCount}\n`)
        let chunk = createHash("sha256")
        let inChunk = 0
        for (let i = 0; i < file.batches; i++) {
          for (const row of await file.batch(i)) {
            hashValue(chunk, kind, row)
            if (++inChunk === 4096) {
              whole.update(chunk.digest())
              chunk = createHash("sha256")
              inChunk = 0
            }
          }
        }
        if (inChunk > 0) whole.update(chunk.digest())
        return whole.digest("hex")
      },
      catch: (cause) => wrong(`${directory}/${fileName}`, "rows that can be read", cause instanceof Error ? cause.message : String(cause))
    }).pipe(Effect.ensuring(Effect.promise(() => file.close())))
  })

type AnyKind = StructKind["fields"][number]["kind"]

const scratch = Buffer.alloc(9)
const hashValue = (hash: Hash, kind: AnyKind, value: any): void => {
  if (value === null || value === undefined) {
    hash.update("n")
    return
  }
  switch (kind.tag) {
    case "utf8": {
      const bytes = Buffer.from(value as string)
      hash.update(`s${bytes.length}:`).update(bytes)
      return
    }
    case "bool":
      hash.update(value === true ? "t" : "f")
      return
    case "list": {
      const length = (value as ReadonlyArray<unknown>).length
      hash.update(`l${length}:`)
      if (kind.element.tag === "int32" || kind.element.tag === "float32" || kind.element.tag === "uint8") {
        const numbers = (kind.element.tag === "float32" ? Float32Array : Int32Array).from(value as ReadonlyArray<number>)
        hash.update(new Uint8Array(numbers.buffer))
      } else for (const element of value) hashValue(hash, kind.element, element)
      return
    }
    case "struct":
      for (const field of kind.fields) hashValue(hash, field.kind, value[field.name])
      return
    default:
      scratch.write("d", 0)
      scratch.writeDoubleLE(value as number, 1)
      hash.update(scratch)
  }
}
