/**
 * Records of a file, one after another and never all in memory: JSONL, plain or gzipped, or Parquet; told apart by their first bytes. Rows that
 * do not fit are skipped and counted, and above a share of all rows they stop the run.
 */
import { createReadStream } from "node:fs"
import { open } from "node:fs/promises"
import { createGunzip } from "node:zlib"
import * as Schema from "effect/Schema"
import { ArtifactError } from "../schemas/artifact.ts"
import { parquetRows } from "./parquet.ts"

export interface Record {
  /** From 1. */
  readonly line: number
  /** What is counted: lines of a text file, rows of a Parquet file. */
  readonly unit: "line" | "row"
  readonly value: unknown
}

/** A row that does not fit: which field, and why. */
export class BadRow extends Error {
  readonly field: string
  constructor(field: string, why: string) {
    super(why)
    this.field = field
  }
}

/** A file in which too many rows do not fit. */
export class BadRowsError extends Schema.TaggedError<BadRowsError>()("BadRowsError", {
  path: Schema.String,
  bad: Schema.Number,
  rows: Schema.Number,
  message: Schema.String
}) {}

export interface ReadCounts {
  rows: number
  bad: number
  /** The first few bad rows in words. */
  readonly examples: Array<string>
}

type Kind = "parquet" | "gzip" | "text"

const damaged = (path: string, expected: string, cause: unknown) =>
  ArtifactError.of({
    doing: `Reading ${path}`,
    expected,
    found: cause instanceof Error ? cause.message : String(cause),
    hint: "The file is damaged or truncated: get it again."
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

/** The JSON of a line; undefined for an empty one, a BadRow for one that is none. */
const parseLine = (bytes: Buffer): unknown => {
  let text: string
  try {
    // Without a byte order mark, which the decoder leaves out.
    text = decoder.decode(bytes)
  } catch {
    return new BadRow("(the line)", "not UTF-8")
  }
  if (text.trim() === "") return undefined
  try {
    return JSON.parse(text) as unknown
  } catch (cause) {
    return new BadRow("(the line)", `not JSON: ${cause instanceof Error ? cause.message : String(cause)}`)
  }
}

/** The records of a file. A line that is not JSON comes as a BadRow; empty lines are left out. */
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
    const value = parseLine(bytes)
    if (value !== undefined) yield { line, unit: "line", value }
  }
}

export interface ReadOptions {
  /** Share of bad rows above which reading stops. */
  readonly maxBad?: number
}

/** Rows before a share means anything. */
const enoughRows = 1000

/**
 * The rows of a file, parsed: `parse` gives a row or throws BadRow. `counts` fills as rows are read. Throws BadRowsError when too many are
 * bad: at the end, or once a thousand have been read.
 */
export async function* readParsed<Row>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  counts: ReadCounts,
  options: ReadOptions = {}
): AsyncGenerator<Row> {
  const { maxBad = 0.01 } = options
  const check = () => {
    if (counts.bad <= maxBad * counts.rows) return
    const first = counts.examples.map((example) => `\n  ${example}`).join("")
    throw new BadRowsError({
      path,
      bad: counts.bad,
      rows: counts.rows,
      message: `Reading ${path}: ${counts.bad} of ${counts.rows} rows do not fit, more than ${Number((maxBad * 100).toPrecision(6))}%. The first:${first}\nMend the file, or name the right format.`
    })
  }
  for await (const { line, unit, value } of readRecords(path)) {
    counts.rows++
    let row: Row
    try {
      if (value instanceof BadRow) throw value
      row = parse(value, line)
    } catch (cause) {
      if (!(cause instanceof BadRow)) throw cause
      counts.bad++
      if (counts.examples.length < 5) counts.examples.push(`${unit} ${line}, field ${cause.field}: ${cause.message}`)
      if (counts.rows >= enoughRows) check()
      continue
    }
    yield row
  }
  if (counts.rows === 0)
    throw ArtifactError.of({ doing: `Reading ${path}`, expected: "at least one row", found: "an empty file", hint: "Give another file." })
  check()
}

export const newCounts = (): ReadCounts => ({ rows: 0, bad: 0, examples: [] })
