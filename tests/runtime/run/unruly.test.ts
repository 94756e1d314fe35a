/** Stages without tensors that block, exit their process, use too much memory or leave errors behind: limits and signals apply to them too. */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import type { AnyNode, NodeLimits } from "../../../runtime/define/node.ts"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import { run } from "../../../runtime/run/run.ts"
import { caravan, removeFolder, start, waitFor } from "../../cli/caravan.ts"
import { fixtureFolder, services } from "../fixture.ts"
import type * as stages from "../fixtures/stages.ts"
import type * as unruly from "../fixtures/unruly.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => removeFolder(folder))

const load = async <Module>(name: string) => (await import(pathToFileURL(join(folder, name)).href)) as Module
const log = () => join(folder, "log")
const processes = (): ReadonlyArray<number> => readFileSync(log(), "utf8").trim().split("\n").map(Number)
const isAlive = (pid: number): boolean => {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"))
  } catch {
    return false
  }
}

/** A misbehaving node next to a normal one. */
const running = async (
  config: { readonly does?: "blocks" | "ends" | "rejects" | "throws"; readonly eats?: number },
  limits: NodeLimits = {},
  which: "unruly" | "unrulyHere" = "unruly"
) => {
  const { lines } = await load<typeof stages>("stages.ts")
  const stage = (await load<typeof unruly>("unruly.ts"))[which]
  const nodes = (): Record<string, AnyNode> => ({
    unruly: stage({}, { ...config, log: log() }).limited(limits),
    lines: lines({ file: fileAt(join(folder, "words.txt")) })
  })
  const started = performance.now()
  let retries = 0
  const onEvent = (event: RunEvent) => {
    if (event.type === "note" && event.message.startsWith("failed; retrying")) retries++
  }
  const pipeline = Pipeline.make("unruly", { params: Schema.Struct({}) }, nodes)
  const result = await Effect.runPromise(run(pipeline, {}, { jobs: 2, onEvent }).pipe(Effect.provide(services(join(folder, "home")))))
  const [node, other] = ["unruly", "lines"].map((name) => result.nodes.find(({ id }) => id.startsWith(name))!)
  expect(other!.status).toMatch(/ran|hit/)
  return { ...node!, retries, seconds: (performance.now() - started) / 1000 }
}

describe("a stage without tensors", { timeout: 120_000 }, () => {
  it("that blocks its process is stopped at its time limit, and retried", async () => {
    // Enough time for its process to start on a busy machine.
    const { error, retries, seconds, status } = await running({ does: "blocks" }, { seconds: 10, retries: 1 })
    expect([status, error, retries]).toEqual(["failed", expect.stringMatching(/exceeded its time limit of 10 seconds/), 1])
    expect(seconds).toBeLessThan(45)
    await waitFor(() => !processes().some(isAlive))
  })

  it("that asks to run in the run's process still runs in a child if it has a limit of time or memory", async () => {
    expect(await running({ does: "blocks" }, { seconds: 6 }, "unrulyHere")).toMatchObject({ status: "failed" })
    expect(await running({ eats: 600 }, { memory: 400 }, "unrulyHere")).toMatchObject({ status: "failed" })
    expect(processes()).not.toContain(process.pid)
  })

  it("that asks for it runs in the run's process, others do not", async () => {
    await running({}, {}, "unrulyHere")
    await running({})
    const [here, apart] = processes()
    expect([here === process.pid, apart === process.pid]).toEqual([true, false])
  })

  it("that uses too much memory is stopped, and not retried", async () => {
    const { error, status } = await running({ eats: 600 }, { memory: 400, retries: 2 })
    expect([status, error]).toEqual(["failed", expect.stringMatching(/used \d+ MiB of memory, more than its limit of 400 MiB/)])
    expect(processes()).toHaveLength(1)
  })

  it("is not charged for memory that the previous stage left in its process", async () => {
    const { unruly: stage } = await load<typeof unruly>("unruly.ts")
    const nodes = (): Record<string, AnyNode> => ({
      large: stage({}, { eats: 700, log: log() }).named("a"),
      small: stage({}, { eats: 1, log: log() }).named("b").limited({ memory: 500 })
    })
    const { nodes: results } = await Effect.runPromise(
      run(Pipeline.make("unruly", { params: Schema.Struct({}) }, nodes), {}).pipe(Effect.provide(services(join(folder, "home"))))
    )
    expect(results).toMatchObject([{ status: "ran" }, { status: "ran", error: null }])
  })

  it("past its time limit has been killed while the run continues: it writes nothing more", async () => {
    const { unruly: stage } = await load<typeof unruly>("unruly.ts")
    let inTime: ReadonlyArray<number> = []
    const nodes = (): Record<string, AnyNode> => ({
      late: stage({}, { does: "blocks", log: log() }).named("late").limited({ seconds: 5 }),
      long: stage({}, { eats: 1, log: `${log()}-long` }).named("long")
    })
    // The run does not end before this stage, which begins when the other's time is up.
    const onEvent = (event: RunEvent) => {
      if (event.type === "node-finished" && event.node.id === "long") inTime = processes().filter(isAlive)
    }
    const pipeline = Pipeline.make("unruly", { params: Schema.Struct({}) }, nodes)
    const result = await Effect.runPromise(run(pipeline, {}, { jobs: 1, onEvent }).pipe(Effect.provide(services(join(folder, "home")))))
    expect(result.nodes).toMatchObject([
      { id: "late", status: "failed" },
      { id: "long", status: "ran" }
    ])
    expect(inTime).toEqual([])
  })

  it("that exits its process affects nothing else, and is retried", async () => {
    const { error, status } = await running({ does: "ends" }, { retries: 1 })
    expect([status, error]).toEqual(["failed", expect.stringMatching(/exited with code 7/)])
    expect(processes()).toHaveLength(2)
  })

  it.each([
    ["rejects", /^Unhandled promise rejection: nobody awaits this \(at .*unruly\.ts:\d+\)$/],
    ["throws", /^Uncaught error: .*buffer bounds \(at .*unruly\.ts:\d+\)$/]
  ] as const)("that %s where nobody catches it fails immediately, with the location, and is not retried", async (does, message) => {
    const { error, status } = await running({ does }, { retries: 2 })
    expect([status, error]).toEqual(["failed", expect.stringMatching(message)])
    expect(processes()).toHaveLength(1)
  })

  it("that blocks its process ends with its run: by Ctrl-C and by SIGTERM", async () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      const before = signal === "SIGINT" ? 0 : processes().length
      const child = start(folder, "run", "unruly.ts", "--set", `log=${log()}`, "--set", "does=blocks")
      const closed = new Promise<number | null>((resolve) => child.on("close", resolve))
      await waitFor(() => {
        try {
          return processes().length > before
        } catch {
          return false
        }
      })
      // It has reported its first step, and blocks.
      await sleep(500)
      child.kill(signal)
      expect(await Promise.race([closed, sleep(10_000, "still there")])).toBe(130)
      await waitFor(() => !isAlive(processes().at(-1)!))
    }
  })

  it("that blocks its process is limited by --timeout", () => {
    const { status, stdout } = caravan(folder, "run", "unruly.ts", "--set", `log=${log()}`, "--set", "does=blocks", "--timeout", "6")
    expect([status, stdout]).toEqual([1, expect.stringMatching(/failed +unruly[\s\S]*exceeded its time limit of 6 seconds/)])
  })
})

/** Runs a file of the folder as a program. */
describe("a stage in the program's own file", { timeout: 60_000 }, () => {
  const program = (limits: string) => `import { appendFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { Numerics } from "../../../runtime/key/numerics.ts"
import { layer } from "../../../runtime/run/layer.ts"
import { run } from "../../../runtime/run/run.ts"
import { Texts } from "../../../schemas/rows.ts"
export const own = Stage.make("own", {
  config: Schema.Struct({}), inputs: {}, output: Texts, seeded: false,
  run: ({ output }) => writeDataset(output, [{ text: "a" }])
})
appendFileSync("log", process.pid + "\\n")
const pipeline = Pipeline.make("own", { params: Schema.Struct({}) }, () => ({ own: own({}) }))
const services = Layer.merge(layer({ home: "home" }), Layer.succeed(Numerics, { describe: () => Effect.succeed({}) }))
void Effect.runPromise(run(pipeline, {}, { limits: ${limits} }).pipe(Effect.provide(services))).then(({ nodes }) =>
  console.log(JSON.stringify(nodes.map(({ error, status }) => [status, error])))
)
`
  it("runs in the program's process; with a limit it is rejected, because the program would run twice", () => {
    const once = (limits: string): unknown => {
      writeFileSync(join(folder, "program.ts"), program(limits))
      const { stderr, stdout } = spawnSync(process.execPath, ["program.ts"], { cwd: folder, encoding: "utf8", timeout: 30_000 })
      expect(stderr).toBe("")
      return JSON.parse(stdout)
    }
    expect(once("{ seconds: 20 }")).toEqual([
      ["failed", expect.stringMatching(/^Stage own is defined in the program's main file, .*program\.ts: .*separate file\.$/)]
    ])
    expect(once("{}")).toEqual([["ran", null]])
    expect(processes()).toHaveLength(2)
  })
})
