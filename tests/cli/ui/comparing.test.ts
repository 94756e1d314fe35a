/** Comparisons, tables of runs, lineage and the state of lock files, from the server of `caravan ui`. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { Lineage } from "../../../cli/ui/api.ts"
import { figuresIn } from "../../../cli/ui/figures.ts"
import { fixtureFolder } from "../../runtime/fixture.ts"
import { caravan, removeFolder } from "../caravan.ts"
import { serve, type Served } from "./server.ts"

let folder: string
let served: Served
const ids: Array<string> = []
beforeAll(async () => {
  folder = fixtureFolder()
  for (const times of [1, 2, 5])
    ids.push((JSON.parse(caravan(folder, "run", "pipeline.ts", "--set", `times=${times}`, "--json").stdout) as { run: string }).run)
  served = await serve(join(folder, "home"))
}, 120_000)
afterAll(async () => {
  await served.close()
  removeFolder(folder)
})
const ask = async (path: string) => (await served.get(path)).json

describe("two runs", () => {
  it("are compared by arguments, node by node, with the fields of their reports", async () => {
    const { asked, before, nodes, same } = await ask(`/api/compare?before=${ids[0]}&after=${ids[2]}`)
    expect([before.id, asked, same]).toEqual([ids[0], [{ what: "times", before: "1", after: "5" }], 2])
    const shout = nodes.find((one: { node: string }) => one.node === "shout")
    expect(shout.changes).toMatchObject([{ kind: "config", what: "times", before: 1, after: 5 }, { kind: "output" }])
    expect(nodes.find((one: { node: string }) => one.node === "counts").report).toEqual([expect.stringMatching(/characters.*31.*43/)])
    const { nodes: none, same: all } = await ask(`/api/compare?before=${ids[0]}&after=${ids[0]}`)
    expect([none, all]).toEqual([[], 4])
    expect((await served.get(`/api/compare?before=${ids[0]}&after=00000000-0000-4000-8000-000000000000`)).status).toBe(404)
  })
})

describe("several runs", () => {
  it("are a table: arguments that differ, and measurements, with differing ones first", async () => {
    const { asked, measures, runs } = await ask(`/api/table?runs=${ids.join()}`)
    expect(asked).toEqual(["times"])
    expect(runs.map((run: any) => [run.asked.times, run.measures["counts.characters"], run.measures["counts.rows"]])).toEqual([
      ["1", 31, 6],
      ["2", 34, 6],
      ["5", 43, 6]
    ])
    const differs = measures.map((one: { differs: boolean }) => one.differs)
    expect(differs).toEqual([...differs].sort().reverse())
    expect(measures[0]).toEqual({ name: "counts.characters", differs: true })
    for (const wrong of ["", "x", Array.from({ length: 65 }, (_, i) => ids[0]!.replace(/^.{4}/, String(1000 + i))).join()])
      expect((await served.get(`/api/table?runs=${wrong}`)).status).toBe(400)
  })
})

describe("an artifact", () => {
  it("has its origin, what was made from it, and who made it", async () => {
    const shout = (await ask(`/api/node?run=${ids[0]}&node=shout`)).output.digest as string
    const { artifact, from, into, isThere, made } = (await ask(`/api/lineage?digest=${shout}`)) as Lineage
    expect([artifact.name, isThere, made[0]!.run]).toEqual(["shout", true, ids[0]])
    expect(from.map(({ depth, name, port }) => [depth, port, name.split("/").at(-1)])).toEqual([
      [1, "texts", "lines"],
      [2, "file", "words.txt"]
    ])
    expect(into.map(({ name }) => name)).toEqual(["counts"])
    expect((await served.get(`/api/lineage?digest=${"0".repeat(64)}`)).status).toBe(404)
  })
})

describe("the lock file of a run", () => {
  it("is missing, the same, different, or unreadable", async () => {
    const of = (id: string) => ask(`/api/lock?run=${id}`)
    expect(await of(ids[0]!)).toMatchObject({ state: "none", differences: [] })
    expect(caravan(folder, "freeze", "pipeline.ts", "--set", "times=1").status).toBe(0)
    expect(await of(ids[0]!)).toMatchObject({ state: "same", path: expect.stringMatching(/pipeline\.lock\.json$/) })
    const { differences, state } = await of(ids[2]!)
    expect([state, differences]).toEqual([
      "differs",
      [
        { node: "shout", what: "config times", before: 1, after: 5 },
        { node: "shout", what: "result", before: expect.any(String), after: expect.any(String) },
        { node: "counts", what: "result", before: expect.any(String), after: expect.any(String) }
      ]
    ])
    const path = join(folder, "pipeline.lock.json")
    writeFileSync(path, readFileSync(path, "utf8").slice(0, 100))
    expect(await of(ids[0]!)).toMatchObject({ state: "unreadable", message: expect.stringContaining("not JSON") })
  })
})

describe("figures", () => {
  it("are the figures of a report's page, with their titles", () => {
    const page = `<h2>A &amp; &lt;b&gt;</h2><figure><svg width="1"><g/></svg></figure><h2>B</h2><p>none</p><h2 id="c">C</h2><svg>1</svg><svg>2</svg>`
    expect(figuresIn(page)).toEqual([
      { title: "A & <b>", svg: `<svg width="1"><g/></svg>` },
      { title: "C", svg: "<svg>1</svg>" },
      { title: "C", svg: "<svg>2</svg>" }
    ])
  })

  it("of something that is not a report do not exist", async () => {
    const lines = (await ask(`/api/node?run=${ids[0]}&node=lines`)).output.digest as string
    expect((await served.get(`/api/figure?digest=${lines}&index=0`)).status).toBe(404)
  })
})
