/**
 * Streams the records of a user's files, never all in memory: JSONL, JSON lists, CSV, TSV or plain text, also compressed with gzip or zstd, Parquet or Arrow. The format is
 * detected from the first bytes. A path may be a file, a folder or a pattern.
 */
import { ArtifactError } from "../schemas/artifact.ts"
import type { Column } from "./read/arrow-values.ts"
import type { Compression, Format } from "./read/bytes.ts"
import { type DataFile, dataFiles } from "./read/files.ts"
import type { Documents } from "./read/lines.ts"
import { type OpenFile, openFile } from "./read/open.ts"
import { BadRow, LeftOut, type Record } from "./read/record.ts"

export { BadRow, inField, LeftOut, type Record } from "./read/record.ts"

export interface ReadCounts {
  rows: number
  bad: number
}
export const newCounts = (): ReadCounts => ({ rows: 0, bad: 0 })

/** A batch of rows of one file. */
export interface RecordBatch {
  readonly file: DataFile
  readonly format: Format
  readonly compression: Compression
  readonly columns: ReadonlyArray<Column> | undefined
  readonly records: ReadonlyArray<Record>
}

export interface ReadOptions {
  /** The columns to read, in formats where reading fewer saves work (Parquet). Default: all. */
  readonly columns?: ReadonlyArray<string> | undefined
  /** The unit of text in a plain text file. Default: a line. */
  readonly documents?: Documents | undefined
}

/** Checks that the columns to be read are the same in all files. A column of nulls matches any. */
const checkColumns = (
  first: OpenFile & { readonly name: string },
  other: OpenFile & { readonly name: string },
  path: string,
  read?: ReadonlyArray<string>
) => {
  if (first.columns === undefined || other.columns === undefined) return
  const typesOf = (columns: ReadonlyArray<Column>) =>
    new Map(columns.filter(({ name }) => read === undefined || read.includes(name)).map(({ name, type }) => [name, type]))
  const [expected, found] = [typesOf(first.columns), typesOf(other.columns)]
  const isAlike = (name: string) => {
    const [a, b] = [expected.get(name), found.get(name)]
    return a === b || a === "null" || b === "null"
  }
  const name = [...expected.keys(), ...found.keys()].find((each) => !isAlike(each))
  if (name === undefined) return
  const told = (types: ReadonlyMap<string, string>) => types.get(name) ?? "missing"
  throw ArtifactError.of({
    doing: `Reading ${path}`,
    expected: "files with the same columns",
    found: `column ${JSON.stringify(name)}: ${told(expected)} in ${first.name}, ${told(found)} in ${other.name}`,
    hint: "Use files of one kind, or select them with a pattern."
  })
}

/** The records of a path in batches, file by file in the order of their names. */
export async function* recordBatches(path: string, { columns, documents = "line" }: ReadOptions = {}): AsyncGenerator<RecordBatch> {
  let first: (OpenFile & { readonly name: string }) | undefined
  for (const file of await dataFiles(path)) {
    const opened = { ...(await openFile(file, documents)), name: file.name }
    try {
      first ??= opened
      checkColumns(first, opened, path, columns)
      const { compression, format } = opened
      const found = opened.columns
      const wanted = found === undefined ? undefined : columns?.filter((name) => found.some((column) => column.name === name))
      let isEmpty = true
      for await (const records of opened.batches(wanted)) {
        if (records.length > 0) yield { file, format, compression, columns: found, records }
        isEmpty &&= records.length === 0
      }
      // Also report empty files.
      if (isEmpty) yield { file, format, compression, columns: found, records: [] }
    } finally {
      await opened.close()
    }
  }
}

/** The records of a path. A record that can't be read has a fault; empty lines are skipped. */
export async function* readRecords(path: string, options: ReadOptions = {}): AsyncGenerator<Record> {
  for await (const { records } of recordBatches(path, options)) yield* records
}

/** If none of the first records up to this number can be used, the file has another format, and reading stops. */
const maxUnusable = 1000

/** Callbacks for records that cannot be used. */
export interface RecordCallbacks {
  /** A record that is invalid. */
  readonly skip: (record: Record, fault: BadRow, file: DataFile) => void
  /** A valid record without the required information, such as a tie. */
  readonly leaveOut: (reason: string) => void
}

/** Parses a record into rows, or throws BadRow or LeftOut; `end` returns rows that were held back, in the same way. */
export interface Parser<Row> {
  readonly rows: (value: unknown, record: Record, batch: Pick<RecordBatch, "file" | "format">) => Iterable<Row>
  readonly end?: (() => Iterable<Row>) | undefined
}

/**
 * The parsed rows of a path, in the batches in which they were read. Records that cannot be used are passed to `callbacks`; `counts` is updated as records are read.
 * Stops early if none of the first thousand records fits.
 */
export async function* readBatches<Row>(
  path: string,
  parser: Parser<Row>,
  counts: ReadCounts,
  callbacks: RecordCallbacks,
  options: ReadOptions = {}
): AsyncGenerator<ReadonlyArray<Row>> {
  let last: { readonly record: Record; readonly file: DataFile } | undefined
  const collect = (rows: Array<Row>, record: Record, file: DataFile, give: () => Iterable<Row>) => {
    try {
      for (const row of give()) rows.push(row)
    } catch (cause) {
      if (cause instanceof LeftOut) return callbacks.leaveOut(cause.message)
      if (!(cause instanceof BadRow)) throw cause
      counts.bad++
      callbacks.skip(record, cause, file)
    }
  }
  for await (const { file, format, records } of recordBatches(path, options)) {
    const rows: Array<Row> = []
    for (const record of records) {
      counts.rows++
      collect(rows, record, file, () => {
        if (record.fault !== undefined) throw record.fault
        return parser.rows(record.value, record, { file, format })
      })
      if (counts.bad === maxUnusable && counts.rows === maxUnusable) return
      last = { record, file }
    }
    yield rows
  }
  if (last === undefined)
    throw ArtifactError.of({ doing: `Reading ${path}`, expected: "at least one row", found: "an empty file", hint: "Give another file." })
  const { file, record } = last
  const rows: Array<Row> = []
  if (parser.end !== undefined) collect(rows, record, file, parser.end)
  if (rows.length > 0) yield rows
}

/** Like readBatches, for a parser that returns one row per record: rows one by one. */
export async function* readParsed<Row>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  counts: ReadCounts,
  skip: (record: Record, fault: BadRow) => void
): AsyncGenerator<Row> {
  const parser: Parser<Row> = { rows: (value, { line }) => [parse(value, line)] }
  for await (const rows of readBatches(path, parser, counts, { skip, leaveOut: () => undefined })) yield* rows
}
