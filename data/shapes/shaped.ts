/** Reads our rows from files of any known shape. The shape is detected or named; columns with other names can be mapped. */
import { ArtifactError } from "../../schemas/artifact.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { own } from "../../schemas/own.ts"
import type { Documents } from "../read/lines.ts"
import { dataFiles } from "../read/files.ts"
import { type RecordCallbacks, type Parser, type ReadCounts, readBatches, recordBatches } from "../records.ts"
import { BadLabel } from "./fields.ts"
import { type Look, lookAt } from "./look.ts"
import { type Cell, type Given, type Kind, kindsOf, type ReaderOptions, type Shape, shapeNamed, shapeOf, shapesGiving } from "./shapes.ts"

/** How to read a path. */
export interface Reading {
  /** The name of a shape, or "auto". */
  readonly shape: string
  /** Our column -> the file's, with dots into objects. */
  readonly map: Readonly<Record<string, string>>
  /** The unit of text in a plain text file. */
  readonly documents: Documents
}

/** Number of rows used to detect the shape. */
export const sampledRows = 100

/** The value at a path of names ("question.full_text"). A name that contains dots itself has priority. */
const at = (value: unknown, path: string): unknown => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined
  const whole = own(value as Record<string, unknown>, path)
  const dot = path.indexOf(".")
  return whole !== undefined || dot === -1 ? whole : at(own(value as Record<string, unknown>, path.slice(0, dot)), path.slice(dot + 1))
}

/** The row with the file's columns renamed to ours. */
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

/** Parses a cell of a table. A cell that does not have its column's type stays text. */
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

/** The look of the first rows of a path; rows that can't be read are skipped. */
export const lookAtPath = async (path: string, { documents, map }: Pick<Reading, "documents" | "map">): Promise<Look> => {
  const rows: Array<unknown> = []
  let first: string | undefined
  for await (const { columns, format, records } of recordBatches(path, { documents })) {
    for (const { fault, line, value } of records)
      if (fault !== undefined) first ??= `line ${line}: ${fault.message}`
      else if (rows.length < sampledRows) {
        const cells = isTable(format) ? Object.fromEntries((columns ?? []).map(({ name }) => [name, "json" as const])) : {}
        rows.push(mapped(isTable(format) ? withCells(value, cells) : value, map))
      }
    if (rows.length === sampledRows) break
  }
  return { ...lookAt(rows), ...(first === undefined ? {} : { fault: first }) }
}

/** The stage that imports each kind of rows. */
const stageFor: Readonly<Record<Kind, string>> = {
  preferences: "importPreferences (followed by preferenceDemonstrations, preferencePrompts or preferenceTexts)",
  demonstrations: "importDemonstrations",
  prompts: "importPrompts",
  texts: "importTexts"
}

const columnsOf = (look: Look): string =>
  [...look.columns]
    .slice(0, 30)
    .map(([name, kind]) => `${name} (${kind})`)
    .join(", ")

/** The shape with which to read a path. Rejects with an ArtifactError if none is detected, or if the shape does not give rows of this kind. */
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
          `Name one of these, or leave the shape out to detect it.${didYouMean(reading.shape, names)}`
        )
      : look.columns.size === 0
        ? look.fault === undefined
          ? refused("rows of a known shape", "no row with columns", "Check that this is the right file: is it empty?")
          : refused("rows of a known shape", `no valid row; ${look.fault.replace(/\.$/, "")}`, "Fix the file, or give the right one.")
        : refused(
            `rows of a known shape`,
            `the columns ${columnsOf(look)}`,
            `Map your columns, such as map: { prompt: "question" }, or name the shape. caravan data inspect shows the file's columns.`
          )
  if (shape[kind] === undefined) {
    const gives = kindsOf(shape)
    throw refused(
      `rows that give ${kind}`,
      `the shape ${shape.name} (${shape.form})`,
      gives.length === 0
        ? "No stage reads it: convert it."
        : `Import it with ${gives.map((each) => stageFor[each]).join(" or ")}. If the detected shape is wrong, name the shape or map the columns.`
    )
  }
  return shape
}

/** The file's columns that a shape needs, after mapping. */
const neededColumns = (shape: Shape, map: Reading["map"]): ReadonlyArray<string> => [
  ...shape.columns.filter((name) => !Object.hasOwn(map, name)),
  ...Object.values(map).flatMap((path) => [path, path.split(".")[0]!])
]

/**
 * The rows of a path, in the batches in which they were read. `check` is called with each row and may change it or throw BadRow. Ids are the row's number, prefixed with the
 * file's name if there are several files.
 */
export async function* readShaped<K extends Kind, Row>(
  path: string,
  shape: Shape,
  kind: K,
  reading: Reading,
  options: Omit<ReaderOptions, "leaveOut">,
  check: (row: Given[K], line: number) => Row,
  counts: ReadCounts,
  callbacks: RecordCallbacks
): AsyncGenerator<ReadonlyArray<Row>> {
  const isOne = (await dataFiles(path)).length === 1
  const make = shape[kind] as unknown as (options: ReaderOptions) => {
    rows: (value: unknown, line: number) => Iterable<Given[K]>
    end?: () => Iterable<Given[K]>
  }
  const reader = make({ ...options, leaveOut: callbacks.leaveOut })
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
  yield* readBatches(path, parser, counts, callbacks, { documents: reading.documents, columns: neededColumns(shape, reading.map) })
}
