/** When checkpoints are written, how they are made durable, and checkpoints of another version. How stages resume is in single-flight.test.ts. */
import { execFileSync, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { writeReport } from "../../../data/dataset.ts"
import type { HeldFile, WriteCheckpoint } from "../../../runtime/define/resume-points.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { runStage } from "../../../runtime/run/run-stage.ts"
import { type CheckpointOptions, openCheckpoints } from "../../../runtime/store/resume-points.ts"
import { report } from "../../../schemas/report.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

/** Every file and folder that is fsynced. */
const synced = vi.hoisted(() => [] as Array<string>)
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>()
  const fsync: typeof fs.fsync = Object.assign(
    (file: number, done: Parameters<typeof fs.fsync>[1]) => {
      if (process.platform === "linux") synced.push(fs.readlinkSync(`/proc/self/fd/${file}`))
      fs.fsync(file, done)
    },
    { __promisify__: fs.fsync.__promisify__ }
  )
  return { ...fs, fsync }
})

/** The error of listing folders; "": none. */
const refusal = vi.hoisted(() => ({ code: "" }))
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>()
  const readdir = async (...given: Parameters<typeof fs.readdir>) => {
    if (refusal.code !== "") throw Object.assign(new Error(refusal.code), { code: refusal.code })
    return fs.readdir(...given)
  }
  return { ...fs, readdir }
})

let folder: string
beforeEach(() => {
  folder = join(workFolder(), "key")
})
afterEach(() => removeFolder(join(folder, "..")))

const opened = (options: Partial<CheckpointOptions> = {}) =>
  openCheckpoints({ folder, seconds: Infinity, ...options }, (message) => {
    throw new Error(message)
  })
const nothing = () => Effect.void

it("are due after a number of steps, counted from the last; or after a number of seconds, if that is sooner", async () => {
  const due: Array<number> = []
  const checkpoints = opened({ steps: 3 })
  for (let step = 1; step <= 10; step++)
    if (checkpoints.due()) {
      due.push(step)
      await Effect.runPromise(checkpoints.save(step, nothing))
    }
  expect(due).toEqual([3, 6, 9])
  expect(opened({ steps: 3, seconds: 0 }).due()).toBe(true)
  expect(opened().due()).toBe(false)
})

it.skipIf(process.platform !== "linux")("have every folder fsynced, also one that contains only folders", async () => {
  synced.length = 0
  await Effect.runPromise(
    opened().save(1, (into) =>
      Effect.sync(() => {
        mkdirSync(join(into, "outer/inner"), { recursive: true })
        writeFileSync(join(into, "outer/inner/state"), "1")
      })
    )
  )
  expect(synced.map((path) => basename(path))).toEqual(expect.arrayContaining(["state", "inner", "outer", "seal.json"]))
})

it("that can't be read because of too many open files or a stale network file handle may be retried; other errors need a fix", async () => {
  await Effect.runPromise(opened().save(7, nothing))
  for (const [code, isRetryable] of [
    ["EMFILE", true],
    ["ESTALE", true],
    ["EACCES", false]
  ] as const) {
    refusal.code = code
    expect(await Effect.runPromise(Effect.flip(opened().latest))).toMatchObject({
      reason: "Checkpoint",
      isRetryable,
      message: `Reading a checkpoint: ${code}. The checkpoint was not changed: fix this, then run again.`
    })
  }
  refusal.code = ""
  expect(await Effect.runPromise(opened().latest)).toMatchObject({ step: 7 })
})

it("of a newer version are rejected, and stay", async () => {
  await Effect.runPromise(opened().save(7, nothing))
  const path = join(folder, readdirSync(folder)[0]!, "seal.json")
  const seal = readFileSync(path, "utf8").split("\n")[1]!.replace('"format":1', '"format":2')
  writeFileSync(path, `${createHash("sha256").update(seal).digest("hex")}\n${seal}`)
  await expect(Effect.runPromise(opened().latest)).rejects.toThrow(
    /it has format 2, but this version of caravan supports formats up to 1\. The checkpoint was not changed: continue with the newer version/
  )
  expect(readdirSync(folder)).toHaveLength(1)
})

it("that are damaged are deleted when skipped: otherwise later ones would be taken for older ones", async () => {
  const notes: Array<string> = []
  const checkpoints = openCheckpoints({ folder, seconds: Infinity }, (note) => notes.push(note))
  const save = (step: number) => checkpoints.save(step, (into) => Effect.sync(() => writeFileSync(join(into, "state"), String(step))))
  await Effect.runPromise(Effect.andThen(save(1), save(9)))
  writeFileSync(join(folder, readdirSync(folder).sort().at(-1)!, "state"), "8")
  expect(await Effect.runPromise(checkpoints.latest)).toMatchObject({ step: 1 })
  expect(notes).toEqual([expect.stringContaining("after step 9 is damaged")])
  // Two are kept: of 1, 2 and 3 these.
  await Effect.runPromise(Effect.andThen(save(2), save(3)))
  expect(readdirSync(folder).map(Number)).toEqual([2, 3])
})

it("take at most a twentieth of the time: a slow one postpones the next", async () => {
  let now = 1000
  const clock = vi.spyOn(performance, "now").mockImplementation(() => now)
  try {
    const checkpoints = opened({ seconds: 1 })
    now += 1000
    expect(checkpoints.due()).toBe(true)
    // It takes a second: the next is due 20 seconds after its end.
    await Effect.runPromise(checkpoints.save(1, () => Effect.sync(() => void (now += 1000))))
    now += 19_999
    expect(checkpoints.due()).toBe(false)
    now += 1
    expect(checkpoints.due()).toBe(true)
  } finally {
    clock.mockRestore()
  }
})

/** A file in memory that threads share. */
const held = (path: string, text: string): HeldFile => {
  const bytes = new Uint8Array(new SharedArrayBuffer(text.length))
  bytes.set(Buffer.from(text))
  return { path, bytes }
}
const holding =
  (text: string): WriteCheckpoint =>
  (into, hold) =>
    Effect.sync(() => {
      writeFileSync(join(into, "now"), text)
      hold(held(join(into, "later"), text))
    })
/** A file that can't be written before somebody reads it. Returns its path. */
const pipeIn = (into: string): string => {
  const path = join(into, "pipe")
  execFileSync("mkfifo", [path])
  return path
}
/** The content of the newest checkpoint. */
const newest = async () => {
  const found = await Effect.runPromise(opened().latest)
  return found === undefined
    ? undefined
    : [found.step, readFileSync(join(found.path, "now"), "utf8"), readFileSync(join(found.path, "later"), "utf8")]
}

describe.skipIf(process.platform === "win32")("files that a stage holds in memory", () => {
  it("are written while the stage continues; the next checkpoint waits for that", async () => {
    const checkpoints = opened()
    let pipe = ""
    await Effect.runPromise(
      checkpoints.save(1, (into, hold) =>
        Effect.sync(() => {
          pipe = pipeIn(into)
          hold(held(pipe, "x"))
          hold(held(join(into, "later"), "one"))
          writeFileSync(join(into, "now"), "one")
        })
      )
    )
    // It does not exist yet, and no other begins.
    const began: Array<number> = []
    const second = Effect.runPromise(checkpoints.save(2, (into, hold) => Effect.suspend(() => (began.push(2), holding("two")(into, hold)))))
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(began).toEqual([])
    expect(readdirSync(folder).filter((name) => !name.startsWith("new-"))).toEqual([])
    expect(readFileSync(pipe, "utf8")).toBe("x")
    await second
    await Effect.runPromise(checkpoints.settled)
    expect(began).toEqual([2])
    expect(readdirSync(folder).map(Number)).toEqual([1, 2])
    expect(await newest()).toEqual([2, "two", "two"])
  })

  it("that can't be written give a note, at the next checkpoint at the latest, and earlier ones stay", async () => {
    const notes: Array<string> = []
    const checkpoints = openCheckpoints({ folder, seconds: Infinity }, (note) => notes.push(note))
    await Effect.runPromise(checkpoints.save(1, holding("one")))
    await Effect.runPromise(checkpoints.save(2, (into, hold) => Effect.sync(() => hold(held(join(into, "no/such/folder"), "two")))))
    await Effect.runPromise(checkpoints.save(3, () => Effect.sync(() => expect(notes).toHaveLength(1))))
    expect(notes).toEqual([
      expect.stringMatching(
        /^its checkpoint after step 2 could not be written \(ENOENT: .*no\/such\/folder'\); the stage continues, and earlier checkpoints are kept$/
      )
    ])
    expect(readdirSync(folder).map(Number)).toEqual([1, 3])
  })

  it("are written for at most a quarter of the time: a slow one postpones the next", async () => {
    let now = 1000
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now)
    try {
      const checkpoints = opened({ seconds: 0.001 })
      let pipe = ""
      // More than fits in a pipe: it is written while it is read.
      const long = "x".repeat(1 << 20)
      await Effect.runPromise(checkpoints.save(1, (into, hold) => Effect.sync(() => hold(held((pipe = pipeIn(into)), long)))))
      // It opens when the thread has begun.
      const reader = await open(pipe)
      await new Promise((resolve) => setTimeout(resolve, 200))
      await reader.readFile()
      await reader.close()
      await Effect.runPromise(checkpoints.settled)
      now += 790
      expect(checkpoints.due()).toBe(false)
      now += 600_000
      expect(checkpoints.due()).toBe(true)
    } finally {
      clock.mockRestore()
    }
  })

  it("leave the previous checkpoint when the process is killed while they are written", async () => {
    await Effect.runPromise(opened().save(1, holding("one")).pipe(Effect.andThen(opened().settled)))
    const module = (path: string) => JSON.stringify(new URL(`../../../${path}`, import.meta.url).href)
    const program = `
      import * as Effect from "effect/Effect"
      import { execFileSync } from "node:child_process"
      import { openCheckpoints } from ${module("runtime/store/resume-points.ts")}
      const checkpoints = openCheckpoints({ folder: ${JSON.stringify(folder)}, seconds: Infinity }, console.error)
      await Effect.runPromise(checkpoints.save(2, (into, hold) => Effect.sync(() => {
        execFileSync("mkfifo", [into + "/pipe"])
        for (const name of ["later", "pipe"]) hold({ path: into + "/" + name, bytes: new Uint8Array(new SharedArrayBuffer(3)) })
      })))
      console.log("goes on")
      setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ["--input-type=module", "--eval", program], { stdio: ["ignore", "pipe", "inherit"] })
    const gone = new Promise((resolve) => child.on("close", resolve))
    await new Promise((resolve) => child.stdout.once("data", resolve))
    expect(readdirSync(folder).filter((name) => name.startsWith("new-"))).toHaveLength(1)
    child.kill("SIGKILL")
    await gone
    expect(await newest()).toEqual([1, "one", "one"])
    expect(readdirSync(folder).map(Number)).toEqual([1])
  })

  it("are on the disk before the stage ends, however it ends, and before it is stopped", async () => {
    const Out = report(Schema.Struct({}), "held/1")
    for (const fails of [false, true]) {
      const stage = Stage.make("holds", {
        config: Schema.Struct({}),
        inputs: {},
        output: Out,
        run: ({ checkpoints, output }) =>
          Effect.gen(function* () {
            yield* checkpoints.save(fails ? 2 : 1, holding("held"))
            return fails ? yield* Effect.fail({ message: "no" }) : yield* writeReport(output, {})
          })
      })
      const output = join(folder, "..", `out-${fails}`)
      mkdirSync(output)
      const job = { module: "", exportName: "", config: {}, inputs: {}, output, seed: 0, device: "cpu" as const, threads: 1 }
      const exit = await Effect.runPromiseExit(
        runStage(stage.stage, { ...job, checkpoints: { folder, seconds: Infinity } }, () => undefined)
      )
      expect(exit._tag).toBe(fails ? "Failure" : "Success")
      expect(readdirSync(folder).map(Number)).toEqual(fails ? [1, 2] : [1])
    }
    let saved: ReadonlyArray<string> = []
    const stop = { requested: true, listens: () => undefined, saved: () => void (saved = readdirSync(folder)) }
    await Effect.runPromise(openCheckpoints({ folder, seconds: Infinity }, () => undefined, stop).save(3, holding("held")))
    expect(saved.map(Number)).toEqual([2, 3])
  })
})
