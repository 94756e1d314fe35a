/** Fan-out of 0, 1 and thousands of nodes, of 0, 1 and 100,000 shards; when killed in the middle, finished results are cached. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { damageOf } from "../../runtime/store/objects.ts"
import { digestsOf, everything, faultFolder, remove, requestOf, Runner, statusesOf, withRunner } from "./harness.ts"
import { wrongRecords } from "./invariants.ts"

const hour = 3_600_000
const folder = faultFolder()
afterAll(() => remove(folder))
const patient = { patience: 20 * 60_000 }

/** Three lines; the pieces are 0, 3, 6 ... */
const sumOf = (pieces: number) => 3 * Array.from({ length: pieces }, (_, i) => i).reduce((sum, i) => sum + i, 0)
const totalIn = (home: string, digest: string) =>
  (JSON.parse(readFileSync(join(home, "objects", digest.slice(0, 2), digest, "report.json"), "utf8")) as { readonly height: number }).height

describe("a fan-out", () => {
  it.each([0, 1])("of only %d nodes works too", async (pieces) => {
    await withRunner(patient, async (runner) => {
      const home = join(folder, String(pieces))
      const request = requestOf(folder, home, { pieces: String(pieces) })
      const digests = digestsOf(await runner.run(request))
      expect(totalIn(home, digests.total!)).toBe(sumOf(pieces))
      expect(Object.keys(digests).filter((id) => id.startsWith("piece")).length).toBe(pieces)
      expect(new Set(Object.values(statusesOf(await runner.run(request))))).toEqual(new Set(["hit"]))
    })
  })

  const many = everything ? 5000 : 500
  it(`of ${many} nodes, killed in the middle, continues where it was; then everything is cached`, { timeout: hour }, async () => {
    const home = join(folder, String(many))
    const request = requestOf(folder, home, { pieces: String(many) })
    let said = 0
    await withRunner(patient, async (runner) => {
      const { end } = await runner.run(request, undefined, (answer) => {
        if (answer.type === "finished" && ++said === many / 2) runner.process.kill("SIGKILL")
      })
      expect(end).toMatchObject({ type: "died", signal: "SIGKILL" })
    })
    await withRunner(patient, async (runner) => {
      const started = performance.now()
      const second = await runner.run(request)
      const digests = digestsOf(second)
      const statuses = Object.values(statusesOf(second))
      console.log(`${many} nodes, the second half in ${((performance.now() - started) / 1000).toFixed(1)} s`)
      expect(statuses.filter((status) => status === "hit").length).toBeGreaterThanOrEqual(said)
      expect(statuses.length).toBe(many + 2)
      expect(totalIn(home, digests.total!)).toBe(sumOf(many))
      expect(new Set(Object.values(statusesOf(await runner.run(request))))).toEqual(new Set(["hit"]))
    })
    expect(await wrongRecords(home)).toEqual([])
  })

  const shards = everything ? 100_000 : 3000
  it.each([0, 1, shards])(
    "of %d shards, killed in the middle, continues where it was; then everything is cached",
    { timeout: hour },
    async (count) => {
      const file = join(folder, `lines-${count}`)
      writeFileSync(file, Array.from({ length: count }, (_, i) => `line ${i}\n`).join(""))
      const home = join(folder, `shards-${count}`)
      const request = requestOf(folder, home, { shards: file })
      let told = 0
      const killed = async (runner: Runner) => {
        const { end } = await runner.run(request, undefined, (answer) => {
          if (answer.type !== "step" || answer.step < count / 2) return
          told = Math.max(told, answer.step)
          runner.process.kill("SIGKILL")
        })
        return end.type
      }
      // One or none has no middle.
      expect(count > 1 ? await withRunner(patient, killed) : "died").toBe("died")
      await withRunner(patient, async (runner) => {
        const started = performance.now()
        const digests = digestsOf(await runner.run(request))
        console.log(`${count} shards, ${told} of them before a kill, the rest in ${((performance.now() - started) / 1000).toFixed(1)} s`)
        const runs = existsSync(`${file}.log`) ? readFileSync(`${file}.log`, "utf8").trimEnd().split("\n").length : 0
        // The current one is made again; what was made between a report and the kill is not made twice.
        expect(runs).toBeGreaterThanOrEqual(count)
        expect(runs).toBeLessThanOrEqual(count + 1)
        expect(new Set(Object.values(statusesOf(await runner.run(request))))).toEqual(new Set(["hit"]))
        const digest = digests["upper-by-1-texts"]!
        expect(await damageOf(home, digest)).toBeUndefined()
      })
      expect(await wrongRecords(home)).toEqual([])
    }
  )
})
