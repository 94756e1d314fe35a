/** Reads lines of text, and rows of JSONL and plain text. */
import { isUtf8 } from "node:buffer"
import { messageOf } from "../../schemas/explained-error.ts"
import { BadRow, type Record } from "./record.ts"
import { damaged } from "./bytes.ts"

/** Maximum bytes of a line, element or record. */
export const longest = 64 << 20

export interface Line {
  readonly line: number
  readonly bytes: Buffer
}

/** Undecoded lines, in batches: those that end in the same chunk. Only LF ends a line. */
export async function* linesOf(path: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<ReadonlyArray<Line>> {
  let rest: Array<Buffer> = []
  let held = 0
  let line = 0
  for await (const chunk of chunks) {
    const batch: Array<Line> = []
    let from = 0
    for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, from)) {
      const part = chunk.subarray(from, at)
      batch.push({ line: ++line, bytes: rest.length === 0 ? part : Buffer.concat([...rest, part]) })
      if (rest.length > 0) [rest, held] = [[], 0]
      from = at + 1
    }
    if (from < chunk.length) {
      rest.push(chunk.subarray(from))
      held += chunk.length - from
    }
    if (batch.length > 0) yield batch
    if (held > longest)
      throw damaged(
        path,
        `lines of text of at most ${longest} bytes`,
        `a longer one, line ${line + 1}`,
        "Remove or split that row. A file without line feeds does not consist of lines."
      )
  }
  if (held > 0) yield [{ line: line + 1, bytes: Buffer.concat(rest) }]
}

/** Removes a byte order mark. */
export const withoutMark = (bytes: Buffer): Buffer =>
  bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes

const blank = /^\s*$/

/** Parses bytes as JSON. Returns a record with their text and a fault if they are invalid; undefined if they are blank. */
export const parseJson = (line: number, raw: Buffer): Record | undefined => {
  const bytes = withoutMark(raw)
  if (!isUtf8(bytes)) return { line, unit: "line", value: bytes.toString("utf8"), fault: new BadRow("(the line)", "not UTF-8") }
  const text = bytes.toString("utf8")
  try {
    return { line, unit: "line", value: JSON.parse(text) as unknown }
  } catch (cause) {
    if (blank.test(text)) return undefined
    const why = `not JSON: ${messageOf(cause)}`
    return { line, unit: "line", value: text, fault: new BadRow("(the line)", why, "not JSON") }
  }
}

/** Rows of JSONL. Empty lines are skipped. */
export async function* jsonLines(path: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<ReadonlyArray<Record>> {
  for await (const lines of linesOf(path, chunks)) {
    const records: Array<Record> = []
    for (const { bytes, line } of lines) {
      const record = parseJson(line, bytes)
      if (record !== undefined) records.push(record)
    }
    yield records
  }
}

/** The unit of text in a plain file. */
export type Documents = "line" | "paragraph" | "file"

/** Texts of a plain file as rows {text}: its lines, its paragraphs (separated by blank lines), or the complete file. */
export async function* plainTexts(
  path: string,
  chunks: AsyncIterable<Buffer>,
  documents: Documents
): AsyncGenerator<ReadonlyArray<Record>> {
  let [held, size, start]: [Array<string>, number, number] = [[], 0, 1]
  let fault: BadRow | undefined
  const take = (): Array<Record> => {
    const text = held.join("\n")
    const record = blank.test(text)
      ? []
      : [{ line: start, unit: "line" as const, value: { text }, ...(fault === undefined ? {} : { fault }) }]
    ;[held, size, fault] = [[], 0, undefined]
    return record
  }
  for await (const lines of linesOf(path, chunks)) {
    const records: Array<Record> = []
    for (const { bytes: raw, line } of lines) {
      const bytes = line === 1 ? withoutMark(raw) : raw
      const text = bytes.toString("utf8").replace(/\r$/, "")
      const isBlank = blank.test(text)
      if (documents === "paragraph" && isBlank) records.push(...take())
      if (held.length === 0) start = line
      if (documents !== "paragraph" || !isBlank) {
        held.push(text)
        // Empty lines need memory too.
        size += bytes.length + 1
        if (!isUtf8(bytes)) fault ??= new BadRow("(the line)", "not UTF-8")
      }
      if (size > longest)
        throw damaged(
          path,
          `a ${documents} of at most ${longest} bytes`,
          `a longer one, from line ${start} on`,
          "Read the file by lines or paragraphs."
        )
      if (documents === "line") records.push(...take())
    }
    yield records
  }
  yield take()
}
