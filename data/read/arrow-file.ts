/**
 * Rows of Arrow IPC files, in the file format or the stream format (which `datasets` writes with the extension .arrow), one record batch at a time. This module
 * walks the messages itself: it checks each length against the remaining bytes of the file before reading.
 */
import { type FileHandle, open } from "node:fs/promises"
import { zstdDecompressSync } from "node:zlib"
import * as arrow from "apache-arrow"
import { checkFooter, readMessageHeader, withoutDictionaries } from "../../schemas/arrow-headers.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { type Column, columnsOfSchema, plainBatches } from "./arrow-values.ts"

const magic = "ARROW1"
/** Maximum rows of a batch whose rows need few bytes or none: compressed columns and columns of nulls. */
const maxRows = 1 << 26
const maxNulls = 1 << 20
/** Maximum uncompressed bytes of a compressed buffer. */
const maxBuffer = 1 << 30

arrow.compressionRegistry.set(arrow.CompressionType.ZSTD, { decode: (data) => zstdDecompressSync(data, { maxOutputLength: maxBuffer }) })

export interface OpenArrow {
  readonly columns: ReadonlyArray<Column>
  readonly batches: () => AsyncGenerator<ReadonlyArray<unknown>>
  readonly close: () => Promise<void>
}

const readAt = async (handle: FileHandle, offset: number, length: number): Promise<Buffer> => {
  const bytes = Buffer.allocUnsafeSlow(length)
  for (let done = 0; done < length;) {
    const { bytesRead } = await handle.read(bytes, done, length - done, offset + done)
    if (bytesRead === 0) throw new RangeError(`the file ends at byte ${offset + done}, ${length - done} bytes too early`)
    done += bytesRead
  }
  return bytes
}

/** The range of the messages. The file format is a stream between two magic marks plus a footer, whose schema some writers do not repeat in the stream. */
const frameOf = async (handle: FileHandle): Promise<{ readonly start: number; readonly end: number; readonly footer?: Buffer }> => {
  const { size } = await handle.stat()
  const head = await readAt(handle, 0, Math.min(8, size))
  if (head.toString("latin1", 0, 6) !== magic) return { start: 0, end: size }
  if (size < 22 || (await readAt(handle, size - 6, 6)).toString("latin1") !== magic)
    throw new RangeError(`${size} bytes that do not end with ${magic}: the file is truncated`)
  const length = (await readAt(handle, size - 10, 4)).readInt32LE(0)
  if (length <= 0 || length > size - 18) throw new RangeError(`a footer that claims ${length} bytes of a file of ${size}`)
  return { start: 8, end: size - 10 - length, footer: await readAt(handle, size - 10 - length, length) }
}

/** The footer's schema as the message that begins a stream. */
const schemaOfFooter = (footer: Buffer): Buffer => {
  checkFooter(footer, true)
  const length = Buffer.alloc(4)
  length.writeInt32LE(footer.length)
  const reader = arrow.RecordBatchReader.from(
    Buffer.concat([Buffer.from(`${magic}\0\0`), withoutDictionaries(footer), length, Buffer.from(magic)])
  )
  const bytes = Buffer.from(arrow.tableToIPC(new arrow.Table(reader.open().schema), "stream"))
  return bytes.subarray(0, 8 + bytes.readInt32LE(4))
}

type Kind = "schema" | "dictionary" | "batch"

/** The complete messages: length (after a mark, since Arrow 0.15), header and body. */
async function* messagesOf(
  handle: FileHandle,
  start: number,
  end: number
): AsyncGenerator<{ readonly kind: Kind; readonly bytes: Buffer }> {
  for (let at = start; at < end;) {
    if (end - at < 8) throw new RangeError(`the file ends at byte ${end}, within a message`)
    const frame = await readAt(handle, at, 8)
    if (frame.readInt32LE(0) !== -1) throw new RangeError(`no message at byte ${at}`)
    const headerLength = frame.readInt32LE(4)
    if (headerLength === 0) return
    const room = end - at - 8
    if (headerLength < 0 || headerLength > room) throw new RangeError(`a header at byte ${at} that claims ${headerLength} of ${room} bytes`)
    const { bodyLength, buffers, compressed, nodes, rows, type } = readMessageHeader(await readAt(handle, at + 8, headerLength))
    if (type === "other") throw new RangeError(`a message at byte ${at} of an unknown kind`)
    if (bodyLength > room - headerLength)
      throw new RangeError(`a message at byte ${at} whose body claims ${bodyLength} of ${room - headerLength} bytes`)
    // An uncompressed value needs at least one bit, except in a column of nulls.
    const most = compressed ? maxRows : Math.max(bodyLength * 8, maxNulls)
    const isSane =
      [rows, ...nodes.map(([values]) => values)].every((values) => values >= 0 && values <= Math.min(most, maxRows)) &&
      buffers.every(([from, bytes]) => from >= 0 && bytes >= 0 && from + bytes <= bodyLength)
    if (!isSane) throw new RangeError(`a batch at byte ${at} whose header claims more than its ${bodyLength} bytes hold`)
    const length = 8 + headerLength + bodyLength
    yield { kind: type, bytes: await readAt(handle, at, length) }
    at += length
  }
}

const isLz4 = (cause: unknown): boolean => /codec not found/.test(String(cause))

/** Opens an Arrow file. Opening and reading reject with a plain error if the file is damaged. */
export const openArrow = async (path: string): Promise<OpenArrow> => {
  const handle = await open(path)
  try {
    const { end, footer, start } = await frameOf(handle)
    const messages = messagesOf(handle, start, end)
    let schema: Buffer
    if (footer === undefined) {
      const first = await messages.next()
      if (first.done === true || first.value.kind !== "schema") throw new RangeError("no schema at the beginning")
      schema = first.value.bytes
    } else schema = schemaOfFooter(footer)
    // A separate stream: the schema, the dictionaries so far, and one batch.
    const streamOf = (more: ReadonlyArray<Buffer>) => arrow.RecordBatchReader.from(Buffer.concat([schema, ...more]))
    const columns = columnsOfSchema(streamOf([]).open().schema)
    async function* batches() {
      const dictionaries: Array<Buffer> = []
      let count = 0
      for await (const { bytes, kind } of messages) {
        if (kind === "dictionary") dictionaries.push(bytes)
        if (kind !== "batch") continue
        count++
        try {
          for (const batch of streamOf([...dictionaries, bytes])) yield* plainBatches(batch)
        } catch (cause) {
          if (isLz4(cause))
            throw new Error(
              "record batches compressed with LZ4; write them with zstd or uncompressed (feather.write_feather(..., compression='zstd'))",
              { cause }
            )
          throw new Error(`batch ${count}: ${messageOf(cause)}`, { cause })
        }
      }
    }
    return { columns, batches, close: () => handle.close() }
  } catch (cause) {
    await handle.close()
    throw cause
  }
}
