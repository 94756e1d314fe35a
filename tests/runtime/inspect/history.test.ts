/** The history in the journal and the logs: which runs there were, how they differ, and what made what. */
import { appendFileSync, copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { DatabaseSync } from "node:sqlite"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { compareRuns } from "../../../runtime/inspect/history.ts"
import { resolveRun } from "../../../runtime/inspect/resolve.ts"
import { askedOf, statusOf } from "../../../runtime/store/asked.ts"
import { ancestry, descent, flatten, type LineageEntry, makings, resolveArtifact } from "../../../runtime/inspect/lineage.ts"
import { logPath, writeNodeLogs } from "../../../runtime/run/node-log.ts"
import type { RunEvent, RunResult } from "../../../runtime/run/events.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { digests, edit, type Fixture, fixtureFolder, loadFixture, type Opened, openHome } from "../fixture.ts"

describe("after three runs", () => {
  let fixture: Fixture
  let opened: Opened
  let journal: Opened["journal"]
  let [first, second, third]: Array<RunResult> = []
  beforeAll(async () => {
    fixture = await loadFixture(fixtureFolder())
    const home = join(fixture.folder, "home")
    first = await fixture.run()
    second = await fixture.run({ times: "2" })
    edit(fixture.folder, "helper.ts", (text) => text.replace('"!"', '"?"'))
    appendFileSync(join(fixture.folder, "words.txt"), "delta\n")
    third = await fixture.run({ times: "2" }, { seed: 3 })
    opened = openHome(home)
    journal = opened.journal
  })
  afterAll(() => {
    opened.close()
    removeFolder(fixture.folder)
  })

  const find = (text: string) => opened.later(resolveArtifact(text))
  const runOf = (text: string) => opened.later(resolveRun(text))
  /** "port=name(...)", or "port=name^" if it was listed before. */
  const brief = (entries: ReadonlyArray<LineageEntry>): string =>
    entries
      .map(
        ({ port, name, next }) =>
          `${port}=${name.split("/").at(-1)}${next === undefined ? "^" : next.length === 0 ? "" : `(${brief(next)})`}`
      )
      .join(" ")

  describe("the runs", () => {
    it("have the parts of every key, including of found results, stored once with the execution that made them", () => {
      const partsOf = (run: RunResult | undefined, node: string) => journal.executionsOf(run!.run).find((made) => made.node === node)
      expect(partsOf(second, "lines")).toMatchObject({ status: "hit", parts: partsOf(first, "lines")!.parts })
      expect(partsOf(second, "lines")!.parts).toMatchObject({ stage: "lines", seed: null })
      const database = new DatabaseSync(join(fixture.folder, "home/journal.db"), { readOnly: true })
      expect(database.prepare("select status, length(parts) > 0 as own, count(*) as n from executions group by status, own").all()).toEqual(
        [
          { status: "hit", own: 0, n: 2 },
          { status: "ran", own: 1, n: 10 }
        ]
      )
      database.close()
    })
    it("are found by a prefix of their id or by age, with their arguments", async () => {
      expect(journal.runs().map(({ id }) => id)).toEqual([third!.run, second!.run, first!.run])
      expect(journal.runs({ limit: 1, pipeline: "fixture" }).length).toBe(1)
      expect(journal.runs({ pipeline: "other" })).toEqual([])
      expect((await runOf("latest")).id).toBe(third!.run)
      expect((await runOf("latest~2")).id).toBe(first!.run)
      expect((await runOf(second!.run.slice(0, 8))).nodes).toEqual({ ran: 2, hit: 2 })
      expect(askedOf(await runOf("latest"))).toMatchObject({
        settings: { times: "2" },
        seed: 3,
        device: "cpu",
        outputs: { loud: "shout", counts: "counts", late: "wait" }
      })
      expect(opened.now(statusOf(await runOf("latest")))).toBe("succeeded")
      await expect(runOf("latest~3")).rejects.toThrow(/there are only 3 runs/)
      await expect(runOf("zzz")).rejects.toThrow(/no such run\..*`caravan runs` lists them/)
    })

    it("differ by config, inputs, metrics and outputs, node by node", async () => {
      const difference = opened.now(compareRuns(await runOf(first!.run), await runOf(second!.run)))
      expect(difference).toMatchObject({ pipeline: null, asked: [{ what: "times", before: null, after: "2" }], same: 2 })
      expect(difference.nodes.map(({ node }) => node)).toEqual(["shout", "counts"])
      const [shout, counts] = difference.nodes
      expect(shout).toMatchObject({
        config: [{ what: "times", before: 1, after: 2 }],
        code: [],
        inputs: [],
        metrics: [],
        status: null,
        output: { before: digests(first!).shout, after: digests(second!).shout }
      })
      expect(counts).toMatchObject({ config: [], inputs: [{ what: "sets" }], output: { after: digests(second!).counts } })
      expect(opened.now(compareRuns(await runOf(first!.run), await runOf(first!.run)))).toMatchObject({ nodes: [], same: 4 })
    })

    it("also differ by code, seed and metrics", async () => {
      const { asked, nodes } = opened.now(compareRuns(await runOf(second!.run), await runOf(third!.run)))
      expect(asked).toEqual([{ what: "seed", before: 0, after: 3 }])
      const byNode = Object.fromEntries(nodes.map((node) => [node.node, node]))
      expect(byNode.shout!.code.map(({ what }) => what.split("/").at(-1))).toEqual(["helper.ts"])
      expect(byNode.shout!.seed).toEqual({ what: "seed", before: 0, after: 3 })
      expect(byNode.shout!.metrics).toEqual([{ what: "rows", before: 3, after: 4 }])
      // Its code does not use the helper.
      expect(byNode.lines).toMatchObject({ code: [], inputs: [{ what: "file" }], metrics: [{ what: "rows", before: 3, after: 4 }] })
    })
  })

  describe("an artifact", () => {
    it("is found by digest, path, node, output or file", async () => {
      const digest = digests(third!).shout!
      for (const text of [
        digest,
        digest.slice(0, 10),
        third!.outputs.loud!.path,
        `${third!.outputs.loud!.path}/data.arrow`,
        "shout",
        "fixture:shout",
        `${third!.run}:loud`
      ])
        expect(await find(text)).toMatchObject({ kind: "artifact", digest, type: "dataset:text/1", name: "shout" })
      expect((await find(`${first!.run.slice(0, 8)}:shout`)).digest).toBe(digests(first!).shout)
      // `wait` has the same rows as `lines`: one artifact, shown under the requested name.
      expect([(await find("lines")).name, (await find("wait")).name]).toEqual(["lines", "wait"])
      expect(await find(join(fixture.folder, "words.txt"))).toMatchObject({ kind: "file", digest: null })
      await expect(find("shuot")).rejects.toThrow(/Looking for "shuot": .*Did you mean "shout"\?/)
      await expect(find("0".repeat(64))).rejects.toThrow(/the journal has no such digest/)
    })

    it("lists the run, code and data that made it", async () => {
      const [made, ...more] = opened.now(makings(digests(second!).shout!))
      expect(more).toEqual([])
      expect(made).toMatchObject({ run: second!.run, pipeline: "fixture", node: "shout", stage: "shout", config: { times: 2 }, seed: 0 })
      expect(made!.numerics).toEqual({ libtorch: "none" })
      expect(Object.keys(made!.files).some((file) => file.endsWith("helper.ts"))).toBe(true)
      expect(made!.files["node_modules/effect"]).toMatch(/^4\./)
      expect(made!.inputs.map(({ port, input }) => [port, input.name, input.digest])).toEqual([["texts", "lines", digests(second!).lines]])
    })

    it("is traced back to its original files, and forward to everything made from it", async () => {
      const back = opened.now(ancestry(await find(digests(third!).counts!)))
      expect(brief(back)).toBe("sets=shout(texts=lines(file=words.txt)) sets=wait^")
      expect(flatten(back).map(({ digest }) => digest)).toEqual([digests(third!).shout, digests(third!).wait, null])
      const on = opened.now(descent(await find(digests(first!).lines!)))
      // Both shouts were made from the first lines, and so were the counts of both.
      expect(new Set(flatten(on).map(({ digest }) => digest))).toEqual(
        new Set([...Object.values(digests(first!)), digests(second!).shout, digests(second!).counts])
      )
      expect(brief(opened.now(descent(await find(join(fixture.folder, "words.txt")), 1)))).toBe("file=lines")
      expect(opened.now(ancestry(await find("counts"), 1)).every(({ next }) => next === undefined || next.length === 0)).toBe(true)
    })

    it("has its lineage even if its object and its trace are deleted", async () => {
      for (const { key } of third!.nodes) journal.forgetTrace(key!)
      renameSync(join(fixture.folder, "home/objects"), join(fixture.folder, "elsewhere"))
      expect(brief(opened.now(ancestry(await find(digests(third!).counts!))))).toMatch(
        /^sets=shout\(texts=(lines|wait)\(file=words\.txt\)\) sets=wait\^$/
      )
    })
  })
})

describe("a file with the same content as another", () => {
  it("is named in the lineage of its results; if that is no longer known, both are named", async () => {
    const fixture = await loadFixture(fixtureFolder())
    // Identified by its content, and the first by its name.
    copyFileSync(join(fixture.folder, "words.txt"), join(fixture.folder, "a-copy.txt"))
    await sleep(150)
    const ran = await fixture.run({}, { until: "lines" })
    await fixture.run({ file: join(fixture.folder, "a-copy.txt") }, { until: "lines" })
    const opened = openHome(join(fixture.folder, "home"))
    try {
      const named = async () => opened.now(ancestry(await opened.later(resolveArtifact(digests(ran).lines!)))).map(({ name }) => name)
      expect(await named()).toEqual([join(fixture.folder, "words.txt")])
      opened.journal.forgetTrace(ran.nodes.find(({ id }) => id === "lines")!.key!)
      expect(await named()).toEqual([`one of ${join(fixture.folder, "a-copy.txt")}, ${join(fixture.folder, "words.txt")}`])
    } finally {
      opened.close()
      removeFolder(fixture.folder)
    }
  })
})

describe("a run that was killed", () => {
  it("is distinguished from an active one", () => {
    const home = workFolder()
    const { close, hold, journal, now } = openHome(home)
    try {
      const held = hold("a run")
      const asked = {
        params: {},
        settings: {},
        seed: 0,
        device: "cpu",
        threads: 1,
        selection: {},
        outputs: {},
        holder: held.holder,
        process: { pid: 1, node: "" }
      }
      journal.startRun("r", "p", asked)
      const status = () => now(statusOf(journal.runs()[0]!))
      expect(status()).toBe("running")
      // As the kernel does when its process ends.
      held.letGo()
      expect(status()).toBe("killed")
      journal.finishRun("r", "interrupted")
      expect(status()).toBe("interrupted")
    } finally {
      close()
      removeFolder(home)
    }
  })
})

describe("a node's log", () => {
  let home: string
  let notes: Array<string>
  let logs: ReturnType<typeof writeNodeLogs>
  beforeEach(() => {
    home = workFolder()
    notes = []
    logs = writeNodeLogs(home, (node, message) => notes.push(`${node}: ${message}`))
    logs.onEvent({ type: "run-started", run: "r", pipeline: "p", nodes: ["a/b"] })
  })
  afterEach(() => removeFolder(home))
  const said = (node: string) =>
    readFileSync(logPath(home, "r", node), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => {
        expect(line).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /)
        return line.slice(25)
      })
  const started: RunEvent = { type: "node-started", node: "a/b", stage: "s", why: ["config x: 1 -> 2"] }
  const step = (n: number): RunEvent => ({ type: "progress", node: "a/b", progress: { step: n, total: 900, loss: 0.5 } })
  const finished: RunEvent = {
    type: "node-finished",
    node: {
      id: "a/b",
      stage: "s",
      status: "ran",
      milliseconds: 1234,
      key: "k",
      digest: "d",
      metrics: { rows: 3 },
      skipped: [],
      skippedRows: null,
      error: null
    }
  }

  it("has its start and the reason, one step per second and the last, what it printed, and how it ended", () => {
    logs.onEvent(started)
    for (let n = 1; n <= 900; n++) logs.onEvent(step(n))
    logs.onEvent({ type: "output", node: "a/b", text: "out of\npaper\n" })
    logs.onEvent({ type: "note", node: "a/b", message: "a note" })
    logs.onEvent(finished)
    expect(said("a/b")).toEqual([
      "stage s starts: config x: 1 -> 2",
      "step 1  total 900  loss 0.5",
      "step 900  total 900  loss 0.5",
      "out of",
      "paper",
      "a note",
      "done: d",
      "after 1.2 s  rows 3"
    ])
  })

  it("of an interrupted run says so; a cached node has none", () => {
    logs.onEvent(started)
    logs.onEvent({ ...finished, node: { ...finished.node, id: "found", status: "hit" } })
    logs.close()
    expect(said("a/b")).toEqual(["stage s starts: config x: 1 -> 2", "the run ended before this node did"])
    expect(existsSync(logPath(home, "r", "found"))).toBe(false)
  })

  it("exists for a name longer than file systems allow, separate from similar names", () => {
    const names = ["x", "y"].map((end) => `${"ß".repeat(100)}${end}`)
    for (const node of names) logs.onEvent({ ...started, node })
    expect(notes).toEqual([])
    for (const node of names) expect(said(node)).toEqual(["stage s starts: config x: 1 -> 2"])
    expect(new Set(names.map((node) => logPath(home, "r", node))).size).toBe(2)
    logs.close()
  })

  it("that can't be written is reported once and stops nothing", () => {
    writeFileSync(join(home, "logs"), "in the way")
    for (const event of [started, step(1), started, finished]) logs.onEvent(event)
    expect(notes).toEqual([expect.stringMatching(/^a\/b: its log can't be written \(ENOTDIR.*continues without logs$/)])
  })
})

describe("a journal of the previous version", () => {
  it("is completed: also what was made of what, as far as its runs are known", async () => {
    const fixture = await loadFixture(fixtureFolder())
    const home = join(fixture.folder, "home")
    try {
      const { nodes } = await fixture.run()
      // Back to version 1: lists in the executions, none of the later tables.
      const old = new DatabaseSync(join(home, "journal.db"))
      old.exec(`update executions set files = (select value from listings where listings.digest = executions.files);
        drop table listings; drop table artifacts; drop table uses; pragma user_version = 1`)
      old.close()
      const { close, later } = openHome(home)
      const digestOf = (id: string) => nodes.find((node) => node.id === id)!.digest!
      const named = await later(resolveArtifact("counts"))
      expect(flatten(await later(ancestry(named))).map(({ digest }) => digest)).toEqual([digestOf("shout"), digestOf("wait"), null])
      const lines = await later(resolveArtifact("lines"))
      expect(flatten(await later(descent(lines))).map(({ digest }) => digest)).toContain(digestOf("counts"))
      expect(Object.keys((await later(makings(digestOf("shout"))))[0]!.files).some((file) => file.endsWith("helper.ts"))).toBe(true)
      close()
      expect((await fixture.run()).nodes.map(({ status }) => status)).toEqual(["hit", "hit", "hit", "hit"])
    } finally {
      removeFolder(fixture.folder)
    }
  })

  it("stores long lists of files once, however many nodes share them", () => {
    const home = workFolder()
    mkdirSync(home, { recursive: true })
    const { close, journal } = openHome(home)
    const files = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [`file-${i}.ts`, "0".repeat(64)]))
    journal.transaction((tables) => {
      for (let i = 0; i < 500; i++)
        tables.recordExecution({
          run: "r",
          pipeline: "p",
          node: `n${i}`,
          stage: "s",
          key: `k${i}`,
          parts: { stage: "s", code: "c", config: {}, seed: null, inputs: {}, numerics: null },
          files,
          status: "hit",
          milliseconds: 0,
          digest: "d",
          error: null
        })
    })
    expect(journal.executionsOf("r").every((execution) => Object.keys(execution.files).length === 200)).toBe(true)
    close()
    const database = new DatabaseSync(join(home, "journal.db"))
    const pages = database.prepare("select page_count * page_size as size from pragma_page_count(), pragma_page_size()").get()!
      .size as number
    database.close()
    rmSync(home, { recursive: true })
    // 500 lists of 16 kB would be 8 MB.
    expect(pages).toBeLessThan(1e6)
  })
})
