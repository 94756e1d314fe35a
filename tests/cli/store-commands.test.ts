/** The commands on the store and its history as a user calls them: output, documents, exit codes. */
import { existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { parse } from "../../cli/command.ts"
import { command as gc } from "../../cli/commands/gc.ts"
import { ago, size } from "../../cli/display/units.ts"
import { ageFlag, sizeFlag } from "../../cli/flag-values.ts"
import { Shards } from "../../runtime/store/shards.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder, runJson } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
let [first, second]: Array<ReturnType<typeof runJson> & { readonly run?: string }> = []
beforeAll(() => {
  folder = fixtureFolder()
  first = runJson(folder, "pipeline.ts")
  second = runJson(folder, "pipeline.ts", "--set", "times=2")
})
afterAll(() => removeFolder(folder))

/** A command's output; it must exit with this code, without a stack trace, and if the code is 0, print nothing on stderr. */
const prints = async (code: number, ...args: ReadonlyArray<string>): Promise<string> => {
  const runs = ["run", "verify", "freeze"].includes(args[0]!)
  const { status, stdout, stderr } = runs ? caravan(folder, ...args) : await inProcess(folder, ...args)
  expect([status, /^\s+at .*:\d+:\d+/m.exec(`${stdout}${stderr}`)]).toEqual([code, null])
  if (code === 0 && !runs) expect(stderr).toBe("")
  return code === 0 || stdout !== "" ? stdout : stderr
}
const json = async (...args: ReadonlyArray<string>): Promise<any> => JSON.parse(await prints(0, ...args, "--json"))
const digest = (document: typeof first, id: string): string => document!.nodes.find((node) => node.id === id)!.digest!

describe("history", () => {
  it("runs and show: what ran, when, and its status", async () => {
    expect(await prints(0, "runs")).toMatch(
      /^[0-9a-f]{8} {2}succeeded {2}\d{4}-\d\d-\d\d \d\d:\d\d {2}[\d.]+ m?s +fixture {2}2 ran, 2 hit\n[0-9a-f]{8} .* 4 ran\n$/
    )
    expect((await json("runs", "--limit", "1")).runs).toMatchObject([
      { status: "succeeded", pipeline: "fixture", nodes: { ran: 2, hit: 2 } }
    ])
    const shown = await prints(0, "show", "latest")
    expect(shown).toMatch(/^Run [0-9a-f-]{36} of fixture: succeeded\nStarted .*\nOptions: times=2, seed 0, cpu, 1 thread\nNodes:\n/)
    expect(shown).toMatch(new RegExp(`^  ran  shout   .*${digest(second, "shout").slice(0, 12)}  rows 3$`, "m"))
    expect(shown).toContain(`  loud    ${second!.outputs.loud!.path}`)
    expect((await json("show", "latest~1")).nodes.map((node: { node: string }) => node.node)).toContain("counts")
    expect(await prints(2, "show", "nothing")).toMatch(/Looking for the run "nothing": no run, node, output or digest has that name/)
    expect(await prints(2, "show")).toMatch(/needs <run\|node>\. For example: caravan show latest/)
  })

  it("diff: what differs, and fields of reports", async () => {
    const text = await prints(0, "diff", "latest~1", "latest")
    expect(text).toMatch(/^option times: nothing -> "2"$/m)
    expect(text).toMatch(/^shout\n {2}config times: 1 -> 2\n {2}output: [0-9a-f]{12} -> [0-9a-f]{12}\ncounts\n {2}input sets: /m)
    expect(text).toMatch(/^ {2}report characters: 31 -> 34\n2 nodes differ, 2 are the same\.$/m)
    expect(await json("diff", "latest", "latest")).toMatchObject({ nodes: [], same: 4 })
  })

  it("lineage: run, code, data, in both directions", async () => {
    const text = await prints(0, "lineage", "shout")
    expect(text).toMatch(/^shout {2}dataset:text\/1 {2}[0-9a-f]{12}\nin the store: .*\nmade by run [0-9a-f]{8} of fixture, node shout/)
    expect(text).toMatch(/^ {2}config {4}times 2, refuse false$/m)
    expect(text).toMatch(/^ {2}code {6}[0-9a-f]{12}: .*helper\.ts, .*stages\.ts.*packages$/m)
    expect(text).toMatch(/^made from\n {2}texts = lines .*\n {4}file = .*words\.txt {2}file .*\nused to make\n {2}counts .*, as sets$/m)
    expect((await json("lineage", join(folder, "words.txt"), "--down", "--depth", "1")).into).toMatchObject([
      { name: "lines", port: "file", digest: digest(first, "lines") }
    ])
    expect(await json("lineage", digest(first, "counts"), "--up")).toMatchObject({
      artifact: { name: "counts" },
      made: [{ node: "counts" }],
      from: [{}, {}]
    })
    expect(await prints(2, "lineage", "shuot")).toMatch(/Did you mean "shout"\?/)
  })

  it("log: a node's output", async () => {
    expect(await prints(0, "log", "shout")).toMatch(
      /^\S+Z stage shout starts: config times: 1 -> 2\n\S+Z step 1 {2}total 1\n\S+Z done: [0-9a-f]{64}\n/
    )
    expect((await json("log", "shout", "--run", "latest~1")).lines[0].text).toBe("stage shout starts: it has never run here")
    expect(await prints(0, "log", "shout", "--follow")).toBe(await prints(0, "log", "shout"))
    expect(await prints(2, "log", "lines", "--run", "latest")).toMatch(/has no log of "lines": it did not run there/)
    expect(await prints(2, "log", "shuot")).toMatch(/no run, node, output or digest has that name\. Did you mean "shout"\?/)
  })
})

describe("freeze and run --locked", () => {
  it("run as frozen, with its settings; reject anything else before anything runs", async () => {
    expect(await prints(0, "freeze", "pipeline.ts", "--set", "times=2")).toMatch(
      /^Wrote pipeline\.lock\.json: 4 nodes, 1 input, \d+ packages, the numerics of cpu\.\nTo run with it: caravan run pipeline\.ts --locked\n$/
    )
    const locked = JSON.parse(await prints(0, "run", "pipeline.ts", "--locked", "--json")) as typeof first
    expect(locked!.nodes.map(({ status }) => status)).toEqual(["hit", "hit", "hit", "hit"])
    expect(locked!.outputs).toEqual(second!.outputs)
    expect(await prints(2, "run", "pipeline.ts", "--locked", "--set", "times=3")).toMatch(
      /must match its lock file, but does not:\n {2}node shout: config times: 2 -> 3\nNothing was run/
    )
    expect(await prints(2, "run", "pipeline.ts", "--lock", "x.json")).toMatch(/add --locked/)
    expect(await prints(2, "run", "pipeline.ts", "--locked", "--lock", "x.json")).toMatch(
      /Reading the lock file x\.json: the file does not exist/
    )
    // A result that differs from the frozen one is a failure.
    const file = join(folder, "pipeline.lock.json")
    writeFileSync(file, readFileSync(file, "utf8").replace(digest(second, "shout"), "0".repeat(64)))
    expect(JSON.parse(await prints(1, "run", "pipeline.ts", "--locked", "--json"))).toMatchObject({ status: "failed" })
  })
})

describe("verify", () => {
  it("exits with 0 if all results are equal, with 1 if there is nothing to compare", async () => {
    expect(await prints(0, "verify", "pipeline.ts", "--set", "times=2", "--only", "lines")).toMatch(/^same {10}lines {2}.*\n1 same\.\n$/)
    expect(await prints(1, "verify", "pipeline.ts", "--set", "times=9", "--only", "shout")).toMatch(
      /^missing {7}shout\n1 not in the store \(run the pipeline first\)\.\n$/
    )
    expect(await prints(2, "verify", "pipeline.ts", "--only", "shuot")).toMatch(/Did you mean "shout"\?/)
  })
})

describe("du, pin and gc", () => {
  it("list the contents and what would be deleted; delete on request, but never what is pinned", async () => {
    expect(await prints(0, "du")).toMatch(
      /^[\d.]+ k?B +fixture:shout +2 objects\n[\s\S]*5 objects of [\d.]+ kB; 0 pinned \(0 B\), 0 unreachable \(0 B\), 0 in use/m
    )
    expect((await json("du", "--by", "type")).groups).toMatchObject([
      { name: "dataset:text/1", objects: 3 },
      { name: "report:counts/1", objects: 2 }
    ])
    expect(await prints(2, "du", "--by", "tpye")).toMatch(/--by must be node, pipeline or type, got "tpye"\. Did you mean "type"\?/)
    expect(await prints(0, "pin")).toBe("Nothing is pinned.\n")
    expect(await prints(0, "pin", "counts", "--lineage", "--note", "released")).toMatch(
      /^Pinned counts \([0-9a-f]{12}\) and 2 artifacts that it was made from\.\n$/
    )
    expect(new Map((await json("pin")).pins.map((pin: { digest: string; note: string }) => [pin.digest, pin.note]))).toEqual(
      new Map(["lines", "shout", "counts"].map((id) => [digest(second, id), "released"]))
    )
    // Recently used: stays.
    expect(await prints(0, "gc", "--max-size", "0")).toMatch(/^Nothing to delete\.\n5 objects of .* stay\.\n.* above the size limit stay/)
    const all = ["gc", "--max-size", "0", "--keep", "0"]
    const dry = await json(...all)
    expect(dry).toMatchObject({ deleted: false, kept: { objects: 3 } })
    expect(dry.objects.map((item: { digest: string }) => item.digest).sort()).toEqual(
      [digest(first, "shout"), digest(first, "counts")].sort()
    )
    expect(await prints(0, ...all)).toMatch(/^2 objects would be deleted, [\d.]+ k?B\. Nothing is deleted yet: add --yes\.$/m)
    expect(existsSync(first!.outputs.loud!.path)).toBe(true)
    expect(await prints(0, ...all, "--yes")).toMatch(/^Deleted 2 objects: [\d.]+ k?B freed\.$/m)
    expect([first, second].map((document) => existsSync(document!.outputs.loud!.path))).toEqual([false, true])
    expect(await prints(0, "lineage", digest(first, "shout"))).toMatch(
      /^no longer in the store; a run that needs it recomputes it\nmade by run/m
    )
    expect(await prints(0, "unpin", "counts", "--lineage")).toMatch(/^Unpinned [0-9a-f]{12} and 2 artifacts that it was made from\.\n$/)
    expect(await prints(2, "unpin", "counts")).toMatch(/"counts" is not pinned\. `caravan pin` lists the pins\./)
    expect(await prints(0, ...all, "--yes")).toMatch(/^Deleted 3 objects/)
    expect(runJson(folder, "pipeline.ts").outputs).toEqual(first!.outputs)
  })

  it("count checkpoints of unfinished nodes and shards", async () => {
    mkdirSync(join(folder, "home/checkpoints/a-key/000000000001"), { recursive: true })
    writeFileSync(join(folder, "home/checkpoints/a-key/000000000001/state"), "x".repeat(3000))
    new Shards(join(folder, "home/shards/base.db")).close()
    expect(await prints(0, "du")).toMatch(/^3\.0 kB +\(checkpoints\) +1 node$[\s\S]*/m)
    expect(await json("du")).toMatchObject({ checkpoints: { nodes: 1, size: 3000 }, shards: { nodes: 1 } })
    const old = new Date(Date.now() - 86_400_000 * 40)
    for (const name of ["", "000000000001"]) utimesSync(join(folder, "home/checkpoints/a-key", name), old, old)
    const dry = await prints(0, "gc", "--older-than", "30d")
    expect(dry).toMatch(/^Leftovers: checkpoint: 1, 3\.0 kB$/m)
    expect(await prints(0, "gc", "--max-size", "1GB")).toMatch(/^Not counted by --max-size: checkpoints 3\.0 kB, shards [\d.]+ kB, logs /m)
    expect(await prints(0, "gc", "--older-than", "30d", "--yes")).toMatch(/1 leftover: 3\.0 kB freed/)
    expect(existsSync(join(folder, "home/checkpoints/a-key"))).toBe(false)
  })

  it("of a missing store report it, and create none", async () => {
    const other = fixtureFolder()
    try {
      for (const args of [["runs"], ["gc"]]) {
        const { status, stderr } = caravan(other, ...args)
        expect([status, stderr]).toEqual([2, expect.stringMatching(/There is no store at .*\/home: nothing has run here yet/)])
      }
      expect(existsSync(join(other, "home"))).toBe(false)
    } finally {
      removeFolder(other)
    }
  })
})

describe("sizes and ages", () => {
  it("are shown in a suitable unit", async () => {
    expect([0, 999, 1000, 9_949, 9_960, 99_900, 999_400, 999_600, 1.5e9, 2e15].map(size)).toEqual([
      "0 B",
      "999 B",
      "1.0 kB",
      "9.9 kB",
      "10 kB",
      "100 kB",
      "999 kB",
      "1.0 MB",
      "1.5 GB",
      "2.0 PB"
    ])
    expect([0, 59_000, 60_000, 7_200_000, 172_800_000].map((span) => ago(0, span))).toEqual([
      "just now",
      "just now",
      "1 minute ago",
      "2 hours ago",
      "2 days ago"
    ])
  })
  it("accept the usual spellings, and nothing else", async () => {
    const given = (...args: ReadonlyArray<string>) => parse(gc, args)
    const sizes = ["0", "500", "500MB", "500 mb", "1.5GiB", "2k", "1TB"].map((text) => sizeFlag(given("--max-size", text), "max-size"))
    expect(sizes).toEqual([0, 500, 5e8, 5e8, 1.5 * 2 ** 30, 2000, 1e12])
    const ages = ["0", "90s", "90m", "12h", "30d", "2w"].map((text) => ageFlag(given("--keep", text), "keep"))
    expect(ages).toEqual([0, 90_000, 5_400_000, 43_200_000, 2_592_000_000, 1_209_600_000])
    for (const text of ["", "many", "5 apples", "1e9"])
      expect(() => sizeFlag(given(`--max-size=${text}`), "max-size")).toThrow(/must be a size such as/)
    for (const text of ["", "5", "1y", "soon"]) expect(() => ageFlag(given(`--keep=${text}`), "keep")).toThrow(/must be a duration such as/)
    expect(ageFlag(given(), "keep")).toBeUndefined()
  })
})
