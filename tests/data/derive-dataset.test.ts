/** Datasets made of other datasets, one record batch after another. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { describe, expect, it } from "vitest"
import { deriveDataset } from "../../data/dataset.ts"
import { openRows } from "../../schemas/dataset-file.ts"
import { Texts } from "../../schemas/rows.ts"
import { artifact, rowsArtifact, rowsIn } from "../stages/running.ts"

/** Several record batches. */
const rows = Array.from({ length: 9000 }, (_, i) => ({ text: `text ${i} ${"x".repeat(i % 200)}` }))
type Row = (typeof rows)[number]

describe("a dataset derived from another", () => {
  it("has what each row became, none, one or several, in order; its metrics are those of the end", async () => {
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
  it("fails with what is wrong with a batch that can't be read; what the stage throws is a defect", async () => {
    const ref = await rowsArtifact(Texts, rows)
    const path = join(ref.path, "data.arrow")
    const { batches, close } = await Effect.runPromise(openRows(ref.path, Texts))
    await close()
    expect(batches).toBeGreaterThan(2)
    const run = (derive: (row: Row) => ReadonlyArray<Row>) =>
      artifact(Texts, (slot) =>
        Effect.exit(deriveDataset({ ref, type: Texts }, slot, derive)).pipe(
          Effect.tap((found) => Effect.sync(() => (exit = found))),
          Effect.flatten
        )
      ).catch(() => undefined)
    let exit: Exit.Exit<unknown, unknown> = Exit.void
    const mistake = new Error("the stage's")
    await run(() => {
      throw mistake
    })
    expect(Exit.isFailure(exit) && Cause.squash(exit.cause)).toBe(mistake)
    // The offsets of the last batch's texts.
    const bytes = readFileSync(path)
    const at = bytes.lastIndexOf(Buffer.from([0, 0, 0, 0, 0]), bytes.lastIndexOf("text 8999") - 10_000)
    bytes.fill(0xff, at - 400, at)
    writeFileSync(path, bytes)
    await run((row) => [row])
    expect(Exit.isFailure(exit) && Cause.hasFails(exit.cause)).toBe(true)
    expect(Exit.isFailure(exit) && String((Cause.squash(exit.cause) as Error).message)).toContain(
      "expected record batches that can be read"
    )
  })
})
