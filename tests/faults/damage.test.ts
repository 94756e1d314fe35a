/** Bytes that change, shrink or disappear outside of the program's control: in objects, in the journal, in both. */
import {
  chmodSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync
} from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { openHome } from "../runtime/fixture.ts"
import { digestsOf, everything, faultFolder, type Outcome, remove, requestOf, Runner, statusesOf } from "./harness.ts"
import { broken, type Clean } from "./invariants.ts"

const hour = 3_600_000
const folder = faultFolder()
const whole = join(folder, "whole")
const home = join(folder, "home")
const request = requestOf(folder, home)
let sound: Runner
let clean: Clean
let first: Outcome
beforeAll(async () => {
  sound = new Runner()
  await sound.ready()
  first = await sound.run(requestOf(folder, whole))
  clean = digestsOf(first)
})
afterAll(async () => {
  await sound.close()
  remove(folder)
})

const restore = () => {
  rmSync(home, { recursive: true, force: true })
  cpSync(whole, home, { recursive: true })
}
const object = (node: string, base = home) => join(base, "objects", clean[node]!.slice(0, 2), clean[node]!)
const filesOf = (node: string): Array<string> =>
  readdirSync(object(node, whole), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(object(node, whole).length + 1))
/** The reader of each result. */
const reader: Readonly<Record<string, string>> = everything
  ? { read: "spread", spread: "gather", gather: "climb" }
  : { spread: "gather", gather: "climb" }

/** Like a decaying disk: the file's times are unchanged. */
const flip = (path: string, at: number, bit: number) => {
  const time = Math.floor(statSync(path).mtimeMs) / 1000
  const bytes = readFileSync(path)
  bytes[at]! ^= 1 << bit
  chmodSync(path, 0o644)
  writeFileSync(path, bytes)
  utimesSync(path, time, time)
}

describe("a result's file", () => {
  it("with a flipped bit is detected by the stage that reads it, moved aside and made again", { timeout: hour }, async () => {
    const found: Array<string> = []
    const random = new Random(5, "bits")
    let tried = 0
    for (const [node, by] of Object.entries(reader))
      for (const file of filesOf(node)) {
        const { size } = statSync(join(object(node, whole), file))
        for (let at = everything ? 0 : random.int(size); at < size; at += everything ? 5 : 1e9) {
          restore()
          flip(join(object(node), file), at, random.int(8))
          tried++
          const outcome = await sound.run({ ...request, options: { force: [by] } })
          const wrong = await broken({ clean, finished: Object.keys(clean), runner: sound, request })
          if (statusesOf(outcome)[node] !== "ran") wrong.push(`${node} is not made again`)
          if (!outcome.notes.some((note) => /its result is damaged/.test(note))) wrong.push("nothing is said of it")
          if (readdirSync(join(home, "quarantine")).length !== 1) wrong.push("it is not set aside")
          found.push(...wrong.map((what) => `${node}, ${file}, byte ${at}: ${what}`))
        }
      }
    console.log(`bits changed in results: ${tried}`)
    expect(found).toEqual([])
  })

  const losses: ReadonlyArray<readonly [string, (node: string, file: string) => void]> = [
    ["is empty", (node, file) => (chmodSync(join(object(node), file), 0o644), truncateSync(join(object(node), file), 0))],
    [
      "is a byte short",
      (node, file) => (
        chmodSync(join(object(node), file), 0o644),
        truncateSync(join(object(node), file), statSync(join(object(node), file)).size - 1)
      )
    ],
    ["is gone", (node, file) => rmSync(join(object(node), file))],
    ["is gone with all the others", (node) => rmSync(object(node), { recursive: true, force: true })]
  ]
  it.each(losses)(
    "that %s is detected by any run, and made again; the record alone is not a result",
    { timeout: hour },
    async (_, lose) => {
      const found: Array<string> = []
      for (const node of everything ? Object.keys(clean) : ["spread"])
        for (const file of filesOf(node)) {
          restore()
          lose(node, file)
          const outcome = await sound.run(request)
          if (statusesOf(outcome)[node] !== "ran") found.push(`${node}, ${file}: it is not made again`)
          for (const what of await broken({ clean, finished: Object.keys(clean), runner: sound, request }))
            found.push(`${node}, ${file}: ${what}`)
        }
      expect(found).toEqual([])
    }
  )
})

describe("the journal", () => {
  const file = join(home, "journal.db")
  /** The outcome of a run: the right results, cached or made again, or an error that says what to do. */
  const judge = (outcome: Outcome): { readonly wrong: ReadonlyArray<string>; readonly refused: boolean } => {
    const { end } = outcome
    if (end.type === "died") return { wrong: ["the process died"], refused: false }
    if (end.type === "refused") {
      const clear =
        /StoreError|PipelineError/.test(end.tag) &&
        /journal\.db.*(damaged|malformed|not a database|format).*(move it away|newer version|Free some space)/s.test(end.message)
      return { wrong: clear ? [] : [`${end.tag}: ${end.message}`], refused: true }
    }
    const failed = end.nodes.find(({ status }) => status === "failed")
    if (failed !== undefined)
      return { wrong: /journal\.db: .*malformed/.test(failed.error!) ? [] : [`${failed.id}: ${failed.error}`], refused: true }
    const expected = first.end.type === "done" ? first.end.nodes : []
    return {
      wrong: end.nodes.flatMap(({ id, digest, metrics }) => {
        const before = expected.find((node) => node.id === id)!
        return digest === before.digest && JSON.stringify(metrics) === JSON.stringify(before.metrics)
          ? []
          : [`${id} is ${digest} ${JSON.stringify(metrics)}, was ${before.digest} ${JSON.stringify(before.metrics)}`]
      }),
      refused: false
    }
  }

  it(
    "with flipped bits gives right results or is rejected; moved away as the error says, everything is made again",
    { timeout: hour },
    async () => {
      const random = new Random(7, "journal")
      const { size } = statSync(join(whole, "journal.db"))
      const found: Array<string> = []
      const tries = everything ? 1500 : 15
      let refusals = 0
      for (let i = 0; i < tries; i++) {
        restore()
        const at = random.int(size)
        flip(file, at, random.int(8))
        const { wrong, refused } = judge(await sound.run(request))
        found.push(...wrong.map((what) => `byte ${at}: ${what}`))
        if (!refused) continue
        refusals++
        // The end of the error: move it away.
        for (const name of readdirSync(home)) if (name.startsWith("journal.db")) rmSync(join(home, name))
        for (const what of await broken({ clean, finished: [], runner: sound, request })) found.push(`byte ${at}, moved away: ${what}`)
      }
      console.log(`bits changed in the journal (${size} bytes): ${tries}, of which ${refusals} were refused`)
      expect(found).toEqual([])
    }
  )

  it.each(everything ? [0, 100, 4096, 5000, 20_000, 50_000, 100_000] : [0, 5000])(
    "truncated to %d bytes gives right results or is rejected",
    { timeout: hour },
    async (length) => {
      restore()
      truncateSync(file, length)
      const { wrong } = judge(await sound.run(request))
      expect(wrong).toEqual([])
    }
  )

  it("that is missing costs only the records: everything is made again, with the same digests", async () => {
    restore()
    for (const name of readdirSync(home)) if (name.startsWith("journal.db")) rmSync(join(home, name))
    expect(await broken({ clean, finished: [], runner: sound, request })).toEqual([])
  })

  it("of a newer version is rejected, and not modified", async () => {
    restore()
    const database = new DatabaseSync(file)
    database.exec("pragma user_version = 99; alter table traces add column later text")
    database.close()
    const before = readFileSync(file)
    expect((await sound.run(request)).end).toMatchObject({
      type: "refused",
      tag: "StoreError",
      message: expect.stringMatching(/has format 99, but this version of caravan supports formats up to \d+\. Use the newer version/)
    })
    expect(readFileSync(file).equals(before)).toBe(true)
    expect(existsSync(join(home, "tmp"))).toBe(existsSync(join(whole, "tmp")))
  })

  it("of this version opens any number of times", () => {
    restore()
    for (let i = 0; i < 3; i++) {
      const { close, journal } = openHome(home)
      journal.runs()
      close()
    }
    expect(readFileSync(file).length).toBeGreaterThan(0)
  })
})
