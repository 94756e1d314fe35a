/** Rows of comma- or tab-separated text (RFC 4180): the first record names the columns; quoted fields may contain separators, line feeds and doubled quotes. */
import { isUtf8 } from "node:buffer"
import { damaged } from "./bytes.ts"
import { longest, withoutMark } from "./lines.ts"
import { BadRow, type Record } from "./record.ts"

const [quote, feed, carriage] = [0x22, 10, 13]

/** Maximum fields of a record that are told apart: a record of nothing but separators would need a hundred times its size. */
const maxFields = 10_000

/** One record: the bytes of its fields, without their quotes. */
interface Raw {
  readonly line: number
  readonly fields: ReadonlyArray<{ readonly bytes: Buffer; readonly isQuoted: boolean }>
  /** Whether there is text after a closing quote. */
  readonly isTorn: boolean
}

/** Prepends the rest of each chunk to the next. The returned bytes are valid until the next chunk. */
class Joined {
  #held: Buffer = Buffer.alloc(0)
  /** Number of leftover bytes at the start of `#held`. */
  #left = 0
  /** The leftover bytes followed by the chunk. */
  add(chunk: Buffer): Buffer {
    if (this.#left === 0) return chunk
    this.#room(this.#left + chunk.length)
    chunk.copy(this.#held, this.#left)
    return this.#held.subarray(0, this.#left + chunk.length)
  }
  /** Keeps the last returned bytes from an offset on as leftover. */
  leave(given: Buffer, from: number): Buffer {
    const rest = given.subarray(from)
    const isThere = given.buffer === this.#held.buffer && given.byteOffset === this.#held.byteOffset
    if (!isThere) this.#room(rest.length)
    // Even a very long record is copied at most twice.
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
  /** The bytes of an incomplete record. */
  let rest: Buffer = Buffer.alloc(0)
  /** Where the search for the end of the record continues, whether it is inside quotes, the current line, and the line where the record begins. */
  let [at, isInside, line, start] = [0, false, 1, 1]
  /** Where the last quote closed: another right after it is a doubled quote. */
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
      if (i === -1 || fields.length > maxFields) return { line: first, fields, isTorn }
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
      // A quote inside an unquoted field is text.
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
      throw damaged(
        path,
        "records of a table",
        `a record of more than ${longest} bytes from line ${start} on`,
        "Check for an unclosed quote."
      )
  }
  if (isInside)
    throw damaged(
      path,
      "closed quotes",
      `an unclosed quote in the record on line ${start}`,
      "Close the quote. Quotes inside a field must be doubled."
    )
  if (rest.length > 0) yield [split(rest.at(-1) === carriage ? rest.subarray(0, -1) : rest, start)]
}

/** The separator of a header's fields if the file's name does not determine it: tabs or semicolons only if there is no comma. */
const separatorOf = (header: Buffer): number => {
  const text = header.toString("latin1")
  return (text.includes(",") ? "," : text.includes("\t") ? "\t" : text.includes(";") ? ";" : ",").charCodeAt(0)
}

export interface OpenTable {
  readonly columns: ReadonlyArray<string>
  readonly batches: () => AsyncGenerator<ReadonlyArray<Record>>
}

/** Opens a table and reads its header. An empty unquoted cell is null; all others are text. */
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
  if ((records[0]?.fields.length ?? 0) > maxFields)
    throw damaged(path, `at most ${maxFields} columns`, "more in the first line", "Check the separator, or remove columns.")
  const columns = (records[0]?.fields ?? []).map(({ bytes }) => bytes.toString("utf8").trim())
  const twice = columns.find((name, i) => columns.indexOf(name) !== i)
  if (twice !== undefined)
    throw damaged(path, "columns with unique names", `two columns named ${JSON.stringify(twice)}`, "Rename one in the first line.")
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
      return faulty(
        `${values.length > maxFields ? `more than ${maxFields}` : values.length} fields where the header has ${columns.length}`,
        "a different number of fields than the header"
      )
    return { line, unit: "line", value: Object.fromEntries(columns.map((name, i) => [name, values[i]])) }
  }
  async function* batches() {
    yield records.slice(1).map(rowOf)
    for await (const batch of raws) yield batch.map(rowOf)
  }
  return { columns, batches }
}
