/** Processes killed while they replay the graph of a decoding step: the GPU remains usable, and gives the same tokens. */
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { devices } from "../devices.ts"

const device = "cuda"
const program = fileURLToPath(new URL("generating.ts", import.meta.url))
const firstLine = (output: string) => output.slice(0, output.indexOf("\n"))

const gpu = devices.find((one) => one.device === device)!
describe.skipIf(gpu.skip)("a process killed while it decodes on a GPU", () => {
  it("leaves the GPU usable, with the same tokens, ten times", async () => {
    const random = new Random(5, "kills")
    const expected = firstLine(execFileSync(process.execPath, [program, device, "1"], { encoding: "utf8" }))
    expect(JSON.parse(expected)).toHaveLength(16)
    for (let kill = 0; kill < 10; kill++) {
      const child = spawn(process.execPath, [program, device], { stdio: ["ignore", "pipe", "inherit"] })
      const exited = once(child, "exit")
      try {
        // Each starts after the one before it was killed, so its tokens also show that the GPU still works.
        const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string]
        expect(line).toBe(expected)
        await sleep(random.int(200))
      } finally {
        child.kill("SIGKILL")
      }
      expect(await exited).toEqual([null, "SIGKILL"])
    }
    expect(firstLine(execFileSync(process.execPath, [program, device, "1"], { encoding: "utf8" }))).toBe(expected)
  }, 300_000)
})
