/** Datasets derived from other datasets, one record batch at a time. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { deriveDataset, writeReordered } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { dataset } from "../../schemas/dataset.ts"
import { Texts } from "../../schemas/rows.ts"
import { artifact, rowsArtifact, rowsIn } from "../stages/running.ts"

/** Several record batches. */
const rows = Array.from({ length: 9000 }, (_, i) => ({ text: `text ${i} ${"x".repeat(i % 200)}` }))
type Row = (typeof rows)[number]

describe("a dataset derived from another", () => {
  it("has the rows made from each row, zero or more, in order; its metrics are computed at the end", async () => {
    const ref = await rowsArtifact(Texts, rows)
    let dropped = 0
    const derive = (row: Row, i = Number(row.text.split(" ")[1])): ReadonlyArray<Row> => {
      if (i % 3 === 0) dropped++
      return Array.from({ length: i % 3 }, (_, copy) => ({ text: `${i}.${copy}` }))
    }
    let metrics: Readonly<Record<string, number>> = {}
    const made = await artifact(Texts, (slot) =>
      deriveDataset({ ref, type: Texts }, slot, derive, () => ({ dropped })).pipe(
        Effect.tap((written) => Effect.sync(() => (metrics = written.metrics)))
      )
    )
    const wanted = rows.flatMap((_, i) => Array.from({ length: i % 3 }, (_, copy) => ({ text: `${i}.${copy}` })))
    expect(await rowsIn(made, Texts)).toEqual(wanted)
    expect(metrics).toEqual({ rows: wanted.length, dropped: 3000 })
  })
  /** The cause of the failure when deriving texts from a folder. */
  const causeOf = async (ref: ArtifactRef<any>, derive: (row: Row) => ReadonlyArray<Row>): Promise<Cause.Cause<unknown>> => {
    let cause: Cause.Cause<unknown> = Cause.empty
    const derived = artifact(Texts, (slot) =>
      deriveDataset({ ref, type: Texts }, slot, derive).pipe(Effect.tapCause((found) => Effect.sync(() => (cause = found))))
    )
    await derived.catch(() => undefined)
    return cause
  }
  it("fails with a defect if the stage throws", async () => {
    const mistake = new Error("the stage's")
    const cause = await causeOf(await rowsArtifact(Texts, rows), () => {
      throw mistake
    })
    expect([Cause.hasDies(cause), Cause.squash(cause)]).toEqual([true, mistake])
  })
  it("fails with the error of a batch that can't be read", async () => {
    const ref = await rowsArtifact(Texts, rows)
    const path = join(ref.path, "data.arrow")
    const bytes = readFileSync(path)
    // Within the offsets, which precede the last batch's texts.
    const texts = bytes.lastIndexOf("text 8999") - 10_000
    const offsets = bytes.lastIndexOf(Buffer.alloc(5), texts)
    writeFileSync(path, bytes.fill(0xff, offsets - 400, offsets))
    const cause = await causeOf(ref, (row) => [row])
    expect(Cause.hasFails(cause)).toBe(true)
    expect((Cause.squash(cause) as Error).message).toContain("expected readable record batches")
  })
})

describe("datasets written in a new order", () => {
  const half = [rows.slice(0, 5000), rows.slice(5000)]
  it.each([
    ["all rows together", 100_000],
    ["a few rows at a time", 1700]
  ])("have the rows that the order names, repeated where it repeats them, reading %s", async (_, held) => {
    const refs = await Promise.all(half.map((part) => rowsArtifact(Texts, part)))
    const order = [...new Random(1, "order").permutation(rows.length)].slice(0, 3000).concat([8999, 0, 0, 4999, 5000, 8999])
    const made = await artifact(Texts, (slot) => writeReordered({ refs, type: Texts }, slot, order, { held }))
    expect(await rowsIn(made, Texts)).toEqual(order.map((index) => rows[index]))
  })
  it("have the rows that the order names if only one or two are held, and batches are read one row at a time", async () => {
    const refs = await Promise.all(half.map((part) => rowsArtifact(Texts, part)))
    const order = [8999, 0, 4999, 5000, 4096, 4095, 0]
    for (const held of [1, 2]) {
      const made = await artifact(Texts, (slot) => writeReordered({ refs, type: Texts }, slot, order, { held }))
      expect(await rowsIn(made, Texts)).toEqual(order.map((index) => rows[index]))
    }
  })
  it("are empty if the order is empty", async () => {
    const refs = [await rowsArtifact(Texts, rows)]
    expect(await rowsIn(await artifact(Texts, (slot) => writeReordered({ refs, type: Texts }, slot, [])), Texts)).toEqual([])
  })
})

it("reordered rows keep numbers that JSON can't represent", async () => {
  const Numbers = dataset(Schema.Struct({ id: Schema.String, value: Schema.Number, list: Schema.Array(Schema.Number) }), "numbers/1")
  const given = [NaN, -Infinity, -0, 1e-310].map((value, i) => ({ id: `é${i}`, value, list: [value, i] }))
  const ref = await rowsArtifact(Numbers, given)
  const made = await artifact(Numbers, (slot) => writeReordered({ refs: [ref], type: Numbers }, slot, [3, 1, 0, 2, 0], { held: 2 }))
  expect(await rowsIn(made, Numbers)).toEqual([3, 1, 0, 2, 0].map((i) => given[i]))
})
