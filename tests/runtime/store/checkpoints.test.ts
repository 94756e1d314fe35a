/** When checkpoints are written, how they are made to last, and those of another version. How stages resume is in single-flight.test.ts. */
import { createHash } from "node:crypto"
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { basename, join } from "node:path"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { type CheckpointOptions, openCheckpoints } from "../../../runtime/store/checkpoints.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

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
  const handle = await open(import.meta.filename)
  const synced: Array<string> = []
  const prototype = Object.getPrototypeOf(handle) as { sync: () => Promise<void> }
  const spy = vi.spyOn(prototype, "sync").mockImplementation(function (this: { readonly fd: number }) {
    synced.push(readlinkSync(`/proc/self/fd/${this.fd}`))
    return Promise.resolve()
  })
  try {
    await Effect.runPromise(
      opened().save(1, (into) =>
        Effect.sync(() => {
          mkdirSync(join(into, "outer/inner"), { recursive: true })
          writeFileSync(join(into, "outer/inner/state"), "1")
        })
      )
    )
  } finally {
    spy.mockRestore()
    await handle.close()
  }
  expect(synced.map((path) => basename(path))).toEqual(expect.arrayContaining(["state", "inner", "outer", "seal.json"]))
})

it("of a newer version are refused, and stay", async () => {
  await Effect.runPromise(opened().save(7, nothing))
  const path = join(folder, readdirSync(folder)[0]!, "seal.json")
  const seal = readFileSync(path, "utf8").split("\n")[1]!.replace('"format":1', '"format":2')
  writeFileSync(path, `${createHash("sha256").update(seal).digest("hex")}\n${seal}`)
  await expect(Effect.runPromise(opened().latest)).rejects.toThrow(
    /it has format 2, this version of caravan knows formats up to 1\. It stays where it is: go on with that newer version/
  )
  expect(readdirSync(folder)).toHaveLength(1)
})
