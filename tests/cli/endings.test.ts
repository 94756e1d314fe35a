/** How commands end if nobody reads their output, if the complete process group is told to stop, and if the fault is not the user's. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { main } from "../../cli/main.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, command, removeFolder, runJson, start, statuses, waitFor } from "./caravan.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => removeFolder(folder))

const ended = (child: ChildProcess) =>
  new Promise<number | string | null>((resolve) => child.on("exit", (code, signal) => resolve(code ?? signal)))
const firstOf = (stream: NodeJS.ReadableStream | null) => new Promise<unknown>((resolve) => stream!.once("data", resolve))

describe("a command whose reader exits", { timeout: 60_000 }, () => {
  it("continues if it does work, and its exit code reports the outcome", async () => {
    for (const [settings, status] of [
      [["--set", "steps=20"], 0],
      [["--set", "steps=20", "--set", "wait.die=exit"], 1]
    ] as const) {
      const child = start(folder, "run", "pipeline.ts", "--events", "-", ...settings)
      const end = ended(child)
      await firstOf(child.stdout)
      child.stdout!.destroy()
      child.stderr!.destroy()
      expect(await end).toBe(status)
    }
    expect(statuses(runJson(folder, "pipeline.ts", "--set", "steps=20"))).toEqual({
      lines: "hit",
      shout: "hit",
      wait: "hit",
      counts: "hit"
    })
  })

  it("exits quietly if it only prints", async () => {
    const child = start(folder, "--help")
    child.stdout!.destroy()
    let said = ""
    child.stderr!.on("data", (chunk: Buffer) => (said += chunk.toString()))
    expect([await ended(child), said]).toEqual([0, ""])
  })
})

describe.skipIf(process.platform === "win32")("a run whose process group gets a stop signal", { timeout: 60_000 }, () => {
  it.each(["SIGTERM", "SIGHUP"] as const)("by %s lets its stage save, exits with 130 and reports the interruption", async (signal) => {
    const steps = join(folder, "steps")
    const child = spawn(process.execPath, [command, "run", "tally.ts", "--set", `log=${steps}`, "--set", "tally.milliseconds=100"], {
      cwd: folder,
      env: { ...process.env, CARAVAN_HOME: join(folder, "home"), NODE_OPTIONS: "" },
      stdio: "ignore",
      detached: true
    })
    const end = ended(child)
    await waitFor(() => existsSync(steps) && readFileSync(steps, "utf8").split("\n").length > 4, 50_000)
    process.kill(-child.pid!, signal)
    // Like a service manager that signals the group after its first process.
    child.kill(signal)
    expect(await end).toBe(130)
    const [key] = readdirSync(join(folder, "home/checkpoints"))
    expect(readdirSync(join(folder, "home/checkpoints", key!))).toHaveLength(1)
    expect(caravan(folder, "runs").stdout).toMatch(/ interrupted /)
    expect(caravan(folder, "show", "latest").stdout).not.toMatch(/failed/)
  })
})

describe("verify", { timeout: 60_000 }, () => {
  it("supports limits", () => {
    const log = ["--set", `log=${join(folder, "steps")}`]
    expect(caravan(folder, "run", "tally.ts", ...log).status).toBe(0)
    // The same result, within an impossible time limit.
    const { status, stdout } = caravan(folder, "verify", "tally.ts", ...log, "--set", "tally.milliseconds=600000", "--timeout", "3")
    expect(status).toBe(1)
    expect(stdout).toMatch(/^failed +tally [\s\S]*exceeded its time limit of 3 seconds/)
  })
})

describe("a bug in caravan", () => {
  it("has its own exit code, and one message with its location; the stack trace is only shown on request", async () => {
    const run = () => Promise.reject(new TypeError("undefined is not a function"))
    vi.doMock("../../cli/commands/runs.ts", () => ({
      command: { name: "runs", summary: "", positionals: [], flags: {}, examples: [], run }
    }))
    const said = vi.spyOn(process.stderr, "write").mockReturnValue(true)
    try {
      expect(await main(["runs"])).toBe(70)
      const text = said.mock.calls.map(([words]) => String(words)).join("")
      expect(text).toMatch(/^This is a bug in caravan: TypeError: undefined is not a function \(at .*endings\.test\.ts:\d+\)\. .*\n$/)
    } finally {
      said.mockRestore()
      vi.doUnmock("../../cli/commands/runs.ts")
    }
  })
})
