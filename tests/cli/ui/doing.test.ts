/** Actions that the page may do with the token, and not without: stop and start runs, pin, note, label. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { agreed } from "../../../cli/ui/labels.ts"
import { wordsFrom } from "../../../cli/ui/control.ts"
import { fixtureFolder } from "../../runtime/fixture.ts"
import { caravan, removeFolder, start } from "../caravan.ts"
import { eventsUntil, serve, type Served } from "./server.ts"

const token = "a-token-of-the-test"
const headers = { "x-caravan-token": token }

const annotating = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { ResponsePairs } from "../../../schemas/rows.ts"
import { annotate } from "../../../stages/preferences/annotate.ts"

export const pairs = Stage.make("some-pairs", {
  inputs: {}, seeded: false, resources: { inProcess: true }, config: Schema.Struct({}), output: ResponsePairs,
  run: Effect.fn("pairs")(function* ({ output }) {
    return yield* writeDataset(output, ["p", "q", "r"].map((id) => ({
      id, prompt: [{ role: "user" as const, content: "question " + id }], safety: false, category: null, followUps: [], responseA: "one " + id, responseB: "two " + id,
      policyA: "0", policyB: "1", temperatureA: 1, temperatureB: 1
    })))
  })
})
const Params = Schema.Struct({ labelled: hyperInt(0, "whether labels are there"), kind: hyper("helpfulness", "of labels", ["helpfulness", "safety"]) })
export default Pipeline.make("annotating", { params: Params }, ({ labelled, kind }) => ({
  preferences: annotate(
    { pairs: pairs({}).named("pairs"), ...(labelled === 1 ? { labels: fileAt("labels.jsonl") } : {}) },
    { kind, pairsFile: "to-label.jsonl", labelsFile: "labels.jsonl", labelsHint: "run again with --set labelled=1" }
  ).named("preferences")
}))
`

let folder: string
let served: Served
let id: string
beforeAll(async () => {
  folder = fixtureFolder()
  writeFileSync(join(folder, "annotating.ts"), annotating)
  id = (JSON.parse(caravan(folder, "run", "pipeline.ts", "--json").stdout) as { run: string }).run
  served = await serve(join(folder, "home"), { token })
}, 120_000)
afterAll(async () => {
  await served.close()
  removeFolder(folder)
})

const tell = (name: string, body: unknown, with_: Readonly<Record<string, string>> = headers) => served.post(`/api/${name}`, body, with_)
const ask = async (path: string) => (await served.get(path, headers)).json

describe("without the token", () => {
  it("no action works, and no labels are shown", async () => {
    const digest = (await ask(`/api/node?run=${id}&node=lines`)).output.digest as string
    const posts: ReadonlyArray<readonly [string, object]> = [
      ["stop", { run: id }],
      ["begin", { run: id }],
      ["pin", { digest, isPinned: true, note: "" }],
      ["note", { run: id, note: "x", tags: [] }],
      ["label", { task: "x", annotator: "anna", pair: "p", choice: "A", rating: 0, safeA: null, safeB: null, revision: 0 }],
      ["finish", { task: "x", annotators: ["anna"] }]
    ]
    for (const given of [{}, { "x-caravan-token": "" }, { "x-caravan-token": `${token}x` }, { "x-caravan-token": token.slice(0, -1) }]) {
      for (const [name, body] of posts)
        expect(await tell(name, body, given as Record<string, string>)).toMatchObject({
          status: 403,
          json: { message: expect.stringContaining("token") }
        })
      expect((await served.get("/api/tasks", given as Record<string, string>)).status).toBe(403)
    }
    expect(await ask(`/api/run?run=${id}`)).toMatchObject({ note: "", tags: [] })
    expect(existsSync(join(folder, "home/pins"))).toBe(false)
  })

  it("a server that was started without --allow-control does nothing with any token", async () => {
    const shows = await serve(join(folder, "home"))
    expect(await shows.post("/api/note", { run: id, note: "x", tags: [] }, headers)).toMatchObject({
      status: 403,
      json: { message: expect.stringContaining("--allow-control") }
    })
    expect((await shows.get("/api/about")).json.control).toBe(false)
    await shows.close()
  })

  it("the token does not help a page of another site", async () => {
    const host = `127.0.0.1:${served.port}`
    expect((await tell("note", { run: id, note: "x", tags: [] }, { ...headers, host, origin: "http://evil.example" })).status).toBe(403)
    expect((await tell("note", { run: id, note: "x", tags: [] }, { ...headers, host: "evil.example" })).status).toBe(403)
  })
})

describe("notes and pins", () => {
  it("are kept, and found by the search", async () => {
    expect((await tell("note", { run: id, note: "  the <b>good</b> one ", tags: ["release", " release", "", "v2"] })).status).toBe(200)
    expect(await ask(`/api/run?run=${id}`)).toMatchObject({ note: "the <b>good</b> one", tags: ["release", "v2"] })
    expect((await ask("/api/runs?search=RELEASE")).runs.map((run: { id: string }) => run.id)).toEqual([id])
    expect((await tell("note", { run: id, note: "x".repeat(4001), tags: [] })).status).toBe(400)
    expect((await tell("note", { run: "../x", note: "", tags: [] })).status).toBe(400)
  })

  it("keep an artifact from gc until it is unpinned", async () => {
    const { digest } = (await ask(`/api/node?run=${id}&node=lines`)).output as { digest: string }
    expect((await tell("pin", { digest, isPinned: true, note: "why" })).status).toBe(200)
    expect((await ask(`/api/node?run=${id}&node=lines`)).output.pinned).toBe("why")
    expect((await tell("pin", { digest, isPinned: false, note: "" })).status).toBe(200)
    expect((await ask(`/api/node?run=${id}&node=lines`)).output.pinned).toBe(null)
    expect((await tell("pin", { digest: "0".repeat(64), isPinned: true, note: "" })).status).toBe(404)
  })
})

describe("a run", () => {
  const until = (run: string, isSo: (status: string) => boolean) =>
    eventsUntil(`${served.url}/api/watch?run=${run}`, (event) => event.type === "run" && isSo(event.status))

  it("is stopped, resumed and started from a node, according to its own command line", async () => {
    const child = start(folder, "run", "pipeline.ts", "--set", "steps=600", "--quiet")
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve))
    await eventsUntil(`${served.url}/api/watch`, (event) => event.type === "runs")
    const first = (await ask("/api/runs?limit=1")).runs[0].id as string
    await eventsUntil(
      `${served.url}/api/watch?run=${first}`,
      (event) => event.type === "run" && event.nodes.some((node) => node.id === "wait" && node.state === "running")
    )
    expect((await tell("begin", { run: first })).status).toBe(409)
    expect(await tell("stop", { run: first })).toMatchObject({ status: 200 })
    expect(await ended).toBe(130)
    expect((await ask(`/api/run?run=${first}`)).status).toBe("interrupted")
    expect((await tell("stop", { run: first })).status).toBe(409)

    const { json } = await tell("begin", { run: first })
    expect(json.run).not.toBe(first)
    const resumed = await ask(`/api/run?run=${json.run}`)
    expect(resumed.asked.steps).toBe("600")
    expect(await tell("stop", { run: json.run })).toMatchObject({ status: 200 })
    await until(json.run as string, (status) => status !== "running")

    const again = (await tell("begin", { run: id, node: "shout" })).json.run as string
    await until(again, (status) => status !== "running")
    const { state } = await ask(`/api/run?run=${again}`)
    const states = Object.fromEntries(state.nodes.map((node: any) => [node.id, node.state]))
    expect(states).toMatchObject({ shout: "ran", counts: "hit" })
  }, 180_000)

  it("that can't start says why", async () => {
    rmSync(join(folder, "pipeline.ts"))
    expect(await tell("begin", { run: id })).toMatchObject({
      status: 400,
      json: { message: expect.stringMatching(/^It could not start: Loading the pipeline pipeline\.ts: no such file/) }
    })
    expect((await tell("begin", { run: id, node: "--help" })).status).toBe(400)
  }, 60_000)
})

describe("wordsFrom", () => {
  it("starts from a node instead of the selected ones, and keeps everything else", () => {
    const words = ["run", "--set", "a=1", "--until", "b", "--only", "c", "--jobs", "2", "--", "p.ts"]
    expect(wordsFrom({ words, folder: "/" }, "--odd name")).toEqual([
      "run",
      "--set",
      "a=1",
      "--jobs",
      "2",
      "--from=--odd name",
      "--force=--odd name",
      "--",
      "p.ts"
    ])
    expect(wordsFrom({ words, folder: "/" }, undefined)).toBe(words)
  })
})

describe("labelling", () => {
  const labels = (annotator: string) =>
    readFileSync(join(folder, `labels.by-${annotator}.jsonl`), "utf8")
      .trimEnd()
      .split("\n")
  const task = async () => (await ask("/api/tasks")).find((one: { node: string }) => one.node === "preferences")
  const one = async (annotator: string, at?: number) =>
    ask(`/api/labelling?task=${(await task()).id}&annotator=${annotator}${at === undefined ? "" : `&at=${at}`}`)
  const label = async (annotator: string, pair: string, choice: "A" | "B", rating: number, revision: number, safe: boolean | null = null) =>
    tell("label", { task: (await task()).id, annotator, pair, choice, rating, safeA: safe, safeB: safe, revision })

  it("gives the pairs for which a run waits, one by one, to each annotator separately", async () => {
    mkdirSync(join(folder, "elsewhere"), { recursive: true })
    expect(caravan(folder, "run", "annotating.ts", "--quiet").status).toBe(1)
    expect(await task()).toMatchObject({
      pipeline: "annotating",
      kind: "helpfulness",
      pairs: 3,
      annotators: [],
      hint: "run again with --set labelled=1",
      labelsFile: join(folder, "labels.jsonl")
    })
    const first = await one("anna")
    expect([first.index, first.done, first.next, first.label, first.pair.responseA]).toEqual([0, 0, 1, null, "one p"])
    expect((await label("anna", first.pair.id, "B", 2, 0)).json).toEqual({ revision: 1, done: 1 })
    expect(await one("anna")).toMatchObject({ index: 1, done: 1 })
    expect(await one("ben")).toMatchObject({ index: 0, done: 0, label: null })
    expect(await one("anna", 0)).toMatchObject({ label: { choice: "B", rating: 2, revision: 1 } })
    expect(labels("anna")).toEqual([expect.stringMatching(/^\{"id":"p-[0-9a-f]{12}","choice":"B","rating":2,/)])
  }, 60_000)

  it("lets two pages decide on the same pair one after the other, and no label is lost", async () => {
    const { pair } = await one("anna", 1)
    const both = await Promise.all([label("anna", pair.id, "A", 0, 0), label("anna", pair.id, "B", 3, 0)])
    expect(both.map(({ status }) => status).sort()).toEqual([200, 409])
    const refused = both.find(({ status }) => status === 409)!
    expect(refused.json.message).toMatch(
      /^Another page of anna has changed this pair's label in the meantime: [AB], rating [03]\. Check it/
    )
    expect((await label("anna", pair.id, "A", 1, 1)).status).toBe(200)
    expect(await one("anna", 1)).toMatchObject({ label: { choice: "A", rating: 1, revision: 2 } })
    expect(labels("anna")).toHaveLength(3)
  })

  it("rejects invalid labels, pairs, annotators' names and tasks", async () => {
    const { pair } = await one("anna", 2)
    expect((await label("anna", "nobody", "A", 0, 0)).status).toBe(400)
    expect((await label("anna", pair.id, "A", 4, 0)).status).toBe(400)
    expect((await label("anna", pair.id, "C" as never, 0, 0)).status).toBe(400)
    for (const name of ["../x", "a/b", "", "x".repeat(33), "a b"]) expect((await label(name, pair.id, "A", 0, 0)).status).toBe(400)
    expect(
      (await tell("label", { task: "x", annotator: "anna", pair: pair.id, choice: "A", rating: 0, safeA: null, safeB: null, revision: 0 }))
        .status
    ).toBe(404)
  })

  it("becomes the file of labels once every pair has one, with which the run continues", async () => {
    const finish = async (...annotators: ReadonlyArray<string>) => tell("finish", { task: (await task()).id, annotators })
    expect((await finish("anna")).json.message).toBe("1 of 3 pairs have no label yet.")
    expect(existsSync(join(folder, "labels.jsonl"))).toBe(false)
    const last = await one("ben", 2)
    // A label whose line was truncated by a full disk does not count, and does not damage the next one.
    writeFileSync(join(folder, "labels.by-ben.jsonl"), `{"id":"${last.pair.id}","cho`)
    expect(await one("ben", 2)).toMatchObject({ done: 0, label: null })
    expect((await label("ben", last.pair.id, "A", 0, 0)).json).toEqual({ revision: 1, done: 1 })
    expect(await one("ben", 2)).toMatchObject({ done: 1, label: { choice: "A", revision: 1 } })
    const { json } = await finish("anna", "ben")
    expect(json).toMatchObject({
      labels: 3,
      file: join(folder, "labels.jsonl"),
      message: expect.stringContaining("Next: run again with --set labelled=1.")
    })
    const run = caravan(folder, "run", "annotating.ts", "--set", "labelled=1", "--json")
    expect(run.status).toBe(0)
    const rows = caravan(folder, "rows", "latest:preferences", "--json")
      .stdout.trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { chosen: string; rating: number })
    expect(rows.map(({ chosen, rating }) => [chosen, rating])).toEqual([
      ["two p", 2],
      ["one q", 1],
      ["one r", 0]
    ])
  }, 60_000)

  it("needs both safety labels of a safety pair", async () => {
    for (const name of ["labels.jsonl", "labels.by-anna.jsonl", "to-label.jsonl"]) rmSync(join(folder, name))
    expect(caravan(folder, "run", "annotating.ts", "--set", "kind=safety", "--quiet").status).toBe(1)
    const { pair, task: shown } = await one("anna")
    expect(shown.kind).toBe("safety")
    expect((await label("anna", pair.id, "A", 0, 0)).json.message).toMatch(/whether they are safe/)
    expect((await label("anna", pair.id, "A", 0, 0, true)).status).toBe(200)
  }, 60_000)
})

describe("agreed", () => {
  const of = (choice: "A" | "B", rating: number, safeA: boolean | null = null) => ({ choice, rating, safeA, safeB: null })
  it("takes the majority choice with its mean rating, or the first annotator's for a tie; a response is unsafe if at least half say so", () => {
    expect(agreed([of("A", 0), of("B", 3), of("A", 1)])).toEqual(of("A", 1))
    expect(agreed([of("B", 3), of("A", 0)])).toEqual(of("B", 3))
    expect(agreed([of("A", 1, true), of("A", 1, false)])).toEqual(of("A", 1, false))
    expect(agreed([of("A", 1, true), of("A", 1, true), of("A", 2, false)])).toEqual(of("A", 1, true))
  })
})
