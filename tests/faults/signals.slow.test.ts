/** Signals: to end in an orderly way, at any moment, from a terminal that closes; and children killed at any of their calls. */
import { spawn } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { caravan, command, removeFolder, runJson, statuses } from "../cli/caravan.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import {
  changing,
  digestsOf,
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
import { broken, wrongRecords } from "./invariants.ts"

const hour = 3_600_000

/** Every process of a session: none may outlive its run unnoticed. */
const session = (id: number): Array<number> =>
  readdirSync("/proc").flatMap((name) => {
    try {
      const fields = /^\d+$/.test(name) ? readFileSync(`/proc/${name}/stat`, "utf8").split(") ")[1]!.split(" ") : undefined
      // State, parent, group, session.
      return fields !== undefined && fields[3] === String(id) && fields[0] !== "Z" ? [Number(name)] : []
    } catch {
      return []
    }
  })

describe.skipIf(process.platform !== "linux")("a run from the command line", () => {
  const begin = (folder: string, ...args: ReadonlyArray<string>) => {
    const child = spawn(process.execPath, [command, "run", "pipeline.ts", ...args], {
      cwd: folder,
      env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" },
      stdio: ["ignore", "pipe", "pipe"],
      // A separate session, as with a terminal.
      detached: true
    })
    let stderr = ""
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()))
    const closed = new Promise<number | string | null>((resolve) => child.on("close", (code, signal) => resolve(code ?? signal)))
    return { child, pid: child.pid!, closed, stderr: () => stderr }
  }
  /** Until everything is made except `wait`, which is running in a child. */
  const untilWaiting = async (running: ReturnType<typeof begin>) => {
    const said = (text: string) => running.stderr().includes(text)
    for (let i = 0; !said("wait: running") || !said("shout: done") || session(running.pid).length < 2; i++) {
      if (i > 1000) throw new Error(`waited too long: ${running.stderr()}`)
      await sleep(20)
    }
  }
  const alone = async (pid: number) => {
    for (let i = 0; session(pid).length > 0; i++) {
      // Long enough for a busy machine to write the core of a signal such as SIGQUIT.
      if (i > 1500) throw new Error(`processes are left: ${session(pid).join(", ")}`)
      await sleep(20)
    }
  }

  it.each([
    ["SIGTERM", false, 130],
    ["SIGTERM", true, 130],
    ["SIGINT", true, 130],
    ["SIGINT", false, 130],
    ["SIGHUP", true, 130],
    ["SIGQUIT", true, "SIGQUIT"]
  ] as const)(
    "that gets %s (its whole group: %s) exits, leaves no process, and the next continues",
    { timeout: hour },
    async (signal, group, status) => {
      const folder = fixtureFolder()
      try {
        const running = begin(folder, "--set", "steps=2000")
        await untilWaiting(running)
        process.kill(group ? -running.pid : running.pid, signal)
        expect(await running.closed).toBe(status)
        await alone(running.pid)
        expect(statuses(runJson(folder, "pipeline.ts"))).toEqual({ lines: "hit", shout: "hit", wait: "ran", counts: "ran" })
        expect(await wrongRecords(join(folder, "home"))).toEqual([])
      } finally {
        removeFolder(folder)
      }
    }
  )

  it("that is stopped by SIGTERM or Ctrl-C at thirty moments finally ends like an undisturbed one", { timeout: hour }, async () => {
    const [folder, whole] = [fixtureFolder(), fixtureFolder()]
    try {
      const started = performance.now()
      const expected = runJson(whole, "pipeline.ts", "--set", "steps=10")
      const length = performance.now() - started
      const random = new Random(3, "signals")
      for (let i = 0; i < 30; i++) {
        const running = begin(folder, "--set", "steps=10")
        const signal = i % 2 === 0 ? "SIGTERM" : "SIGINT"
        await Promise.race([sleep(random.next() * length), running.closed])
        if (running.child.exitCode === null) running.child.kill(signal)
        // Before Node has its handlers, a signal just ends it.
        expect([0, 130, signal]).toContain(await running.closed)
        await alone(running.pid)
        expect(running.stderr()).not.toMatch(/^\s+at /m)
        expect(await wrongRecords(join(folder, "home"))).toEqual([])
      }
      const last = runJson(folder, "pipeline.ts", "--set", "steps=10")
      expect(last.nodes.map(({ id, digest }) => [id, digest])).toEqual(expected.nodes.map(({ id, digest }) => [id, digest]))
      expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
      expect(caravan(folder, "gc").status).toBe(0)
    } finally {
      removeFolder(folder)
      removeFolder(whole)
    }
  })
})

describe.skipIf(!("path" in shim))(`a stage's process${without}`, () => {
  const folder = faultFolder()
  let sound: Runner
  beforeAll(async () => {
    sound = new Runner()
    await sound.ready()
  })
  afterAll(async () => {
    await sound.close()
    remove(folder)
  })

  it("that is killed before any of its calls fails its node and no other; the next run makes it", { timeout: hour }, async () => {
    const request = requestOf(folder, join(folder, "home"), { apart: "true" })
    const clean = digestsOf(await sound.run({ ...request, home: join(folder, "clean") }))
    await withRunner({ below: folder }, async (runner) => {
      const of = { mask: changing, of: "children" } as const
      const { count } = await runner.run({ ...request, home: join(folder, "counted") }, { ...of, mode: mode.nothing })
      expect(count).toBeGreaterThan(0)
      let tried = 0
      for (const at of numbers(count, count))
        for (const when of [mode.killBefore, mode.killAfter]) {
          remove(request.home)
          const outcome = await runner.run(request, { ...of, mode: when, at })
          expect(outcome.fired).toBe(1)
          tried++
          expect(statusesOf(outcome)).toEqual({ read: "ran", spread: "ran", gather: "ran", climb: "ran", reversed: "failed" })
          expect(JSON.stringify(outcome.end)).toMatch(/was killed \(out of memory\?\)/)
          const finished = Object.keys(clean).filter((node) => node !== "reversed")
          expect(await broken({ clean, finished, runner: sound, request })).toEqual([])
        }
      console.log(`a stage's process killed before and after each of its ${count} calls: ${tried} times`)
    })
  })
})
