/** Arrow tables from rows of JSON values. */
import * as arrow from "apache-arrow"

/** The Arrow type of some JSON values: integers are int32. */
const typeOf = (values: ReadonlyArray<unknown>): arrow.DataType => {
  const there = values.filter((value) => value !== null && value !== undefined)
  const [first] = there
  if (first === undefined) return new arrow.Utf8()
  if (typeof first === "string") return new arrow.Utf8()
  if (typeof first === "boolean") return new arrow.Bool()
  if (typeof first === "number") return there.every((value) => Number.isInteger(value)) ? new arrow.Int32() : new arrow.Float64()
  if (Array.isArray(first)) return new arrow.List(new arrow.Field("item", typeOf(there.flat()), true))
  return new arrow.Struct(fieldsOf(there))
}
const fieldsOf = (rows: ReadonlyArray<object>): Array<arrow.Field> =>
  [...new Set(rows.flatMap((row) => Object.keys(row)))].map(
    (name) => new arrow.Field(name, typeOf(rows.map((row) => entryOf(row, name))), true)
  )
const entryOf = (row: object, name: string): unknown => (row as { readonly [key: string]: unknown })[name] ?? null

/** An Arrow table with these rows. */
export const tableOf = (rows: ReadonlyArray<object>): arrow.Table =>
  new arrow.Table(
    Object.fromEntries(
      fieldsOf(rows).map(({ name, type }) => [
        name,
        arrow.vectorFromArray(
          rows.map((row) => entryOf(row, name)),
          type
        )
      ])
    ) as never
  )
