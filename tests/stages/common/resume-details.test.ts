/** What checkpoints contain and reject, what errors say about them, and that paid answers are never requested again. */
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { AdamW } from "../../../engine/optimizer.ts"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadPolicyFrom, readInto } from "../../../models/checkpoint.ts"
import { writeSafetensors } from "../../../models/safetensors.ts"
import * as Schema from "effect/Schema"
import type { Checkpoints } from "../../../runtime/define/resume-points.ts"
import { openCheckpoints } from "../../../runtime/store/resume-points.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { run } from "../../../runtime/run/run.ts"
import { services } from "../../runtime/fixture.ts"
import { External } from "../../../schemas/artifact.ts"
import { Preferences, ResponsePairs } from "../../../schemas/rows.ts"
import { annotate } from "../../../stages/preferences/annotate.ts"
import { importPolicy } from "../../../stages/data/import.ts"
import { type BatchLog, openBatchLog } from "../../../stages/common/batch-log.ts"
import { readDiagnostics } from "../../../stages/ppo/diagnostics.ts"
import { live, newFolder, undisturbed } from "../dying.ts"
import { listedPairs, pairsListed } from "../listed-pairs.ts"
import { type Resumable, resumables } from "../resumable.ts"
import { rowsArtifact, rowsIn, runStage, stageEffect } from "../running.ts"

const cases = await resumables()
const named = (name: string): Resumable => cases.find((one) => one.name === name)!
const newestIn = (folder: string): string => join(folder, readdirSync(folder).sort().at(-1)!)

/** The stage's failure, with a checkpoint after every step. */
const failureWith = async ({ stage, inputs, config }: Resumable, folder: string, over: Record<string, unknown> = {}) =>
  (
    await Effect.runPromise(
      Effect.flip(stageEffect(stage, inputs, { ...config, ...over }, { checkpoints: openCheckpoints({ folder, seconds: 0 }, () => {}) }))
    )
  ).message

describe("a checkpoint of training", () => {
  it.each(["sft", "sft in bfloat16", "ppo"])("%s is a folder that importPolicy accepts, in the dtype of training", async (name) => {
    const folder = newFolder()
    await live(named(name), folder, { after: 2, when: "written" })
    const path = newestIn(folder)
    const imported = await runStage(importPolicy, { folder: { path, type: External.name, digest: "", contentDigest: "" } })
    for (const file of ["config.json", "model.safetensors", "tokenizer.model"])
      expect(readFileSync(join(imported.path, file)).equals(readFileSync(join(path, file)))).toBe(true)
    expect(existsSync(join(imported.path, "training"))).toBe(false)
    const { model } = await Effect.runPromise(loadPolicyFrom(imported.path))
    expect(scoped(() => noGrad(() => model.forward(tensor([[1, 5, 6]], { dtype: "int64" })).toNumbers())).every(Number.isFinite)).toBe(true)
    expect(JSON.parse(readFileSync(join(path, "config.json"), "utf8"))).toMatchObject({
      torch_dtype: name.includes("bfloat16") ? "bfloat16" : "float32"
    })
  })
  it("is named when training diverges, with its step", async () => {
    const folder = newFolder()
    const message = await failureWith(named("sft"), folder, { learningRate: 1e30, finalLearningRate: 1 })
    expect(message).toMatch(/^Training diverged at step [23] of 4/)
    expect(message).toContain(`The model after step 1 is in ${join(folder, "000000000001")}.`)
  })
  it("is named when PPO diverges; the diagnostics of a run that ends with its best policy name no folder", async () => {
    const folder = newFolder()
    const wild = { learningRate: 1e30, iterations: 6 }
    expect(await failureWith(named("ppo with held-out prompts"), folder, wild)).toContain(`is in ${newestIn(folder)}.`)
    const { stage, inputs, config } = named("ppo with held-out prompts")
    const all = { ...config, ...wild, onDivergence: "keep-best" }
    const kept = await Effect.runPromise(
      stageEffect(stage, inputs, all, { checkpoints: openCheckpoints({ folder: newFolder(), seconds: 0 }, () => {}) })
    )
    const { stopped, divergence } = await Effect.runPromise(readDiagnostics(kept.path))
    expect(stopped).toBe("diverged")
    expect(divergence).not.toContain("is in")
    expect(kept.digest).toBe((await runStage(stage, inputs, all)).digest)
  })
  it("with fewer losses than steps is rejected by name", async () => {
    const folder = newFolder()
    await live(named("sft"), folder, { after: 2, when: "written" })
    const path = join(newestIn(folder), "training/measured.json")
    const measured = JSON.parse(readFileSync(path, "utf8")) as { losses: Array<number> }
    const shorter = JSON.stringify({ ...measured, losses: measured.losses.slice(1) })
    const checkpoints = await resealed(folder, path, shorter)
    const { stage, inputs, config } = named("sft")
    const { message } = await Effect.runPromise(Effect.flip(stageEffect(stage, inputs, config, { checkpoints })))
    expect(message).toMatch(/measured\.json: expected the losses and gradient norms of 2 steps of 4, found 1 and 2\. Delete the folder/)
  })
})

/** Checkpoints whose newest has this file instead, complete according to its seal. */
const resealed = async (folder: string, path: string, text: string): Promise<Checkpoints> => {
  const other = newFolder()
  const checkpoints = openCheckpoints({ folder: other, seconds: 0 }, () => {})
  const newest = newestIn(folder)
  await Effect.runPromise(
    checkpoints.save(Number(newest.split("/").at(-1)), (fresh) =>
      Effect.sync(() => {
        cpSync(newest, fresh, { recursive: true, filter: (from) => !from.endsWith("seal.json") })
        writeFileSync(path.replace(newest, fresh), text)
      })
    )
  )
  return checkpoints
}

describe("reading tensors into others", () => {
  const own = () => ({ a: tensor([1, 2]), b: tensor([[3]]) })
  const file = async (tensors: Parameters<typeof writeSafetensors>[1]): Promise<string> => {
    const path = join(newFolder(), "t.safetensors")
    await writeSafetensors(path, tensors)
    return path
  }
  it("copies every bit, including those of -0 and NaN", async () => {
    const into = own()
    await Effect.runPromise(readInto(await file({ a: tensor([-0, NaN]), b: tensor([[1e-45]]) }), into))
    expect([...into.a.toNumbers(), ...into.b.toNumbers()]).toEqual([-0, NaN, Math.fround(1e-45)])
  })
  it.each([
    ["another shape", () => ({ a: tensor([1, 2, 3]), b: tensor([[3]]) }), "expected a as F32 (2), found F32 (3)"],
    ["another dtype", () => ({ a: tensor([1, 2], { dtype: "float64" }), b: tensor([[3]]) }), "expected a as F32 (2), found F64 (2)"],
    ["a missing tensor", () => ({ a: tensor([9, 9]) }), "expected b as F32 (1, 1), found none"],
    ["an additional tensor", () => ({ ...own(), c: tensor([1]) }), "expected c as no tensor, found F32 (1)"]
  ])("rejects a file with %s and changes nothing", async (_, tensors, message) => {
    const into = own()
    const error = await Effect.runPromise(Effect.flip(readInto(await file(tensors()), into)))
    expect(error.message).toContain(message)
    expect([...into.a.toNumbers(), ...into.b.toNumbers()]).toEqual([1, 2, 3])
  })
})

describe("the optimiser's state", () => {
  it("is moments, and float32 masters if parameters are bfloat16: with it and its step count the next step is the same", () => {
    const made = () => {
      const weight = tensor([1, -2, 0.5], { dtype: "bfloat16" }).requiresGrad()
      return { weight, optimizer: new AdamW({ parameters: { weight } }) }
    }
    const step = ({ weight, optimizer }: ReturnType<typeof made>, by: number) => {
      scoped(() => weight.mul(weight).sum().mul(by).backward())
      optimizer.step(1e-3)
    }
    const [one, other] = [made(), made()]
    for (const by of [1, 3, 0.2]) step(one, by)
    expect(Object.keys(one.optimizer.state).sort()).toEqual(["first.weight", "master.weight", "second.weight"])
    noGrad(() => {
      other.weight.copy_(one.weight)
      for (const [name, values] of Object.entries(other.optimizer.state)) values.copy_(one.optimizer.state[name]!)
    })
    other.optimizer.resume(one.optimizer.steps)
    step(one, 7)
    step(other, 7)
    expect(other.optimizer.state["master.weight"]!.toNumbers()).toEqual(one.optimizer.state["master.weight"]!.toNumbers())
  })
})

describe("a log of batches", () => {
  const opened = (folder: string) =>
    Effect.runPromise(openBatchLog({ checkpoints: openCheckpoints({ folder, seconds: 0 }, () => {}), progress: () => Effect.void }))
  const put = (log: BatchLog, name: string, result: unknown) =>
    Effect.runPromise(log.all([{ name, compute: Effect.succeed(result), progressOf: () => ({}) }])).then(([found]) => found)
  const numbers = [-0, NaN, Infinity, 0.1 + 0.2, 5e-324, 2 ** 53 + 2]

  it("returns every number exactly, and text with half a surrogate pair", async () => {
    const folder = newFolder()
    const results = [{ numbers, text: "\ud800 é" }, undefined, [null, [true]]]
    const log = await opened(folder)
    for (const [i, result] of results.entries()) await put(log, `${i}`, result)
    const again = await opened(folder)
    for (const [i, result] of results.entries()) expect(await put(again, `${i}`, "computed anew")).toStrictEqual(result)
    expect(await put(again, "3", "new")).toBe("new")
  })
  it("for other batches than the stage's is rejected, with the folder to delete", async () => {
    const folder = newFolder()
    await put(await opened(folder), "2 of seed 7", 1)
    const error = put(await opened(folder), "2 of seed 8", 1)
    await expect(error).rejects.toThrow(
      /expected batch 1 to be 2 of seed 8, found 2 of seed 7\. Delete the folder .*000000000001 and run again/
    )
  })
})

describe("a judge's verdicts", () => {
  let server: Server
  let url = ""
  /** Every question, whenever it is asked. */
  const asked: Array<string> = []
  let failAt = Infinity
  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = ""
      request.on("data", (chunk) => (body += String(chunk)))
      request.on("end", () => {
        asked.push(body)
        response.writeHead(asked.length >= failAt ? 400 : 200, { "content-type": "application/json" })
        // No verdict for every fifth pair.
        const content = /Which, [05]\?/.test(body)
          ? "no idea"
          : `{"better": ${body.indexOf("good") < body.indexOf("bad") ? 1 : 2}, "rating": 2}`
        response.end(JSON.stringify({ choices: [{ message: { content } }] }))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  const pairs = pairsListed(10)
  const judged = async (concurrency: number): Promise<Resumable> => {
    asked.length = 0
    return {
      name: "annotate",
      stage: annotate,
      inputs: { pairs: await rowsArtifact(ResponsePairs, pairs) },
      config: { annotator: "judge", url, model: "m", maxUnreadable: 0.2, concurrency }
    }
  }

  it("are each requested once, however often the stage is killed between two", async () => {
    const one = await judged(1)
    const wanted = await undisturbed(one)
    expect(wanted.metrics).toMatchObject({ preferences: 8, undecided: 2 })
    asked.length = 0
    const folder = newFolder()
    let life = await live(one, folder, { after: 1, when: "written" })
    for (let lives = 0; life.output === undefined && lives < 20; lives++) life = await live(one, folder, { after: 1, when: "written" })
    expect(life.output).toEqual(wanted)
    expect(asked).toHaveLength(10)
    expect(new Set(asked).size).toBe(10)
  })
  it("that were given before one failed are kept, and the message says so", async () => {
    const one = await judged(4)
    failAt = 6
    const folder = newFolder()
    // A checkpoint is due in an hour: paid answers are saved before it.
    const checkpoints = openCheckpoints({ folder, seconds: 3600 }, () => {})
    const { message } = await Effect.runPromise(Effect.flip(stageEffect(one.stage, one.inputs, one.config, { checkpoints })))
    expect(message).toMatch(/answered 400 .* after [45] of 10 verdicts\. They are stored for the next run/)
    failAt = Infinity
    const before = asked.length
    const given = Number(/after (\d)/.exec(message)![1])
    const done = await Effect.runPromise(stageEffect(one.stage, one.inputs, one.config, { checkpoints }))
    // Those that were pending when one failed may be kept too.
    expect(asked.length - before).toBeLessThanOrEqual(10 - given)
    expect(asked.length - before).toBeGreaterThanOrEqual(5)
    expect(await rowsIn(done, Preferences)).toHaveLength(8)
  })
  it("are used again by a run that follows the error's advice: settings that only decide whether there is a result are not in the key", async () => {
    asked.length = 0
    const pipeline = Pipeline.make("judged", { params: Schema.Struct({}) }, () => ({
      judged: annotate({ pairs: listedPairs({}, { count: 10 }) }, { annotator: "judge", url, model: "m", concurrency: 1 }).named("judged")
    }))
    const home = newFolder()
    const attempt = (settings: Record<string, string>) =>
      Effect.runPromise(run(pipeline, {}, { settings }).pipe(Effect.provide(services(home))))
    const first = await attempt({})
    const error = first.nodes.find(({ id }) => id === "judged")!.error
    expect(error).toMatch(/gave 2 of 6 answers .* raise maxUnreadable and run again: no pair is asked for twice\./)
    expect(asked).toHaveLength(6)
    const journal = join(home, "verdicts.jsonl")
    const second = await attempt({
      "judged.maxUnreadable": "0.2",
      "judged.timeout": "90",
      "judged.concurrency": "3",
      "judged.keyVariable": "",
      "judged.journal": journal
    })
    expect(second.status).toBe("succeeded")
    expect(asked).toHaveLength(10)
    expect(new Set(asked).size).toBe(10)
  })
})
