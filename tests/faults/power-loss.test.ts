/** Power lost after every call: everything that was not fsynced is lost, partially or completely, and the next run continues from the rest. */
import { createHash } from "node:crypto"
import { mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs"
import { join, relative } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import {
  type Answer,
  changing,
  digestsOf,
  everything,
  faultFolder,
  mode,
  numbers,
  remove,
  requestOf,
  Runner,
  shim,
  without
} from "./harness.ts"
import { broken, type Clean } from "./invariants.ts"
import { Disk, type Luck, materialise, type Operation, readLog } from "./replay.ts"

const hour = 3_600_000
const folder = realpathSync(faultFolder())
let sound: Runner
beforeAll(async () => {
  sound = new Runner()
  await sound.ready()
})
afterAll(async () => {
  await sound.close()
  remove(folder)
})

/** The stages one after another; and six concurrent stages, so that several are committed together. */
const one = { settings: {}, options: {} }
const six = { settings: { pieces: "6" }, options: { jobs: 6 } }

/** A run under the shim: its calls, with an empty store. */
const record = async (
  name: string,
  how: typeof one | typeof six
): Promise<{ readonly root: string; readonly log: ReadonlyArray<Operation>; readonly clean: Clean }> => {
  const root = join(folder, name)
  mkdirSync(root)
  const log = join(folder, `${name}.log`)
  const runner = new Runner({ below: root, log, environment: { FAULTS_MARKS: join(root, "marks") } })
  try {
    // Before the runner opens its marks.
    runner.control!.arm({ mode: mode.nothing, mask: changing, logging: true })
    await runner.ready()
    const clean = digestsOf(
      await runner.run(
        { ...requestOf(folder, join(root, "home"), how.settings), options: how.options },
        { mode: mode.nothing, mask: changing, logging: true }
      )
    )
    return { root, log: readLog(readFileSync(log)), clean }
  } finally {
    await runner.close()
  }
}

const filesBelow = (root: string): Map<string, Buffer | null> =>
  new Map(
    readdirSync(root, { recursive: true, withFileTypes: true }).map((entry) => {
      const path = join(entry.parentPath, entry.name)
      return [relative(root, path), entry.isDirectory() ? null : readFileSync(path)] as const
    })
  )
/** SQLite's index of its log is written through memory, and rebuilt by the first process. */
const counts = (path: string) => !path.endsWith("-shm")

/** The runner's reports until then. */
const said = (files: ReadonlyMap<string, Buffer | null>): { readonly finished: Array<string>; readonly step: number | undefined } => {
  const answers = (files.get("marks")?.toString() ?? "")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Answer)
  return {
    finished: answers.flatMap((answer) => (answer.type === "finished" ? [answer.node] : [])),
    step: answers.flatMap((answer) => (answer.type === "step" ? [answer.step] : [])).at(-1)
  }
}

describe.skipIf(!("path" in shim))(`power lost in a run with an empty store,${without}`, () => {
  it("is replayed from a complete log: all calls together give the run's files", async () => {
    const { root, log } = await record("whole", six)
    const disk = new Disk(root)
    for (const operation of log) disk.apply(operation)
    const [replayed, real] = [disk.after("all"), filesBelow(root)]
    expect([...replayed.keys()].filter(counts).sort()).toEqual([...real.keys()].filter(counts).sort())
    const differing = [...real].filter(([path, bytes]) => counts(path) && bytes !== null && !replayed.get(path)!.equals(bytes))
    expect(differing.map(([path]) => path)).toEqual([])
    expect(real.size).toBeGreaterThan(20)
    expect(statSync(join(root, "home/journal.db")).size).toBeGreaterThan(0)
  })

  it.each([
    ["one", one],
    ["six", six]
  ] as const)(
    "after any call, %s stages concurrently: the next run ends as if nothing had happened; all reported results exist",
    { timeout: hour },
    async (title, how) => {
      const { root, log, clean } = await record(`cut ${title}`, how)
      const disk = new Disk(root)
      const home = join(folder, "left")
      const found: Array<string> = []
      const seen = new Set<string>()
      const chosen = new Set(numbers(log.length, 3))
      let [states, coins] = [0, 0]
      for (const [i, operation] of log.entries()) {
        disk.apply(operation)
        if (!chosen.has(i + 1)) continue
        const done = said(disk.after("all"))
        const lucks: Array<[string, Luck]> = [
          ["none", "none"],
          ["names", "names"],
          ["zeros", "zeros"]
        ]
        for (let k = 0; k < (everything ? 3 : 1); k++) lucks.push([`coin ${k}`, new Random(k, "power loss", i)])
        for (const [name, luck] of lucks) {
          const files = disk.after(luck)
          const left = new Map(
            [...files].flatMap(([path, bytes]) => (path.startsWith("home") && counts(path) ? [[path, bytes] as const] : []))
          )
          const hash = createHash("sha256").update(JSON.stringify(done))
          for (const [path, bytes] of [...left].sort(([a], [b]) => (a < b ? -1 : 1)))
            hash.update(`${path}:${bytes?.length ?? -1}:`).update(bytes ?? "")
          const state = hash.digest("hex")
          if (seen.has(state)) continue
          seen.add(state)
          states++
          if (name.startsWith("coin")) coins++
          rmSync(home, { recursive: true, force: true })
          materialise(left, home)
          const wrong = await broken({ clean, ...done, runner: sound, request: requestOf(folder, join(home, "home"), how.settings) })
          found.push(
            ...wrong.map(
              (what) =>
                `call ${i + 1} (${operation.what}${operation.path === "" ? "" : ` ${relative(root, operation.path)}`}), ${name}: ${what}`
            )
          )
        }
      }
      console.log(
        `${title} at once: power lost after ${chosen.size} of ${log.length} calls: ${states} different disks, ${coins} of them by throws of a coin`
      )
      expect(found).toEqual([])
    }
  )
})
