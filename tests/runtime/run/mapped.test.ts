/** A stage over the shards of a dataset: split, made once each, concatenated in order. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { readRows, writeDataset } from "../../../data/dataset.ts"
import { shardSeed } from "../../../runtime/run/mapped.ts"
import { fileAt, type Node } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import { runStage } from "../../../runtime/run/run-stage.ts"
import { verify } from "../../../runtime/inspect/verify.ts"
import { Texts } from "../../../schemas/rows.ts"
import { start, waitFor } from "../../cli/caravan.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { fixtureFolder, services } from "../fixture.ts"
import { draw, drawBy3, lines, upper, upperBy1, upperBy2, upperBy9000 } from "../fixtures/mapped.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => checkAndRemove(folder))

const letters = (count: number) => Array.from({ length: count }, (_, i) => `t${i}`)
const write = (texts: ReadonlyArray<string>) => writeFileSync(join(folder, "words.txt"), texts.join("\n"))
const log = () => join(folder, "log")
/** Rows of each shard that really ran since the last call. */
const ran = (): ReadonlyArray<string> => {
  const text = existsSync(log()) ? readFileSync(log(), "utf8").trim() : ""
  writeFileSync(log(), "")
  return text === "" ? [] : text.split("\n")
}
const home = () => join(folder, "home")

type Texted = Node<any>
const pipelineOf = (stage: (inputs: { texts: Texted }, config: any) => Texted, config: object) =>
  Pipeline.make("mapped", { params: Schema.Struct({}) }, () => ({
    out: stage({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, { log: log(), ...config }).named("out")
  }))
const go = async (stage: Parameters<typeof pipelineOf>[0], config: object = {}, options: RunOptions = {}, where = home()) => {
  const events: Array<RunEvent> = []
  const result = await Effect.runPromise(
    run(pipelineOf(stage, config), {}, { onEvent: (event) => events.push(event), ...options }).pipe(Effect.provide(services(where)))
  )
  const node = result.nodes.find(({ id }) => id === "out")!
  const { out } = result.outputs
  const rows = out === undefined ? [] : await Effect.runPromise(readRows({ ...out, type: Texts.name }, Texts))
  return { ...node, texts: rows.map(({ text }) => text), events }
}

describe("a mapped stage", () => {
  it.each([
    [0, []],
    [1, ["1"]],
    [2, ["2"]],
    [3, ["2", "1"]],
    [7, ["2", "2", "2", "1"]]
  ])("over %d rows, 2 per shard, gives the same bytes as the stage itself", async (count, shards) => {
    write(letters(count))
    const mapped = await go(upperBy2)
    expect(mapped.texts).toEqual(letters(count).map((text) => `${text.toUpperCase()}!`))
    expect(mapped.metrics).toEqual({ rows: count, shards: shards.length })
    expect(ran()).toEqual(shards)
    const whole = await go(upper)
    expect([whole.status, whole.digest]).toEqual(["ran", mapped.digest])
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
  })

  it("with shards larger than a record batch splits at the right rows", async () => {
    write(letters(20_000))
    const mapped = await go(upperBy9000)
    expect([ran(), mapped.texts.length, mapped.texts[9000]]).toEqual([["9000", "9000", "2000"], 20_000, "T9000!"])
    expect((await go(upper)).digest).toBe(mapped.digest)
  })

  it("over a thousand shards makes each once and reports progress occasionally", async () => {
    write(letters(1000))
    const mapped = await go(upperBy1)
    expect([mapped.texts.length, ran().length]).toEqual([1000, 1000])
    const steps = mapped.events.flatMap((event) =>
      event.type === "progress" && event.progress.message === undefined ? [event.progress.step] : []
    )
    expect(steps.at(-1)).toBe(1000)
    expect(steps.length).toBeLessThan(900)
  })

  it("is one node; it reports its progress, and the progress of the shard", async () => {
    write(letters(3))
    const { events, stage } = await go(upperBy2)
    expect(stage).toBe("upper-by-2-texts")
    expect(events.flatMap((event) => (event.type === "node-finished" ? [event.node.id] : []))).toEqual(["lines", "out"])
    expect(events.flatMap((event) => (event.type === "progress" ? [event.progress] : []))).toContainEqual({
      step: 1,
      total: 2,
      loss: 0.5,
      message: "shard 2: step 1/2"
    })
  })
})

describe("rows that", () => {
  it("are appended rerun the last shard and the new ones; the rest is cached", async () => {
    write(letters(5))
    await go(upperBy2)
    expect(ran()).toEqual(["2", "2", "1"])
    write(letters(8))
    const grown = await go(upperBy2)
    expect(ran()).toEqual(["2", "2"])
    expect(grown.texts).toEqual(letters(8).map((text) => `${text.toUpperCase()}!`))
    // And removed again: nothing.
    write(letters(4))
    expect([(await go(upperBy2)).status, ran()]).toEqual(["ran", []])
  })

  it("are changed rerun their shard; another config, code or second input reruns all", async () => {
    write(letters(6))
    await go(upperBy2)
    ran()
    write(letters(6).with(3, "other"))
    await go(upperBy2)
    expect(ran()).toEqual(["2"])
    await go(upperBy2, { mark: "?" })
    expect(ran()).toEqual(["2", "2", "2"])
    const more = lines({ file: fileAt(join(folder, "helper.ts")) })
    await go(((inputs: { texts: Texted }, config: object) => upperBy2({ ...inputs, more }, config)) as Parameters<typeof pipelineOf>[0])
    expect(ran()).toEqual(["2", "2", "2"])
  })

  it("are the same in two shards are made once without a seed; with a seed each shard has its own, which no other shard changes", async () => {
    write(["a", "a", "a", "a"])
    await go(upperBy2)
    expect(ran()).toEqual(["2"])
    write(["a", "b", "c", "a", "b", "c", "d"])
    const first = await go(drawBy3, {}, { seed: 7 })
    const expected = (texts: ReadonlyArray<string>, seed: number) =>
      texts.flatMap((text, step) => Array.from({ length: (seed + step) % 3 }, () => `${text} ${seed}`))
    const seeds = [0, 1, 2].map((index) => shardSeed(7, index))
    expect(new Set(seeds).size).toBe(3)
    expect(first.texts).toEqual([
      ...expected(["a", "b", "c"], seeds[0]!),
      ...expected(["a", "b", "c"], seeds[1]!),
      ...expected(["d"], seeds[2]!)
    ])
    expect(ran().length).toBe(7)
    // The first shard changes; the others are cached, and would have been the same.
    write(["x", "b", "c", "a", "b", "c", "d"])
    const second = await go(drawBy3, {}, { seed: 7 })
    expect(second.texts.slice(expected(["x", "b", "c"], seeds[0]!).length)).toEqual(
      first.texts.slice(expected(["a", "b", "c"], seeds[0]!).length)
    )
    expect(ran().length).toBe(3)
    expect((await go(draw, {}, { seed: 7 })).digest).not.toBe(second.digest)
  })
})

describe("a shard that fails", () => {
  it("fails the node and is named; the shards before it are kept", async () => {
    write(letters(7))
    const failed = await go(upperBy2, { refuses: "t5" })
    expect(failed).toMatchObject({ status: "failed", error: 'Shard 3 of 4 (rows 5 to 6 of "texts"): "t5" is not for shouting' })
    expect(ran()).toEqual(["2", "2", "2"])
    expect(readdirSync(join(folder, "home/tmp"))).toEqual([])
    const mended = await go(upperBy2)
    expect([mended.status, mended.texts.length, ran()]).toEqual(["ran", 7, ["2", "1"]])
  })
})

describe("a folder that can't be used", () => {
  it.each([
    [
      "for shards",
      "shards",
      (path: string) => writeFileSync(path, "in the way"),
      "Shards",
      /^Creating the folder for its shards: E(EXIST|NOTDIR)/
    ],
    [
      "for the rows",
      "data.arrow",
      (path: string) => mkdirSync(path),
      "ArtifactError",
      /^Writing a dataset:text\/1 to .*: expected a writable folder with enough free space for the rows, found EISDIR/
    ]
  ] as const)("%s is an error that says what was being done", async (_, name, block, reason, message) => {
    const [input, output] = [join(folder, "input"), join(folder, "output")]
    for (const path of [input, output]) mkdirSync(path)
    block(join(output, name))
    await Effect.runPromise(writeDataset({ path: input, type: Texts }, [{ text: "a" }]))
    const job = {
      ...{ module: "", exportName: "", config: {}, output, seed: 0, device: "cpu" as const, threads: 1, checkpoints: null },
      inputs: { texts: { path: input, type: Texts.name, digest: "", contentDigest: "" } }
    }
    const error = await Effect.runPromise(Effect.flip(runStage(upperBy1.stage, job, () => undefined)))
    expect(error).toMatchObject({ reason, message: expect.stringMatching(message), isRetryable: false })
  })
})

describe("killed", () => {
  const config = { dies: "t7" }
  it("in the middle of a shard, its process resumes that shard from its checkpoint, with the same result as if it had not been killed", async () => {
    write(letters(11))
    const killed = await go(drawBy3, config, { checkpointSeconds: 0 })
    expect(killed).toMatchObject({ status: "failed", error: expect.stringMatching(/was killed/) })
    expect(ran().map((line) => line.split(" ")[1])).toEqual(letters(8))
    const second = await go(drawBy3, config, { checkpointSeconds: 0 })
    // Shard 3 is t6, t7, t8: t6 is done.
    expect(ran().map((line) => line.split(" ")[1])).toEqual(["t7", "t8", "t9", "t10"])
    const untouched = await go(drawBy3, config, {}, join(folder, "other-home"))
    expect(second.digest).toBe(untouched.digest)
    expect(ran().length).toBe(11)
    expect(readdirSync(join(folder, "home/checkpoints"))).toEqual([])
  })

  it("with the complete run, by kill -9, the next run makes the unfinished part, with the same result", async () => {
    write(letters(9))
    const args = ["--set", `log=${log()}`, "--set", "milliseconds=100"]
    const child = start(folder, "run", "mapped.ts", ...args)
    const closed = new Promise((resolve) => child.on("close", resolve))
    const told = () => (existsSync(log()) ? readFileSync(log(), "utf8").split("\n").length - 1 : 0)
    await waitFor(() => told() >= 5)
    child.kill("SIGKILL")
    await closed
    await sleep(500)
    const before = ran().length
    const again = start(folder, "run", "mapped.ts", ...args)
    expect(await new Promise((resolve) => again.on("close", resolve))).toBe(0)
    expect(before).toBeLessThan(9)
    // Of nine rows three were in a finished shard.
    const after = ran()
    expect(after.length).toBeLessThanOrEqual(6)
    expect(after.at(-1)).toMatch(/ t8$/)
  })
})

describe("stored shards", () => {
  const file = () =>
    join(
      folder,
      "home/shards",
      readdirSync(join(folder, "home/shards")).find((name) => name.endsWith(".db"))!
    )
  it("are not used if their bytes have changed: that shard is made again", async () => {
    write(letters(6))
    const { digest } = await go(upperBy2)
    ran()
    const database = new DatabaseSync(file())
    database.exec("update shards set bytes = zeroblob(length(bytes)) where key = (select min(key) from shards)")
    database.close()
    const again = await go(upperBy2, {}, { force: ["out"] })
    expect([again.digest, ran()]).toEqual([digest, ["2"]])
  })

  it("are moved aside if the file is not a database, and all are made again", async () => {
    write(letters(6))
    const { digest } = await go(upperBy2)
    ran()
    writeFileSync(file(), "not a database at all, but long enough to be looked at".repeat(100))
    const again = await go(upperBy2, {}, { force: ["out"] })
    expect([again.digest, ran().length]).toEqual([digest, 3])
  })

  it("are skipped if they can't be stored, with a note", async () => {
    write(letters(3))
    mkdirSync(join(folder, "home"))
    writeFileSync(join(folder, "home/shards"), "a file in the way")
    const { events, status } = await go(upperBy2)
    expect(status).toBe("ran")
    expect(events.flatMap((event) => (event.type === "note" ? [event.message] : []))).toEqual([
      expect.stringMatching(/^Opening .*shards.*(EEXIST|ENOTDIR|unable to open).*continues without storing shards$/)
    ])
  })

  it("are not used by verify, which makes all of them again", async () => {
    write(letters(6))
    await go(upperBy2)
    ran()
    const checked = await Effect.runPromise(verify(pipelineOf(upperBy2, {}), {}).pipe(Effect.provide(services(home()))))
    expect(checked.nodes.find(({ id }) => id === "out")).toMatchObject({ status: "same" })
    expect(ran()).toEqual(["2", "2", "2"])
  })
})
