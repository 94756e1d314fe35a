/** The file of a dataset: `data.arrow`, Arrow IPC with uncompressed record batches. Written and read batch by batch. */
import { type FileHandle, open } from "node:fs/promises"
import * as arrow from "apache-arrow"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { arrowSchema, columnsOf, columnsOfArrow, describeArrow, describeKind, type StructKind } from "./arrow.ts"
import { checkFooter, readMessageHeader } from "./arrow-headers.ts"
import { BatchBuilder, layoutOf, type Selection, toRows } from "./arrow-rows.ts"
import { ArtifactError, type DatasetType } from "./artifact.ts"
import { isPassing } from "./explained-error.ts"

export const fileName = "data.arrow"

/** A record batch ends at this many rows or about this many bytes: the smaller, the less memory an import takes; large enough for columns to pay. */
const batchRows = 4096
const batchBytes = 512 << 10

// ---- writing ---------------------------------------------------------------------------------------------------------------------------

/** What the disk refused: no stage's fault. */
const notWritten = (type: DatasetType<any>, path: string, cause: unknown): ArtifactError =>
  ArtifactError.of({
    doing: `Writing a ${type.name} to ${path}`,
    expected: "a folder that can be written, with room for the rows",
    found: messageOf(cause),
    hint: "Free some space (caravan gc --yes does) or set CARAVAN_HOME to another disk, then run again.",
    isRetryable: isPassing(cause)
  })

/** Writes rows to a file, those that come together together. */
class RowWriter {
  readonly #type: DatasetType<any>
  readonly #path: string
  readonly #file: FileHandle
  readonly #isChecked: (row: unknown) => boolean
  readonly #fits: (row: unknown) => boolean
  readonly #batch: BatchBuilder
  readonly #writer = new arrow.RecordBatchFileWriter()
  /** What the writer has queued. Its own toUint8Array(true) gives the bytes again and again, its streams ignore backpressure. */
  readonly #queue = (this.#writer as unknown as { readonly _sink: { readonly _values: Array<Uint8Array> } })._sink._values
  count = 0

  constructor(type: DatasetType<any>, path: string, file: FileHandle, isChecked: (row: unknown) => boolean) {
    const kind = columnsOf(type.row)
    this.#type = type
    this.#path = path
    this.#file = file
    this.#isChecked = isChecked
    this.#fits = Schema.is(type.row)
    this.#batch = new BatchBuilder(kind, arrowSchema(kind))
  }

  /** Takes a row; says whether a batch is full, which is then to be flushed. */
  add(row: unknown): boolean {
    this.count++
    if (!this.#isChecked(row) && !this.#fits(row)) throw this.#wrong(`row ${this.count}: ${misfit(this.#type, row)}`)
    this.#attempt(
      () => this.#batch.push(row),
      () => `row ${this.count}`
    )
    return this.#batch.rows === batchRows || this.#batch.bytes >= batchBytes
  }

  async flush(): Promise<void> {
    const batch = this.#attempt(
      () => this.#batch.finish(),
      () => `among the rows ${this.count - this.#batch.rows + 1} to ${this.count}`
    )
    this.#writer.write(batch)
    await this.#drain()
    // Its memory is the next batch's, once it is on the disk.
    this.#batch.clear()
  }

  async finish(): Promise<number> {
    if (this.#batch.rows > 0 || this.count === 0) await this.flush()
    this.#writer.finish()
    await this.#drain()
    return this.count
  }

  async #drain(): Promise<void> {
    const chunks = this.#queue.splice(0)
    if (chunks.length > 0)
      await writeAll(this.#file, chunks).catch((cause: unknown) => {
        throw notWritten(this.#type, this.#path, cause)
      })
  }

  #attempt<A>(body: () => A, where: () => string): A {
    try {
      return body()
    } catch (cause) {
      throw this.#wrong(`${where()}: ${messageOf(cause)}`)
    }
  }

  #wrong(found: string): ArtifactError {
    return ArtifactError.of({
      doing: `Writing a ${this.#type.name}`,
      expected: "rows of its schema",
      found,
      hint: "The stage that made them is at fault."
    })
  }
}

const writing = async (
  directory: string,
  type: DatasetType<any>,
  isChecked: (row: unknown) => boolean,
  write: (writer: RowWriter) => Promise<void>
): Promise<number> => {
  const path = `${directory}/${fileName}`
  const file = await open(path, "w").catch((cause: unknown) => {
    throw notWritten(type, path, cause)
  })
  try {
    const writer = new RowWriter(type, path, file, isChecked)
    await write(writer)
    return await writer.finish()
  } finally {
    await file.close()
  }
}

/**
 * Writes rows to a file; returns how many. Throws ArtifactError for a row that is not of the schema, and where the disk is full. Rows that `isChecked` says it of are of
 * the schema: they were read from a dataset of this type, unchanged.
 */
export const writeRows = (
  directory: string,
  type: DatasetType<any>,
  rows: Iterable<any> | AsyncIterable<any>,
  isChecked: (row: unknown) => boolean = () => false
): Promise<number> =>
  writing(directory, type, isChecked, async (writer) => {
    for await (const row of rows) if (writer.add(row)) await writer.flush()
  })

/** The same of rows that come many at a time, which takes no turn of the event loop for each. */
export const writeRowBatches = (
  directory: string,
  type: DatasetType<any>,
  batches: AsyncIterable<Iterable<any>>,
  isChecked: (row: unknown) => boolean = () => false
): Promise<number> =>
  writing(directory, type, isChecked, async (writer) => {
    for await (const rows of batches) for (const row of rows) if (writer.add(row)) await writer.flush()
  })

const writeAll = async (file: FileHandle, chunks: ReadonlyArray<Uint8Array>): Promise<void> => {
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
  const { bytesWritten } = await file.writev(chunks)
  // A short write comes before a full disk: writing on says which.
  if (bytesWritten < length) await file.writeFile(Buffer.concat(chunks).subarray(bytesWritten))
}

/** Why a row is not of the schema, in one line. */
const misfit = (type: DatasetType<any>, row: unknown): string => {
  const result = Schema.decodeUnknownResult(Schema.toType(type.row), { errors: "all" })(row)
  return result._tag === "Failure"
    ? messageOf(result.failure)
        .replaceAll(/\n\s*at /g, " at ")
        .replaceAll("\n", "; ")
    : "it has changed since it was checked"
}

const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

// ---- reading ---------------------------------------------------------------------------------------------------------------------------

export interface OpenDataset {
  readonly rowCount: number
  readonly batches: number
  /** Rows of each batch. */
  readonly sizes: ReadonlyArray<number>
  /** Bytes of all batches. */
  readonly bytes: number
  /** The rows of a batch, or a selection of them. Rejects with ArtifactError when it can't be read. */
  readonly batch: (index: number, selection?: Selection) => Promise<Array<any>>
  /** A batch as the bytes of an Arrow IPC stream of its own. */
  readonly stream: (index: number) => Promise<Uint8Array>
  readonly close: () => Promise<void>
}

/** Where a record batch is: its header and body, in the file. */
interface Block {
  readonly offset: number
  readonly length: number
  readonly rows: number
}

/**
 * Opens a dataset file and checks its frame, its schema and the headers of all its batches: every length is compared with what is left of the
 * file before anything of that length is allocated. No values are read yet.
 */
export const openRows = (directory: string, type: DatasetType<any>): Effect.Effect<OpenDataset, ArtifactError> =>
  openFile(`${directory}/${fileName}`, columnsOf(type.row))

/** As openRows, of the file of any dataset: its columns are what its own schema says. */
export const openAnyRows = (path: string): Effect.Effect<OpenDataset, ArtifactError> => openFile(path, undefined)

const openFile = (path: string, expected: StructKind | undefined): Effect.Effect<OpenDataset, ArtifactError> => {
  const wrong = (expected: string, found: string, hint = "The file is damaged or not Caravan's: make it again.") =>
    ArtifactError.of({ doing: `Reading the dataset ${path}`, expected, found, hint })
  return Effect.tryPromise({
    try: async () => {
      const handle = await open(path).catch(() => {
        throw wrong(`a file ${fileName}`, "none", "Give the folder of a dataset.")
      })
      try {
        const footer = await readFooter(handle)
        const found = describeArrow(footer.schema)
        const kind = expected ?? columnsOfArrow(footer.schema)
        if (found !== describeKind(kind))
          throw wrong(`the columns ${describeKind(kind)}`, found, "It was written by another version, or is another kind of dataset.")
        const blocks = await readHeaders(handle, kind, footer.start)
        if (blocks.length !== footer.batches) throw wrong(`the ${footer.batches} record batches of its footer`, `${blocks.length}`)
        // A batch after a schema is a stream of its own.
        const prefix = schemaMessage(kind)
        const stream = (index: number) => readAt(handle, blocks[index]!.offset, blocks[index]!.length, prefix)
        const batch = async (index: number, selection?: Selection) => {
          const { rows } = blocks[index]!
          try {
            const bytes = await stream(index)
            for (const batch of arrow.RecordBatchReader.from(bytes)) if (batch.numRows === rows) return toRows(kind, batch, selection)
            throw new RangeError(`it does not have the ${rows} rows of its header`)
          } catch (cause) {
            throw wrong("record batches that can be read", `batch ${index + 1} of ${blocks.length}: ${messageOf(cause)}`)
          }
        }
        return {
          rowCount: blocks.reduce((sum, { rows }) => sum + rows, 0),
          batches: blocks.length,
          sizes: blocks.map(({ rows }) => rows),
          bytes: blocks.reduce((sum, { length }) => sum + length, 0),
          batch,
          stream,
          close: () => handle.close()
        }
      } catch (cause) {
        await handle.close()
        throw cause
      }
    },
    catch: (cause) => (cause instanceof ArtifactError ? cause : wrong("a whole Arrow IPC file", messageOf(cause)))
  })
}

/** Bytes of the file, behind some others. */
const readAt = async (handle: FileHandle, offset: number, length: number, prefix?: Uint8Array): Promise<Buffer> => {
  const before = prefix?.length ?? 0
  const bytes = Buffer.allocUnsafeSlow(before + length)
  if (prefix !== undefined) bytes.set(prefix)
  let done = 0
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, before + done, length - done, offset + done)
    if (bytesRead === 0) throw new RangeError(`it ends at byte ${offset + done}, where ${length - done} more should follow`)
    done += bytesRead
  }
  return bytes
}

const magic = "ARROW1"

/** The file is "ARROW1", 2 bytes, messages, a footer, its length (4 bytes), "ARROW1". The schema is in the footer. */
const readFooter = async (
  handle: FileHandle
): Promise<{ readonly schema: arrow.Schema; readonly batches: number; readonly start: number }> => {
  const { size } = await handle.stat()
  const smallest = 8 + 4 + magic.length
  if (size < smallest) throw new RangeError(`a file of ${size} bytes`)
  const head = await readAt(handle, 0, 8)
  if (head.toString("latin1", 0, 6) !== magic) throw new RangeError(`${size} bytes that do not begin with ${magic}`)
  const tail = await readAt(handle, size - 10, 10)
  if (tail.toString("latin1", 4) !== magic) throw new RangeError(`${size} bytes that do not end with ${magic}: it is truncated`)
  const length = tail.readInt32LE(0)
  if (length <= 0 || length > size - smallest) throw new RangeError(`a footer that claims ${length} bytes of a file of ${size}`)
  const start = size - 10 - length
  const footer = await readAt(handle, start, length)
  const { batches } = checkFooter(footer)
  // A file of nothing but the footer: the library never gets to see the rest.
  const reader = arrow.RecordBatchReader.from(Buffer.concat([head, footer, tail]))
  return { schema: reader.open().schema, batches, start }
}

/** Walks the messages up to `end`. A message: -1, the header's length (4 bytes each), the header, the body. */
const readHeaders = async (handle: FileHandle, kind: StructKind, end: number): Promise<Array<Block>> => {
  const layout = layoutOf(kind)
  const blocks: Array<Block> = []
  let offset = 8
  while (offset + 8 <= end) {
    const start = await readAt(handle, offset, 8)
    const headerLength = start.readInt32LE(4)
    if (start.readInt32LE(0) !== -1) throw new RangeError(`no message at byte ${offset}`)
    if (headerLength === 0) break
    const room = end - offset - 8
    if (headerLength < 0 || headerLength > room)
      throw new RangeError(`a header at byte ${offset} that claims ${headerLength} of ${room} bytes`)
    const header = readMessageHeader(await readAt(handle, offset + 8, headerLength))
    const { bodyLength } = header
    if (bodyLength > room - headerLength)
      throw new RangeError(`a message at byte ${offset} whose body claims ${bodyLength} of ${room - headerLength} bytes`)
    const length = 8 + headerLength + bodyLength
    // Other writers repeat the schema before the batches; the footer's is the one that counts.
    if (header.type === "batch") {
      const sane =
        !header.compressed &&
        header.nodes.length === layout.nodes - 1 &&
        header.buffers.length === layout.buffers - 1 &&
        // A value takes a bit at least.
        [header.rows, ...header.nodes.map(([values]) => values)].every((values) => values >= 0 && values <= bodyLength * 8) &&
        header.buffers.every(([from, bytes]) => from >= 0 && bytes >= 0 && from + bytes <= bodyLength)
      if (!sane)
        throw new RangeError(
          `a record batch at byte ${offset} whose header claims more than its ${bodyLength} bytes hold, or that is compressed`
        )
      blocks.push({ offset, length, rows: header.rows })
    } else if (header.type !== "schema") throw new RangeError(`a message at byte ${offset} that is no record batch`)
    offset += length
  }
  return blocks
}

/** The schema as the message that begins a stream. */
const schemaMessage = (kind: StructKind): Uint8Array => {
  const bytes = arrow.tableToIPC(new arrow.Table(arrowSchema(kind)), "stream")
  return bytes.subarray(0, 8 + Buffer.from(bytes.buffer, bytes.byteOffset, 8).readInt32LE(4))
}

/** Checks that the directory holds a dataset of this type. */
export const validateDataset = (directory: string, type: DatasetType<any>): Effect.Effect<void, ArtifactError> =>
  Effect.flatMap(openRows(directory, type), (file) => Effect.promise(() => file.close()))
