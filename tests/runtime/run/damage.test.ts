/** Results whose bytes, files or records have changed, and the runs that find them. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"
import { removeFolder } from "../../cli/caravan.ts"
import { checkRecords } from "../../faults/invariants.ts"
import { digests, type Fixture, fixtureFolder, invert, loadFixture, objectFile, openHome, statuses } from "../fixture.ts"

let template: Fixture
beforeAll(async () => {
  template = await loadFixture(fixtureFolder())
  await template.run()
})
afterAll(() => removeFolder(template.folder))

let fixture: Fixture
beforeEach(async () => {
  fixture = await loadFixture(fixtureFolder())
})
/** What a test damaged and nothing made again stays damaged. */
let leftDamaged = false
afterEach(async () => {
  // After each fault, the records name existing, reported results (docs/faults.md).
  const check = leftDamaged ? Promise.resolve() : checkRecords(join(fixture.folder, "home"))
  leftDamaged = false
  await check.finally(() => removeFolder(fixture.folder))
})

type Ran = Awaited<ReturnType<Fixture["run"]>>
/** An earlier run, elsewhere: its store and journal are copied here. */
const ranBefore = async () => {
  cpSync(join(template.folder, "home"), join(fixture.folder, "home"), { recursive: true })
  return fixture.run()
}
const all = (status: string) => ({ lines: status, shout: status, wait: status, counts: status })
const fileOf = (ran: Ran, node: string, name?: string) => objectFile(fixture.folder, digests(ran)[node]!, name)

describe("a damaged result", () => {
  it("is made again before a stage reads it, moved aside, and ends with the same digest", async () => {
    const first = await ranBefore()
    invert(fileOf(first, "lines"), { times: "keep" })
    // The times show nothing, and nobody reads it: its dependents are cached.
    expect(statuses(await fixture.run())).toEqual(all("hit"))
    const second = await fixture.run({ times: "2" })
    expect(second.events).toContainEqual({
      type: "note",
      node: "lines",
      message: "its result is damaged (data.arrow has changed): recomputing it"
    })
    // The object of wait is the same one: it is found before the damage is, or made again too.
    expect(statuses(second)).toMatchObject({ lines: "ran", shout: "ran", counts: "ran" })
    expect(digests(second).lines).toBe(digests(first).lines)
    expect(readdirSync(join(fixture.folder, "home/quarantine")).length).toBe(1)
    expect(statuses(await fixture.run({ times: "2" }))).toEqual(all("hit"))
  })

  it("is made once if several concurrent stages need it", async () => {
    const first = await ranBefore()
    invert(fileOf(first, "lines"), { times: "keep" })
    const second = await fixture.run({}, { jobs: 4, force: ["shout", "wait"] })
    expect(second.events.filter((event) => event.type === "note").length).toBe(1)
    expect(statuses(second)).toEqual({ lines: "ran", shout: "ran", wait: "ran", counts: "hit" })
    expect(digests(second)).toEqual(digests(first))
  })

  it("that can't be made again fails its node, and its dependents are skipped", async () => {
    leftDamaged = true
    const first = await ranBefore()
    invert(fileOf(first, "lines"), { times: "keep" })
    // The same key, but the words can no longer be read to the end.
    writeFileSync(join(fixture.folder, "refuse"), "")
    const second = await fixture.run({ times: "2" })
    expect(statuses(second)).toMatchObject({ lines: "failed", shout: "skipped", counts: "skipped" })
    expect(second.status).toBe("failed")
  })

  it.each<[string, (file: string) => void]>([
    ["truncated", (file) => writeFileSync(file, readFileSync(file).subarray(0, 100))],
    ["emptied", (file) => writeFileSync(file, "")],
    ["missing", (file) => rmSync(file)]
  ])("whose file is %s is made again", async (_, damage) => {
    const first = await ranBefore()
    damage(fileOf(first, "shout"))
    expect((await fixture.plan()).shout).toEqual(["run", "its result is no longer in the store"])
    const second = await fixture.run()
    expect(statuses(second)).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "hit" })
    expect(digests(second)).toEqual(digests(first))
  })

  it("is one with a manifest that does not match its name", async () => {
    const first = await ranBefore()
    const file = fileOf(first, "shout", "artifact.json")
    writeFileSync(file, readFileSync(file, "utf8").replace('"format": 1', '"format": 1 '))
    expect(statuses(await fixture.run())).toMatchObject({ lines: "hit", shout: "ran" })
  })

  it("may be any of them, or the journal: everything is made again, with the same digests", async () => {
    const first = await ranBefore()
    rmSync(join(fixture.folder, "home/objects"), { recursive: true })
    expect(digests(await fixture.run())).toEqual(digests(first))
    for (const name of readdirSync(join(fixture.folder, "home")))
      if (name.startsWith("journal.db")) rmSync(join(fixture.folder, "home", name))
    const again = await fixture.run()
    expect(statuses(again)).toEqual(all("ran"))
    expect(digests(again)).toEqual(digests(first))
  })

  it("without a record is replaced by a new result", async () => {
    const first = await ranBefore()
    const file = fileOf(first, "lines")
    invert(file)
    for (const name of readdirSync(join(fixture.folder, "home")))
      if (name.startsWith("journal.db")) rmSync(join(fixture.folder, "home", name))
    expect(digests(await fixture.run())).toEqual(digests(first))
    expect(existsSync(join(fixture.folder, "home/quarantine"))).toBe(true)
  })

  it("of a final output with inverted bytes is made again by the next run, although nothing reads it", async () => {
    const first = await ranBefore()
    invert(fileOf(first, "shout"), { count: 20 })
    const second = await fixture.run()
    expect(statuses(second)).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "hit" })
    expect(digests(second)).toEqual(digests(first))
    expect(second.events).toContainEqual({
      type: "note",
      node: "shout",
      message: "its result is damaged (data.arrow has changed): recomputing it"
    })
    expect(readdirSync(join(fixture.folder, "home/quarantine")).length).toBe(1)
    expect(statuses(await fixture.run())).toEqual(all("hit"))
  })

  it("of an unselected node is made again if a selected node reads it, and otherwise left alone", async () => {
    const first = await ranBefore()
    invert(fileOf(first, "shout"), { count: 20 })
    expect(statuses(await fixture.run({}, { only: "wait" })).shout).toBe("skipped")
    expect(statuses(await fixture.run({}, { only: "counts", force: ["counts"] }))).toMatchObject({ shout: "ran", counts: "ran" })
  })

  it("is not an intact one with new files: it is read once, and that is remembered", async () => {
    const first = await ranBefore()
    const tomorrow = Date.now() / 1000 + 86_400
    // As after copying the store, which gives files the time of the copy.
    for (const node of ["lines", "shout", "wait"]) utimesSync(fileOf(first, node), tomorrow, tomorrow)
    const home = openHome(join(fixture.folder, "home"))
    const presences = () => ["lines", "shout", "wait"].map((node) => home.now(home.store.presence(digests(first)[node]!)))
    try {
      expect(presences()).toEqual(["modified", "modified", "modified"])
      expect(statuses(await fixture.run())).toEqual(all("hit"))
      expect(presences()).toEqual(["present", "present", "present"])
    } finally {
      home.close()
    }
  })

  it("that differs when it is made again gives its dependents another key", async () => {
    // The stage is nondeterministic, and its results under one key differ.
    leftDamaged = true
    writeFileSync(
      join(fixture.folder, "weather.ts"),
      `import * as Schema from "effect/Schema"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { writeDataset } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const weather = Stage.make("weather", {
  config: Schema.Struct({}), inputs: {}, output: Texts, seeded: false,
  run: ({ output }) => writeDataset(output, [{ text: readFileSync(join(import.meta.dirname, "weather"), "utf8") }])
})
`
    )
    writeFileSync(
      join(fixture.folder, "pipeline.ts"),
      `import * as Schema from "effect/Schema"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { count } from "./stages.ts"
import { weather } from "./weather.ts"
export default Pipeline.make("drifting", { params: Schema.Struct({ file: Schema.String }) }, () => ({ counts: count({ sets: [weather({})] }) }))
`
    )
    writeFileSync(join(fixture.folder, "weather"), "rain")
    const drifting = await loadFixture(fixture.folder, "?drifting")
    const first = await drifting.run()
    writeFileSync(join(fixture.folder, "weather"), "snowfall")
    invert(fileOf(first, "weather"), { times: "keep" })
    rmSync(fileOf(first, "count", "report.json"))
    const second = await drifting.run()
    expect(statuses(second)).toEqual({ weather: "ran", count: "ran" })
    const keyOf = (ran: Ran) => ran.nodes.find(({ id }) => id === "count")!.key!
    expect(keyOf(second)).not.toBe(keyOf(first))
    const home = openHome(join(fixture.folder, "home"))
    try {
      expect([first, second].map((ran) => home.journal.trace(keyOf(ran))?.digest)).toEqual([first, second].map((ran) => digests(ran).count))
    } finally {
      home.close()
    }
    expect(statuses(await drifting.run())).toEqual({ weather: "hit", count: "hit" })
  })
})
