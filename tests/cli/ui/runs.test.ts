/** Runs in the server of `caravan ui`: finished ones, an active one, and damaged ones. */
import { execFileSync } from "node:child_process"
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { CurveHeader } from "../../../cli/ui/curve.ts"
import type { LiveEvent } from "../../../cli/ui/api.ts"
import { stepsPath } from "../../../runtime/run/node-log.ts"
import { fixtureFolder } from "../../runtime/fixture.ts"
import { caravan, removeFolder, start } from "../caravan.ts"
import { eventsUntil, serve, type Served } from "./server.ts"

let folder: string
let home: string
let served: Served
/** Ids of the runs, oldest first. */
const ids: Array<string> = []

const descending = `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { hyperInt } from "../../../schemas/hyper.ts"
import { descend, descendInChild } from "./descending.ts"
import { lines } from "./mapped.ts"
export default Pipeline.make("descending", { params: Schema.Struct({ divergesAt: hyperInt(0, "step") }) }, ({ divergesAt }) => {
  const texts = lines({ file: fileAt("words.txt") })
  return { result: descendInChild({ texts }, { steps: 100 }), other: descend({ texts }, { steps: 5, divergesAt }).named("other/<b>1</b>") }
})
`

beforeAll(async () => {
  folder = fixtureFolder()
  home = join(folder, "home")
  writeFileSync(join(folder, "descending-pipeline.ts"), descending)
  const ran = (...args: ReadonlyArray<string>) =>
    ids.push((JSON.parse(caravan(folder, "run", ...args, "--json").stdout) as { run: string }).run)
  ran("descending-pipeline.ts")
  ran("descending-pipeline.ts", "--set", "divergesAt=3")
  ran("pipeline.ts", "--set", "times=3")
  served = await serve(home)
}, 120_000)
const copyOfHome = (): string => {
  const copy = join(folder, `home-${Math.random()}`)
  // By another process: closing a database's file drops SQLite's locks on it in this process.
  execFileSync("cp", ["-a", home, copy])
  return copy
}
afterAll(async () => {
  await served.close()
  removeFolder(folder)
})

const ask = async (path: string) => (await served.get(path)).json
const nodeOf = (run: string, node: string) => ask(`/api/node?run=${run}&node=${encodeURIComponent(node)}`)

const curveOf = (body: Buffer): { readonly header: CurveHeader; readonly columns: Record<string, Array<number>> } => {
  const length = body.readUInt32LE(0)
  const header = JSON.parse(body.toString("utf8", 4, 4 + length)) as CurveHeader
  const begin = Math.ceil((4 + length) / 8) * 8
  const columns = header.columns.map(({ name }, i) => {
    const from = begin + 8 * header.rows * i
    return [name, Array.from({ length: header.rows }, (_, row) => body.readDoubleLE(from + 8 * row))] as const
  })
  return { header, columns: Object.fromEntries(columns) }
}

describe("the list of runs", () => {
  it("has every run, the latest first, with its changes since the pipeline's previous run", async () => {
    const { runs, total } = await ask("/api/runs")
    expect([total, runs.map((run: { id: string }) => run.id)]).toEqual([3, ids.toReversed()])
    expect(runs.map(({ changes, counts, status, total: nodes }: any) => [status, changes, counts, nodes])).toEqual([
      ["succeeded", null, { ran: 4 }, 4],
      ["failed", [{ what: "divergesAt", before: null, after: "3" }], { hit: 2, failed: 1 }, 3],
      ["succeeded", null, { ran: 3 }, 3]
    ])
  })

  it("is searched by pipeline, status and id, and comes in pages", async () => {
    const found = async (query: string) => (await ask(`/api/runs?${query}`)).runs.map((run: { id: string }) => run.id)
    expect(await found("search=DESC")).toEqual([ids[1], ids[0]])
    expect(await found("search=failed")).toEqual([ids[1]])
    expect(await found(`search=${ids[2]!.slice(0, 8)}`)).toEqual([ids[2]])
    expect(await found("search=%25")).toEqual([])
    expect(await found("limit=1&from=1")).toEqual([ids[1]])
  })
})

describe("a run", () => {
  it("has its graph as connected, and the status of each node", async () => {
    const { graph, isWhole, outputs, state, resume } = await ask(`/api/run?run=${ids[1]}`)
    expect(isWhole).toBe(true)
    expect(graph.map(({ id, inputs, stage }: any) => [id, stage, inputs])).toEqual([
      ["file:words.txt", null, []],
      ["lines", "lines", ["file:words.txt"]],
      ["descend-in-child", "descend-in-child", ["lines"]],
      ["other/<b>1</b>", "descend", ["lines"]]
    ])
    expect(outputs).toEqual({ result: "descend-in-child", other: "other/<b>1</b>" })
    expect(Object.fromEntries(state.nodes.map((node: any) => [node.id, node.state]))).toEqual({
      lines: "hit",
      "descend-in-child": "hit",
      "other/<b>1</b>": "failed"
    })
    expect(resume).toBe(null)
  })

  it("of an older version, which recorded no graph, has the graph of its executions", async () => {
    const copy = copyOfHome()
    const database = new DatabaseSync(join(copy, "journal.db"))
    const id = ids[2]!
    const { params } = database.prepare("select params from runs where id = ?").get(id) as { params: string }
    const { graph: _, again: __, ...older } = JSON.parse(params) as Record<string, unknown>
    database.prepare("update runs set params = ?").run(JSON.stringify(older))
    database.close()
    const other = await serve(copy)
    const view = (await other.get(`/api/run?run=${id}`)).json
    expect(view.isWhole).toBe(false)
    expect(Object.fromEntries(view.graph.map((node: any) => [node.id, node.inputs]))).toEqual({
      lines: [],
      shout: ["lines"],
      wait: ["lines"],
      counts: ["shout", "wait"]
    })
    expect(view.resume).toMatch(/older version/)
    await other.close()
  })

  it("that is missing, or has an invalid id, is reported", async () => {
    const missing = await served.get("/api/run?run=00000000-0000-4000-8000-000000000000")
    expect([missing.status, missing.json.message]).toEqual([404, expect.stringMatching(/^The journal has no run 00000000-/)])
    for (const id of ["x", "../../etc/passwd", "%00", ids[0]!.slice(0, 8)])
      expect(await served.get(`/api/run?run=${id}`)).toMatchObject({
        status: 400,
        json: { message: expect.stringMatching(/^Reading the request: /) }
      })
    expect((await served.get("/api/node?run=..%2F..&node=..")).status).toBe(400)
  })
})

describe("a node", () => {
  it("has its config with the differences from the defaults, why it ran, its inputs and its result", async () => {
    const node = await nodeOf(ids[2]!, "shout")
    expect(node.config.map(({ differs, name, value, default: preset }: any) => [name, value, preset, differs])).toEqual([
      ["times", 3, 1, true],
      ["refuse", false, false, false]
    ])
    expect(node.why).toEqual(["it has never run here"])
    expect(node.inputs).toMatchObject([{ port: "texts", name: "lines", node: "lines", digest: expect.stringMatching(/^[0-9a-f]{64}$/) }])
    expect(node.usedBy).toEqual(["counts"])
    expect(node.output).toMatchObject({ isThere: true, metrics: { rows: 3 }, type: "dataset:text/1" })
    expect((await nodeOf(ids[2]!, "counts")).report).toEqual({ rows: 6, characters: 37 })
  })

  it("that was cached says where it was made; one that failed says why, whatever characters are in its name", async () => {
    expect(await nodeOf(ids[1]!, "descend-in-child")).toMatchObject({ why: ["its result was in the store"], madeBy: ids[0] })
    expect((await nodeOf(ids[1]!, "other/<b>1</b>")).state).toMatchObject({
      state: "failed",
      error: expect.stringContaining("diverged at step 3")
    })
    expect((await served.get(`/api/node?run=${ids[1]}&node=nobody`)).status).toBe(404)
  })

  it("has its log, from any byte on", async () => {
    const log = await ask(`/api/log?run=${ids[0]}&node=descend-in-child`)
    expect(log.lines[0].text).toBe("stage descend-in-child starts: it has never run here")
    expect(log.lines.at(-1).text).toMatch(/^after/)
    expect(await ask(`/api/log?run=${ids[0]}&node=descend-in-child&from=${log.next}`)).toEqual({ lines: [], omitted: 0, next: log.next })
    for (const node of ["../../../../etc/passwd", "..%2F..%2Fjournal.db", "%00"])
      expect((await ask(`/api/log?run=${ids[0]}&node=${node}`)).lines).toEqual([])
  })

  it("is still known if gc has deleted its object", async () => {
    const { output } = await nodeOf(ids[2]!, "shout")
    renameSync(output.path, `${output.path}-away`)
    expect((await nodeOf(ids[2]!, "shout")).output).toMatchObject({ isThere: false, bytes: null, metrics: { rows: 3 } })
    renameSync(`${output.path}-away`, output.path)
  })
})

describe("a curve", () => {
  it("comes as columns: every step, gaps as NaN, with NaN values counted", async () => {
    expect((await ask(`/api/curves?run=${ids[0]}`)).map(({ node, source }: any) => [node, source]).sort()).toEqual([
      ["descend-in-child", "kept"],
      ["other/<b>1</b>", "kept"]
    ])
    const { columns, header } = curveOf((await served.get(`/api/curve?run=${ids[0]}&node=descend-in-child`)).body)
    expect([header.source, header.rows]).toEqual(["kept", 100])
    expect(columns.loss!.slice(0, 3)).toEqual([0.5, 0.25, 0.125])
    expect(columns.kl!.slice(0, 4)).toEqual([NaN, -2, NaN, -4])
    const failed = curveOf((await served.get(`/api/curve?run=${ids[1]}&node=${encodeURIComponent("other/<b>1</b>")}`)).body)
    expect(failed.header.columns.find(({ name }) => name === "loss")).toEqual({ name: "loss", notNumbers: 1, firstAt: 3 })
    expect((await served.get(`/api/curve?run=${ids[0]}&node=lines`)).status).toBe(404)
  })

  it("of a damaged file is an error with what to do", async () => {
    const { path } = JSON.parse(caravan(folder, "curves", ids[0]!.slice(0, 8), "descend-in-child", "--json").stdout)
    const whole = readFileSync(path)
    writeFileSync(path, whole.subarray(0, whole.length >> 1))
    const answer = await served.get(`/api/curve?run=${ids[0]}&node=descend-in-child`)
    writeFileSync(path, whole)
    expect([answer.status, answer.json.message]).toEqual([500, expect.stringContaining("--force")])
  })
})

describe("an active run", () => {
  it("is reported live, with every step, and its end", async () => {
    const live = start(folder, "run", "pipeline.ts", "--set", "steps=60")
    const seen: Array<Extract<LiveEvent, { type: "run" }>> = []
    await eventsUntil(`${served.url}/api/watch`, (event) => event.type === "runs")
    const { runs } = await ask("/api/runs?limit=1")
    const id = runs[0].id as string
    await eventsUntil(`${served.url}/api/watch?run=${id}`, (event) => {
      if (event.type === "run") seen.push(event)
      return event.type === "run" && event.status !== "running"
    })
    const states = (node: string) => seen.flatMap(({ nodes }) => nodes.filter((one) => one.id === node))
    expect([...new Set(states("wait").map(({ state }) => state))]).toEqual(
      ["waiting", "running", "ran"].filter((state) => states("wait").some((one) => one.state === state))
    )
    const steps = states("wait").flatMap(({ progress }) => progress?.step ?? [])
    expect(new Set(steps).size).toBeGreaterThan(5)
    expect(seen.at(-1)).toMatchObject({ status: "succeeded" })
    expect(states("counts").at(-1)?.state).toBe("ran")
    // The steps are in the stored curve, or were not part of a curve.
    expect(existsSync(stepsPath(home, id, "wait"))).toBe(false)
    live.kill()
  }, 120_000)

  it("that was killed says so, and its steps until then are its curve", async () => {
    const id = ids[0]!.replace(/^.{8}/, "deadbeef")
    const database = new DatabaseSync(join(home, "journal.db"))
    database.prepare("insert into runs select ?, pipeline, params, started + 1, null, 'running' from runs where id = ?").run(id, ids[0]!)
    database.close()
    const logs = join(home, "logs", id)
    mkdirSync(logs)
    writeFileSync(join(logs, "descend-in-child.log"), "2026-12-01T10:00:00.000Z stage descend-in-child starts: it has never run here\n")
    const steps = stepsPath(home, id, "descend-in-child")
    writeFileSync(
      steps,
      `{"at":1000,"step":1,"total":9,"loss":0.5,"tokens":10}\n{"at":2000,"step":2,"total":9,"loss":"NaN","tokens":10}\n{"at":3000,"st`
    )
    const view = await ask(`/api/run?run=${id}`)
    expect(view).toMatchObject({ status: "killed" })
    const node = view.state.nodes.find((one: { id: string }) => one.id === "descend-in-child")
    expect(node).toMatchObject({ state: "stopped", progress: { step: 2, loss: "NaN", tokensPerSecond: 10 } })
    const { columns, header } = curveOf((await served.get(`/api/curve?run=${id}&node=descend-in-child`)).body)
    expect([header.source, header.rows, columns.step, columns.loss]).toEqual(["live", 2, [1, 2], [0.5, NaN]])
    appendFileSync(steps, `ep":3,"total":9,"loss":0.25}\n`)
    const more = curveOf((await served.get(`/api/curve?run=${id}&node=descend-in-child&from=${header.next}`)).body)
    expect([more.header.rows, more.columns.loss]).toEqual([1, [0.25]])
    rmSync(logs, { recursive: true })
  })
})

describe("a journal", () => {
  it("of a newer format is reported, with what to do", async () => {
    const copy = copyOfHome()
    const database = new DatabaseSync(join(copy, "journal.db"))
    database.exec("pragma user_version = 99")
    database.close()
    const other = await serve(copy)
    const answer = await other.get("/api/runs")
    expect([answer.status, answer.json.message]).toEqual([500, expect.stringMatching(/it has format 99, .*Use the newer version/)])
    const [, event] = await eventsUntil(`${other.url}/api/watch`, ({ type }) => type === "trouble")
    expect(event).toMatchObject({ type: "trouble", message: expect.stringContaining("format 99") })
    await other.close()
  })
})
