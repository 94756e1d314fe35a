/** Rows of comma- or tab-separated text (RFC 4180): the first record names the columns; quoted fields may hold separators, line feeds and doubled quotes. */
import { isUtf8 } from "node:buffer"
import { damaged } from "./bytes.ts"
import { longest, withoutMark } from "./lines.ts"
import { BadRow, type Record } from "./record.ts"

const [quote, feed, carriage] = [0x22, 10, 13]

/** The fields of one record: their bytes, a quoted one without its quotes. */
interface Raw {
  readonly line: number
  readonly fields: ReadonlyArray<{ readonly bytes: Buffer; readonly isQuoted: boolean }>
  /** Text after a closing quote. */
  readonly isTorn: boolean
}

/** Bytes that come in chunks, those that are left of one before the next. What it gave is good until the next chunk. */
class Joined {
  #held: Buffer = Buffer.alloc(0)
  /** How many bytes are left, from the beginning of what is held. */
  #left = 0
  /** What is left, and the chunk behind it. */
  add(chunk: Buffer): Buffer {
    if (this.#left === 0) return chunk
    this.#room(this.#left + chunk.length)
    chunk.copy(this.#held, this.#left)
    return this.#held.subarray(0, this.#left + chunk.length)
  }
  /** Leaves what was given last from a place on. */
  leave(given: Buffer, from: number): Buffer {
    const rest = given.subarray(from)
    const isThere = given.buffer === this.#held.buffer && given.byteOffset === this.#held.byteOffset
    if (!isThere) this.#room(rest.length)
    // A record that does not end for long is copied no more than twice.
    if (!isThere || from > 0) rest.copy(this.#held)
    this.#left = rest.length
    return this.#held.subarray(0, rest.length)
  }
  #room(bytes: number): void {
    if (bytes <= this.#held.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.#held.length, bytes))
    this.#held.copy(larger, 0, 0, this.#left)
    this.#held = larger
  }
}

/** The records, split into fields. */
async function* rawRecords(path: string, chunks: AsyncIterable<Buffer>, separator: number): AsyncGenerator<ReadonlyArray<Raw>> {
  const joined = new Joined()
  /** Of a record that is not yet whole. */
  let rest: Buffer = Buffer.alloc(0)
  /** Where the search for the end of the record goes on, whether within quotes, and on which line the record begins. */
  let [at, isInside, line, start] = [0, false, 1, 1]
  /** Where a quote closed last: one right behind it is doubled. */
  let closed = -2
  const split = (record: Buffer, first: number): Raw => {
    const fields: Array<Raw["fields"][number]> = []
    let [i, isTorn] = [0, false]
    for (;;) {
      if (record[i] === quote) {
        const parts: Array<Buffer> = []
        let from = i + 1
        let end = record.indexOf(quote, from)
        while (end !== -1 && record[end + 1] === quote) {
          parts.push(record.subarray(from, end + 1))
          from = end + 2
          end = record.indexOf(quote, from)
        }
        if (end === -1) end = record.length
        parts.push(record.subarray(from, end))
        fields.push({ bytes: parts.length === 1 ? parts[0]! : Buffer.concat(parts), isQuoted: true })
        i = record.indexOf(separator, end)
        if ((i === -1 ? record.length : i) > end + 1) isTorn = true
      } else {
        const end = record.indexOf(separator, i)
        fields.push({ bytes: record.subarray(i, end === -1 ? record.length : end), isQuoted: false })
        i = end
      }
      if (i === -1) return { line: first, fields, isTorn }
      i++
    }
  }
  for await (const chunk of chunks) {
    const bytes = joined.add(chunk)
    const records: Array<Raw> = []
    let from = 0
    for (; at < bytes.length; at++) {
      const byte = bytes[at]!
      if (byte === feed) line++
      // A quote within an unquoted field is text.
      if (byte === quote && (isInside || at === from || bytes[at - 1] === separator || at - 1 === closed)) {
        if (isInside) closed = at
        isInside = !isInside
      }
      if (byte !== feed || isInside) continue
      const end = at > from && bytes[at - 1] === carriage ? at - 1 : at
      if (end > from) records.push(split(bytes.subarray(from, end), start))
      ;[from, start] = [at + 1, line]
    }
    if (records.length > 0) yield records
    rest = joined.leave(bytes, from)
    at = rest.length
    closed -= from
    if (rest.length > longest)
      throw damaged(path, "records of a table", `one of more than ${longest} bytes, from line ${start} on`, "Is a quote not closed?")
  }
  if (isInside)
    throw damaged(
      path,
      "quoted fields that end",
      `one that does not, in the record of line ${start}`,
      "Close the quote; one within a field is doubled."
    )
  if (rest.length > 0) yield [split(rest.at(-1) === carriage ? rest.subarray(0, -1) : rest, start)]
}

/** How the fields of a header are parted, where the file's name does not say: by tabs or semicolons only if there is no comma. */
const separatorOf = (header: Buffer): number => {
  const text = header.toString("latin1")
  return (text.includes(",") ? "," : text.includes("\t") ? "\t" : text.includes(";") ? ";" : ",").charCodeAt(0)
}

export interface OpenTable {
  readonly columns: ReadonlyArray<string>
  readonly batches: () => AsyncGenerator<ReadonlyArray<Record>>
}

/** Opens a table: reads its header. A cell that is empty and not quoted is null, every other one text. */
export const openTable = async (path: string, chunks: AsyncIterable<Buffer>, isTabbed: boolean): Promise<OpenTable> => {
  const source = chunks[Symbol.asyncIterator]()
  const first = await source.next()
  const head = withoutMark(first.done === true ? Buffer.alloc(0) : first.value)
  const end = head.indexOf(feed)
  const separator = isTabbed ? 9 : separatorOf(end === -1 ? head : head.subarray(0, end))
  async function* all() {
    yield head
    for (let next = await source.next(); next.done !== true; next = await source.next()) yield next.value
  }
  const raws = rawRecords(path, all(), separator)
  const begun = await raws.next()
  const records = begun.done === true ? [] : begun.value
  const columns = (records[0]?.fields ?? []).map(({ bytes }) => bytes.toString("utf8").trim())
  const twice = columns.find((name, i) => columns.indexOf(name) !== i)
  if (twice !== undefined)
    throw damaged(path, "columns with a name each", `two named ${JSON.stringify(twice)}`, "Rename one in the first line.")
  const rowOf = ({ fields, isTorn, line }: Raw): Record => {
    const values = fields.map(({ bytes, isQuoted }) => (bytes.length === 0 && !isQuoted ? null : bytes.toString("utf8")))
    const faulty = (why: string, reason = why): Record => ({
      line,
      unit: "line",
      value: values,
      fault: new BadRow("(the line)", why, reason)
    })
    if (!fields.every(({ bytes }) => isUtf8(bytes))) return faulty("not UTF-8")
    if (isTorn) return faulty("text after a closing quote")
    if (values.length !== columns.length)
      return faulty(`${values.length} fields where the header has ${columns.length}`, "not as many fields as the header")
    return { line, unit: "line", value: Object.fromEntries(columns.map((name, i) => [name, values[i]])) }
  }
  async function* batches() {
    yield records.slice(1).map(rowOf)
    for await (const batch of raws) yield batch.map(rowOf)
  }
  return { columns, batches }
}
