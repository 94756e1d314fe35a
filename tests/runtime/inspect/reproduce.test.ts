/** Verifying results and running with a lock file. */
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { freeze } from "../../../runtime/inspect/freeze.ts"
import { differences } from "../../../runtime/run/check-lock.ts"
import { type LockFile, lockPath, readLock, writeLock } from "../../../runtime/run/lock-file.ts"
import type { AnyPipeline } from "../../../runtime/define/pipeline.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { plan } from "../../../runtime/run/plan.ts"
import { verify, type VerifyOptions } from "../../../runtime/inspect/verify.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { digests, edit, type Fixture, fixtureFolder, invert, loadFixture, objectFile, statuses, services } from "../fixture.ts"

let fixture: Fixture
beforeEach(async () => {
  fixture = await loadFixture(fixtureFolder())
})
afterEach(() => checkAndRemove(fixture.folder))

const load = async (name: string) =>
  ((await import(pathToFileURL(join(fixture.folder, name)).href)) as { readonly default: AnyPipeline }).default
const here = <A, E>(work: Effect.Effect<A, E, Layer.Success<ReturnType<typeof services>>>) =>
  Effect.provide(work, services(join(fixture.folder, "home"), fixture.numerics))
const optionsOf = (options: Partial<RunOptions>): RunOptions => ({
  settings: { file: join(fixture.folder, "words.txt") },
  ...options
})
const verified = async (options: Partial<VerifyOptions> = {}, name = "pipeline.ts") => {
  const result = await Effect.runPromise(verify(await load(name), {}, optionsOf(options)).pipe(here))
  return { ...result, statuses: Object.fromEntries(result.nodes.map(({ id, status }) => [id, status])) }
}

describe("verify", () => {
  it("runs every node again and finds equal results, bit for bit; it records nothing", async () => {
    const first = await fixture.run()
    const before = await fixture.plan({ times: "2" })
    const result = await verified()
    expect(result).toMatchObject({ ok: true, left: 0, statuses: { lines: "same", shout: "same", wait: "same", counts: "same" } })
    expect(Object.fromEntries(result.nodes.map(({ id, again }) => [id, again]))).toEqual(digests(first))
    expect(await fixture.plan({ times: "2" })).toEqual(before)
    expect(statuses(await fixture.run())).toEqual({ lines: "hit", shout: "hit", wait: "hit", counts: "hit" })
  })

  it("fails if results are missing", async () => {
    expect(await verified()).toMatchObject({ ok: false, statuses: { lines: "missing", counts: "missing" } })
    expect(await verified({ sample: 2 })).toMatchObject({ ok: false, nodes: [] })
    await fixture.run({}, { until: "shout" })
    expect(await verified()).toMatchObject({ ok: false, statuses: { lines: "same", shout: "same", wait: "missing", counts: "missing" } })
    expect(await verified({ until: "shout" })).toMatchObject({ ok: true, statuses: { lines: "same", shout: "same" } })
  })

  it("checks the requested number, chosen at random among the nodes with a result", async () => {
    await fixture.run()
    // The first of four, then the last of the three that are left.
    const picks = [0, 0.99]
    expect(await verified({ sample: 2, random: () => picks.shift()! })).toMatchObject({
      ok: true,
      left: 2,
      statuses: { lines: "same", counts: "same" }
    })
    expect((await verified({ sample: 9, until: "lines" })).statuses).toEqual({ lines: "same" })
  })

  it("reports the row in which a nondeterministic stage differs", async () => {
    writeFileSync(
      join(fixture.folder, "drift.ts"),
      `import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { writeDataset } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const drift = Stage.make("drift", {
  config: Schema.Struct({}), inputs: {}, output: Texts, seeded: false,
  run: Effect.fn("drift")(function* ({ output }) {
    const weather = readFileSync(join(import.meta.dirname, "weather"), "utf8")
    return yield* writeDataset(output, [{ text: "steady" }, { text: weather }, { text: weather }])
  })
})
export default Pipeline.make("drifting", { params: Schema.Struct({ file: Schema.String }) }, () => ({ out: drift({}) }))
`
    )
    writeFileSync(join(fixture.folder, "weather"), "rain")
    const run = async () => (await import("../../../runtime/run/run.ts")).run(await load("drift.ts"), {}, optionsOf({}))
    await Effect.runPromise((await run()).pipe(here))
    expect(await verified({}, "drift.ts")).toMatchObject({ ok: true })
    writeFileSync(join(fixture.folder, "weather"), "snow")
    expect(await verified({}, "drift.ts")).toMatchObject({
      ok: false,
      nodes: [{ status: "differs", differences: ['data.arrow: row 2, text: "rain" -> "snow" (2 of 3 rows differ)'] }]
    })
    // Nothing was replaced.
    writeFileSync(join(fixture.folder, "weather"), "rain")
    expect(await verified({}, "drift.ts")).toMatchObject({ ok: true })
  })

  it("repeats the machine-dependent choices that were recorded", async () => {
    writeFileSync(
      join(fixture.folder, "crowded.ts"),
      `import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const crowded = Stage.make("crowded", {
  config: Schema.Struct({}), inputs: {}, output: Texts, seeded: false,
  run: Effect.fn("crowded")(function* ({ output, recorded }) {
    const parts = recorded?.parts ?? (existsSync(join(import.meta.dirname, "crowd")) ? 4 : 2)
    return yield* writeDataset(output, [{ text: "in " + parts }], { metrics: { parts } })
  })
})
export default Pipeline.make("crowded", { params: Schema.Struct({ file: Schema.String }) }, () => ({ out: crowded({}) }))
`
    )
    writeFileSync(join(fixture.folder, "crowd"), "")
    const { run } = await import("../../../runtime/run/run.ts")
    const made = await Effect.runPromise(run(await load("crowded.ts"), {}, optionsOf({})).pipe(here))
    expect(made.nodes[0]!.metrics).toMatchObject({ parts: 4 })
    rmSync(join(fixture.folder, "crowd"))
    expect(await verified({}, "crowded.ts")).toMatchObject({ ok: true, nodes: [{ status: "same" }] })
  })

  it("does not compare with damaged bytes, and reports a failing stage", async () => {
    const first = await fixture.run()
    const digest = digests(first).shout!
    invert(objectFile(fixture.folder, digest))
    writeFileSync(join(fixture.folder, "refuse"), "")
    const { nodes, ok } = await verified()
    expect(ok).toBe(false)
    const errors = Object.fromEntries(nodes.map(({ id, error }) => [id, error]))
    expect(errors).toEqual({
      lines: "these lines can't be read today",
      shout: expect.stringMatching(
        /^The result of "shout" in the store is damaged \(data\.arrow has changed\)\. It was moved to .*: run the pipeline/
      ),
      wait: null,
      counts: 'The result of "shout" is no longer in the store: run the pipeline to recompute it.'
    })
  })
})

describe("a lock file", () => {
  const frozen = async (settings: Record<string, string> = {}): Promise<LockFile> => {
    const options = optionsOf({})
    const all = { ...options, settings: { ...options.settings, ...settings } }
    return freeze(await Effect.runPromise(plan(await load("pipeline.ts"), {}, all).pipe(here)), all, fixture.folder)
  }
  /** The errors of a run with these settings; [] if it ran. */
  const refused = async (locked: LockFile, settings: Record<string, string> = {}, options: Partial<RunOptions> = {}) => {
    try {
      await fixture.run(settings, { ...options, locked })
      return []
    } catch (cause) {
      const lines = (cause as Error).message.split("\n")
      expect(lines[0]).toBe("This run must match its lock file, but does not:")
      return lines.filter((line) => line.startsWith("  ")).map((line) => line.trim())
    }
  }

  it("fixes inputs, configs, seeds, code, packages and numerics, and reports differences before anything runs", async () => {
    const lock = (integrity: string, version = "4.1.0") =>
      writeFileSync(
        join(fixture.folder, "package-lock.json"),
        JSON.stringify({ packages: { "node_modules/effect": { version, integrity } } })
      )
    lock("sha512-a")
    const locked = await frozen()
    expect(Object.values(locked.nodes).map(({ result }) => result)).toEqual([null, null, null, null])
    expect(await refused(locked)).toEqual([])
    // What can't change a result may differ.
    expect(await refused(locked, { "lines.batch": "7" }, { jobs: 3 })).toEqual([])
    expect(await refused(locked, { times: "2" })).toEqual(["node shout: config times: 1 -> 2"])
    expect(await refused(locked, {}, { seed: 5 })).toEqual(["node shout: seed 0 -> 5", "node wait: seed 0 -> 5"])
    fixture.numerics.libtorch = "2.11"
    expect(await refused(locked)).toEqual(["numerics libtorch: none -> 2.11"])
    fixture.numerics.libtorch = "none"
    writeFileSync(join(fixture.folder, "words.txt"), "other\n")
    expect(await refused(locked)).toEqual([
      expect.stringMatching(/^input file:words\.txt: content changed \(sha256 [0-9a-f]{12} -> .*words\.txt\)$/)
    ])
    writeFileSync(join(fixture.folder, "words.txt"), "alpha\nbeta\ngamma\n")
    lock("sha512-b")
    const packages = ["code of stage shout: its packages", "package effect: 4.1.0 -> 4.1.0 (content changed)"]
    expect(await refused(locked)).toEqual(expect.arrayContaining(packages))
    // A lock file that was pulled but is not installed yet.
    lock("sha512-b", "4.1.1")
    await expect(fixture.run({}, { locked })).rejects.toThrow(/effect is installed in version 4\.1\.0, .* expects 4\.1\.1: .*Run npm ci/)
    lock("sha512-a")
    edit(fixture.folder, "helper.ts", (text) => text.replace('"!"', '"?"'))
    expect(await refused(locked)).toEqual([expect.stringMatching(/^code of stage shout: .*helper\.ts$/)])
    // And back: nothing ran in between.
    edit(fixture.folder, "helper.ts", (text) => text.replace('"?"', '"!"'))
    expect(statuses(await fixture.run({}, { locked }))).toEqual({ lines: "hit", shout: "hit", wait: "hit", counts: "hit" })
  })

  it("fixes connections and nodes", async () => {
    const locked = await frozen()
    const { shout, ...nodes } = locked.nodes
    const other = {
      ...locked,
      nodes: { ...nodes, renamed: shout!, counts: { ...nodes.counts!, inputs: { sets: ["renamed", "wait"], extra: null } } }
    }
    expect(differences(locked, other)).toEqual([
      "node shout was removed",
      'node counts: input sets: ["shout","wait"] -> ["renamed","wait"]',
      "node renamed is new"
    ])
  })

  it("also fixes known results: one that differs fails", async () => {
    const first = await fixture.run()
    const locked = await frozen()
    expect(Object.fromEntries(Object.entries(locked.nodes).map(([id, { result }]) => [id, result]))).toEqual(digests(first))
    // As if `wait` had had another result when it was frozen.
    const otherwise: LockFile = { ...locked, nodes: { ...locked.nodes, wait: { ...locked.nodes.wait!, result: "0".repeat(64) } } }
    const second = await fixture.run({}, { locked: otherwise })
    expect(second.status).toBe("failed")
    expect(statuses(second)).toEqual({ lines: "hit", shout: "hit", wait: "failed", counts: "hit" })
    expect(second.nodes.find(({ id }) => id === "wait")!.error).toMatch(
      /differs from the frozen one \(0{12}\) although all its inputs, code and settings match/
    )
    expect(second.events).toContainEqual({ type: "note", node: "wait", message: expect.stringContaining("differs from the frozen one") })
  })

  it("is read as it was written; an invalid one is rejected with a hint", async () => {
    const path = join(fixture.folder, "pipeline.lock.json")
    expect(lockPath(join(fixture.folder, "pipeline.ts"))).toBe(path)
    const locked = await frozen()
    await Effect.runPromise(writeLock(path, locked))
    expect(await Effect.runPromise(readLock(path))).toEqual(locked)
    expect(readFileSync(path, "utf8")).not.toContain(join(fixture.folder, "home"))
    const read = (text: string) => {
      writeFileSync(path, text)
      return Effect.runPromise(readLock(path))
    }
    await expect(read("{")).rejects.toThrow(/not JSON .*Create it with `caravan freeze`/)
    await expect(read('{"format": 2}')).rejects.toThrow(/it has format 2, but this version of caravan supports formats up to 1/)
    await expect(read('{"format": 1}')).rejects.toThrow(/not a lock file/)
    await expect(Effect.runPromise(readLock(join(fixture.folder, "none.json")))).rejects.toThrow(/the file does not exist/)
  })
})
