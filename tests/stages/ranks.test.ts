/** Training stages on two and four ranks (Gloo, real processes) compared with one process; ranks that fail, die or hang; and resuming after that. The same with NCCL where there are GPUs; if there is one, all ranks use it (../engine/ranks/shared-gpu.ts). */
import { cpSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { beforeAll, describe, expect, it } from "vitest"
import { readRows } from "../../data/dataset.ts"
import { buildRanks } from "../../engine/ranks/build.mjs"
import type { Progress } from "../../runtime/define/stage.ts"
import { Texts } from "../../schemas/rows.ts"
import { devices } from "../engine/ranks/devices.ts"
import { bfloat16, ranks as tolerance, ranksInBfloat16 } from "../tolerances.ts"
import { misbehaving } from "./misbehaving.ts"
import { apart, failure, type How, newFolder, type Ran, run, running, weightsIn } from "./ranked.ts"
import { type Resumable, resumables } from "./resumable.ts"

beforeAll(() => void buildRanks(), 300_000)
const cases = await resumables()
const named = (name: string): Resumable => cases.find((one) => one.name === name)!

/** Limits in bfloat16. On a GPU the optimiser updates parts by another kernel; rounding enlarges such differences, to .013 between micro-batch sizes of one process. */
const narrow = { cpu: ranksInBfloat16, cuda: bfloat16 }

/** The largest difference of all reported numbers and of the results. */
const farthest = (many: Ran, alone: Ran): number =>
  many.curve.length === alone.curve.length && alone.curve.length > 1
    ? Math.max(...many.curve.map((row, i) => apart(alone.curve[i]!, row)), apart(alone.metrics, many.metrics))
    : NaN

for (const { device, most, skip } of devices)
  describe.skipIf(skip)(`on ${device}`, () => {
    it.each(["sft", "safety-reward-model", "dpo", "ppo with held-out prompts"])(
      "%s trains to one process's losses, for any sharding and number of ranks",
      { timeout: 120_000 },
      async (name) => {
        const one = named(name)
        // Ranks sample and read other batches than one process does. Row by row, the batches do not matter.
        const how = { device, ...(name.startsWith("ppo") ? { config: { inferenceBatchSize: 1 } } : {}) }
        const alone = await run(one, how)
        const weights = await weightsIn(alone.output)
        const whole = await run(one, { ...how, ranks: 2, sharding: "none" })
        // The sum of two gradients does not depend on their order: on the CPU the bits are the same.
        const [bits, moved] = device === "cpu" ? [0, 0] : [tolerance, tolerance]
        expect(farthest(whole, alone)).toBeLessThanOrEqual(bits)
        expect(apart(await weightsIn(whole.output), weights)).toBeLessThanOrEqual(moved)
        for (const ranks of [2, 4].filter((size) => size <= most))
          expect(farthest(await run(one, { ...how, ranks }), alone)).toBeLessThanOrEqual(tolerance)
      }
    )
  })

/** Cases for which CI has no time: `npm run test:faults`. */
const dear = <A>(...cases: ReadonlyArray<A>): ReadonlyArray<A> => (process.env.FAULTS === "all" ? cases : [])

for (const { device, most, skip } of devices)
  describe.skipIf(skip)(`on ${device}, with other settings,`, () => {
    it.each<readonly [name: string, how: How]>([
      ["pretrain with held-out texts", { ranks: 2, sharding: "optimizer", config: { recompute: "all" } }],
      ["sft in bfloat16", { ranks: 2 }],
      ...dear<readonly [string, How]>(
        ["sft by LoRA", { ranks: 2, config: { steps: 2 } }],
        ["grpo by LoRA", { ranks: 2 }],
        // At the case's own rate, .1, rounding grows to 5e-4, without ranks too (microBatchPairs 2).
        ["helpfulness-reward-model with held-out pairs", { ranks: 3, config: { precision: "float32", learningRate: 1e-3 } }]
      )
    ])("%s does so too, sharded as %o", { timeout: 120_000 }, async (name, how) => {
      const { config = {}, ranks = 2 } = how
      const many = await run(named(name), { ...how, device, ranks: Math.min(ranks, most) })
      const allowed = name.includes("bfloat16") ? narrow[device] : tolerance
      expect(farthest(many, await run(named(name), { device, config }))).toBeLessThanOrEqual(allowed)
    })

    it("one rank of a group computes the same bits as a process without one", async () => {
      const one = named("sft")
      const [alone, single] = [await run(one, { device }), await run(one, { device, ranks: 1 })]
      expect(single.curve).toEqual(alone.curve)
      expect(await weightsIn(single.output)).toEqual(await weightsIn(alone.output))
    })
  })

/** The files that a stage put out, by name. */
const filesIn = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name)).toString("base64")]))
/** Stages whose batches are dealt out; on GPUs both ranks have the same kind. */
const dealtOut = ["sample", "collect-pairs", "score-combined"]
const dearlyDealt = dear(
  ...["sample in bfloat16", "sample-at-temperature", "ghost-sample", "evaluate-ghost-attention", "score", "score in bfloat16", "policy-kl"],
  ...["score-pairs", "safety-recall", "classify-prompts", "classify-completions", "evaluate-classifier"]
)
for (const { device, most, skip } of devices)
  describe.skipIf(skip)(`sampling and scoring on ${device}`, () => {
    it.each([...dealtOut, ...dearlyDealt])("%s gives the bytes of one process, however many ranks", { timeout: 120_000 }, async (name) => {
      const one = named(name)
      const alone = await run(one, { device })
      for (const ranks of [2, 3].filter((size) => size <= most)) {
        const many = await run(one, { device, ranks })
        expect(filesIn(many.output)).toEqual(filesIn(alone.output))
        expect(many.metrics).toEqual(alone.metrics)
      }
    })
  })

for (const { device, most, skip } of devices)
  describe.skipIf(skip)(`sampling on ${device} with a killed rank`, () => {
    it("continues from the saved batches, with the number of ranks that there are then", { timeout: 120_000 }, async () => {
      const one = named("sample")
      const config = { batchSize: 2 }
      const alone = await run(one, { device, config })
      const checkpoints = newFolder()
      // In the second round of four: the first is kept.
      const kill = () => process.kill(processOf(1), "SIGKILL")
      const error = await failure(one, {
        device,
        ranks: 2,
        checkpoints,
        config,
        onProgress: ({ step }) => (step === 6 ? kill() : undefined)
      })
      expect(error.message).toMatch(/^Rank 1 of 2: The process of stage sample was killed/)
      const resumed = await run(one, { device, ranks: Math.min(3, most), checkpoints, config })
      expect(resumed.notes).toContainEqual(expect.stringMatching(/^resumes after \d batches/))
      expect(filesIn(resumed.output)).toEqual(filesIn(alone.output))
    })
  })

/** The process of a rank that this process's child is. */
const processOf = (rank: number): number => {
  const found = readdirSync("/proc").find((name) => {
    try {
      const status = /^\d+$/.test(name) ? readFileSync(`/proc/${name}/status`, "utf8") : ""
      return (
        new RegExp(`^PPid:\\s+${process.pid}$`, "m").test(status) &&
        readFileSync(`/proc/${name}/environ`, "utf8").split("\0").includes(`RANK=${rank}`)
      )
    } catch {
      return false
    }
  })
  if (found === undefined) throw new Error(`no process is rank ${rank}`)
  return Number(found)
}
const atStep = (step: number, body: () => void) => (progress: Progress) =>
  progress.step === step && progress.loss !== undefined ? body() : undefined
const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

for (const { device, skip } of devices)
  describe.skipIf(skip)(`a rank on ${device} that is killed`, () => {
    it.each([
      ["ppo in bfloat16", 2],
      ["helpfulness-reward-model with held-out pairs", 3],
      ...dear<readonly [string, number]>(["sft", 3], ["grpo in bfloat16", 2])
    ] as const)(
      "stops the others with a message that names it; the saved state resumes to the same result: %s",
      { timeout: 120_000 },
      async (name, step) => {
        const one = named(name)
        const whole = await run(one, { device, ranks: 2 })
        const folder = newFolder()
        let others: ReadonlyArray<number> = []
        const error = await failure(one, {
          device,
          ranks: 2,
          checkpoints: folder,
          onProgress: atStep(step, () => {
            others = [processOf(0), processOf(1)]
            process.kill(processOf(1), "SIGKILL")
          })
        })
        expect(error).toMatchObject({ reason: "Crash", isRetryable: true })
        expect(error.message).toMatch(/^Rank 1 of 2: The process of stage \S+ was killed/)
        expect(others.map(isAlive)).toEqual([false, false])

        const copy = newFolder()
        cpSync(folder, copy, { recursive: true })
        const resumed = await run(one, { device, ranks: 2, checkpoints: folder })
        const resumes = expect.stringMatching(/^resumes after (step|iteration) [0-3] of \d/)
        expect(resumed.notes).toContainEqual(resumes)
        expect(resumed.metrics).toEqual(whole.metrics)
        expect(await weightsIn(resumed.output)).toEqual(await weightsIn(whole.output))
        // One process reads the same files.
        expect((await run(one, { device, checkpoints: copy })).notes).toContainEqual(resumes)
      }
    )
  })

for (const { device, most, skip } of devices)
  describe.skipIf(skip)(`a run on ${device} that is stopped (Ctrl-C)`, () => {
    it.each(["float32", ...dear("bfloat16")])(
      "saves, and stops all ranks; state saved by two ranks can be resumed by one, and by four, and vice versa (%s)",
      { timeout: 180_000 },
      async (precision) => {
        const one = named("helpfulness-reward-model with held-out pairs")
        // So many steps that no rank has finished when it receives the signal.
        const config = { precision, learningRate: 1e-3, epochs: 20, patience: 0 }
        const alone = await run(one, { device, config })
        const saved = (folder: string) => Math.max(0, ...readdirSync(folder).map(Number))
        /** Stops it when it reports its first step, and expects that this step, at least, is saved. */
        const stop = async (ranks: number | undefined, folder: string) => {
          const before = saved(folder)
          let reached = () => {}
          const there = new Promise<void>((resolve) => (reached = resolve))
          // Due only when it is told to stop.
          const { work } = running(one, {
            device,
            ...(ranks === undefined ? {} : { ranks }),
            checkpoints: folder,
            every: 1e6,
            config,
            onProgress: ({ loss }) => (loss === undefined ? undefined : reached())
          })
          const fiber = Effect.runFork(work)
          await there
          const pids = ranks === undefined ? [] : Array.from({ length: ranks }, (_, rank) => processOf(rank))
          const since = performance.now()
          await Effect.runPromise(Fiber.interrupt(fiber))
          expect(performance.now() - since).toBeLessThan(10_000)
          expect(pids.some(isAlive)).toBe(false)
          expect(saved(folder)).toBeGreaterThan(before)
        }
        const folder = newFolder()
        for (const ranks of [2, undefined, Math.min(4, most)]) await stop(ranks, folder)
        const steps = saved(folder)
        const ended = await run(one, { device, ranks: 2, sharding: "none", checkpoints: folder, config })
        expect(ended.notes).toContain(`resumes after step ${steps} of 60, from a checkpoint`)
        expect(apart(alone.metrics, ended.metrics)).toBeLessThanOrEqual(precision === "float32" ? tolerance : narrow[device])
      }
    )
  })

for (const { device, skip } of devices)
  describe.skipIf(skip)(`a rank on ${device} that misbehaves`, () => {
    const stage: Resumable = { name: "misbehaving", stage: misbehaving, inputs: {}, config: {} }
    const ends = (how: string, which: number, seconds = 60) => failure(stage, { device, ranks: 2, seconds, config: { how, which } })

    it("would otherwise let all ranks succeed", async () => {
      const ref = await run(stage, { device, ranks: 2 })
      expect(await Effect.runPromise(readRows({ path: ref.output, type: Texts.name, digest: "", contentDigest: "" }, Texts))).toEqual([
        { text: "3 20" }
      ])
    })

    it.each<readonly [how: string, which: number, reason: string, message: RegExp]>([
      ["fails", 0, "Refused", /^Rank 0 of 2: not with me$/],
      ["dies", 1, "Crash", /^Rank 1 of 2: The process of stage misbehaving was killed/],
      ...dear<readonly [string, number, string, RegExp]>([
        "leaves",
        1,
        "Crash",
        /^Rank 1 of 2: The process of stage misbehaving exited with code 3\. Its last output:\nthis is rank 1$/
      ])
    ])("and %s stops all with its own error", async (how, which, reason, message) => {
      const error = await ends(how, which)
      expect(error.reason).toBe(reason)
      expect(error.message).toMatch(message)
    })

    it.each<readonly [how: string, which: number, message: RegExp]>([
      [
        "hangs",
        1,
        /^Rank 0 of 2 waited \d+ s for the others in operation 2, the second sum\..* Rank 1 has finished operation 1, the first sum, and is idle\./
      ],
      [
        "stops",
        0,
        /^Rank 1 of 2 waited \d+ s for the others in operation 2, the second sum\..* Rank 0 is in an unknown state: the process of rank 0, which keeps the states, does not answer/
      ],
      ...dear<readonly [string, number, RegExp]>([
        "stops",
        1,
        /^Rank 0 of 2 waited \d+ s for the others in operation 2, the second sum\..* Rank 1 .* in its last report: its process is stopped or has exited/
      ])
    ])("and %s (rank %i) is reported by the others after their timeout", { timeout: 60_000 }, async (how, which, message) => {
      expect((await ends(how, which, 1)).message).toMatch(message)
    })
  })
