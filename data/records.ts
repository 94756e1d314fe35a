/**
 * Records of a user's files, one after another and never all in memory: JSONL, JSON lists, CSV, TSV or plain text, also gzipped or zst, Parquet or Arrow; told apart
 * by their first bytes. A path may be a file, a folder or a pattern.
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

/** Rows of one file that were read together. */
export interface RecordBatch {
  readonly file: DataFile
  readonly format: Format
  readonly compression: Compression
  readonly columns: ReadonlyArray<Column> | undefined
  readonly records: ReadonlyArray<Record>
}

export interface ReadOptions {
  /** The only columns that are read, where reading fewer saves work (Parquet). All, unless given. */
  readonly columns?: ReadonlyArray<string> | undefined
  /** What one text of a plain text file is; a line, unless given. */
  readonly documents?: Documents | undefined
}

/** Columns that must be alike in all files: those that are read. A column of nulls fits any. */
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
  const told = (types: ReadonlyMap<string, string>) => types.get(name) ?? "not there"
  throw ArtifactError.of({
    doing: `Reading ${path}`,
    expected: "files with the same columns",
    found: `column ${JSON.stringify(name)}: ${told(expected)} in ${first.name}, ${told(found)} in ${other.name}`,
    hint: "Give files of one kind, or name those that are (a pattern)."
  })
}

/** The records of a path, those that were read together; a file after another, in the order of their names. */
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
      // A file of several that has none is told of too.
      if (isEmpty) yield { file, format, compression, columns: found, records: [] }
    } finally {
      await opened.close()
    }
  }
}

/** The records of a path. One that can't be read comes with its fault; empty lines are no records. */
export async function* readRecords(path: string, options: ReadOptions = {}): AsyncGenerator<Record> {
  for await (const { records } of recordBatches(path, options)) yield* records
}

/** A file of which none of so many rows fits has another format: the rest would not fit either. */
const hopeless = 1000

/** What becomes of the records that give no row. */
export interface Hears {
  /** A record that does not fit. */
  readonly skip: (record: Record, fault: BadRow, file: DataFile) => void
  /** One that says nothing of what is asked, as it should. */
  readonly leaveOut: (reason: string) => void
}

/** Gives rows of a record, or throws BadRow or LeftOut; the end gives what was held back, in the same way. */
export interface Parser<Row> {
  readonly rows: (value: unknown, record: Record, batch: Pick<RecordBatch, "file" | "format">) => Iterable<Row>
  readonly end?: (() => Iterable<Row>) | undefined
}

/**
 * The rows of a path, parsed, those together that were read together. `hears` is told of each record that gives none, and `counts` fills as they are read.
 * Ends early where none of the first thousand fits.
 */
export async function* readBatches<Row>(
  path: string,
  parser: Parser<Row>,
  counts: ReadCounts,
  hears: Hears,
  options: ReadOptions = {}
): AsyncGenerator<ReadonlyArray<Row>> {
  let last: { readonly record: Record; readonly file: DataFile } | undefined
  const collect = (rows: Array<Row>, record: Record, file: DataFile, give: () => Iterable<Row>) => {
    try {
      for (const row of give()) rows.push(row)
    } catch (cause) {
      if (cause instanceof LeftOut) return hears.leaveOut(cause.message)
      if (!(cause instanceof BadRow)) throw cause
      counts.bad++
      hears.skip(record, cause, file)
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
      if (counts.bad === hopeless && counts.rows === hopeless) return
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

/** The same, for a parser that gives one row: rows one after another. */
export async function* readParsed<Row>(
  path: string,
  parse: (value: unknown, line: number) => Row,
  counts: ReadCounts,
  skip: (record: Record, fault: BadRow) => void
): AsyncGenerator<Row> {
  const parser: Parser<Row> = { rows: (value, { line }) => [parse(value, line)] }
  for await (const rows of readBatches(path, parser, counts, { skip, leaveOut: () => undefined })) yield* rows
}
