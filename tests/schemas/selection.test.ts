/** Selecting rows or fields of a batch gives the same values as reading all. */
import * as Schema from "effect/Schema"
import { expect, it } from "vitest"
import { arrowSchema, columnsOf } from "../../schemas/arrow.ts"
import { toBatch, toRows } from "../../schemas/arrow-rows.ts"

const Row = Schema.Struct({
  text: Schema.NullOr(Schema.String),
  safe: Schema.Boolean,
  count: Schema.Number.annotate({ arrow: "int32" }),
  messages: Schema.NullOr(Schema.Array(Schema.Struct({ role: Schema.String, parts: Schema.Array(Schema.NullOr(Schema.String)) })))
})
const kind = columnsOf(Row)
const rows = Array.from({ length: 50 }, (_, i) => ({
  text: i % 3 === 0 ? null : `é${i}`,
  safe: i % 2 === 0,
  count: i,
  messages: i % 5 === 0 ? null : Array.from({ length: i % 4 }, (_, j) => ({ role: `r${j}`, parts: j === 0 ? [] : [`${i}`, null] }))
}))
const batch = toBatch(kind, arrowSchema(kind), rows)

it("rows in any order, one of them twice, or none", () => {
  for (const wanted of [[0], [49, 3, 3, 17], [], Array.from({ length: 50 }, (_, i) => 49 - i)])
    expect(toRows(kind, batch, { rows: Uint32Array.from(wanted) })).toEqual(wanted.map((i) => rows[i]))
})

it("named fields, of all rows or some", () => {
  expect(toRows(kind, batch, { fields: ["messages", "count"] })).toEqual(rows.map(({ count, messages }) => ({ count, messages })))
  expect(toRows(kind, batch, { fields: ["text"], rows: Uint32Array.of(7, 0) })).toEqual([{ text: "é7" }, { text: null }])
})
