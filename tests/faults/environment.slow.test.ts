/** Faults of the environment: the clock jumps, the folder can't be written to, is full, is deleted, is at an unusual path. */
import { spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  type Answer,
  call,
  changing,
  digestsOf,
  errno,
  everything,
  fast,
  faultFolder,
  mode,
  numbers,
  remove,
  requestOf,
  Runner,
  shim,
  statusesOf,
  without,
  withRunner
} from "./harness.ts"
import { broken, type Clean } from "./invariants.ts"

const hour = 3_600_000
const day = 86_400
const folder = realpathSync(faultFolder())
const shimmed = { below: folder }
let sound: Runner
let clean: Clean
beforeAll(async () => {
  sound = new Runner()
  await sound.ready()
  clean = digestsOf(await sound.run(requestOf(folder, join(folder, "clean"))))
})
afterAll(async () => {
  await sound.close()
  remove(folder)
})
const hits = Object.fromEntries(["read", "spread", "gather", "climb"].map((node) => [node, "hit"]))

describe.skipIf(!("path" in shim))(`a clock that is wrong${without}`, () => {
  it.each([
    ["a day ahead, then right", day, 0],
    ["right, then a day behind", 0, -day],
    ["a day behind, then a day ahead", -day, day]
  ])("(%s) reruns nothing and changes nothing", async (title, before, after) => {
    await withRunner(shimmed, async (runner) => {
      const request = requestOf(folder, join(folder, title))
      runner.control!.moveClock(before)
      expect(digestsOf(await runner.run(request))).toEqual(clean)
      runner.control!.moveClock(after)
      expect(statusesOf(await runner.run(request))).toEqual(hits)
      expect(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).toEqual([])
    })
  })

  it("that jumps while another run waits changes nothing either", async () => {
    await withRunner(shimmed, async (runner) => {
      const request = requestOf(folder, join(folder, "jumps"), { apart: "true" })
      const other = new Runner()
      try {
        await other.ready()
        let jumps = 0
        let waiting: ReturnType<typeof other.run> | undefined
        // Either may make a node.
        const heard = (answer: Answer) => {
          if (answer.type !== "started" && answer.type !== "finished") return
          runner.control!.moveClock(day * (jumps++ % 2 === 0 ? 1 : -1))
          waiting ??= other.run(request, undefined, heard)
        }
        const running = runner.run(request, undefined, heard)
        expect(digestsOf(await running)).toMatchObject(clean)
        expect(digestsOf(await waiting!)).toMatchObject(clean)
        expect(jumps).toBeGreaterThan(4)
      } finally {
        await other.close()
      }
      expect(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).toEqual([])
    })
  })
})

describe.skipIf(!("path" in shim))(`a folder that can't be written to${without}`, () => {
  it.each([
    ["a read-only file system", errno.EROFS],
    ["no permission", errno.EACCES]
  ])("(%s) is rejected immediately, with what to do, before and after there is something in it", async (title, error) => {
    await withRunner(shimmed, async (runner) => {
      const request = requestOf(folder, join(folder, title))
      const refused = { type: "refused", tag: "StoreError", message: expect.stringMatching(/(Make the|Fix the) folder/) }
      const fault = { mode: mode.refuseFrom, error, at: 1, mask: changing }
      expect((await runner.run(request, fault)).end).toMatchObject(refused)
      expect(digestsOf(await sound.run(request))).toEqual(clean)
      expect((await runner.run(request, fault)).end).toMatchObject(refused)
      expect(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).toEqual([])
    })
  })

  it("during a run stops it; earlier results are kept", { timeout: hour }, async () => {
    await withRunner(shimmed, async (runner) => {
      const home = join(folder, "becomes read-only")
      const { count } = await runner.run(requestOf(folder, join(folder, "counted")), { mode: mode.nothing, mask: changing })
      for (const at of numbers(count, 3).filter((n) => !everything || n % 10 === 0)) {
        rmSync(home, { recursive: true, force: true })
        const outcome = await runner.run(requestOf(folder, home), { mode: mode.refuseFrom, error: errno.EROFS, at, mask: changing })
        expect(outcome.end.type).not.toBe("died")
        const left = { finished: Object.keys(outcome.finished), step: outcome.steps.at(-1) }
        if (outcome.notes.some((note) => note.includes("could not be written"))) left.step = undefined
        expect(await broken({ clean, ...left, runner: sound, request: requestOf(folder, home) })).toEqual([])
      }
    })
  })
})

/** A separate small file system, if the system allows it. */
const mounted = (options: string): string | undefined => {
  const place = mkdtempSync(join(tmpdir(), "caravan-mount-"))
  if (spawnSync("mount", ["-t", "tmpfs", "-o", options, "none", place]).status === 0) return place
  remove(place)
  return undefined
}
const unmount = (place: string) => {
  spawnSync("umount", [place])
  remove(place)
}
const trial = mounted("size=64k")
if (trial !== undefined) unmount(trial)
const mountless = trial === undefined ? " (skipped: no file system can be mounted here; calls.test.ts has a full disk by the shim)" : ""

describe.skipIf(trial === undefined)(`a small file system${mountless}`, () => {
  it("that is full at any size stops the run, and the next continues once there is space", { timeout: hour }, async () => {
    const found: Array<string> = []
    let [full, whole] = [0, 0]
    for (let size = 16; size <= 1400; size += everything ? 16 : 400) {
      const place = mounted(`size=${size}k`)!
      try {
        const request = requestOf(folder, join(place, "home"))
        const outcome = await sound.run(request)
        if (outcome.end.type === "done" && outcome.end.status === "succeeded") whole++
        else full++
        if (outcome.end.type === "refused" && !/StoreError|PipelineError/.test(outcome.end.tag))
          found.push(`${size} KiB: ${JSON.stringify(outcome.end)}`)
        spawnSync("mount", ["-o", "remount,size=16m", place])
        const left = { finished: Object.keys(outcome.finished), step: outcome.steps.at(-1) }
        if (outcome.notes.some((note) => note.includes("could not be written"))) left.step = undefined
        found.push(...(await broken({ clean, ...left, runner: sound, request })).map((what) => `${size} KiB: ${what}`))
      } finally {
        unmount(place)
      }
    }
    console.log(`small file systems: ${full} were full, ${whole} were large enough`)
    expect(found).toEqual([])
    expect(Math.min(full, whole)).toBeGreaterThan(0)
  })

  it("that becomes read-only is rejected, and works again when it is writable", async () => {
    const place = mounted("size=16m")!
    try {
      const request = requestOf(folder, join(place, "home"))
      expect(digestsOf(await sound.run(request))).toEqual(clean)
      spawnSync("mount", ["-o", "remount,ro", place])
      expect((await sound.run(request)).end).toMatchObject({
        type: "refused",
        tag: "StoreError",
        message: expect.stringMatching(/Make the folder writable/)
      })
      spawnSync("mount", ["-o", "remount,rw", place])
      expect(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).toEqual([])
    } finally {
      unmount(place)
    }
  })
})

describe.skipIf(!("path" in shim))(`a cache that is deleted during a run${without}`, () => {
  it("at any call makes the next run rerun everything", { timeout: hour }, async () => {
    const found: Array<string> = []
    const home = join(folder, "deleted")
    await withRunner(shimmed, async (runner) => {
      const { count } = await runner.run(requestOf(folder, join(folder, "counted for deletion")), { mode: mode.nothing, mask: changing })
      const chosen = numbers(count, 6).filter((at) => !everything || at % 4 === 0)
      let succeeded = 0
      for (const at of chosen) {
        rmSync(home, { recursive: true, force: true })
        const running = runner.run(requestOf(folder, home), { mode: mode.stop, mask: changing, at })
        await runner.stopped(running)
        rmSync(home, { recursive: true, force: true })
        runner.process.kill("SIGCONT")
        const { end } = await running
        if (end.type === "died") found.push(`call ${at}: it died`)
        if (end.type === "refused" && !/StoreError|PipelineError/.test(end.tag)) found.push(`call ${at}: ${JSON.stringify(end)}`)
        if (end.type === "done" && end.status === "succeeded") succeeded++
        for (const what of await broken({ clean, finished: [], runner: sound, request: requestOf(folder, home) }))
          found.push(`call ${at}: ${what}`)
      }
      console.log(`deleted at ${chosen.length} of ${count} calls; ${succeeded} of those runs came to their end`)
    })
    expect(found).toEqual([])
  })
})

describe("a home", () => {
  const wrongOf = async (home: string): Promise<Array<string>> => {
    const request = requestOf(folder, home)
    const digests = digestsOf(await sound.run(request))
    return broken({ clean: digests, finished: Object.keys(clean), runner: sound, request })
  }
  it("may be behind a link, and so may the input", async () => {
    mkdirSync(join(folder, "far/away"), { recursive: true })
    symlinkSync(join(folder, "far/away"), join(folder, "near"))
    expect(await wrongOf(join(folder, "near/home"))).toEqual([])
    const through = async (link: string) => {
      symlinkSync(join(folder, "words.txt"), join(folder, link))
      return statusesOf(await sound.run(requestOf(folder, join(folder, "near/home"), { file: join(folder, link) })))
    }
    expect(await through("linked.txt")).toEqual(hits)
    // The extension determines how a file is read, so it is part of the key; the result is the same.
    expect(await through("words")).toEqual({ ...hits, read: "ran" })
  })
  it("may be deep, with names of the maximum length", async () => {
    expect(await wrongOf(join(folder, "d".repeat(200), "e".repeat(100), "home"))).toEqual([])
  })
  it("that is too deep for SQLite is rejected, with the folder's name", async () => {
    const { end } = await sound.run(requestOf(folder, join(folder, ...Array.from({ length: 8 }, (_, i) => String(i).repeat(200)), "home")))
    expect(end).toMatchObject({
      type: "refused",
      tag: "StoreError",
      message: expect.stringMatching(/Opening the journal .*set CARAVAN_HOME to another folder/)
    })
  })
  it("may be on another file system than the temporary folder, the input and the code", async () => {
    const other = fast === tmpdir() ? folder : mkdtempSync(join(tmpdir(), "caravan-elsewhere-"))
    const runner = new Runner({ environment: { TMPDIR: other } })
    try {
      await runner.ready()
      for (const place of [other, folder]) {
        const request = requestOf(folder, join(place, "elsewhere"))
        expect(digestsOf(await runner.run(request))).toEqual(clean)
        expect(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).toEqual([])
      }
    } finally {
      await runner.close()
      if (other !== folder) remove(other)
    }
  })
  it("may be moved or copied: its results are cached", async () => {
    cpSync(join(folder, "clean"), join(folder, "copied"), { recursive: true })
    expect(statusesOf(await sound.run(requestOf(folder, join(folder, "copied"))))).toEqual(hits)
  })
})

describe.skipIf(!("path" in shim))(`a rename across file systems (EXDEV)${without}`, () => {
  it("fails the node whose result was to be kept, and nothing is recorded", async () => {
    await withRunner(shimmed, async (runner) => {
      const request = requestOf(folder, join(folder, "across"))
      const { end } = await runner.run(request, { mode: mode.refuseOnce, error: 18, at: 1, mask: call.rename })
      expect(end).toMatchObject({
        type: "done",
        status: "failed",
        nodes: [{ id: "read", status: "failed", error: expect.stringContaining("EXDEV") }, {}, {}, {}]
      })
      expect(await broken({ clean, finished: [], runner: sound, request })).toEqual([])
    })
  })
})

describe("a result that can't be stored", () => {
  it("fails the run: it is not a result before it is in the store", async () => {
    const home = join(folder, "in the way")
    mkdirSync(home)
    writeFileSync(join(home, "objects"), "a file where a folder should be")
    const { end } = await sound.run(requestOf(folder, home))
    expect(end).toMatchObject({ type: "done", status: "failed" })
    expect(end.type === "done" && end.nodes.map(({ status }) => status)).toEqual(["failed", "skipped", "skipped", "skipped"])
    rmSync(join(home, "objects"))
    expect(existsSync(join(home, "objects"))).toBe(false)
    expect(await broken({ clean, finished: [], runner: sound, request: requestOf(folder, home) })).toEqual([])
  })
})
