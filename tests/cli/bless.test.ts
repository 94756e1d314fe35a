/** Pinned stages and `caravan bless` as a user sees them: an edit, the output of plan, run, why and lineage, and what is cached afterwards. */
import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { edit } from "../runtime/fixture.ts"
import { caravan, removeFolder, type RunDocument, runJson, statuses, workFolder } from "./caravan.ts"

const sources = {
  "pipeline.ts": `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeReport } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { report } from "../../../schemas/report.ts"
import { hyperInt } from "../../../schemas/hyper.ts"
import { counted } from "./helper.ts"

const Count = report(Schema.Struct({ n: Schema.Number }), "count/1")
const Config = Schema.Struct({ n: hyperInt(1, "a number") })
export const train = Stage.pinned(
  "v3",
  Stage.make("train", { config: Config, inputs: {}, output: Count, run: ({ config, output }) => writeReport(output, { n: counted(config.n) }) })
)
export const score = Stage.make("score", {
  config: Config,
  inputs: { of: Count },
  output: Count,
  seeded: false,
  run: ({ config, output }) => writeReport(output, { n: 10 * counted(config.n) })
})
export default Pipeline.make("blessed", { params: Schema.Struct({ n: hyperInt(1, "a number") }) }, ({ n }) => {
  const trained = train({}, { n })
  return { trained, scored: score({ of: trained }, { n }) }
})
`,
  "helper.ts": `export const counted = (n: number): number => n + 1\n`
}

let folder: string
let first: RunDocument
beforeAll(() => {
  folder = workFolder()
  for (const [name, text] of Object.entries(sources)) writeFileSync(join(folder, name), text)
  first = runJson(folder, "pipeline.ts")
})
afterAll(() => removeFolder(folder))

const on = (command: string, ...args: ReadonlyArray<string>) => caravan(folder, command, "pipeline.ts", ...args)
const digest = (document: RunDocument, id: string) => document.nodes.find((node) => node.id === id)!.digest

describe("a pinned stage whose code is edited", () => {
  it("is cached, and plan and run report that it drifted, and the changed file; others run again", () => {
    expect(on("plan").stdout).toMatch(/^hit {3}train {2}in the store \(pinned v3\)$/m)
    expect(on("freeze").stdout).not.toContain("Pinned")
    edit(folder, "helper.ts", (text) => text.replace("n + 1", "1 + n"))
    const { stdout } = on("plan")
    expect(stdout).toMatch(
      /^hit {3}train {2}in the store \(pinned v3; code has drifted: .*helper\.ts\)\nrun {3}score {2}code: .*helper\.ts$/m
    )
    expect(stdout).toMatch(/^Pinned, but the code has changed since they were made: train\. /m)
    const { nodes } = JSON.parse(on("plan", "--json").stdout) as { nodes: Array<object> }
    expect(nodes[0]).toMatchObject({ id: "train", status: "hit", pinned: "v3", drift: [expect.stringMatching(/helper\.ts$/)] })
    expect(nodes[1]).not.toHaveProperty("pinned")
    const again = on("run", "--until", "train")
    expect(again.stderr).toMatch(/^train: its code has drifted since its result was made \(pinned v3\): .*helper\.ts\. `caravan bless`/m)
    expect(again.status).toBe(0)
  })

  it("fails with --locked: with the earlier lock file, and with one of the current code", () => {
    expect(on("run", "--locked").stderr).toMatch(/code of stage train \(pinned v3, code drifted\): .*helper\.ts/)
    expect(on("freeze", "--lock", "new.json").stdout).toMatch(/^Pinned, but the code has changed since they were made: train\./m)
    const locked = on("run", "--locked", "--lock", "new.json", "--json")
    expect(locked.status).toBe(1)
    expect(JSON.parse(locked.stdout)).toMatchObject({
      nodes: [
        { id: "train", status: "failed", error: expect.stringMatching(/drifted .*pinned v3.*helper\.ts/) },
        { id: "score", status: "skipped" }
      ]
    })
  })

  it("is accepted by bless, which shows it first and records it with --yes; after that nothing drifts", () => {
    expect(on("bless", "train").stdout).toMatch(
      /^train \(stage train, pinned v3\): its result [0-9a-f]{12} was made before these code changes; nothing else differs:\n {2}\S*helper\.ts\nNothing is recorded yet\. .*--yes/
    )
    expect(on("plan").stdout).toContain("drifted")
    expect(on("bless", "train", "--yes").stdout).toMatch(/\nBlessed: the result is now valid for the current code\.\n$/)
    expect(on("plan").stdout).toMatch(/^hit {3}train {2}in the store \(pinned v3\)$/m)
    expect(on("why", "train").stdout).toMatch(/^train is in the store.*\n {2}blessed just now: made before this changed: .*helper\.ts\n$/)
    expect(on("bless", "train").stdout).toMatch(/nothing to bless\.$/m)
  })

  it("also does not drift from the code that made it: two checkouts may share a store", () => {
    edit(folder, "helper.ts", (text) => text.replace("1 + n", "n + 1"))
    expect(on("plan").stdout).toMatch(/^hit {3}train {2}in the store \(pinned v3\)$/m)
    edit(folder, "helper.ts", (text) => text.replace("n + 1", "1 + n"))
    expect(on("plan").stdout).toMatch(/^hit {3}train {2}in the store \(pinned v3\)$/m)
  })
})

describe("a result whose successor is missing from the store", () => {
  let own: string
  afterAll(() => removeFolder(own))
  it("can be blessed instead", () => {
    own = workFolder()
    for (const [name, text] of Object.entries(sources)) writeFileSync(join(own, name), text)
    const before = runJson(own, "pipeline.ts")
    edit(own, "helper.ts", (text) => text.replace("n + 1", "n + 2"))
    const after = runJson(own, "pipeline.ts")
    expect(digest(after, "score")).not.toBe(digest(before, "score"))
    rmSync(after.outputs["scored"]!.path, { recursive: true })
    expect(caravan(own, "bless", "pipeline.ts", "score", "--yes").stdout).toMatch(/Blessed: /)
    const found = runJson(own, "pipeline.ts")
    expect([statuses(found)["score"], digest(found, "score")]).toEqual(["hit", digest(before, "score")])
  })
})

describe("an unpinned node of which only the code changed", () => {
  it("is cached under its new key once it is blessed, as the same object, made by the same code", () => {
    const shown = JSON.parse(on("bless", "score", "--json").stdout) as { key: string; from: string }
    expect(shown).toMatchObject({ verdict: "blessed", recorded: false, changes: [expect.stringMatching(/helper\.ts$/)], why: [] })
    expect(shown.from).toBe(first.nodes[1]!.key)
    expect(on("bless", "score", "--yes").stdout).toMatch(/Blessed: .* under the key [0-9a-f]{12} \(made under [0-9a-f]{12}\)\.$/m)
    const found = runJson(folder, "pipeline.ts")
    expect(statuses(found)).toEqual({ train: "hit", score: "hit" })
    expect([digest(found, "score"), found.nodes[1]!.key]).toEqual([digest(first, "score"), shown.key])
    const why = on("why", "score").stdout
    expect(why).toMatch(
      /^score is in the store.*\n {2}blessed just now: made under the key [0-9a-f]{12}, before this changed: .*helper\.ts\n$/
    )
    const lineage = JSON.parse(caravan(folder, "lineage", "score", "--json").stdout) as { made: Array<{ key: string }> }
    expect(lineage.made.map(({ key }) => key)).toEqual([shown.from])
  })

  it("is rejected if something else differs (which is named), if it has no result, or if its inputs are not settled", () => {
    edit(folder, "helper.ts", (text) => text.replace("1 + n", "1 + 1 * n"))
    const other = on("bless", "score", "--set", "score.n=5", "--yes", "--json")
    expect(other.status).toBe(1)
    expect(JSON.parse(other.stdout)).toMatchObject({ verdict: "refused", recorded: false, why: ["config n: 1 -> 5"], digest: null })
    expect(on("bless", "train", "--set", "n=2").stdout).toBe("train (pinned v3) can't be blessed: config n: 1 -> 2\n")
    expect(on("bless", "score", "--set", "n=2").stdout).toMatch(
      /^score can't be blessed: .* train would run\. Bless or run that first\.\n$/
    )
    const unknown = on("bless", "scoer")
    expect([unknown.status, unknown.stderr]).toEqual([2, expect.stringMatching(/has no such node or output\. Did you mean "score"\?/)])
    expect(on("plan").stdout).toMatch(/^run {3}score/m)
  })

  it("may then be pinned, or get another version: once blessed, it is cached under that version", () => {
    edit(folder, "pipeline.ts", (text) => text.replace('"v3"', '"v4"'))
    expect(on("why", "train").stdout).toMatch(/^train would run: pinned: v3 -> v4; code: .*helper\.ts, .*pipeline\.ts$/m)
    expect(on("bless", "train", "--yes").stdout).toMatch(/\n {2}pinned: v3 -> v4\n {2}\S*helper\.ts\n {2}\S*pipeline\.ts\nBlessed/)
    expect(on("plan").stdout).toMatch(/^hit {3}train {2}in the store \(pinned v4\)$/m)
  })
})
