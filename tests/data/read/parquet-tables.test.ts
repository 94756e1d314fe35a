/** Small Parquet files by one worker: values and nulls as written, and a file that can't be read between two that can. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Curve } from "../../../runtime/run/curve.ts"
import { parquetTables } from "../../../data/read/parquet-tables.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-parquet-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const written = async (name: string, rows: ReadonlyArray<Readonly<Record<string, number>>>): Promise<string> => {
  const curve = new Curve()
  for (const row of rows) curve.add(row)
  const path = join(folder, name)
  writeFileSync(path, await curve.parquet())
  return path
}
const all = async (paths: ReadonlyArray<string>) => {
  const found: Array<unknown> = []
  for await (const table of parquetTables(paths))
    found.push(table instanceof Error ? table.message : table.toArray().map((row) => ({ ...row })))
  return found
}

describe("Parquet tables", () => {
  it("have the values, nulls and NaN of each file, in order", async () => {
    const paths = [
      await written("a", [
        { step: 1, loss: 2 },
        { step: 2, kl: 1 },
        { step: 3, loss: Number.NaN }
      ]),
      await written("b", [{ step: 7, loss: 0.5 }])
    ]
    const [first, second] = (await all(paths)) as ReadonlyArray<ReadonlyArray<Record<string, number | null>>>
    expect(first!.map(({ loss, step }) => [step, loss])).toEqual([
      [1, 2],
      [2, null],
      [3, Number.NaN]
    ])
    expect(second!.map(({ loss, step }) => [step, loss])).toEqual([[7, 0.5]])
  })
  it("are errors for a file that is damaged, truncated or missing, and the next file is still read", async () => {
    const good = await written("good", [{ step: 1, loss: 2 }])
    const [damaged, cut] = [join(folder, "damaged"), join(folder, "cut")]
    writeFileSync(damaged, "PAR1 no Parquet file PAR1")
    writeFileSync(cut, readFileSync(good).subarray(0, 100))
    const found = await all([damaged, good, join(folder, "missing"), cut, good])
    expect(found.map((one) => (typeof one === "string" ? "error" : (one as ReadonlyArray<unknown>).length))).toEqual([
      "error",
      1,
      "error",
      "error",
      1
    ])
    expect(found[2]).toMatch(/ENOENT/)
  })
  it("of many files leave no listeners behind", async () => {
    const warnings: Array<Error> = []
    const listen = (warning: Error) => void warnings.push(warning)
    process.on("warning", listen)
    const good = await written("many", [{ step: 1, loss: 2 }])
    expect(await all(Array.from({ length: 15 }, () => good))).toHaveLength(15)
    await new Promise((resolve) => setImmediate(resolve))
    process.off("warning", listen)
    expect(warnings).toEqual([])
  })
  it("of an empty list of files are empty", async () => {
    expect(await all([])).toEqual([])
  })
})
