/**
 * Records of a file, one after another and never all in memory: JSONL, plain or gzipped, or Parquet; told apart by their first bytes.
 */
import { createReadStream } from "node:fs"
import { open } from "node:fs/promises"
import { createGunzip } from "node:zlib"
import { ArtifactError } from "../schemas/artifact.ts"
import { parquetRows } from "./parquet.ts"

export interface Record {
  /** From 1. */
  readonly line: number
  /** What is counted: lines of a text file, rows of a Parquet file. */
  readonly unit: "line" | "row"
  /** What JSON or Parquet holds there; of a line that is not JSON, its text. */
  readonly value: unknown
  /** Why a line is not JSON. */
  readonly fault?: BadRow
}

/** A kind of fault in a field, whichever of a list: "field messages[].role: not text". */
export const inField = (field: string, why: string): string =>
  field.startsWith("(") ? why : `field ${field.replaceAll(/\[\d+\]/g, "[]")}: ${why}`

/** A row that does not fit: which field, and why. */
export class BadRow extends Error {
  readonly field: string
  /** The kind of fault, for many rows alike: "not JSON", "field chosen: missing". */
  readonly reason: string
  constructor(field: string, why: string, reason: string = inField(field, why)) {
    super(why)
    this.field = field
    this.reason = reason
  }
}

export interface ReadCounts {
  rows: number
  bad: number
}

type Kind = "parquet" | "gzip" | "text"

const damaged = (path: string, expected: string, cause: unknown) =>
  ArtifactError.of({
    doing: `Reading ${path}`,
    expected,
    found: cause instanceof Error ? cause.message : String(cause),
    hint: "The file is damaged or truncated: download or copy it again."
  })

const kindOf = async (path: string): Promise<Kind> => {
  const unreadable = (found: string) =>
    ArtifactError.of({ doing: `Reading ${path}`, expected: "a file of rows (JSONL, JSONL.gz or Parquet)", found, hint: "Check the path." })
  const handle = await open(path).catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(cause.code === "ENOENT" ? "no such file" : cause.message)
  })
  try {
    if ((await handle.stat()).isDirectory()) throw unreadable("a folder")
    const head = Buffer.alloc(4)
    await handle.read(head, 0, 4, 0)
    if (head.toString("latin1") === "PAR1") return "parquet"
    return head[0] === 0x1f && head[1] === 0x8b ? "gzip" : "text"
  } finally {
    await handle.close()
  }
}

/** Lines longer than this are no rows. */
const maxLine = 64 << 20

/** Lines of a file, undecoded; only LF ends one. */
async function* lines(path: string, kind: Kind): AsyncGenerator<Buffer> {
  const source = createReadStream(path, { highWaterMark: 1 << 18 })
  const stream = kind === "gzip" ? source.pipe(createGunzip()) : source
  source.on("error", (error) => stream.destroy(error))
  let rest: Array<Buffer> = []
  let held = 0
  let line = 0
  const take = () => {
    const whole = rest.length === 1 ? rest[0]! : Buffer.concat(rest)
    rest = []
    held = 0
    line++
    return whole
  }
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      let from = 0
      for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, from)) {
        rest.push(chunk.subarray(from, at))
        yield take()
        from = at + 1
      }
      rest.push(chunk.subarray(from))
      held += chunk.length - from
      if (held > maxLine) throw new Error(`line ${line + 1}, longer than ${maxLine} bytes`)
    }
  } catch (cause) {
    throw damaged(path, kind === "gzip" ? "gzipped lines of text" : "lines of text", cause)
  } finally {
    source.destroy()
  }
  if (rest.some((part) => part.length > 0)) yield take()
}

const decoder = new TextDecoder("utf-8", { fatal: true })

/** The JSON of a line, or its text and why that is none; undefined for an empty one. */
const parseLine = (bytes: Buffer): Pick<Record, "value" | "fault"> | undefined => {
  let text: string
  try {
    // Without a byte order mark, which the decoder leaves out.
    text = decoder.decode(bytes)
  } catch {
    return { value: bytes.toString("utf8"), fault: new BadRow("(the line)", "not UTF-8") }
  }
  if (text.trim() === "") return undefined
  try {
    return { value: JSON.parse(text) as unknown }
  } catch (cause) {
    const why = `not JSON: ${cause instanceof Error ? cause.message : String(cause)}`
    return { value: text, fault: new BadRow("(the line)", why, "not JSON") }
  }
}

/** The records of a file. A line that is not JSON comes with its fault; empty lines are no records. */
export async function* readRecords(path: string): AsyncGenerator<Record> {
  const kind = await kindOf(path)
  if (kind === "parquet") {
    let line = 0
    try {
      for await (const value of parquetRows(path)) yield { line: ++line, unit: "row", value }
    } catch (cause) {
      throw damaged(path, "a Parquet file", cause)
    }
    return
  }
  let line = 0
  for await (const bytes of lines(path, kind)) {
    line++
    const parsed = parseLine(bytes)
    if (parsed !== undefined) yield { line, unit: "line", ...parsed }
  }
}

/** A file of which none of so many rows fits has another format: the rest would not fit either. */
const hopeless = 1000

/**
 * The rows of a file, parsed: `parse` gives a row or throws BadRow. `skip` is told of each record that does not fit, and `counts` fills as they are read.
 * Ends early where none of the first thousand fits.
 */
export async function* readParsed<Row>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  counts: ReadCounts,
  skip: (record: Record, fault: BadRow) => void
): AsyncGenerator<Row> {
  for await (const record of readRecords(path)) {
    counts.rows++
    let row: Row
    try {
      if (record.fault !== undefined) throw record.fault
      row = parse(record.value, record.line)
    } catch (cause) {
      if (!(cause instanceof BadRow)) throw cause
      counts.bad++
      skip(record, cause)
      if (counts.bad === hopeless && counts.rows === hopeless) return
      continue
    }
    yield row
  }
  if (counts.rows === 0)
    throw ArtifactError.of({ doing: `Reading ${path}`, expected: "at least one row", found: "an empty file", hint: "Give another file." })
}

export const newCounts = (): ReadCounts => ({ rows: 0, bad: 0 })
