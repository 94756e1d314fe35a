/** Several runs that need the same result: one makes it, the others wait for it, and take over when it dies. Checkpoints, limits and retries of nodes. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { type Claim, claimKey, releaseClaims, stillHeld } from "../../../runtime/store/in-flight.ts"
import { Leases } from "../../../runtime/store/leases.ts"
import { fileAt, type NodeLimits } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import * as Schema from "effect/Schema"
import { start, waitFor } from "../../cli/caravan.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { fixtureFolder, loadFixture, openHome, services } from "../fixture.ts"
import { tally } from "../fixtures/tally.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => checkAndRemove(folder))

const journalCount = (status: string): number => {
  const { close, journal } = openHome(join(folder, "home"))
  try {
    return journal.runs().reduce((sum, { nodes }) => sum + (nodes[status as "ran"] ?? 0), 0)
  } finally {
    close()
  }
}

describe("of all that need a key", () => {
  it("one has the claim, until it releases it or dies", () => {
    const leases = new Leases(join(folder, "home"))
    const [one, two] = [leases.hold("one"), leases.hold("two")]
    const claimsOf = ({ id }: { readonly id: string }) => ({
      claim: (key: string) => claimKey(leases, id, key),
      release: (claims: ReadonlyArray<Claim>) => releaseClaims(leases, claims),
      stillHeld: (claims: ReadonlyArray<Claim>) => stillHeld(leases, claims)
    })
    const [first, second] = [claimsOf(one), claimsOf(two)]
    const claimed = first.claim("k")
    expect(claimed).toMatchObject({ mine: true, tookOver: false })
    expect(second.claim("k")).toEqual({ mine: false, by: `one in process ${process.pid}` })
    expect(first.claim("k")).toEqual({ mine: false, by: "another node of this run" })
    expect(second.claim("other")).toMatchObject({ mine: true })
    if (!claimed.mine) throw new Error("checked above")
    // Releasing another's claim does nothing.
    second.release([{ key: "k", token: "some token" }])
    expect(first.stillHeld([claimed.claim]).has("k")).toBe(true)
    first.release([claimed.claim])
    expect(first.stillHeld([claimed.claim]).has("k")).toBe(false)
    const next = second.claim("k")
    expect(next).toMatchObject({ mine: true, tookOver: false })
    // It dies silently, as a killed process does: its lock is released, its row remains.
    const file = join(folder, "home/leases", two.id)
    two.release()
    leases.exclusive((database) => database.prepare("insert into flights values ('k', ?, 'dead')").run(two.id))
    expect(existsSync(file)).toBe(false)
    expect(first.claim("k")).toMatchObject({ mine: true, tookOver: true })
    one.release()
    leases.close()
  })

  it("four runs in this process make each node once, and all have the same results", async () => {
    const fixture = await loadFixture(folder)
    const results = await Promise.all(Array.from({ length: 4 }, () => fixture.run({ steps: "6" })))
    expect(results.map(({ status }) => status)).toEqual(Array.from({ length: 4 }, () => "succeeded"))
    expect(new Set(results.map(({ outputs }) => JSON.stringify(outputs))).size).toBe(1)
    expect([journalCount("ran"), journalCount("hit")]).toEqual([4, 12])
    expect(results.flatMap(({ events }) => events).some((event) => event.type === "node-waiting" && event.node === "wait")).toBe(true)
  })

  const running = (...args: ReadonlyArray<string>) => {
    const child = start(folder, "run", "pipeline.ts", "--until", "wait", ...args)
    let stderr = ""
    child.stderr!.on("data", (chunk: Buffer) => (stderr += chunk.toString()))
    return { child, closed: new Promise<number | null>((resolve) => child.on("close", resolve)), stderr: () => stderr }
  }

  it("a run whose process is killed is replaced by the one that waits", async () => {
    const first = running("--set", "steps=100")
    await waitFor(() => first.stderr().includes("wait: running"))
    const second = running("--set", "steps=100")
    await waitFor(() => second.stderr().includes(`wait: waiting for a run in process ${first.child.pid}, which is computing it`))
    first.child.kill("SIGKILL")
    await first.closed
    expect(await second.closed).toBe(0)
    expect(second.stderr()).toMatch(/^wait: the run that was computing it has ended: computing it here$/m)
    expect(second.stderr()).toMatch(/^wait: done in/m)
  })

  it("a stopped one is waited for, and named", async () => {
    const first = running("--set", "steps=40")
    await waitFor(() => first.stderr().includes("wait: running"))
    first.child.kill("SIGSTOP")
    const second = running("--set", "steps=40")
    await waitFor(() => /^wait: waiting for .*which is stopped/m.test(second.stderr()))
    first.child.kill("SIGCONT")
    expect([await first.closed, await second.closed]).toEqual([0, 0])
    expect(first.stderr()).toMatch(/^wait: done in/m)
    expect(second.stderr()).not.toMatch(/^wait: (running|done)/m)
    expect(journalCount("ran")).toBe(2)
  })
})

const steps = () => (existsSync(join(folder, "steps")) ? readFileSync(join(folder, "steps"), "utf8").trim().split("\n").map(Number) : [])
/** The expected result of the stage: its chain, computed separately. */
const expected = (steps: number, seed = 0) => {
  let value = "alpha\nbeta\ngamma\n".length + seed
  for (let step = 0; step < steps; step++) value = (value * 31 + step) % 1_000_003
  return { steps, value }
}
const tallied = (result: { readonly outputs: Readonly<Record<string, { readonly path: string } | undefined>> }) =>
  JSON.parse(readFileSync(join(result.outputs.tally!.path, "report.json"), "utf8")) as unknown
const runTally = (config: Record<string, unknown> = {}, options: Partial<RunOptions> = {}, limits: NodeLimits = {}) => {
  const events: Array<RunEvent> = []
  const pipeline = Pipeline.make("tallies", { params: Schema.Struct({}) }, () => ({
    tally: tally({ file: fileAt(join(folder, "words.txt")) }, { log: join(folder, "steps"), ...config }).limited(limits)
  }))
  return Effect.runPromise(
    run(pipeline, {}, { checkpointSeconds: 0, onEvent: (event) => events.push(event), ...options }).pipe(
      Effect.provide(services(join(folder, "home")))
    )
  ).then((result) => ({ ...result, events, notes: events.flatMap((event) => (event.type === "note" ? [event.message] : [])) }))
}
const kept = () => {
  const root = join(folder, "home/checkpoints")
  return existsSync(root) ? readdirSync(root).flatMap((key) => readdirSync(join(root, key)).map((name) => join(root, key, name))) : []
}

describe("a stage with checkpoints", () => {
  it("that crashed resumes after its last one, with the same result as if it had not crashed", async () => {
    const first = await runTally({ fails: 13 })
    expect(first.nodes[0]).toMatchObject({ status: "failed", error: expect.stringContaining("exited with code 9") })
    // The last two, and nothing incomplete.
    expect(kept().map((path) => Number(path.split("/").at(-1)))).toEqual([12, 13])
    const second = await runTally({ fails: 13 })
    expect(second.status).toBe("succeeded")
    expect(tallied(second)).toEqual(expected(20))
    expect(steps()).toEqual([...Array.from({ length: 14 }, (_, i) => i), ...Array.from({ length: 7 }, (_, i) => 13 + i)])
    expect(kept()).toEqual([])
  })

  it.each([
    ["a file changed", (path: string) => writeFileSync(join(path, "value"), "1")],
    ["a file truncated", (path: string) => truncateSync(join(path, "value"), 0)],
    ["a file missing", (path: string) => rmSync(join(path, "value"))],
    ["no seal", (path: string) => rmSync(join(path, "seal.json"))],
    ["a truncated seal", (path: string) => truncateSync(join(path, "seal.json"), 70)]
  ])("falls back to the previous one if the last has %s", async (_, damage) => {
    await runTally({ fails: 13 })
    damage(kept().at(-1)!)
    rmSync(join(folder, "steps"))
    writeFileSync(join(folder, "steps"), "13\n")
    const second = await runTally({ fails: 13 })
    expect(tallied(second)).toEqual(expected(20))
    expect(steps().slice(1, 3)).toEqual([12, 13])
    expect(second.notes).toContainEqual(expect.stringMatching(/^its checkpoint after step 13 is damaged \(.*\) and was deleted$/))
  })

  it("starts over if no checkpoint is complete, and ignores one that a killed process was writing", async () => {
    await runTally({ fails: 3 })
    for (const path of kept()) truncateSync(join(path, "value"), 0)
    mkdirSync(join(kept()[0]!, "..", "new-half"))
    rmSync(join(folder, "steps"))
    expect(tallied(await runTally({ steps: 20 }))).toEqual(expected(20))
    expect(steps()[0]).toBe(0)
  })

  it("shares none with another config, seed or input", async () => {
    await runTally({ fails: 13 })
    rmSync(join(folder, "steps"))
    expect(tallied(await runTally({ steps: 21 }))).toEqual(expected(21))
    expect(steps()[0]).toBe(0)
    rmSync(join(folder, "steps"))
    expect(tallied(await runTally({}, { seed: 5 }))).toEqual(expected(20, 5))
    expect(steps()[0]).toBe(0)
  })

  it("saves one when Ctrl-C stops it, however recent the last was", async () => {
    const child = start(folder, "run", "tally.ts", "--set", `log=${join(folder, "steps")}`, "--set", "tally.milliseconds=100")
    const closed = new Promise<number | null>((resolve) => child.on("close", resolve))
    await waitFor(() => steps().length > 4)
    child.kill("SIGINT")
    expect(await closed).toBe(130)
    const done = steps().length
    expect(kept().length).toBe(1)
    expect(done - Number(kept()[0]!.split("/").at(-1))).toBeLessThanOrEqual(1)
  })

  it("continues without one if none can be written, and reports it", async () => {
    writeFileSync(join(folder, "not a folder"), "")
    mkdirSync(join(folder, "home"))
    writeFileSync(join(folder, "home", "checkpoints"), "a file in the way")
    const result = await runTally({ steps: 2 })
    expect(result.status).toBe("succeeded")
    expect(result.notes).toContainEqual(
      expect.stringMatching(/^its checkpoint after step 1 could not be written \(.*ENOTDIR.*\); the stage continues/)
    )
  })
})

describe("a node's limits", () => {
  it("stop it at its time limit", async () => {
    // Enough time for its process to start on a busy machine, and never enough for its steps.
    const result = await runTally({ steps: 100, milliseconds: 200 }, {}, { seconds: 4 })
    expect(result.nodes[0]).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/exceeded its time limit of 4 seconds .*\(caravan log\)/)
    })
    // Its work so far is kept.
    expect(kept().length).toBeGreaterThan(0)
  })
  it("stop it when its process uses too much memory", async () => {
    const result = await runTally({ eats: 600, milliseconds: 200 }, {}, { memory: 400 })
    expect(result.nodes[0]).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/used \d+ MiB of memory, more than its limit of 400 MiB/)
    })
  })
  it("retry it from its checkpoint the given number of times", async () => {
    const result = await runTally({ fails: 13 }, { limits: { retries: 1 } })
    expect(result.status).toBe("succeeded")
    expect(result.notes).toContainEqual(expect.stringMatching(/^failed; retrying \(1 of 1\): .*exited with code 9/))
    expect(steps().filter((step) => step < 13)).toHaveLength(13)
  })
  it("are not part of its key", async () => {
    await runTally()
    expect((await runTally({}, { limits: { seconds: 100, retries: 2 }, checkpointSeconds: 5 }, { memory: 9000 })).nodes[0]).toMatchObject({
      status: "hit"
    })
  })
  it("do not retry it if it would fail the same way", async () => {
    const fixture = await loadFixture(folder)
    const result = await fixture.run({ "wait.die": "throw" }, { limits: { retries: 3 } })
    expect(result.nodes.find(({ id }) => id === "wait")).toMatchObject({ status: "failed", error: expect.stringContaining("a mistake") })
    expect(result.events.filter((event) => event.type === "note")).toEqual([])
  })
})

describe("a forced node", () => {
  it("makes a new generation; the older ones stay known", async () => {
    const first = await runTally()
    const second = await runTally({}, { force: ["tally"] })
    expect(second.nodes[0]).toMatchObject({ status: "ran", digest: first.nodes[0]!.digest })
    const { close, journal } = openHome(join(folder, "home"))
    expect(journal.generations(first.nodes[0]!.key!)).toMatchObject([{ digest: first.nodes[0]!.digest }])
    close()
    expect(second.notes).toEqual([])
  })
})
