/** The numbers that a stage reports step by step: kept with its result, cached with it, complete after a kill, available when it fails. */
import { existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { fileAt, type Node } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { curvesOf } from "../../../runtime/inspect/curves.ts"
import { resolveRun } from "../../../runtime/inspect/resolve.ts"
import { Curve, writeCurve } from "../../../runtime/run/curve.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import { measured, rowsIn } from "../../curve-rows.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { fixtureFolder, services } from "../fixture.ts"
import { descend, descendBy10, descendInChild } from "../fixtures/descending.ts"
import { lines } from "../fixtures/mapped.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
  writeFileSync(join(folder, "words.txt"), Array.from({ length: 25 }, (_, i) => `word ${i}`).join("\n"))
})
afterEach(() => checkAndRemove(folder))

type Application = (inputs: { texts: Node<any> }, config: any) => Node<any>
const go = async (stage: Application, config: object = {}, options: RunOptions = {}) => {
  const pipeline = Pipeline.make("curves", { params: Schema.Struct({}) }, () => ({
    out: stage({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, config).named("out")
  }))
  const events: Array<RunEvent> = []
  const program = Effect.gen(function* () {
    const result = yield* run(pipeline, {}, { onEvent: (event) => events.push(event), ...options })
    const curves = yield* curvesOf(yield* resolveRun("latest"))
    return { ...result.nodes.find(({ id }) => id === "out")!, path: curves.find(({ node }) => node === "out")!.path }
  })
  const done = await Effect.runPromise(program.pipe(Effect.provide(services(join(folder, "home")))))
  const notes = events.flatMap((event) => (event.type === "note" ? [event.message] : []))
  return { ...done, notes, rows: done.path === null ? [] : await rowsIn(done.path) }
}
const expected = (steps: number) =>
  Array.from({ length: steps }, (_, i) => ({ step: i + 1, loss: 2 ** -(i + 1), tokens: 10 * (i + 1), kl: i % 2 === 1 ? -(i + 1) : null }))

describe("the curve", () => {
  it.each<[string, Application]>([
    ["without tensors", descend],
    ["with tensors", descendInChild]
  ])("of a stage %s has every step's numbers, and is cached with the result", async (_, stage) => {
    const made = await go(stage)
    expect(made.status).toBe("ran")
    expect(measured(made.rows)).toEqual(expected(6))
    const found = await go(stage)
    expect(found).toMatchObject({ status: "hit", path: made.path, digest: made.digest })
  })

  it("has the time, the memory, and tokens per second since the previous row", async () => {
    const { rows } = await go(descendInChild)
    const seconds = rows.map((row) => row.seconds!)
    expect(seconds).toEqual(seconds.toSorted((a, b) => a - b))
    for (const row of rows) expect(row.memory).toBeGreaterThan(10)
    expect(rows[0]!.tokensPerSecond).toBeNull()
    for (let i = 1; i < rows.length; i++)
      expect(rows[i]!.tokensPerSecond).toBeCloseTo(rows[i]!.tokens! / (seconds[i]! - seconds[i - 1]!), 6)
  })

  it("of shards has the rows of all, each at the number of shards before it", async () => {
    const { rows } = await go(descendBy10, { steps: 2 })
    expect(measured(rows)).toEqual([0, 1, 2].flatMap((step) => expected(2).map((row) => ({ ...row, step }))))
  })

  it("is not part of the result: a stage that reports nothing has the same digest, and no file", async () => {
    const made = await go(descend)
    expect(await go(descend, { steps: 0 })).toMatchObject({ status: "ran", digest: made.digest, path: null })
  })

  it("belongs to its execution: a result that was made again has only the newer one's", async () => {
    const first = await go(descend)
    const again = await go(descend, {}, { force: ["out"] })
    expect([again.status, again.digest]).toEqual(["ran", first.digest])
    expect(again.path).not.toBe(first.path)
    const earlier = Effect.gen(function* () {
      return yield* curvesOf(yield* resolveRun("latest~1"))
    })
    const curves = await Effect.runPromise(earlier.pipe(Effect.provide(services(join(folder, "home")))))
    expect(curves.find(({ node }) => node === "out")).toMatchObject({ status: "ran", path: null })
    expect((await go(descend)).path).toBe(again.path)
  })

  it("of a stage that was killed and resumed has the same steps as one that was not", async () => {
    const dies = join(folder, "dies")
    writeFileSync(dies, "")
    const options = { checkpointSeconds: 0 }
    const killed = await go(descendInChild, { dies }, options)
    expect(killed).toMatchObject({ status: "failed", error: expect.stringContaining("was killed") })
    // Before it resumes, the last checkpoint's rows are available.
    expect(measured(killed.rows)).toEqual(expected(3))
    expect(existsSync(dies)).toBe(false)
    const resumed = await go(descendInChild, { dies }, options)
    expect(resumed.status).toBe("ran")
    expect(measured(resumed.rows)).toEqual(expected(6))
    const seconds = resumed.rows.map((row) => row.seconds!)
    expect(seconds).toEqual(seconds.toSorted((a, b) => a - b))
  })

  it("of an interrupted stage stays next to its log, as of its last checkpoint", async () => {
    const pipeline = Pipeline.make("curves", { params: Schema.Struct({}) }, () => ({
      out: descendInChild({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, { steps: 1_000_000 }).named("out")
    }))
    const program = Effect.gen(function* () {
      const stepped = yield* Deferred.make<void>()
      const onEvent = (event: RunEvent) => {
        if (event.type === "progress" && event.progress.step === 5) Effect.runSync(Deferred.succeed(stepped, undefined))
      }
      const fiber = yield* Effect.forkChild(run(pipeline, {}, { onEvent }))
      yield* Deferred.await(stepped)
      yield* Fiber.interrupt(fiber)
      return yield* curvesOf(yield* resolveRun("latest"))
    })
    const curves = await Effect.runPromise(program.pipe(Effect.provide(services(join(folder, "home")))))
    const { status, path } = curves.find(({ node }) => node === "out")!
    expect(status).toBe("interrupted")
    const rows = measured(await rowsIn(path!))
    expect(rows.length).toBeGreaterThanOrEqual(5)
    expect(rows).toEqual(expected(rows.length))
  })

  it.each<[string, Application]>([
    ["without tensors", descend],
    ["with tensors", descendInChild]
  ])("of a stage that fails %s stays next to its log, with NaN values", async (_, stage) => {
    const failed = await go(stage, { divergesAt: 3 }, { checkpointSeconds: 0 })
    expect(failed.status).toBe("failed")
    expect(failed.notes).toContain(`its curve so far is in ${failed.path}`)
    expect(failed.rows.map(({ step, loss, gradientNorm }) => [step, loss, gradientNorm])).toEqual([
      [1, 0.5, null],
      [2, 0.25, null],
      [3, NaN, Infinity]
    ])
  })
})

describe("rows in memory", () => {
  it("are the same after a checkpoint, however many they are, and continue from there", async () => {
    const whole = new Curve()
    const rows = Array.from({ length: 1000 }, (_, step) => ({
      step,
      loss: step % 7 === 0 ? NaN : Math.sin(step),
      ...(step > 600 ? { late: step } : {})
    }))
    let resumed = new Curve()
    for (const row of rows) {
      whole.add(row)
      resumed.add(row)
      if (row.step % 301 === 300) {
        const next = new Curve()
        next.restore(resumed.encode())
        resumed = next
      }
    }
    const read = async (curve: Curve) => {
      const path = join(folder, "curve.parquet")
      writeFileSync(path, await curve.parquet())
      return measured(await rowsIn(path))
    }
    expect(await read(resumed)).toEqual(await read(whole))
    expect(await read(whole)).toEqual(rows.map((row) => ({ late: null, ...row })))
  })
  it("that can't be written are reported, and stop nothing", async () => {
    const curve = new Curve()
    curve.add({ step: 1, loss: 1 })
    const notes: Array<string> = []
    writeFileSync(join(folder, "a-file"), "")
    await Effect.runPromise(writeCurve(curve, join(folder, "a-file", "within"), (message) => notes.push(message)))
    expect(notes).toEqual([expect.stringMatching(/^its curve could not be written: ENOTDIR/)])
  })
})
