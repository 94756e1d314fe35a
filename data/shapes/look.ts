/** The columns of the first rows and the kinds of their values. Shapes are detected from these alone. */
import { own } from "../../schemas/own.ts"
import { kindOfValue } from "./fields.ts"

/** The kind of most values in a column. */
export type ColumnKind =
  | "text"
  | "number"
  | "boolean"
  | "messages"
  | "turns"
  | "texts"
  | "objects"
  | "list"
  | "object"
  | "bytes"
  | "nothing"

export interface Look {
  /** Columns by name, in order of first occurrence. */
  readonly columns: ReadonlyMap<string, ColumnKind>
  /** Whether all of these columns exist in at least half of the rows. */
  readonly has: (...names: ReadonlyArray<string>) => boolean
  readonly is: (name: string, ...kinds: ReadonlyArray<ColumnKind>) => boolean
  /** The values of a column that are not null. */
  readonly values: (name: string) => ReadonlyArray<unknown>
  /** The first row that could not be read, and why: "line 1: not JSON: ...". */
  readonly fault?: string
}

const isObject = (value: unknown): value is object => kindOfValue(value) === "object"

const kindOf = (value: unknown): ColumnKind => {
  if (typeof value === "string") return "text"
  if (typeof value === "number" || typeof value === "bigint") return "number"
  if (typeof value === "boolean") return "boolean"
  if (value === null || value === undefined) return "nothing"
  if (!Array.isArray(value)) return isObject(value) ? "object" : "bytes"
  if (value.length === 0) return "list"
  const all = (holds: (element: unknown) => boolean) => value.every(holds)
  if (all((element) => isObject(element) && Object.hasOwn(element, "role") && Object.hasOwn(element, "content"))) return "messages"
  if (all((element) => isObject(element) && Object.hasOwn(element, "from") && Object.hasOwn(element, "value"))) return "turns"
  if (all((element) => typeof element === "string")) return "texts"
  return all(isObject) ? "objects" : "list"
}

/** The most common kind of some values. An empty list counts as a list of anything. */
const mostOf = (values: ReadonlyArray<unknown>): ColumnKind => {
  const counts = new Map<ColumnKind, number>()
  for (const value of values) counts.set(kindOf(value), (counts.get(kindOf(value)) ?? 0) + 1)
  if (counts.size > 1) counts.delete("list")
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0] ?? "nothing"
}

export const lookAt = (rows: ReadonlyArray<unknown>): Look => {
  const objects = rows.filter(isObject)
  const values = new Map<string, Array<unknown>>()
  for (const row of objects)
    for (const name of Object.keys(row)) {
      const column = values.get(name) ?? []
      if (column.length === 0) values.set(name, column)
      const value = own(row as Record<string, unknown>, name)
      if (value !== null && value !== undefined) column.push(value)
    }
  const columns = new Map([...values].map(([name, found]) => [name, mostOf(found)]))
  return {
    columns,
    has: (...names) => names.every((name) => objects.length > 0 && 2 * (values.get(name)?.length ?? 0) >= objects.length),
    is: (name, ...kinds) => kinds.includes(columns.get(name) ?? "nothing"),
    values: (name) => values.get(name) ?? []
  }
}
