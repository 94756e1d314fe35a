/** Parts of a stage's context that are not in its key: the stage can't read them. */
import { mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeDataset, writeReport } from "../../../data/dataset.ts"
import { type Job, runStage } from "../../../runtime/run/run-stage.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { report } from "../../../schemas/report.ts"
import { Texts } from "../../../schemas/rows.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const Out = report(Schema.Struct({ n: Schema.Number }), "unkeyed/1")
type Read = (context: Stage.Context) => number
/** A stage that reads a part of its context. */
const reads = (read: Read, options: { readonly seeded: boolean; readonly tensors: boolean }) =>
  Stage.make("reads", {
    config: Schema.Struct({}),
    inputs: {},
    output: Out,
    seeded: options.seeded,
    resources: { tensors: options.tensors },
    run: (context) => writeReport(context.output, { n: read(context) })
  })

let folder: string
beforeAll(() => {
  folder = workFolder()
})
afterAll(() => removeFolder(folder))

let outputs = 0
const job = (inputs: Job["inputs"] = {}): Job => {
  const output = join(folder, `o${outputs++}`)
  mkdirSync(output)
  const given = { inputs, output, seed: 7, device: "cpu" as const, threads: 3, checkpoints: null, prepare: undefined }
  return { module: import.meta.url, exportName: "", config: {}, ...given }
}
const of = async (read: Read, options: { readonly seeded: boolean; readonly tensors: boolean }): Promise<number> => {
  const given = job()
  await Effect.runPromise(runStage(reads(read, options).stage, given, () => undefined))
  return (JSON.parse(readFileSync(join(given.output, "report.json"), "utf8")) as { n: number }).n
}

describe("a stage that reads", () => {
  it("the seed without being seeded is rejected: with what to declare, and where it reads it", async () => {
    expect(await of(({ seed }) => seed, { seeded: true, tensors: false })).toBe(7)
    await expect(of(({ seed }) => seed, { seeded: false, tensors: true })).rejects.toThrow(
      /^Stage reads reads context\.seed, which is not part of its key: .* Declare `seeded: true`, or do not read it\..*unkeyed\.test\.ts/s
    )
  })

  it("device or threads without computing with tensors is rejected", async () => {
    expect(await of(({ threads }) => threads, { seeded: false, tensors: true })).toBe(3)
    for (const read of [({ device }: Stage.Context) => device.length, ({ threads }: Stage.Context) => threads])
      await expect(of(read, { seeded: true, tensors: false })).rejects.toThrow(
        /which is not part of its key.*Declare `resources: \{ tensors: true \}`/
      )
  })

  it("none of them runs", async () => {
    expect(await of(() => 1, { seeded: false, tensors: false })).toBe(1)
  })
})

it("a mapped stage can't read it either, in any shard", async () => {
  const inner = Stage.make("inner", {
    config: Schema.Struct({}),
    inputs: { texts: Texts },
    output: Texts,
    seeded: false,
    run: ({ output, seed }) => writeDataset(output, [{ text: String(seed) }])
  })
  const input = join(folder, "input")
  mkdirSync(input)
  await Effect.runPromise(writeDataset({ path: input, type: Texts }, [{ text: "a" }]))
  const given = job({ texts: { path: input, type: Texts.name, digest: "", contentDigest: "" } })
  const running = Effect.runPromise(runStage(Stage.map(inner, { over: "texts", rows: 1 }).stage, given, () => undefined))
  await expect(running).rejects.toThrow(/Shard 1 of 1.*reads context\.seed, which is not part of its key.*Declare `seeded: true`/)
})
