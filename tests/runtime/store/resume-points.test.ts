/** When checkpoints are written, how they are made to last, and those of another version. How stages resume is in single-flight.test.ts. */
import { createHash } from "node:crypto"
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { type CheckpointOptions, openCheckpoints } from "../../../runtime/store/resume-points.ts"
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

/** With what folders can't be listed; "": they can. */
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

it("are due after so many steps, counted from the last; or after so many seconds, if that is sooner", async () => {
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

it.skipIf(process.platform !== "linux")("have every folder made to last, also one that holds folders alone", async () => {
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

it("that can't be looked at for want of open files may pass; what has to be mended does not", async () => {
  await Effect.runPromise(opened().save(7, nothing))
  for (const [code, isRetryable] of [
    ["EMFILE", true],
    ["EACCES", false]
  ] as const) {
    refusal.code = code
    expect(await Effect.runPromise(Effect.flip(opened().latest))).toMatchObject({
      reason: "Checkpoint",
      isRetryable,
      message: `Looking at a checkpoint: ${code}. It stays where it is: fix that, then run again.`
    })
  }
  refusal.code = ""
  expect(await Effect.runPromise(opened().latest)).toMatchObject({ step: 7 })
})

it("of a newer version are refused, and stay", async () => {
  await Effect.runPromise(opened().save(7, nothing))
  const path = join(folder, readdirSync(folder)[0]!, "seal.json")
  const seal = readFileSync(path, "utf8").split("\n")[1]!.replace('"format":1', '"format":2')
  writeFileSync(path, `${createHash("sha256").update(seal).digest("hex")}\n${seal}`)
  await expect(Effect.runPromise(opened().latest)).rejects.toThrow(
    /it has format 2, this version of caravan knows formats up to 1\. It stays where it is: continue with that newer version/
  )
  expect(readdirSync(folder)).toHaveLength(1)
})

it("that are damaged are removed when they are passed over: those that follow would be taken for older ones", async () => {
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

it("take a twentieth of the time at most: one that took long puts off the next", async () => {
  let now = 1000
  const clock = vi.spyOn(performance, "now").mockImplementation(() => now)
  try {
    const checkpoints = opened({ seconds: 1 })
    now += 1000
    expect(checkpoints.due()).toBe(true)
    // It takes a second: 20 seconds from its end to the next.
    await Effect.runPromise(checkpoints.save(1, () => Effect.sync(() => void (now += 1000))))
    now += 19_999
    expect(checkpoints.due()).toBe(false)
    now += 1
    expect(checkpoints.due()).toBe(true)
  } finally {
    clock.mockRestore()
  }
})
