/** Children: their output and their time limits. How they end is in run.test.ts and processes.test.ts. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import type { Execute, Limits } from "../../../runtime/run/execute.ts"
import { after, processPool } from "../../../runtime/run/process-pool.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { fixtureFolder } from "../fixture.ts"

let folder: string
let scope: Scope.Closeable
let execute: Execute
beforeEach(() => {
  folder = fixtureFolder()
  scope = Scope.makeUnsafe()
  execute = Effect.runSync(Effect.provideService(processPool(undefined), Scope.Scope, scope))
  mkdirSync(join(folder, "output"))
})
afterEach(() => {
  Effect.runSync(Scope.close(scope, Exit.void))
  removeFolder(folder)
})

/** Runs a stage of the fixture in a child; returns its output. */
const running = async (file: string, exportName: string, config: Record<string, unknown>, limits?: Limits, threads = 1) => {
  const module = pathToFileURL(join(folder, file)).href
  const { stage } = ((await import(module)) as Record<string, AnyStage>)[exportName]!
  let text = ""
  const job = {
    module,
    exportName,
    config,
    inputs: { texts: [] },
    output: join(folder, "output"),
    seed: 0,
    device: "cpu" as const,
    threads,
    checkpoints: null
  }
  const work = execute({
    stage,
    job,
    // Without files: none has changed.
    code: { digest: "", exportName, root: folder, files: {}, packages: {} },
    cache: {
      code: () => Effect.undefined,
      recordCode: () => Effect.void,
      fileDigest: () => Effect.undefined,
      recordFile: () => Effect.void
    },
    onProgress: () => undefined,
    onOutput: (printed) => (text += printed),
    ...(limits === undefined ? {} : { limits })
  })
  return { exit: await Effect.runPromiseExit(work), text: () => text }
}
const waiting = { steps: 0, die: "exit", empty: false }

describe("a child's output", () => {
  it("is reported as it arrives", async () => {
    const { exit, text } = await running("stages.ts", "wait", waiting)
    expect(JSON.stringify(exit)).toMatch(/exited with code 3/)
    expect(text()).toBe("out of paper\n")
  })

  it("keeps its characters complete, wherever its pieces end", async () => {
    writeFileSync(
      join(folder, "printing.ts"),
      `import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Schema from "effect/Schema"
import { writeReport } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { report } from "../../../schemas/report.ts"
export const printing = Stage.make("printing", {
  config: Schema.Struct({}),
  inputs: {},
  output: report(Schema.Struct({ n: Schema.Number }), "printed/1"),
  resources: { tensors: true },
  run: Effect.fn("printing")(function* ({ output }) {
    // More than fits in a pipe, with characters of two bytes after one of one byte.
    yield* Effect.callback((resume) => void process.stdout.write("x" + "é".repeat(200_000), () => resume(Effect.void)))
    return yield* writeReport(output, { n: 1 })
  })
})
`
    )
    const { exit, text } = await running("printing.ts", "printing", {})
    expect(exit._tag).toBe("Success")
    // The message that it is done may arrive before its last output.
    expect(text().length).toBeGreaterThan(65_536)
    expect(text().slice(0, 65_536)).toBe(`x${"é".repeat(65_535)}`)
  })
})

describe("measurements of a stage with tensors", () => {
  it("are among its metrics, separately for each stage", async () => {
    const prepare = join(folder, "prepare.ts")
    writeFileSync(
      prepare,
      `let [prepared, threads, stages] = [0, 0, 0]
export const prepare = (_device: string, wanted: number): void => void ([prepared, threads] = [prepared + 1, wanted])
export const measure = () => {
  const stage = ++stages
  return () => ({ prepared, threads, stage })
}
`
    )
    execute = Effect.runSync(Effect.provideService(processPool(pathToFileURL(prepare).href), Scope.Scope, scope))
    writeFileSync(
      join(folder, "counting.ts"),
      `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const counting = Stage.make("counting", {
  config: Schema.Struct({}), inputs: {}, output: Texts, resources: { tensors: true },
  run: Effect.fn("counting")(function* ({ output }) {
    return yield* writeDataset(output, [{ text: "a" }], { metrics: { rows: 1 } })
  })
})
`
    )
    // Prepared again if the number of threads differs, and if it is the same as earlier.
    const jobs = [
      { threads: 1, prepared: 1 },
      { threads: 1, prepared: 1 },
      { threads: 2, prepared: 2 },
      { threads: 1, prepared: 3 }
    ]
    for (const [i, { prepared, threads }] of jobs.entries()) {
      const { exit } = await running("counting.ts", "counting", {}, undefined, threads)
      expect(exit).toMatchObject({ _tag: "Success", value: { metrics: { rows: 1, prepared, threads, stage: i + 1 } } })
      removeFolder(join(folder, "output"))
      mkdirSync(join(folder, "output"))
    }
  })
})

describe("memory that a stage does not free", () => {
  it.each(["ends", "fails"])("is freed when it %s: the next stage in the process begins without it", async (how) => {
    const prepare = new URL("../../../engine/prepare.ts", import.meta.url).href
    execute = Effect.runSync(Effect.provideService(processPool(prepare), Scope.Scope, scope))
    writeFileSync(
      join(folder, "leaving.ts"),
      `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import { keep, liveTensors, zeros } from "../../../engine/tensor.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const leaving = Stage.make("leaving", {
  config: Schema.Struct({ fails: Schema.Boolean }), inputs: {}, output: Texts, resources: { tensors: true },
  run: Effect.fn("leaving")(function* ({ config, output }) {
    const found = liveTensors()
    for (let i = 0; i < 10; i++) keep(zeros([1000]))
    if (config.fails) return yield* Effect.die(new Error("on purpose"))
    return yield* writeDataset(output, [{ text: "a" }], { metrics: { found, pid: process.pid } })
  })
})
`
    )
    const run = async (fails: boolean) => {
      const { exit } = await running("leaving.ts", "leaving", { fails })
      removeFolder(join(folder, "output"))
      mkdirSync(join(folder, "output"))
      return exit
    }
    const first = await run(false)
    const between = await run(how === "fails")
    expect(between._tag).toBe(how === "fails" ? "Failure" : "Success")
    const last = await run(false)
    expect(last).toMatchObject({ _tag: "Success", value: { metrics: { found: 0 } } })
    // It is the same process: otherwise the test would prove nothing.
    const processes = [first, last].map((exit) => (Exit.isSuccess(exit) ? exit.value.metrics.pid : NaN))
    expect(processes[1]).toBe(processes[0])
  })
})

describe("a child's time limit", () => {
  it("may be a month", async () => {
    const { exit } = await running("stages.ts", "wait", waiting, { seconds: 2_592_000 })
    expect(JSON.stringify(exit)).toMatch(/exited with code 3/)
  })

  it("is applied, even if it is longer than Node's timers support", () => {
    vi.useFakeTimers()
    try {
      const day = 86_400_000
      let [up, late] = [false, false]
      after(60 * day, () => (up = true))
      const callOff = after(60 * day, () => (late = true))
      vi.advanceTimersByTime(59 * day)
      expect(up).toBe(false)
      callOff()
      vi.advanceTimersByTime(day)
      expect([up, late]).toEqual([true, false])
    } finally {
      vi.useRealTimers()
    }
  })
})
