/** Every command accepts the same names: of a node or an output, of a run or a pipeline, a digest or a path. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { removeFolder, runJson } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
let [first, second]: Array<ReturnType<typeof runJson>> = []
beforeAll(() => {
  folder = fixtureFolder()
  first = runJson(folder, "pipeline.ts")
  second = runJson(folder, "pipeline.ts", "--set", "times=2")
})
afterAll(() => removeFolder(folder))

const says = async (code: number, ...args: ReadonlyArray<string>): Promise<string> => {
  const { status, stdout, stderr } = await inProcess(folder, ...args)
  expect([args, status, stderr]).toEqual([args, code, code === 0 ? "" : expect.any(String)])
  return code === 0 ? stdout : stderr
}
const json = async (...args: ReadonlyArray<string>): Promise<any> => JSON.parse(await says(0, ...args, "--json"))
const digest = (document: typeof first, id: string): string => document!.nodes.find((node) => node.id === id)!.digest!

describe("a result", () => {
  it("is named by its node, its output, with its pipeline or its run, by a digest, or by a path", async () => {
    const [now, before] = [digest(second, "shout"), digest(first, "shout")]
    const path = second!.outputs.loud!.path
    const of = async (text: string) => (await json("lineage", text)).artifact.digest
    for (const text of [
      "shout",
      "loud",
      "fixture:shout",
      "fixture:loud",
      "latest:shout",
      "latest:loud",
      now,
      now.slice(0, 8),
      path,
      join(path, "data.arrow")
    ])
      expect([text, await of(text)]).toEqual([text, now])
    for (const text of ["latest~1:shout", "latest~1:loud", before.slice(0, 12)]) expect([text, await of(text)]).toEqual([text, before])
    expect(await json("pin", "loud")).toMatchObject({ pinned: [now] })
    expect(await json("unpin", "latest:loud")).toMatchObject({ unpinned: [now] })
  })
  it("that is missing suggests the nearest name", async () => {
    expect(await says(2, "lineage", "luod")).toMatch(/Looking for "luod": no such node, .*\. Did you mean "loud"\?/)
    expect(await says(2, "lineage", "latest:luod")).toMatch(/run [0-9a-f]{8} \(fixture\) has no node or output "luod"/)
    expect(await says(2, "lineage", "fixture:luod")).toContain('Pipeline "fixture" has no node or output "luod". Did you mean "loud"?')
    expect(await says(2, "show", "fixture:shuot")).toContain('Pipeline "fixture" has no node or output "shuot". Did you mean "shout"?')
    expect(await says(2, "lineage", "fixtrue:loud")).toContain('No pipeline named "fixtrue" has run here. Did you mean "fixture"?')
    expect(await says(2, "pin", "./luod")).toMatch(/Looking for "\.\/luod": no such file or folder/)
    expect(await says(2, "lineage", "latest~9:loud")).toMatch(/Looking for the run "latest~9": there are only 2 runs/)
  })
  it("with the name of a local file: the message says how to specify either", async () => {
    const before = process.cwd()
    process.chdir(folder)
    try {
      writeFileSync("shout", "mine\n")
      expect(await says(2, "pin", "shout")).toMatch(
        /it is both a file or folder and a result of pipeline "fixture"\. Use \.\/shout for the file, fixture:shout for the result/
      )
      expect(await says(2, "pin", "./shout")).toMatch(/is your own file/)
      expect(await json("pin", "fixture:shout")).toMatchObject({ pinned: [digest(second, "shout")] })
    } finally {
      process.chdir(before)
    }
  })
  it("with a name in several pipelines: lists them, unless all have the same result", async () => {
    const file = join(folder, "other.ts")
    writeFileSync(file, readFileSync(join(folder, "pipeline.ts"), "utf8").replace('"fixture"', '"other"'))
    runJson(folder, "other.ts", "--set", "times=3")
    expect(await says(2, "lineage", "shout")).toMatch(
      /several pipelines have such a node or output:\n {2}other:shout {2}[0-9a-f]{12}, run [0-9a-f]{8}\n {2}fixture:shout {2}[0-9a-f]{12}, run [0-9a-f]{8}\nChoose one of these names\./
    )
    expect((await json("lineage", "fixture:loud")).artifact.digest).toBe(digest(second, "shout"))
    expect((await json("lineage", "lines")).artifact.digest).toBe(digest(first, "lines"))
  })
})

describe("a node", () => {
  it("of a run is shown, compared and logged by the same names", async () => {
    const shown = await says(0, "show", "fixture:loud")
    expect(shown).toMatch(/^Run [0-9a-f-]{36} of fixture: succeeded\n/)
    expect(shown).toMatch(
      /^Nodes:\n {2}ran {2}shout .*\nConfig:\n {2}times +2\n {2}refuse +false\nResult: .*\nLog: .*shout\.log\nOutputs:\n {2}loud {2}/m
    )
    expect((await json("show", "latest~2:shout")).nodes).toMatchObject([{ node: "shout", digest: digest(first, "shout") }])
    expect((await json("show", digest(first, "counts"))).nodes).toMatchObject([{ node: "counts" }])
    expect(await says(2, "show", "shuot")).toMatch(/no run, node, output or digest has that name/)
    expect(await says(0, "diff", "latest~2:loud", "latest~1:loud")).toMatch(
      /^shout\n {2}config times: 1 -> 2\n {2}output: [^\n]*\n1 node differs/m
    )
    expect((await json("diff", "latest~2:shout", "latest~1")).nodes).toHaveLength(1)
    expect(await says(0, "log", "latest~2:loud")).toMatch(/stage shout starts: it has never run here/)
    expect(await says(0, "log", "fixture:loud")).toMatch(/stage shout starts: config times: 1 -> 2/)
    expect(await says(2, "log", "latest")).toMatch(/"latest" is a run\. Name one of its nodes: [0-9a-f]{8}:<node>/)
  })
  it("of a pipeline is selected by the name of an output", async () => {
    const file = join(folder, "pipeline.ts")
    expect(await says(0, "why", file, "loud", "--set", `file=${join(folder, "words.txt")}`)).toMatch(/^shout is in the store/)
    expect(await says(0, "plan", file, "--set", `file=${join(folder, "words.txt")}`, "--set", "loud.times=4", "--only", "loud")).toMatch(
      /^run +shout +config times: [1-3] -> 4$/m
    )
    expect(await says(2, "why", file, "luod", "--set", `file=${join(folder, "words.txt")}`)).toMatch(/Did you mean "loud"\?/)
  })
})

describe("a checkpoint and a tokenizer", () => {
  it("are named like any result", async () => {
    for (const command of ["sample", "tokenize", "logprobs"]) {
      expect(await says(2, command, "luod", ...(command === "logprobs" ? ["--ids", "x.json"] : []))).toMatch(
        /Looking for "luod": .*Did you mean "loud"\?/
      )
    }
    // The result is read: a dataset is neither.
    expect(await says(2, "tokenize", "latest~1:loud")).toMatch(/Reading the tokenizer .*objects/)
    mkdirSync(join(folder, "elsewhere"))
    cpSync(second!.outputs.loud!.path, join(folder, "elsewhere/objects/ab", "0".repeat(64)), { recursive: true })
    expect(await says(2, "tokenize", join(folder, "elsewhere/objects/ab", "0".repeat(64)))).toMatch(/Reading the tokenizer .*elsewhere/)
  })
})

describe("a name without a result", () => {
  it("is reported with what happened to it, not as unknown", async () => {
    const other = fixtureFolder()
    try {
      const refused = async (...args: ReadonlyArray<string>) => {
        const { status, stderr } = await inProcess(other, ...args)
        expect([args, status]).toEqual([args, 2])
        return stderr
      }
      await refused("run", join(other, "pipeline.ts"), "--set", `file=${join(other, "words.txt")}`, "--only", "counts")
      expect(await refused("pin", "loud")).toMatch(
        /Looking for "loud": it is an output of a pipeline that ran here, but no run has reached it/
      )
      const file = `file=${join(other, "words.txt")}`
      const failed = await inProcess(other, "run", join(other, "pipeline.ts"), "--set", file, "--set", "shout.refuse=true")
      expect(failed.status).toBe(1)
      expect(await refused("pin", "loud")).toMatch(
        /Looking for "loud": "shout" has no result: it failed in run [0-9a-f]{8} \(`caravan show [0-9a-f]{8}`\)\./
      )
      expect(await refused("tokenize", "counts")).toMatch(/"counts" has no result: it was skipped in run /)
      expect(await refused("log", "counts")).toMatch(/There is no log of "counts": it has never run here \(`caravan show [0-9a-f]{8}`\)\./)
    } finally {
      removeFolder(other)
    }
  })
})

describe("a run", () => {
  it("that stopped before its nodes were settled is shown with the reason", async () => {
    const file = join(folder, "pipeline.ts")
    const args = [file, "--set", `file=${join(folder, "words.txt")}`, "--set", "times=7", "--only", "counts"]
    const reason = 'Node "shout" is needed but not selected, and its result is not in the store.'
    expect(await says(2, "run", ...args)).toContain(reason)
    expect(await says(0, "show", "latest")).toContain(`: failed\nStarted `)
    expect(await says(0, "show", "latest")).toContain(`\nError: ${reason} Run it first (--until shout)`)
    expect((await json("show", "latest")).error).toContain(reason)
    expect((await json("show", "latest~1")).error).toBeNull()
  })
})
