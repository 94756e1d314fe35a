/** Schema drift: a file whose columns are no longer those of its type is rejected, however small the difference, and both are reported. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as arrow from "apache-arrow"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, expect, it } from "vitest"
import { dataset } from "../../schemas/dataset.ts"
import { openRows, validateDataset, writeRows } from "../../schemas/dataset-file.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-drift-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const typeOf = (row: Schema.Codec<any, any>) => dataset(row, "drifting/1")
const now = typeOf(Schema.Struct({ text: Schema.String, score: Schema.NullOr(Schema.Number) }))
const row = { text: "alpha", score: 0.5 }

const refusal = async (directory: string): Promise<string> => {
  const checked = await Effect.runPromise(Effect.flip(validateDataset(directory, now)))
  const opened = await Effect.runPromise(Effect.flip(openRows(directory, now)))
  expect([checked._tag, opened._tag]).toEqual(["ArtifactError", "ArtifactError"])
  return checked.message
}

it.each([
  [
    "an additional column",
    Schema.Struct({ text: Schema.String, score: Schema.NullOr(Schema.Number), more: Schema.Boolean }),
    { ...row, more: true }
  ],
  ["a missing column", Schema.Struct({ text: Schema.String }), row],
  ["a renamed column", Schema.Struct({ text: Schema.String, value: Schema.NullOr(Schema.Number) }), { text: "alpha", value: 0.5 }],
  ["columns in another order", Schema.Struct({ score: Schema.NullOr(Schema.Number), text: Schema.String }), row],
  ["a column that became nullable", Schema.Struct({ text: Schema.NullOr(Schema.String), score: Schema.NullOr(Schema.Number) }), row],
  ["a column that is no longer nullable", Schema.Struct({ text: Schema.String, score: Schema.Number }), row],
  [
    "another type of number",
    Schema.Struct({ text: Schema.String, score: Schema.NullOr(Schema.Number.annotate({ arrow: "int32" })) }),
    { ...row, score: 1 }
  ],
  [
    "a list instead of a value",
    Schema.Struct({ text: Schema.Array(Schema.String), score: Schema.NullOr(Schema.Number) }),
    { ...row, text: ["alpha"] }
  ]
])("%s is rejected", async (name, before, value) => {
  const directory = join(folder, name)
  mkdirSync(directory)
  await writeRows(directory, typeOf(before), [value])
  expect(await refusal(directory)).toMatch(/expected the columns \{text:utf8,score:float64\?\}, found \{/)
})

it("texts in a dictionary are rejected: their bytes are elsewhere", async () => {
  const directory = join(folder, "dictionary")
  mkdirSync(directory)
  const table = new arrow.Table({
    text: arrow.vectorFromArray(["alpha", "beta", "alpha"], new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32())),
    score: arrow.vectorFromArray([0.5, null, 1], new arrow.Float64())
  })
  writeFileSync(join(directory, "data.arrow"), arrow.tableToIPC(table, "file"))
  expect(await refusal(directory)).toMatch(/data\.arrow/)
})

it("an unchanged file is accepted", async () => {
  const directory = join(folder, "same")
  mkdirSync(directory)
  await writeRows(directory, typeOf(Schema.Struct({ text: Schema.String, score: Schema.NullOr(Schema.Number) })), [row])
  expect(await Effect.runPromise(validateDataset(directory, now))).toBeUndefined()
})
