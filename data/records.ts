/**
 * Records of a file, one after another and never all in memory: JSONL, plain or gzipped, or Parquet; told apart by their first bytes. Rows that
 * do not fit are skipped and counted, and above a share of all rows they stop the run.
 */
import { createReadStream, openAsBlob } from "node:fs"
import { open } from "node:fs/promises"
import { createGunzip } from "node:zlib"
import * as Schema from "effect/Schema"
import { ArtifactError } from "../schemas/artifact.ts"

export interface Record {
  /** Line of a text file, row of a Parquet file; from 1. */
  readonly line: number
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
export class BadRowsError extends Schema.TaggedError<BadRowsError>()("BadRowsError", { path: Schema.String, bad: Schema.Number, rows: Schema.Number, message: Schema.String }) {}

export interface ReadCounts {
  rows: number
  bad: number
  /** The first few bad rows in words. */
  readonly examples: Array<string>
}

const kindOf = async (path: string): Promise<"parquet" | "gzip" | "text"> => {
  const handle = await open(path).catch(() => {
    throw ArtifactError.of({ doing: `Reading ${path}`, expected: "a file of rows (JSONL, JSONL.gz or Parquet)", found: "no readable file", hint: "Check the path." })
  })
  try {
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

/** Lines of text; only LF ends one. */
async function* lines(path: string, gzip: boolean): AsyncGenerator<{ readonly line: number; readonly text: string }> {
  const source = createReadStream(path, { highWaterMark: 1 << 18 })
  const stream = gzip ? source.pipe(createGunzip()) : source
  source.on("error", (error) => stream.destroy(error))
  let rest: Array<Buffer> = []
  let held = 0
  let line = 0
  const take = () => {
    const text = Buffer.concat(rest).toString("utf8")
    rest = []
    held = 0
    return text
  }
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      let from = 0
      for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, from)) {
        rest.push(chunk.subarray(from, at))
        yield { line: ++line, text: take() }
        from = at + 1
      }
      rest.push(chunk.subarray(from))
      held += chunk.length - from
      if (held > maxLine) throw new Error(`line ${line + 1} is longer than ${maxLine} bytes`)
    }
  } catch (cause) {
    throw ArtifactError.of({ doing: `Reading ${path}`, expected: gzip ? "gzipped text" : "text", found: cause instanceof Error ? cause.message : String(cause), hint: "The file is damaged or truncated: get it again." })
  }
  if (rest.some((part) => part.length > 0)) yield { line: ++line, text: take() }
}

/** The records of a file. A line that is not JSON comes as a BadRow. */
export async function* readRecords(path: string): AsyncGenerator<Record> {
  const kind = await kindOf(path)
  if (kind === "parquet") {
    yield* parquetRecords(path)
    return
  }
  for await (const { line, text } of lines(path, kind === "gzip")) {
    if (text.trim() === "") continue
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (cause) {
      value = new BadRow("(the line)", `not JSON: ${cause instanceof Error ? cause.message : String(cause)}`)
    }
    yield { line, value }
  }
}

/** Row groups one after another, through Arrow. */
async function* parquetRecords(path: string): AsyncGenerator<Record> {
  const fail = (cause: unknown) => ArtifactError.of({ doing: `Reading ${path}`, expected: "a Parquet file", found: cause instanceof Error ? cause.message : String(cause), hint: "The file is damaged or truncated: get it again." })
  const arrow = await import("apache-arrow")
  let row = 0
  try {
    // The package's entry for Node loads its WebAssembly at once.
    const parquet = await import("parquet-wasm/node")
    const file = await parquet.ParquetFile.fromFile((await openAsBlob(path)) as never)
    const stream = (await file.stream({ batchSize: 1024 })) as unknown as AsyncIterable<{ intoIPCStream(): Uint8Array }>
    for await (const batch of stream) {
      for (const value of arrow.tableFromIPC(batch.intoIPCStream())) yield { line: ++row, value: value === null ? null : plain(value) }
    }
  } catch (cause) {
    throw fail(cause)
  }
}

/** Arrow's row proxies and vectors as plain objects and lists; int64 as numbers. */
const plain = (value: any): unknown => {
  if (value === null || typeof value !== "object") return typeof value === "bigint" ? Number(value) : value
  if (typeof value.toArray === "function" && typeof value.get === "function") return Array.from(value as Iterable<unknown>, plain)
  if (typeof value.toJSON === "function") return Object.fromEntries(Object.entries(value.toJSON() as object).map(([key, field]) => [key, plain(field)]))
  return value
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
export async function* readParsed<Row>(path: string, parse: (value: unknown, line: number) => Row, counts: ReadCounts, options: ReadOptions = {}): AsyncGenerator<Row> {
  const { maxBad = 0.01 } = options
  const check = () => {
    if (counts.bad <= maxBad * counts.rows) return
    const first = counts.examples.map((example) => `\n  ${example}`).join("")
    throw new BadRowsError({
      path,
      bad: counts.bad,
      rows: counts.rows,
      message: `Reading ${path}: ${counts.bad} of ${counts.rows} rows do not fit, more than ${maxBad * 100}%. The first:${first}\nMend the file, or name the right format.`
    })
  }
  for await (const { line, value } of readRecords(path)) {
    counts.rows++
    let row: Row
    try {
      if (value instanceof BadRow) throw value
      row = parse(value, line)
    } catch (cause) {
      if (!(cause instanceof BadRow)) throw cause
      counts.bad++
      if (counts.examples.length < 5) counts.examples.push(`line ${line}, field ${cause.field}: ${cause.message}`)
      if (counts.rows >= enoughRows) check()
      continue
    }
    yield row
  }
  if (counts.rows === 0) throw ArtifactError.of({ doing: `Reading ${path}`, expected: "at least one row", found: "an empty file", hint: "Give another file." })
  check()
}

export const newCounts = (): ReadCounts => ({ rows: 0, bad: 0, examples: [] })
