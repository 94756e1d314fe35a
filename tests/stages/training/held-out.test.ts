/** The loss on held-out rows and early stopping: which rows, the loss, when training ends and with which weights. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { constantSchedule } from "../../../engine/schedule.ts"
import { liveTensors, type Tensor, tensor } from "../../../engine/tensor.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import { saveTokenizer } from "../../../models/tokenizer/files.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences, Texts } from "../../../schemas/rows.ts"
import { TokenizerModel } from "../../../schemas/tokenizer.ts"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { safetyClassifier } from "../../../stages/safety/classifier-training.ts"
import { helpfulnessRewardModel, safetyRewardModel } from "../../../stages/reward/reward-model.ts"
import { splitHeldOut } from "../../../stages/training/held-out.ts"
import { pretrain } from "../../../stages/training/pretrain.ts"
import { sft } from "../../../stages/training/sft.ts"
import { train, type TrainingBatch, trainingMetrics, type TrainingOptions } from "../../../stages/training/train.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

const split = (count: number, share: number, seed = 1) => Effect.runSync(splitHeldOut(count, share, seed))

describe("a patience without held-out rows", () => {
  it.each([sft, pretrain, helpfulnessRewardModel, safetyRewardModel, safetyClassifier].map(({ stage }) => [stage.name, stage] as const))(
    "is rejected by %s before anything runs: there would be nothing to stop on",
    async (_, { config }) => {
      const decoded = (fields: object) => Effect.runPromise(Effect.result(decodeConfig(config, fields, "The node")))
      expect(await decoded({ patience: 3 })).toMatchObject({
        failure: {
          message: expect.stringContaining(
            "patience: 3 has no effect with heldOut 0: hold out a share of the rows, for example heldOut 0.05"
          )
        }
      })
      expect(await decoded({ patience: 3, heldOut: 0.1 })).toMatchObject({ success: { patience: 3 } })
    }
  )
})

describe("the held-out rows", () => {
  it("are the given share, drawn by the seed; every row is on one side, in order", () => {
    const { heldOut, training } = split(1000, 0.1)
    expect([heldOut.length, training.length]).toEqual([100, 900])
    expect([...heldOut, ...training].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i))
    for (const rows of [heldOut, training]) expect([...rows]).toEqual([...rows].sort((a, b) => a - b))
    expect(split(1000, 0.1)).toEqual({ heldOut, training })
    expect(split(1000, 0.1, 2).heldOut).not.toEqual(heldOut)
    // In a uniform draw a tenth, 10 with deviation 3, is among the first hundred.
    expect(heldOut.filter((row) => row < 100).length).toBeGreaterThan(0)
    expect(heldOut.filter((row) => row < 100).length).toBeLessThan(25)
  })
  it("are none at share 0, at least one above, and never all", () => {
    expect([...split(5, 0).training]).toEqual([0, 1, 2, 3, 4])
    expect(split(5, 0).heldOut).toHaveLength(0)
    expect(split(5, 0.01).heldOut).toHaveLength(1)
    expect(Effect.runSync(Effect.flip(splitHeldOut(1, 0.5, 1))).message).toBe(
      "Nothing to train on when 1 is held out: got 1 rows. Use more rows, or hold out a smaller share (heldOut)."
    )
  })
})

/** (w - target)^2, `count` times in parts of `size`. */
const towards = (weight: Tensor, target: number, count = 1, size = 1): TrainingBatch => ({
  count,
  tokens: count,
  parts: () =>
    Array.from({ length: Math.ceil(count / size) }, (_, i) => () => {
      const copies = Math.min(size, count - i * size)
      return weight.sub(target).square().mul(copies).sum()
    })
})
/** Trains one weight from 0 towards 1, initially about 0.1 per step, with a held-out loss that is minimal at 0.35. */
const descend = async (steps: number, heldOut?: { readonly evaluateEvery: number; readonly patience: number; readonly parts?: number }) => {
  const weight = tensor([0], { dtype: "float64" }).requiresGrad()
  const told: Array<Progress> = []
  const options: TrainingOptions = {
    ...{
      parameters: { weight },
      fit: { microBatch: { rows: 1 }, recompute: 0 },
      steps,
      schedule: constantSchedule(0.1),
      maxNorm: 1e9,
      weightDecay: 0
    },
    batches: (function* () {
      for (;;) yield towards(weight, 1)
    })(),
    progress: (report) => Effect.sync(() => void told.push(report)),
    heldOut:
      heldOut === undefined ? undefined : { ...heldOut, batches: () => [towards(weight, 0.35, 6, heldOut.parts), towards(weight, 0.35)] }
  }
  const before = liveTensors()
  const result = await Effect.runPromise(train(options))
  expect(liveTensors() - before).toBeLessThanOrEqual(1) // the weight's gradient
  const evaluations = told.flatMap(({ step, heldOutLoss }) =>
    heldOutLoss === undefined ? [] : [{ step: step!, loss: heldOutLoss as number }]
  )
  return { weight: weight.item(), result, evaluations, notes: told.flatMap(({ note }) => note ?? []) }
}

describe("training with held-out rows", () => {
  it("stops after `patience` evaluations without a lower loss, with the weights of the lowest", async () => {
    // Adam's steps of 0.1: w is about 0, 0.1, 0.2, 0.3, 0.4, 0.5 .. and nearest to 0.35 after 3 or 4 steps.
    const path = [0]
    for (let steps = 1; steps < 8; steps++) path.push((await descend(steps)).weight)
    const losses = path.map((w) => (w - 0.35) ** 2)
    const lowest = losses.indexOf(Math.min(...losses))
    expect([3, 4]).toContain(lowest)
    const stopped = await descend(20, { evaluateEvery: 1, patience: 3 })
    expect(stopped.result.losses).toHaveLength(lowest + 3)
    expect(stopped.weight).toBe(path[lowest])
    expect(stopped.evaluations.map(({ step }) => step)).toEqual(Array.from({ length: lowest + 4 }, (_, i) => i))
    for (const { step, loss } of stopped.evaluations) expect(loss).toBeCloseTo(losses[step]!, 12)
    expect(stopped.notes).toEqual([`stops after step ${lowest + 3} of 20: the held-out loss no longer falls`])
    expect(trainingMetrics(stopped.result)).toMatchObject({
      steps: lowest + 3,
      keptStep: lowest,
      heldOutLoss: expect.closeTo(losses[lowest]!, 12)
    })
  })
  it("evaluates before the first step, at intervals, and after the last; keeps the best of these", async () => {
    const { evaluations, result, weight, notes } = await descend(7, { evaluateEvery: 3, patience: 9 })
    expect(evaluations.map(({ step }) => step)).toEqual([0, 3, 6, 7])
    expect(result.kept).toEqual(evaluations[1])
    expect(weight).toBe((await descend(3)).weight)
    expect(result.losses).toHaveLength(7)
    expect(notes).toEqual([])
  })
  it("keeps the last weights if the loss is lowest there", async () => {
    const { result, weight } = await descend(3, { evaluateEvery: 1, patience: 1 })
    expect([result.kept!.step, weight]).toEqual([3, (await descend(3)).weight])
  })
  it("without a patience reports the loss and changes nothing: it never stops, and keeps the last weights", async () => {
    const plain = await descend(12)
    const { result, weight, evaluations } = await descend(12, { evaluateEvery: 2, patience: 0 })
    expect([weight, result.losses]).toEqual([plain.weight, plain.result.losses])
    expect(evaluations.map(({ step }) => step)).toEqual([0, 2, 4, 6, 8, 10, 12])
    expect(result.kept).toEqual(evaluations.at(-1))
  })
  it("measures the mean over all held-out rows, however they are split into batches and parts", async () => {
    const { evaluations } = await descend(5, { evaluateEvery: 1, patience: 0, parts: 1 })
    for (const parts of [2, 4, 6])
      (await descend(5, { evaluateEvery: 1, patience: 0, parts })).evaluations.forEach(({ loss }, i) =>
        expect(loss).toBeCloseTo(evaluations[i]!.loss, 12)
      )
    // Of 7 equal rows: the loss of one.
    expect(evaluations[0]!.loss).toBeCloseTo(0.35 ** 2, 12)
  })
})

describe("fine-tuning with held-out demonstrations", () => {
  const demonstrations = ["ab", "ba ab", "abab b", "b", "a ba", "aab", "bb a"].map((text, i): Demonstration => ({
    id: `${i}`,
    messages: [
      { role: "user", content: text },
      { role: "assistant", content: "ba ".repeat(i + 1).trim() }
    ],
    loss: "answers"
  }))
  // A constant rate, so that fewer steps are a prefix of more.
  const usual = {
    learningRate: 0.03,
    finalLearningRate: 1,
    batchSize: 2,
    microBatchSize: 1,
    sequenceLength: 60,
    heldOut: 0.3,
    evaluateEvery: 1
  }
  const tune = async (config: object) =>
    runStage(
      sft,
      { init: await talkingPolicy(1), demonstrations: await rowsArtifact(Demonstrations, demonstrations) },
      { ...usual, ...config }
    )

  it("stops when the loss no longer falls, and returns the policy where it was lowest", async () => {
    const stopped = await tune({ steps: 40, patience: 3 })
    const { keptStep, steps, heldOutLoss } = stopped.metrics as Readonly<Record<"keptStep" | "steps" | "heldOutLoss", number>>
    expect(keptStep).toBeGreaterThan(0)
    expect([steps, steps < 40]).toEqual([keptStep + 3, true])
    const shorter = await tune({ steps: keptStep })
    expect([shorter.digest, shorter.metrics.heldOutLoss]).toEqual([stopped.digest, heldOutLoss])
    // Evaluated only every third step, it is another.
    expect((await tune({ steps: 40, patience: 3, evaluateEvery: 3 })).metrics.steps! % 3).toBe(0)
  })
})

describe("without learning, the held-out loss of", () => {
  const still = { learningRate: 0, epochs: 1, evaluateEvery: 1 }
  interface Row {
    readonly demonstration: Demonstration
    readonly pair: Preference
    readonly text: { readonly text: string }
  }
  const rowOf = (text: string, i: number): Row => ({
    demonstration: {
      id: `${i}`,
      messages: [
        { role: "user", content: text },
        { role: "assistant", content: `${text} so` }
      ],
      loss: "answers"
    },
    pair: {
      ...{ id: `${i}`, prompt: [{ role: "user", content: text }], chosen: `${text} a`, rejected: `b ${text}` },
      ...{ rating: i, chosenSafe: true, rejectedSafe: i === 1, source: "test" }
    },
    text: { text: `${text} `.repeat(20) }
  })
  const [one, two] = [rowOf("ab", 0), rowOf("b ba a", 1)]
  type Train = (rows: ReadonlyArray<Row>, config: object) => Promise<Readonly<Record<string, number>>>
  const stages: Readonly<Record<string, Train>> = {
    sft: async (rows, config) => {
      const demonstrations = await rowsArtifact(
        Demonstrations,
        rows.map((row) => row.demonstration)
      )
      return (await runStage(sft, { init: await talkingPolicy(1), demonstrations }, { ...still, sequenceLength: 60, ...config })).metrics
    },
    "a reward model": async (rows, config) => {
      const pairs = await rowsArtifact(
        Preferences,
        rows.map((row) => row.pair)
      )
      return (await runStage(helpfulnessRewardModel, { init: await talkingPolicy(1), pairs }, { ...still, ...config })).metrics
    },
    "a safety reward model, its auxiliary loss included,": async (rows, config) => {
      const pairs = await rowsArtifact(
        Preferences,
        rows.map((row) => row.pair)
      )
      return (await runStage(safetyRewardModel, { init: await talkingPolicy(1), pairs }, { ...still, ...config })).metrics
    },
    pretraining: async (rows, config) => {
      const inputs = {
        tokenizer: await artifact(TokenizerModel, (slot) => saveTokenizer(slot, tokenizer)),
        texts: await rowsArtifact(
          Texts,
          rows.map((row) => row.text)
        )
      }
      const shape = { dim: 16, layers: 1, heads: 2, kvHeads: 2, ffn: 24, contextLength: 32, sequenceLength: 16, steps: 1, batchSize: 9 }
      const { epochs: _, ...others } = still
      return (await runStage(pretrain, inputs, { ...shape, ...others, ...config })).metrics
    }
  }
  it.each(Object.keys(stages))("%s is the loss of the held-out row, and the other row is trained on", async (name) => {
    const run = stages[name]!
    const alone = await Promise.all([one, two].map(async (row) => (await run([row], {})).firstLoss!))
    expect(Math.abs(alone[0]! - alone[1]!)).toBeGreaterThan(1e-3)
    const [held, trained] = split(2, 0.5).heldOut[0] === 0 ? alone : alone.toReversed()
    const { heldOutLoss, firstLoss, keptStep } = await run([one, two], { heldOut: 0.5 })
    expect(Math.abs(heldOutLoss! - held!)).toBeLessThanOrEqual(sameInFloat32)
    expect(Math.abs(firstLoss! - trained!)).toBeLessThanOrEqual(sameInFloat32)
    expect(keptStep).toBe(1)
    // Nothing held out: no such metric, and both are trained on.
    expect(await run([one, two], {})).not.toHaveProperty("heldOutLoss")
  })
  it("pretraining needs texts that fill a sequence", async () => {
    const inputs = {
      tokenizer: await artifact(TokenizerModel, (slot) => saveTokenizer(slot, tokenizer)),
      texts: await rowsArtifact(Texts, split(2, 0.5).heldOut[0] === 0 ? [{ text: "a" }, one.text] : [one.text, { text: "a" }])
    }
    const shape = { dim: 16, layers: 1, heads: 2, kvHeads: 2, ffn: 24, contextLength: 32, sequenceLength: 16, steps: 1 }
    expect(await failureOf(pretrain, inputs, { ...shape, heldOut: 0.5 })).toContain(
      "Nothing to measure the held-out loss on: got 1 texts that do not fill one sequence of 17 tokens"
    )
  })
})
