/** Ranks in the runtime: the number of ranks of a node's stage, the variables of a rank, and a gang in which one rank fails. With processes: tests/stages/ranks.test.ts. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import type { StageNode } from "../../../runtime/define/graph.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { StageError } from "../../../runtime/errors.ts"
import type { Work } from "../../../runtime/run/execute.ts"
import { keyParts } from "../../../runtime/run/facts.ts"
import { gang, together } from "../../../runtime/run/gang.ts"
import { machineOf } from "../../../runtime/run/options.ts"
import { rankPlace, ranksOf, rankVariables } from "../../../runtime/run/ranks.ts"
import type { Outcome } from "../../../runtime/run/run-stage.ts"
import { Texts } from "../../../schemas/rows.ts"

const stageOf = (resources: Stage.Resources) =>
  Stage.make("spreading", {
    module: import.meta,
    config: Schema.Struct({}),
    inputs: { texts: Texts },
    output: Texts,
    resources,
    run: () => Effect.never
  })
const spreading = stageOf({ tensors: true, ranks: true })
const single = stageOf({ tensors: true })
const dealing = stageOf({ tensors: true, ranks: "batches" })
const nodeOf = (stage: Stage.AnyStage, placement?: StageNode["placement"]): StageNode => ({
  ...{ kind: "stage", id: "n", stage: stage.stage, config: {}, seed: 0, inputs: {}, type: Texts, expected: undefined, limits: undefined },
  placement
})

describe("the number of ranks of a stage", () => {
  it("is what the run requests, for a stage that supports ranks", () => {
    expect(ranksOf(nodeOf(spreading), { ranks: 3 })).toBe(3)
    expect(ranksOf(nodeOf(dealing), { ranks: 3 })).toBe(3)
    expect(ranksOf(nodeOf(spreading), {})).toBe(1)
    expect(ranksOf(nodeOf(single), { ranks: 3 })).toBe(1)
    expect(ranksOf(nodeOf(Stage.map(spreading, { over: "texts", rows: 2 })), { ranks: 3 })).toBe(1)
  })
  it("is the number of GPUs on which the node is placed, if there are GPUs", () => {
    expect(ranksOf(nodeOf(spreading, { gpus: 4 }), { device: "cuda", ranks: 2 })).toBe(4)
    expect(ranksOf(nodeOf(spreading, { gpus: 4, nodes: 2 }), { device: "cuda" })).toBe(8)
    expect(ranksOf(nodeOf(spreading, { gpus: 4 }), { device: "cpu", ranks: 2 })).toBe(2)
    expect(ranksOf(nodeOf(single, { gpus: 4 }), { device: "cuda" })).toBe(1)
  })
  it("is part of the key of a stage whose results it affects, together with the sharding; not of other stages' keys, and not if it is one", () => {
    const numericsOf = (stage: Stage.AnyStage, asked: Parameters<typeof machineOf>[0]) => {
      const code = new Map([["n", { digest: "c", exportName: "", root: "", files: {}, packages: {} }]])
      return keyParts(nodeOf(stage), { code, numerics: { device: "cpu" }, machine: machineOf(asked) }, () => "").numerics
    }
    expect(numericsOf(spreading, { ranks: 2 })).toEqual({ device: "cpu", ranks: "2, sharding weights" })
    expect(numericsOf(spreading, { ranks: 2, sharding: "none" })).toEqual({ device: "cpu", ranks: "2, sharding none" })
    const alike = [numericsOf(spreading, {}), numericsOf(spreading, { ranks: 1 }), numericsOf(single, { ranks: 2 })]
    for (const same of [...alike, numericsOf(dealing, { ranks: 2 })]) expect(same).toEqual({ device: "cpu" })
  })
})

describe("a rank's place", () => {
  const group = { size: 2, sharding: "weights" as const, seconds: 5, nodes: 1 }
  it("is read from torchrun's variables", () => {
    const variables = rankVariables({ rank: 1, localRank: 1, size: 2, host: "node-7", port: 29500 })
    expect(variables).toEqual({ RANK: "1", WORLD_SIZE: "2", LOCAL_RANK: "1", MASTER_ADDR: "node-7", MASTER_PORT: "29500" })
    expect(rankPlace(group, variables)).toEqual({ ...group, rank: 1, host: "node-7", port: 29500 })
  })
  it.each([
    {},
    { RANK: "2", WORLD_SIZE: "2", MASTER_ADDR: "a", MASTER_PORT: "1" },
    { RANK: "0", WORLD_SIZE: "3", MASTER_ADDR: "a", MASTER_PORT: "1" },
    { RANK: "0", WORLD_SIZE: "2", MASTER_ADDR: "", MASTER_PORT: "1" },
    { RANK: "0", WORLD_SIZE: "2", MASTER_ADDR: "a", MASTER_PORT: "70000" },
    { RANK: "x", WORLD_SIZE: "2", MASTER_ADDR: "a", MASTER_PORT: "1" }
  ])("is rejected if they are invalid, with the value found: %o", (variables) => {
    expect(() => rankPlace(group, variables)).toThrow(/A stage of 2 ranks: expected RANK from 0 to 1, WORLD_SIZE 2, .* found RANK=/)
  })
})

const folder = mkdtempSync(join(tmpdir(), "caravan-gang-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const crash = (message: string) => new StageError({ reason: "Crash", message, isRetryable: true })
const lost = (message: string) => new StageError({ reason: "RankError", message, isRetryable: true })
const after = <A, E>(milliseconds: number, effect: Effect.Effect<A, E>) => Effect.delay(effect, milliseconds)
const done: Effect.Effect<Outcome> = Effect.succeed({ metrics: { rank: 0 }, skipped: [] })

/** A gang whose ranks do this; returns how it ends, what the ranks were given, and which were killed. */
const gangOf = (...ranks: ReadonlyArray<(work: Work) => Effect.Effect<Outcome, StageError>>) => {
  const seen: Array<{ readonly variables: Readonly<Record<string, string>>; work?: Work; killed: number }> = []
  const execute = gang<number>((variables, leader) => {
    const rank = seen.length
    const one: (typeof seen)[number] = { variables, killed: 0 }
    seen.push(one)
    expect(leader).toBe(rank === 0 ? undefined : 0)
    return {
      process: rank,
      execute: (work) => {
        one.work = work
        return ranks[rank]!(work)
      },
      kill: () => Promise.resolve(void one.killed++)
    }
  })
  const job = {
    module: "",
    exportName: "",
    config: {},
    inputs: {},
    output: join(folder, "out"),
    seed: 0,
    device: "cpu" as const,
    threads: 1,
    checkpoints: null
  }
  const group = { size: ranks.length, sharding: "weights" as const, seconds: 5, nodes: 1 }
  const told: Array<string> = []
  const work = {
    ...{ stage: spreading.stage, job: { ...job, sidecar: "side", ranks: group }, code: undefined as never, cache: undefined as never },
    ...{
      onProgress: ({ message }: { readonly message?: string }) => void told.push(message ?? ""),
      onOutput: (text: string) => void told.push(text)
    }
  }
  return { work: execute(work), seen, told, on: (nodes: number) => execute({ ...work, job: { ...work.job, ranks: { ...group, nodes } } }) }
}

describe("a gang", () => {
  it("ends with the first rank's outcome once all are done; each had a place, and the others' folders are deleted", async () => {
    let others: ReadonlyArray<string> = []
    const say = ({ onOutput, onProgress }: Work) =>
      Effect.sync(() => {
        others = readdirSync(folder)
        onProgress({ message: "at work" })
        onOutput?.("a line\nanother")
      })
    const rank = (work: Work) => Effect.andThen(say(work), after(30, done))
    const { seen, told, work } = gangOf(rank, rank)
    expect(await Effect.runPromise(work)).toEqual({ metrics: { rank: 0 }, skipped: [] })
    expect(seen.map(({ variables: { RANK, WORLD_SIZE } }) => [RANK, WORLD_SIZE])).toEqual([
      ["0", "2"],
      ["1", "2"]
    ])
    expect(new Set(seen.map(({ variables: { MASTER_PORT } }) => MASTER_PORT)).size).toBe(1)
    expect(others).toEqual(["out-rank-1"])
    expect(existsSync(join(folder, "out-rank-1"))).toBe(false)
    expect(seen.map(({ work }) => [work!.job.output, work!.job.sidecar])).toEqual([
      [join(folder, "out"), "side"],
      [join(folder, "out-rank-1"), null]
    ])
    // Progress comes from the first rank; other ranks' output is prefixed with their number.
    expect(told).toEqual(["at work", "a line\nanother", "[rank 1] a line\n[rank 1] another"])
  })
  it("ends with the error of the rank that failed, even if those that lost it reported first, and kills all", async () => {
    const { seen, work } = gangOf(
      () => Effect.fail(lost("Rank 0 of 2 lost the others")),
      () => after(100, Effect.fail(crash("was killed")))
    )
    expect(await Effect.runPromise(Effect.flip(work))).toMatchObject({ reason: "Crash", message: "Rank 1 of 2: was killed" })
    expect(seen.every(({ killed }) => killed > 0)).toBe(true)
  })
  it("ends with the error of a rank that lost another, if there is no other error", async () => {
    const { work } = gangOf(
      () => Effect.never,
      () => Effect.fail(lost("Rank 1 of 2 lost the others"))
    )
    expect((await Effect.runPromise(Effect.flip(work))).message).toBe("Rank 1 of 2 lost the others")
  })
  it("ends with the last output of a rank whose wait timed out", async () => {
    const words = "Rank 0 of 2 waited 5 s for the others in operation 2, a sum. Rank 1 is idle."
    const { work } = gangOf(
      () => Effect.fail(crash(`The process exited with code 75. Its last output:\nline\n${words}`)),
      () => Effect.never
    )
    expect((await Effect.runPromise(Effect.flip(work))).message).toBe(words)
  })
  it("waits for the error of the rank that another lost, and otherwise ends with the loss", async () => {
    const words = "Rank 0 of 2 lost the others in operation 2, a sum: the connection was closed. Rank 1 is idle."
    const losing = () => Effect.fail(crash(`The process exited with code 75. Its last output:\n${words}\n`))
    const { work } = gangOf(losing, () => after(200, Effect.fail(crash("boom"))))
    expect((await Effect.runPromise(Effect.flip(work))).message).toBe("Rank 1 of 2: boom")
    const alone = gangOf(losing, () => Effect.never)
    expect(await Effect.runPromise(Effect.flip(alone.work))).toMatchObject({ reason: "RankError", message: words })
  })
  it("leaves no rank alive when it is interrupted", async () => {
    const { seen, work } = gangOf(
      () => Effect.never,
      () => Effect.never
    )
    const fiber = Effect.runFork(work)
    while (seen.some(({ work }) => work === undefined) || seen.length < 2) await new Promise((resolve) => setTimeout(resolve, 5))
    await Effect.runPromise(Fiber.interrupt(fiber))
    expect(seen.every(({ killed }) => killed > 0)).toBe(true)
  })
  it("on several machines is Slurm's to start", async () => {
    const { on, seen } = gangOf(() => done)
    expect((await Effect.runPromise(Effect.flip(on(2)))).message).toMatch(
      /is placed on 2 machines .*starts its ranks on one\. Run it with --on slurm/
    )
    expect(seen).toEqual([])
  })
  it("whose ranks are on several machines names the machine of each rank that it mentions", async () => {
    const words = "Rank 0 of 2 waited 5 s for the others in operation 2, a sum. Rank 1 is in none."
    const members = [Effect.fail(crash(`Its last output:\n${words}`)), Effect.never].map((ends) => ({
      execute: () => ends,
      kill: () => Promise.resolve()
    }))
    const job = { ranks: { size: 2, sharding: "weights", seconds: 5, nodes: 2 }, output: join(folder, "out") }
    const work = { stage: spreading.stage, job } as unknown as Work
    const error = await Effect.runPromise(Effect.flip(together(members, work, (rank) => `n${rank + 1}`)))
    expect(error.message).toBe("Rank 0 of 2 on n1 waited 5 s for the others in operation 2, a sum. Rank 1 on n2 is in none.")
  })
})
