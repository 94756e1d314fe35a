/**
 * Fuzzes the readers and shapes: files of every format with a few bytes or values changed. Whatever a file contains, inspecting it terminates, with rows, reported problems
 * or an ArtifactError; every record becomes a row, a problem or is left out.
 *
 *     node tests/data/fuzz.ts <from> <to>        these seeds, in this process
 *     node tests/data/fuzz.ts --minutes 60       as many seeds as fit, from a random one (tests/fuzzing.ts)
 *
 * A seed that finds something is added to fuzz.test.ts permanently.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync, zstdCompressSync } from "node:zlib"
import * as arrow from "apache-arrow"
import { inspect } from "../../data/inspect.ts"
import { newCounts } from "../../data/records.ts"
import { BadLabel } from "../../data/shapes/fields.ts"
import { readShaped, type Reading } from "../../data/shapes/shaped.ts"
import { type Given, type Kind, shapeNamed, shapes } from "../../data/shapes/shapes.ts"
import { Random } from "../../engine/random.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { parsePrompt } from "../../stages/data/import-prompts.ts"
import { changedBytes, changedValue } from "../changed.ts"
import { type Fuzz, runFuzzer } from "../fuzzing.ts"
import { tableOf } from "./read/table.ts"

const samples = new URL("shapes/files/", import.meta.url).pathname
const golden = new URL("../golden/arrow/", import.meta.url).pathname

type Rows = Array<Record<string, unknown>>
const corpora: ReadonlyArray<readonly [string, Rows]> = readdirSync(samples)
  .filter((name) => name.endsWith(".jsonl"))
  .map((name) => [
    name,
    readFileSync(join(samples, name), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  ])
const binaries = readdirSync(golden).filter((name) => /\.(arrow|parquet)$/.test(name))

const cell = (value: unknown): string => {
  const text = typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value)
  return /[",\n\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
const tableText = (rows: Rows, separator: string): string => {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  return `${columns.map(cell).join(separator)}\n${rows.map((row) => columns.map((name) => cell(Object.hasOwn(row, name) ? row[name] : null)).join(separator)).join("\n")}\n`
}
const parquetOf = async (table: arrow.Table, draw: Random): Promise<Uint8Array> => {
  const { Compression, Table, WriterPropertiesBuilder, writeParquet } = await import("parquet-wasm/node")
  const codecs = [Compression.UNCOMPRESSED, Compression.SNAPPY, Compression.GZIP, Compression.ZSTD]
  const properties = new WriterPropertiesBuilder()
    .setMaxRowGroupSize(1 + draw.int(table.numRows))
    .setCompression(codecs[draw.int(codecs.length)]!)
    .setDictionaryEnabled(draw.int(2) === 0)
  return writeParquet(Table.fromIPCStream(arrow.tableToIPC(table, "stream")), properties.build())
}
/** The text as written by tools of other systems. */
const encoded = (text: string, draw: Random): Buffer => {
  switch (draw.int(12)) {
    case 0:
      return Buffer.from(`\ufeff${text}`)
    case 1:
      return Buffer.from(text, "latin1")
    case 2:
      return Buffer.from(`\ufeff${text}`, "utf16le")
    case 3:
      return Buffer.from(text.replaceAll("\n", "\r\n"))
    default:
      return Buffer.from(text)
  }
}
/** Compressed in one piece, or in several consecutive pieces. */
const packed = (bytes: Buffer, pack: (part: Buffer) => Buffer, draw: Random): Buffer => {
  if (draw.int(2) === 0) return pack(bytes)
  const at = draw.int(bytes.length + 1)
  return Buffer.concat([pack(bytes.subarray(0, at)), pack(bytes.subarray(at))])
}

/** The rows in one of the formats: the file's name and its bytes. */
const fileOf = async (rows: Rows, sound: Rows, draw: Random): Promise<readonly [string, Uint8Array]> => {
  const lines = () => encoded(rows.map((row) => JSON.stringify(row)).join("\n"), draw)
  const table = (separator: string) => encoded(tableText(rows, separator), draw)
  const kinds: ReadonlyArray<() => readonly [string, Uint8Array] | Promise<readonly [string, Uint8Array]>> = [
    () => ["a.jsonl", lines()],
    () => ["a.json", encoded(JSON.stringify(rows, undefined, draw.int(3)), draw)],
    () => ["a.csv", table(",")],
    () => ["a.tsv", table("\t")],
    () => ["a.txt", lines()],
    () => ["a.jsonl.gz", packed(lines(), gzipSync, draw)],
    () => ["a.jsonl.zst", packed(lines(), zstdCompressSync, draw)],
    () => ["a.csv.gz", packed(table(";"), gzipSync, draw)],
    () => ["a.arrow", arrow.tableToIPC(tableOf(sound), draw.int(2) === 0 ? "file" : "stream")],
    async () => ["a.parquet", await parquetOf(tableOf(sound), draw)],
    () => {
      const name = binaries[draw.int(binaries.length)]!
      return [name, readFileSync(join(golden, name))]
    }
  ]
  const kind = kinds[draw.int(kinds.length)]!
  // The library's builders throw on values of several types in one column.
  return await (async () => kind())().catch(() => ["a.jsonl", lines()] as const)
}

const check = () => ({
  preferences: (row: Preference) => row,
  demonstrations: (row: Demonstration) => row,
  prompts: (value: unknown) => parsePrompt(value, false, new Set<string>()),
  texts: (row: { readonly text: string }) => row
})

/** Shapes of which every record gives exactly one row, or none. */
const oneByOne = new Set([
  "hh-rlhf",
  "prompt-chosen-rejected",
  "chosen-rejected",
  "pku-safe-rlhf",
  "helpsteer3",
  "shp",
  "webgpt",
  "messages",
  "sharegpt",
  "alpaca",
  "text"
])

/** A file, or a folder with a few files, some of which are modified. */
const put = async (folder: string, draw: Random): Promise<string> => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const [, original] = corpora[draw.int(corpora.length)]!
  const files = draw.int(4) === 0 ? 2 + draw.int(2) : 1
  let last = ""
  for (let i = 0; i < files; i++) {
    const [, other] = draw.int(6) === 0 ? corpora[draw.int(corpora.length)]! : ["", original]
    // Sometimes more than one chunk of the file, and more than one batch of a table.
    const count = draw.int(20) === 0 ? 500 + draw.int(1500) : 1 + draw.int(12)
    const many = Array.from({ length: count }, () => other[draw.int(other.length)]!)
    const rows = many.map((row) => (draw.int(3) === 0 ? (changedValue(row, draw) as Record<string, unknown>) : row))
    const isWhole = draw.int(3) === 0
    const [name, content] = await fileOf(
      rows.every((row) => typeof row === "object" && row !== null) ? rows : many,
      many.slice(0, count > 12 ? count : 3),
      draw
    )
    last = join(folder, `${i}-${name}`)
    writeFileSync(last, isWhole ? content : changedBytes(Buffer.from(content), draw))
  }
  return files === 1 ? last : folder
}

const checks = check()
/** Everything that an import reads from a path as one kind of rows: the number of rows, and the number of reported records. */
const rowsRead = async (path: string, name: string, kind: Kind, draw: Random, reading: Pick<Reading, "map" | "documents">) => {
  const shape = shapeNamed(name)!
  const counts = newCounts()
  let [rows, told] = [0, 0]
  const judged = {
    source: name,
    judgement: (["helpfulness", "safety"] as const)[draw.int(2)]!,
    thresholds: draw.int(2) === 0 ? undefined : ([1, 2, 4] as const),
    pairs: (["all", "best-worst"] as const)[draw.int(2)]!
  }
  const hears = { skip: () => void told++, leaveOut: () => void told++ }
  const row = checks[kind] as (row: Given[Kind], line: number) => unknown
  const batches = readShaped(path, shape, kind, { shape: name, ...reading }, judged, row, counts, hears)
  for await (const batch of batches) rows += batch.length
  return { rows, told, read: counts.rows }
}

/** Inspects one path and reads it as each kind of rows that it gives. Rejects if our code is at fault. */
export const fuzz: Fuzz = async (seed, folder) => {
  const draw = new Random(seed, "fuzz")
  const path = await put(join(folder, "data"), draw)
  const shape = draw.int(4) === 0 ? shapes[draw.int(shapes.length)]!.name : "auto"
  const map: Record<string, string> = draw.int(8) === 0 ? { prompt: ["question.full", "a.b", "__proto__.x", ""][draw.int(4)]! } : {}
  const reading = { map, documents: (["line", "paragraph", "file"] as const)[draw.int(3)]! }
  const found = await inspect([path], { ...reading, shape, check: checks, examples: 2, problems: 5 })
  const stopped = Object.keys(found.problemCounts).some((reason) => /invalid file|outside its set/.test(reason))
  const told = [...Object.values(found.problemCounts), ...Object.values(found.leftOut)].reduce((sum, each) => sum + each, 0)
  const counted = (rows: number, others: number, all: number) => {
    // Reading a file ends early where none of its first thousand rows fits.
    const endsEarly = found.files.map((file) => file.rows - 1000).filter((unread) => unread > 0)
    const unread = endsEarly.reduce((sums, rest) => [...sums, ...sums.map((sum) => sum + rest)], [0])
    const missing = all - rows - others
    if (missing === 0 || (unread.includes(missing) && (rows === 0 || found.files.length > 1))) return
    throw new Error(`${all} records, of which ${rows} are rows and ${others} are told of: ${JSON.stringify(found.problemCounts)}`)
  }
  if (!stopped && found.given !== null && oneByOne.has(found.shape!)) counted(found.given.rows, told, found.rows)
  if (found.shape === null) return
  for (const kind of found.gives)
    try {
      const read = await rowsRead(path, found.shape, kind, draw, reading)
      if (oneByOne.has(found.shape)) counted(read.rows, read.told, read.read)
    } catch (cause) {
      if (!(cause instanceof ArtifactError || cause instanceof BadLabel)) throw cause
    }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runFuzzer(process.argv[1], fuzz, process.argv.slice(2))
