/** The commands' messages about damaged results are true: the next run makes them again. */
import { existsSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { fixtureFolder, invert, objectFile } from "../runtime/fixture.ts"
import { caravan, type Finished, removeFolder, type RunDocument, runJson, statuses } from "./caravan.ts"
import { inProcess } from "./in-process.ts"

let folder: string
let first: RunDocument
beforeAll(() => {
  folder = fixtureFolder()
})
afterAll(() => removeFolder(folder))
beforeEach(() => {
  // Finds what the previous test left intact, and makes the rest again.
  first = runJson(folder, "pipeline.ts")
})

const digest = (node: string): string => first.nodes.find(({ id }) => id === node)!.digest!
const fileOf = (node: string, name?: string) => objectFile(folder, digest(node), name)
/** A refusal: exit code 1, no stack trace, and where the result went, which is true. */
const refused = ({ status, stdout, stderr }: Finished): string => {
  const text = `${stdout}${stderr}`
  expect([status, /^\s+at .*:\d+:\d+/m.exec(text)]).toEqual([1, null])
  const [, place] = /was moved to (\S+): run the pipeline to recompute it\./.exec(text) ?? []
  expect([text, existsSync(place ?? "")]).toEqual([text, true])
  return text
}
const madeAgain = (node: string) => {
  const second = runJson(folder, "pipeline.ts")
  expect(statuses(second)).toMatchObject({ [node]: "ran" })
  expect(second.outputs).toEqual(first.outputs)
}

describe("a damaged result", () => {
  it("found by verify is moved aside, and the next run makes it again", () => {
    invert(fileOf("shout"), { count: 20, times: "keep" })
    expect(statuses(runJson(folder, "pipeline.ts")).shout).toBe("hit")
    expect(refused(caravan(folder, "verify", "pipeline.ts", "--only", "shout"))).toMatch(
      /The result of "shout" in the store is damaged \(data\.arrow has changed\)/
    )
    madeAgain("shout")
  })

  it.each([
    ["sample", []],
    ["tokenize", []],
    ["logprobs", ["--ids", "none.json"]]
  ])("is not used by %s, given by name or by path", async (command, flags) => {
    for (const name of [digest("lines").slice(0, 12), first.outputs.loud!.path]) {
      const node = name.includes("/") ? "shout" : "lines"
      invert(fileOf(node), { count: 20, times: "keep" })
      expect(refused(await inProcess(folder, command, name, ...flags))).toContain(`The artifact ${name} is damaged`)
      madeAgain(node)
    }
  })

  it("shown by lineage is reported as damaged, if a file was written to since it was made", async () => {
    invert(fileOf("shout"), { count: 20 })
    const { status, stdout } = await inProcess(folder, "lineage", "shout")
    expect([status, stdout]).toEqual([
      0,
      expect.stringMatching(/^it is damaged \(data\.arrow has changed\)\. It was moved to .*quarantine/m)
    ])
    madeAgain("shout")
  })

  it("that is a report is found when a run prints it, and when diff compares it", async () => {
    invert(fileOf("counts", "report.json"), { times: "keep" })
    expect(refused(caravan(folder, "run", "pipeline.ts"))).toMatch(/^The output counts is damaged \(report\.json has changed\)/m)
    madeAgain("counts")
    runJson(folder, "pipeline.ts", "--set", "times=2")
    invert(fileOf("counts", "report.json"), { times: "keep" })
    const { status, stdout } = await inProcess(folder, "diff", "latest~1", "latest")
    expect([status, stdout]).toEqual([0, expect.stringMatching(/^ {2}report can't be compared: the report in .* is damaged/m)])
    madeAgain("counts")
  })

  it("is reported by plan as to be checked first, if a file was modified after it was made", async () => {
    invert(fileOf("shout"), { count: 20 })
    expect(caravan(folder, "plan", "pipeline.ts").stdout).toMatch(
      /^hit +shout +in the store; its files were modified after it was made: a run checks them first$/m
    )
    madeAgain("shout")
  })
})

describe("verify --store", () => {
  it("exits with 0 if nothing is damaged, and accepts no other arguments", async () => {
    const { status, stdout, stderr } = await inProcess(folder, "verify", "--store")
    expect([status, stderr]).toEqual([0, ""])
    expect(stdout).toMatch(/^\d objects of [\d.]+ kB in .*\/home: 0 damaged, 0 unknown, 0 stray\.\n$/)
    for (const args of [["pipeline.ts", "--store"], ["--store", "--only", "shout"], []])
      expect((await inProcess(folder, "verify", ...args)).status).toBe(2)
  })

  it("exits with 1 if something is damaged, and names the node and the new path; the next run makes the result again", async () => {
    invert(fileOf("shout"), { count: 20, times: "keep" })
    writeFileSync(join(folder, "home/objects/mine.txt"), "")
    const { status, stdout } = await inProcess(folder, "verify", "--store")
    expect(status).toBe(1)
    expect(stdout).toMatch(
      new RegExp(
        `^damaged {2}${digest("shout").slice(0, 12)} {2}shout of fixture, run [0-9a-f]{8}: data\\.arrow has changed\\n {2}moved from .*${digest("shout")} to .*quarantine/.*\\n {2}to recompute it, run fixture\\nstray {4}.*mine\\.txt: .*\\n.* 1 damaged, 0 unknown, 1 stray\\.\\n$`
      )
    )
    madeAgain("shout")
    invert(fileOf("lines"), { times: "keep" })
    const before = readdirSync(join(folder, "home/quarantine")).length
    const document = JSON.parse((await inProcess(folder, "verify", "--store", "--json")).stdout) as { ok: boolean; damaged: Array<object> }
    expect(document).toMatchObject({ ok: false, damaged: [{ digest: digest("lines"), what: "data.arrow has changed", left: null }] })
    expect(readdirSync(join(folder, "home/quarantine")).length).toBe(before + 1)
    madeAgain("lines")
  })
})
