/** The dataset file `data.arrow`: Arrow IPC with uncompressed record batches. Written and read batch by batch. */
import { type FileHandle, open } from "node:fs/promises"
import * as arrow from "apache-arrow"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { arrowSchema, columnsOf, columnsOfArrow, describeArrow, describeKind, type StructKind } from "./arrow.ts"
import { checkFooter, readMessageHeader } from "./arrow-headers.ts"
import { BatchBuilder, layoutOf, type Selection, toRows } from "./arrow-rows.ts"
import { ArtifactError, type DatasetType } from "./artifact.ts"
import { isTransient, messageOf } from "./explained-error.ts"
import { schemaIssues } from "./schema-issues.ts"

export const fileName = "data.arrow"

/** A record batch ends at this many rows or approximately this many bytes: small enough to limit an import's memory, large enough for columns to be efficient. */
const batchRows = 4096
const batchBytes = 512 << 10

// ---- writing ---------------------------------------------------------------------------------------------------------------------------

/** The error when the disk refuses a write: not a fault of the stage. */
const notWritten = (type: DatasetType<any>, path: string, cause: unknown): ArtifactError =>
  ArtifactError.of({
    doing: `Writing a ${type.name} to ${path}`,
    expected: "a writable folder with enough free space for the rows",
    found: messageOf(cause),
    hint: "Free some space (for example with caravan gc --yes) or set CARAVAN_HOME to a folder on another disk, then run again.",
    isRetryable: isTransient(cause)
  })

/** Writes rows to a file, batch by batch. */
class RowWriter {
  readonly #type: DatasetType<any>
  readonly #path: string
  readonly #file: FileHandle
  readonly #isChecked: (row: unknown) => boolean
  readonly #fits: (row: unknown) => boolean
  readonly #batch: BatchBuilder
  readonly #writer = new arrow.RecordBatchFileWriter()
  /** The bytes that the writer has queued. Its toUint8Array(true) returns the same bytes again on every call, and its streams ignore backpressure. */
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

  /** Adds a row. Returns whether the batch is full and must be flushed. */
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
      () => `one of the rows ${this.count - this.#batch.rows + 1} to ${this.count}`
    )
    this.#writer.write(batch)
    await this.#drain()
    // The next batch reuses this memory, now that the bytes are on disk.
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
      expected: "rows that match its schema",
      found,
      hint: "This is a bug in the stage that made the rows."
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
 * Writes rows to a file and returns their number. Throws ArtifactError for a row that does not match the schema, and when the disk is full. Rows for which
 * `isChecked` returns true are not checked again: they were read unchanged from a dataset of this type.
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

/** Like writeRows, for rows that arrive in blocks; avoids an event loop turn per row. */
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
  // A disk that fills up first causes a short write: writing the rest reports the error.
  if (bytesWritten < length) await file.writeFile(Buffer.concat(chunks).subarray(bytesWritten))
}

/** Why a row does not match the schema, in one line. */
const misfit = (type: DatasetType<any>, row: unknown): string => {
  const result = Schema.decodeUnknownResult(Schema.toType(type.row), { errors: "all" })(row)
  return result._tag === "Failure" ? schemaIssues(messageOf(result.failure)) : "it was changed after it was checked"
}

// ---- reading ---------------------------------------------------------------------------------------------------------------------------

export interface OpenDataset {
  readonly rowCount: number
  readonly batches: number
  /** Number of rows in each batch. */
  readonly sizes: ReadonlyArray<number>
  /** Total bytes of all batches. */
  readonly bytes: number
  /** The rows of a batch, or a selection of them. Rejects with ArtifactError if the batch cannot be read. */
  readonly batch: (index: number, selection?: Selection) => Promise<Array<any>>
  /** A batch as the bytes of a separate Arrow IPC stream. */
  readonly stream: (index: number) => Promise<Uint8Array>
  readonly close: () => Promise<void>
}

/** The position of a record batch (header and body) in the file. */
interface Block {
  readonly offset: number
  readonly length: number
  readonly rows: number
}

/**
 * Opens a dataset file and checks its framing, its schema and the headers of all its batches: every length is compared with the rest of the
 * file before anything of that length is allocated. Does not read values yet.
 */
export const openRows = (directory: string, type: DatasetType<any>): Effect.Effect<OpenDataset, ArtifactError> =>
  openFile(`${directory}/${fileName}`, columnsOf(type.row))

/** Like openRows, for the file of any dataset: its own schema defines the columns. */
export const openAnyRows = (path: string): Effect.Effect<OpenDataset, ArtifactError> => openFile(path, undefined)

const openFile = (path: string, expected: StructKind | undefined): Effect.Effect<OpenDataset, ArtifactError> => {
  const wrong = (expected: string, found: string, hint = "The file is damaged or was not written by Caravan: create it again.") =>
    ArtifactError.of({ doing: `Reading the dataset ${path}`, expected, found, hint })
  return Effect.tryPromise({
    try: async () => {
      const handle = await open(path).catch(() => {
        throw wrong(`a file ${fileName}`, "none", "Pass the folder of a dataset.")
      })
      try {
        const footer = await readFooter(handle)
        const found = describeArrow(footer.schema)
        const kind = expected ?? columnsOfArrow(footer.schema)
        if (found !== describeKind(kind))
          throw wrong(
            `the columns ${describeKind(kind)}`,
            found,
            "It was written by another version of Caravan, or it is another type of dataset."
          )
        const blocks = await readHeaders(handle, kind, footer.start)
        if (blocks.length !== footer.batches) throw wrong(`the ${footer.batches} record batches that its footer lists`, `${blocks.length}`)
        // A schema followed by one batch is a complete stream.
        const prefix = schemaMessage(kind)
        const stream = (index: number) => readAt(handle, blocks[index]!.offset, blocks[index]!.length, prefix)
        const batch = async (index: number, selection?: Selection) => {
          const { rows } = blocks[index]!
          try {
            const bytes = await stream(index)
            for (const batch of arrow.RecordBatchReader.from(bytes)) if (batch.numRows === rows) return toRows(kind, batch, selection)
            throw new RangeError(`it does not have the ${rows} rows that its header states`)
          } catch (cause) {
            throw wrong("readable record batches", `batch ${index + 1} of ${blocks.length}: ${messageOf(cause)}`)
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
    catch: (cause) => (cause instanceof ArtifactError ? cause : wrong("a complete Arrow IPC file", messageOf(cause)))
  })
}

/** Bytes of the file, appended to `prefix`. */
const readAt = async (handle: FileHandle, offset: number, length: number, prefix?: Uint8Array): Promise<Buffer> => {
  const before = prefix?.length ?? 0
  const bytes = Buffer.allocUnsafeSlow(before + length)
  if (prefix !== undefined) bytes.set(prefix)
  let done = 0
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, before + done, length - done, offset + done)
    if (bytesRead === 0) throw new RangeError(`it ends at byte ${offset + done}, ${length - done} bytes too early`)
    done += bytesRead
  }
  return bytes
}

const magic = "ARROW1"

/** The file's layout: "ARROW1", 2 bytes, messages, a footer, the footer's length (4 bytes), "ARROW1". The schema is in the footer. */
const readFooter = async (
  handle: FileHandle
): Promise<{ readonly schema: arrow.Schema; readonly batches: number; readonly start: number }> => {
  const { size } = await handle.stat()
  const smallest = 8 + 4 + magic.length
  if (size < smallest) throw new RangeError(`a file of only ${size} bytes`)
  const head = await readAt(handle, 0, 8)
  if (head.toString("latin1", 0, 6) !== magic) throw new RangeError(`${size} bytes that do not start with ${magic}`)
  const tail = await readAt(handle, size - 10, 10)
  if (tail.toString("latin1", 4) !== magic) throw new RangeError(`${size} bytes that do not end with ${magic}: it is truncated`)
  const length = tail.readInt32LE(0)
  if (length <= 0 || length > size - smallest) throw new RangeError(`a footer that claims ${length} bytes in a file of ${size} bytes`)
  const start = size - 10 - length
  const footer = await readAt(handle, start, length)
  const { batches } = checkFooter(footer)
  // A file that contains only the footer: the library never sees the rest.
  const reader = arrow.RecordBatchReader.from(Buffer.concat([head, footer, tail]))
  return { schema: reader.open().schema, batches, start }
}

/** Reads the message headers up to `end`. A message: -1, the header's length (4 bytes each), the header, the body. */
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
      throw new RangeError(`a header at byte ${offset} that claims ${headerLength} bytes where ${room} are left`)
    const header = readMessageHeader(await readAt(handle, offset + 8, headerLength))
    const { bodyLength } = header
    if (bodyLength > room - headerLength)
      throw new RangeError(`a message at byte ${offset} whose body claims ${bodyLength} bytes where ${room - headerLength} are left`)
    const length = 8 + headerLength + bodyLength
    // Other writers repeat the schema before the batches; only the footer's schema is used.
    if (header.type === "batch") {
      const sane =
        !header.compressed &&
        header.nodes.length === layout.nodes - 1 &&
        header.buffers.length === layout.buffers - 1 &&
        // A value takes at least one bit.
        [header.rows, ...header.nodes.map(([values]) => values)].every((values) => values >= 0 && values <= bodyLength * 8) &&
        header.buffers.every(([from, bytes]) => from >= 0 && bytes >= 0 && from + bytes <= bodyLength)
      if (!sane)
        throw new RangeError(
          `a record batch at byte ${offset} that is compressed, or whose header claims more than its ${bodyLength} bytes can hold`
        )
      blocks.push({ offset, length, rows: header.rows })
    } else if (header.type !== "schema") throw new RangeError(`a message at byte ${offset} that is not a record batch`)
    offset += length
  }
  return blocks
}

/** The schema as the first message of a stream. */
const schemaMessage = (kind: StructKind): Uint8Array => {
  const bytes = arrow.tableToIPC(new arrow.Table(arrowSchema(kind)), "stream")
  return bytes.subarray(0, 8 + Buffer.from(bytes.buffer, bytes.byteOffset, 8).readInt32LE(4))
}

/** Checks that the directory holds a dataset of this type. */
export const validateDataset = (directory: string, type: DatasetType<any>): Effect.Effect<void, ArtifactError> =>
  Effect.flatMap(openRows(directory, type), (file) => Effect.promise(() => file.close()))
