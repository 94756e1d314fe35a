/** Sweeps over parameters, and runs as streams of events, from a program. */
import { readdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { runEvents } from "../../../runtime/run/event-stream.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import { combinations, type Grid, sweep, type SweepPoint } from "../../../runtime/run/sweep.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { report } from "../../../schemas/report.ts"
import { Texts } from "../../../schemas/rows.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { fixtureFolder, openHome, opening, services } from "../fixture.ts"
import { draw, lines, upper } from "../fixtures/mapped.ts"
import { count } from "../fixtures/stages.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => removeFolder(folder))

const Params = Schema.Struct({
  mark: hyper("!", "at the end"),
  times: hyperInt(1, "how many marks", { min: 1, max: 3 }),
  refuses: hyper("", "what")
})
const pipeline = () =>
  Pipeline.make("swept", { params: Params }, ({ mark, times, refuses }) => {
    if (times === 2 && mark === "#") throw new Error("two of # are not wanted")
    const words = lines({ file: fileAt(join(folder, "words.txt")) })
    const loud = upper({ texts: words }, { mark: mark.repeat(times), refuses: mark === refuses ? "beta" : "" })
    return { counted: count({ sets: [loud] }).named("counts"), loud }
  })
const deep = Stage.make("deep", {
  config: Schema.Struct({ rate: hyper(1, "rate") }),
  inputs: { texts: Texts },
  output: report(Schema.Struct({ accuracy: Schema.Struct({ overall: Schema.Number }) }), "deep/1"),
  seeded: false,
  run: () => Effect.die("it is never run")
})
const here = <A, E>(work: Effect.Effect<A, E, Layer.Success<ReturnType<typeof services>>>) =>
  Effect.provide(work, services(join(folder, "home")))
const go = (grid: Grid<typeof Params>, params: Partial<typeof Params.Encoded> = {}) =>
  Effect.runPromise(sweep(pipeline(), params, grid).pipe(here))
const becameOf = ({ result }: SweepPoint) => Object.fromEntries(result?.nodes.map(({ id, status }) => [id, status]) ?? [])

describe("combinations", () => {
  it("are all of them, with the last name's values changing fastest", () => {
    expect(combinations({ a: [1, 2], b: ["x", "y"], c: undefined })).toEqual([
      { a: 1, b: "x" },
      { a: 1, b: "y" },
      { a: 2, b: "x" },
      { a: 2, b: "y" }
    ])
    expect(combinations({})).toEqual([{}])
  })
})

describe("a sweep", () => {
  it("runs every combination, makes shared nodes once, and returns metrics and report fields of each", async () => {
    const points = await go({ mark: ["!", "??"], times: [1, 3] })
    expect(points.map(({ values, status }) => [values, status])).toEqual([
      [{ mark: "!", times: 1 }, "succeeded"],
      [{ mark: "!", times: 3 }, "succeeded"],
      [{ mark: "??", times: 1 }, "succeeded"],
      [{ mark: "??", times: 3 }, "succeeded"]
    ])
    expect(points.map(becameOf)).toEqual([
      { lines: "ran", upper: "ran", counts: "ran" },
      ...Array.from({ length: 3 }, () => ({ lines: "hit", upper: "ran", counts: "ran" }))
    ])
    // alpha beta gamma are 14 letters; each gets its marks.
    expect(points.map(({ measures }) => measures["counts.characters"])).toEqual([14 + 3, 14 + 9, 14 + 6, 14 + 18])
    expect(points[0]!.measures).toEqual({
      "lines.rows": 3,
      "upper.rows": 3,
      "counts.rows": 3,
      "counts.characters": 17,
      "counted.rows": 3,
      "counted.characters": 17
    })
    // Typed by the pipeline's outputs.
    const output: { readonly path: string } | undefined = points[0]!.result?.outputs.counted
    expect(output?.path).toContain("/objects/")
    // A second time: everything is cached.
    expect((await go({ times: [3, 1], mark: ["??", "!"] })).map(becameOf)).toEqual(
      Array.from({ length: 4 }, () => ({ lines: "hit", upper: "hit", counts: "hit" }))
    )
  })

  it("also varies fields of nodes, lists and the run's seed", async () => {
    const points = await go({ "upper.mark": ["+", "++"], seed: [1, 2] })
    expect(points.map(({ values, measures }) => [values["upper.mark"], values.seed, measures["counts.characters"]])).toEqual([
      ["+", 1, 17],
      ["+", 2, 17],
      ["++", 1, 20],
      ["++", 2, 20]
    ])
    const { close, journal } = openHome(join(folder, "home"))
    expect(
      journal
        .runs()
        .map(({ asked }) => (asked as { seed: number }).seed)
        .toSorted((a, b) => a - b)
    ).toEqual([1, 1, 2, 2])
    close()
  })

  it("continues after a combination with a failed stage", async () => {
    const points = await go({ mark: ["!", "?"], times: [1, 3] }, { refuses: "!" })
    expect(points.map(({ status, error }) => [status, error])).toEqual([
      ["failed", '"beta" is not for shouting'],
      ["failed", '"beta" is not for shouting'],
      ["succeeded", null],
      ["succeeded", null]
    ])
    expect(points[0]!.measures).toEqual({ "lines.rows": 3 })
  })

  it("runs nothing if any combination can't start: reports which, and why", async () => {
    await expect(go({ mark: ["!", "#", "?"], times: [1, 2, 9] })).rejects.toThrow(
      /^Sweep of "swept": 4 of 9 combinations can't run, so nothing was run\.\n {2}mark=! times=9: [\s\S]*times: expected .*3, got 9\.\n {2}mark=# times=2: .*two of # are not wanted/
    )
    rmSync(join(folder, "words.txt"))
    await expect(go({ times: [1, 2] })).rejects.toThrow(
      /2 of 2 combinations can't run, so nothing was run\.\nReading the input .*words\.txt: no such file or folder\. Check the path/
    )
    expect(readdirSync(folder)).not.toContain("home")
  })

  it("runs nothing if a metric's node or report field does not exist; stops after the first combination that lacks it", async () => {
    const with_ = (...metrics: ReadonlyArray<string>) => Effect.runPromise(sweep(pipeline(), {}, { times: [1, 2] }, { metrics }).pipe(here))
    await expect(with_("cuonts.rows")).rejects.toThrow(
      /--metric cuonts\.rows: .*no node or output is named "cuonts"\. Did you mean "counts"\?/
    )
    await expect(with_("counted.row")).rejects.toThrow(/--metric counted\.row: the report has no field "row"\. Did you mean "rows"\?/)
    const nested = Pipeline.make("nested", { params: Schema.Struct({ rate: hyper(1, "rate") }) }, ({ rate }) => ({
      deep: deep({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, { rate })
    }))
    const deeply = (metric: string) => Effect.runPromise(sweep(nested, {}, { rate: [1, 2] }, { metrics: [metric] }).pipe(here))
    await expect(deeply("deep.accuracy.overal")).rejects.toThrow(
      '--metric deep.accuracy.overal: the report has no field "accuracy.overal". Did you mean "accuracy.overall"?'
    )
    await expect(with_("constructor")).rejects.toThrow(/no node or output is named "constructor"/)
    expect(readdirSync(folder)).not.toContain("home")
    await expect(with_("upper.rwos")).rejects.toThrow(
      /after its first combination: --metric upper\.rwos: no such metric or report field\. Did you mean "upper\.rows"\?/
    )
    const { close, journal } = openHome(join(folder, "home"))
    expect(journal.runs()).toHaveLength(1)
    close()
    expect(await with_("upper.rows", "counts.characters")).toHaveLength(2)
  })

  it("runs nothing if no combination can start, a name is wrong, or a value is missing or repeated", async () => {
    const wrong = (grid: object) => go(grid)
    await expect(wrong({ times: [7, 8] })).rejects.toThrow(/times: expected .*3, got 7\.$/m)
    await expect(wrong({ tims: [1] })).rejects.toThrow('Sweep of "swept" over tims: no such parameter. Did you mean "times"?')
    await expect(wrong({ "uper.mark": ["a"] })).rejects.toThrow(/no node or output is named "uper"\. Did you mean "upper"\?/)
    await expect(wrong({ times: [] })).rejects.toThrow(/the list of values is empty/)
    await expect(wrong({ times: [1, 2, 1] })).rejects.toThrow(/a value is given twice/)
    expect(readdirSync(folder)).not.toContain("home")
  })
})

describe("a run's events as a stream", () => {
  const events = (params: Partial<typeof Params.Encoded> = {}) => runEvents(pipeline(), params)

  it.live("are all of them, from run-started to run-finished, and then the stream ends", () =>
    Effect.gen(function* () {
      const all = yield* here(Stream.runCollect(events()))
      expect(all[0]).toMatchObject({ type: "run-started", nodes: ["lines", "upper", "counts"] })
      expect(all.at(-1)).toMatchObject({ type: "run-finished", status: "succeeded" })
      expect(all.flatMap((event) => (event.type === "node-finished" ? [`${event.node.id} ${event.node.status}`] : []))).toEqual([
        "lines ran",
        "upper ran",
        "counts ran"
      ])
      const failed = yield* here(Stream.runCollect(events({ mark: "-", refuses: "-" })))
      expect(failed.at(-1)).toMatchObject({ type: "run-finished", status: "failed" })
    })
  )

  it.live("fail if the run can't start", () =>
    Effect.gen(function* () {
      const error = yield* here(Effect.flip(Stream.runCollect(events({ times: 9 }))))
      expect([error._tag, error.message]).toEqual(["ConfigError", expect.stringMatching(/times/)])
    })
  )

  it.live("stop the run when the consumer stops, once its processes have ended, and keep what is finished", () =>
    Effect.gen(function* () {
      writeFileSync(join(folder, "words.txt"), Array.from({ length: 1000 }, (_, i) => `t${i}`).join("\n"))
      const slow = Pipeline.make("slow", { params: Schema.Struct({}) }, () => ({
        drawn: draw({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, { milliseconds: 20, log: join(folder, "log") })
      }))
      const stream = runEvents(slow, {})
      const taken = yield* here(Stream.runCollect(Stream.takeUntil(stream, (event: RunEvent) => event.type === "progress")))
      expect(taken.at(-1)).toMatchObject({ type: "progress", node: "draw" })
      const { journal } = yield* opening(join(folder, "home"))
      expect(journal.runs()[0]).toMatchObject({ status: "interrupted", nodes: { ran: 1 } })
      // The same by an interruption from outside.
      const started = Deferred.makeUnsafe<void>()
      const fiber = yield* Effect.forkChild(here(Stream.runForEach(stream, () => Deferred.succeed(started, undefined))))
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      expect(journal.runs()[0]).toMatchObject({ status: "interrupted" })
      expect(journal.runs().length).toBe(2)
      expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
    })
  )
})
