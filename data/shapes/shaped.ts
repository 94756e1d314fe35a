/** Rows of ours from files of any shape: the shape is found by looking, or named; columns of other names are mapped. */
import { ArtifactError } from "../../schemas/artifact.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { own } from "../../schemas/own.ts"
import type { Documents } from "../read/lines.ts"
import { dataFiles } from "../read/files.ts"
import { type Hears, type Parser, type ReadCounts, readBatches, recordBatches } from "../records.ts"
import { BadLabel } from "./fields.ts"
import { type Look, lookAt } from "./look.ts"
import { type Cell, type Given, type Kind, kindsOf, type ReaderOptions, type Shape, shapeNamed, shapeOf, shapesGiving } from "./shapes.ts"

/** How a path is to be read. */
export interface Reading {
  /** The name of a shape, or "auto". */
  readonly shape: string
  /** Our column -> the file's, with dots into objects. */
  readonly map: Readonly<Record<string, string>>
  /** What one text of a plain text file is. */
  readonly documents: Documents
}

/** So many rows are looked at. */
export const lookedAt = 100

/** What stands under a path of names ("question.full_text"); one that has dots itself comes first. */
const at = (value: unknown, path: string): unknown => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined
  const whole = own(value as Record<string, unknown>, path)
  const dot = path.indexOf(".")
  return whole !== undefined || dot === -1 ? whole : at(own(value as Record<string, unknown>, path.slice(0, dot)), path.slice(dot + 1))
}

/** The row with our columns in place of the file's. */
const mapped = (value: unknown, map: Reading["map"]): unknown => {
  const entries = Object.entries(map)
  if (entries.length === 0 || typeof value !== "object" || value === null || Array.isArray(value)) return value
  const taken = new Set(Object.values(map))
  const found = entries.map(([name, path]) => [name, at(value, path)] as const).filter(([, each]) => each !== undefined)
  return Object.fromEntries([...Object.entries(value).filter(([name]) => !taken.has(name) && !Object.hasOwn(map, name)), ...found])
}

const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}
const isMessages = (value: unknown): boolean =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((each) => typeof each === "object" && each !== null && Object.hasOwn(each, "role"))

/** What a cell of a table says: what is not as its column has it stays text. */
const cellOf = (text: string, cell: Cell): unknown => {
  if (cell === "scalar") {
    const found = /^(true|false)$/i.test(text)
      ? text.toLowerCase() === "true"
      : /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text)
        ? Number(text)
        : undefined
    return found ?? text
  }
  const found = /^\s*[[{]/.test(text) ? jsonOf(text) : undefined
  return found === undefined || (cell === "messages" && !isMessages(found)) ? text : found
}
const withCells = (value: unknown, cells: Readonly<Record<string, Cell>>): unknown =>
  typeof value !== "object" || value === null
    ? value
    : Object.fromEntries(
        Object.entries(value).map(([name, text]) => {
          const cell = own(cells, name)
          return [name, cell !== undefined && typeof text === "string" ? cellOf(text, cell) : text]
        })
      )
const isTable = (format: string): boolean => format === "csv" || format === "tsv"

/** What the first rows of a path look like; those that can't be read are passed over. */
export const lookAtPath = async (path: string, { documents, map }: Pick<Reading, "documents" | "map">): Promise<Look> => {
  const rows: Array<unknown> = []
  for await (const { columns, format, records } of recordBatches(path, { documents })) {
    for (const { fault, value } of records)
      if (fault === undefined && rows.length < lookedAt) {
        const cells = isTable(format) ? Object.fromEntries((columns ?? []).map(({ name }) => [name, "json" as const])) : {}
        rows.push(mapped(isTable(format) ? withCells(value, cells) : value, map))
      }
    if (rows.length === lookedAt) break
  }
  return lookAt(rows)
}

/** Which stage takes what a shape gives. */
const stageFor: Readonly<Record<Kind, string>> = {
  preferences: "importPreferences (preferenceDemonstrations, preferencePrompts and preferenceTexts go on from there)",
  demonstrations: "importDemonstrations",
  prompts: "importPrompts",
  texts: "importTexts"
}

const columnsOf = (look: Look): string =>
  [...look.columns]
    .slice(0, 30)
    .map(([name, kind]) => `${name} (${kind})`)
    .join(", ") || "rows without columns"

/** The shape that a path is to be read by. Rejects with an ArtifactError where none is told, or the one that is does not give rows of this kind. */
export const chooseShape = async (path: string, reading: Reading, kind: Kind): Promise<Shape> => {
  const refused = (expected: string, found: string, hint: string) => ArtifactError.of({ doing: `Reading ${path}`, expected, found, hint })
  const names = shapesGiving(kind)
  const look = reading.shape === "auto" ? await lookAtPath(path, reading) : undefined
  const shape = look === undefined ? shapeNamed(reading.shape) : shapeOf(look, kind)
  if (shape === undefined)
    throw look === undefined
      ? refused(
          `a shape of ${kind}: ${names.join(", ")}`,
          JSON.stringify(reading.shape),
          `Name one of these, or leave it to be found.${didYouMean(reading.shape, names)}`
        )
      : refused(
          `rows of a known shape`,
          `the columns ${columnsOf(look)}`,
          `Say which column is which, as map: { prompt: "question" }, or name the shape; caravan data inspect shows what is there.`
        )
  if (shape[kind] === undefined) {
    const gives = kindsOf(shape)
    throw refused(
      `rows that give ${kind}`,
      `the shape ${shape.name} (${shape.form})`,
      gives.length === 0
        ? "No stage reads it: convert it."
        : `It is for ${gives.map((each) => stageFor[each]).join(" or ")}. If it is something else, name the shape, or map its columns.`
    )
  }
  return shape
}

/** The columns that a shape's rows need of a file whose columns are mapped. */
const neededColumns = (shape: Shape, map: Reading["map"]): ReadonlyArray<string> => [
  ...shape.columns.filter((name) => !Object.hasOwn(map, name)),
  ...Object.values(map).flatMap((path) => [path, path.split(".")[0]!])
]

/**
 * The rows that a path gives, those together that were read together. `check` sees each (it may change it, or throw BadRow); ids are the row's place, and its file's
 * name where there are several.
 */
export async function* readShaped<K extends Kind, Row>(
  path: string,
  shape: Shape,
  kind: K,
  reading: Reading,
  options: Omit<ReaderOptions, "leaveOut">,
  check: (row: Given[K], line: number) => Row,
  counts: ReadCounts,
  hears: Hears
): AsyncGenerator<ReadonlyArray<Row>> {
  const isOne = (await dataFiles(path)).length === 1
  const make = shape[kind] as unknown as (options: ReaderOptions) => {
    rows: (value: unknown, line: number) => Iterable<Given[K]>
    end?: () => Iterable<Given[K]>
  }
  const reader = make({ ...options, leaveOut: hears.leaveOut })
  let name = ""
  let last = 0
  const named = (row: Given[K]): Given[K] =>
    isOne || !("id" in row) || kind === "prompts" ? row : { ...row, id: `${name}:${String(row.id)}` }
  const checked = (rows: Iterable<Given[K]>): Array<Row> => {
    const out: Array<Row> = []
    for (const row of rows) out.push(check(named(row), last))
    return out
  }
  const cells = shape.cells ?? {}
  const hasMap = Object.keys(reading.map).length > 0
  const end = reader.end
  const parser: Parser<Row> = {
    rows: (value, { line }, { file, format }) => {
      ;[name, last] = [file.name, line]
      const renamed = hasMap ? mapped(value, reading.map) : value
      try {
        return checked(reader.rows(isTable(format) ? withCells(renamed, cells) : renamed, line))
      } catch (cause) {
        if (cause instanceof BadLabel) cause.file = file.path
        throw cause
      }
    },
    end: end === undefined ? undefined : () => checked(end())
  }
  yield* readBatches(path, parser, counts, hears, { documents: reading.documents, columns: neededColumns(shape, reading.map) })
}
