/** A store written by an earlier version: fixtures/store-of-2026-11-30/, whose README says how it was made. */
import { cpSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { caravan, removeFolder, workFolder } from "../../cli/caravan.ts"

const old = new URL("fixtures/store-of-2026-11-30/home", import.meta.url).pathname
const [lines, upper, counts] = [
  "9ba001288c3c2d299b8cd628d39e0629a9d4479c4809af2d37bf94d58322d7c8",
  "c84949a96bce75716ff1cb91e690a8ee73d6b3820b2b1e68b2010aa09c254ada",
  "315127354de6d8f6cd181c1089442b226ac27d6e2c8e665d4f1cabd799dc4fcc"
] as const

let folder: string
beforeAll(() => {
  folder = workFolder()
  cpSync(old, join(folder, "home"), { recursive: true })
})
afterAll(() => removeFolder(folder))

const prints = (...args: ReadonlyArray<string>): string => {
  const { status, stdout, stderr } = caravan(folder, ...args)
  expect([status, stderr]).toEqual([0, ""])
  return stdout
}
const json = (...args: ReadonlyArray<string>): any => JSON.parse(prints(...args, "--json"))

describe("a store and a journal written by the version of 2026-11-30 open", { timeout: 60_000 }, () => {
  it("runs and show: what ran, what was cached, what failed", () => {
    expect(json("runs").runs.map(({ status, nodes }: { status: string; nodes: object }) => [status, nodes])).toEqual([
      ["succeeded", { ran: 1, hit: 2 }],
      ["failed", { failed: 1, hit: 1, skipped: 1 }],
      ["succeeded", { ran: 2, hit: 1 }],
      ["succeeded", { ran: 3 }]
    ])
    const { nodes, outputs } = json("show", "latest")
    expect(nodes.map(({ node, status, digest }: Record<string, string>) => [node, status, digest])).toEqual([
      ["upper", "ran", upper],
      ["lines", "hit", lines],
      ["counts", "hit", counts]
    ])
    expect(readFileSync(join(outputs[0].path, "report.json"), "utf8")).toBe('{\n  "characters": 17,\n  "rows": 3\n}\n')
    expect(prints("show", "latest~1")).toMatch(/^ {2}failed +upper .*"beta" is not for shouting$/m)
    expect(prints("diff", "latest~2", "latest")).toMatch(/^upper\n {2}config mark: "\?" -> "!"\n {2}output: 71ef675440c5 -> c84949a96bce$/m)
  })

  it("lineage: back to the original file", () => {
    const { artifact, made, from } = json("lineage", "counts")
    expect(artifact).toMatchObject({ digest: counts, type: "report:counts/1", path: join(folder, "home/objects/31", counts) })
    expect(made).toMatchObject([{ node: "counts" }, { node: "counts" }])
    expect(from).toMatchObject([{ name: "upper", digest: upper, next: [{ name: "lines", digest: lines, next: [{ kind: "file" }] }] }])
  })

  it("log: a node's output", () => {
    expect(prints("log", "upper")).toMatch(/stage upper starts: config mark: "\?" -> "!"\n.* step 1 {2}total 1\n.* done: c84949a96bce/)
  })

  it("gc: deletes its results except pinned ones, and the journal still knows them", () => {
    expect(json("pin").pins).toMatchObject([{ digest: lines, note: "the words" }])
    expect(prints("gc", "--max-size", "0", "--older-than", "0s", "--keep", "0", "--yes")).toMatch(/^Deleted 3 objects and 4 leftovers: /)
    expect(json("du").items.map(({ digest }: { digest: string }) => digest)).toEqual([lines])
    expect(json("lineage", counts).artifact).toMatchObject({ name: "counts", path: null })
  })
})
