/** The loop of training stages. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { cosineSchedule } from "../../../engine/schedule.ts"
import { liveTensors, type Tensor, tensor } from "../../../engine/tensor.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import { microBatches } from "../../../stages/training/micro-batches.ts"
import { stepsFor, train, type TrainingBatch, trainingMetrics } from "../../../stages/training/train.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

/** Least squares of w x = y, in float64. */
const fit = (parameter: Tensor, xs: ReadonlyArray<number>): TrainingBatch => ({
  count: xs.length,
  tokens: xs.length,
  parts: (microBatch) =>
    microBatches(xs, microBatch, () => 1).map((part) => () => {
      const x = tensor(part, { dtype: "float64" })
      return x.mul(parameter).sub(x.mul(2)).square().sum()
    })
})
const parameter = () => tensor([0.5], { dtype: "float64" }).requiresGrad()
const options = (weight: Tensor, batches: Iterable<TrainingBatch>, steps: number, rows = 1) => ({
  ...{ parameters: { weight }, fit: { microBatch: { rows }, recompute: 0 } },
  batches,
  steps,
  schedule: cosineSchedule({ peak: 0.1, steps }),
  maxNorm: 1,
  weightDecay: 0,
  progress: () => Effect.void
})

describe("training", () => {
  it("does not depend on how batches are split into parts", async () => {
    const losses = async (size: number) => {
      const weight = parameter()
      const batches = Array.from({ length: 5 }, (_, i) => fit(weight, [1, -2, 0.5 + i, 3, 0.25]))
      const result = await Effect.runPromise(train(options(weight, batches, 5, size)))
      return [...result.losses, ...result.gradientNorms, ...weight.toNumbers()]
    }
    const whole = await losses(5)
    // Mean over 5 of (0.5 x - 2 x)^2 = 2.25 (1 + 4 + 0.25 + 9 + 0.0625) / 5
    expect(whole[0]).toBeCloseTo((2.25 * 14.3125) / 5, 12)
    for (const size of [1, 2, 3]) expect(largestDifference(await losses(size), whole)).toBeLessThanOrEqual(float64)
  })
  it("reports each step's loss, rate and gradient norm during training, and reads no more batches than steps", async () => {
    const weight = parameter()
    const told: Array<Progress> = []
    let taken = 0
    const batches = (function* () {
      for (;;) {
        taken++
        yield fit(weight, [1])
      }
    })()
    const progress = (step: Progress) => Effect.sync(() => void told.push(step))
    const result = await Effect.runPromise(train({ ...options(weight, batches, 3), progress }))
    expect(told.map(({ step, total, loss }) => [step, total, loss])).toEqual(result.losses.map((loss, i) => [i + 1, 3, loss]))
    expect(told.map(({ gradientNorm }) => gradientNorm)).toEqual(result.gradientNorms)
    expect(told[0]!.learningRate).toBe(0.1)
    expect(result.losses).toHaveLength(3)
    expect(result.losses[2]).toBeLessThan(result.losses[0]!)
    expect(taken).toBeLessThanOrEqual(4)
  })
  it.each([NaN, Infinity])("stops at a loss of %s, reports the step, and leaves the weights as they were before it", async (bad) => {
    const weight = parameter()
    const before = liveTensors()
    const broken: TrainingBatch = { count: 1, tokens: 1, parts: () => [() => weight.sum().mul(bad)] }
    const told: Array<Progress> = []
    const progress = (report: Progress) => Effect.sync(() => void told.push(report))
    const error = await Effect.runPromise(Effect.flip(train({ ...options(weight, [fit(weight, [1]), broken], 9), progress })))
    expect(error).toMatchObject({ _tag: "DivergedError", step: 1 })
    expect(error.message).toContain("Training diverged at step 2 of 9")
    expect(error.message).toContain("the last finite loss was 2.25") // (0.5 - 2)^2
    // The diverged step is the end of its curve.
    expect(told.map(({ step, loss }) => [step, Number.isFinite(loss)])).toEqual([
      [1, true],
      [2, false]
    ])
    expect(Number.isFinite(weight.item())).toBe(true)
    expect(liveTensors()).toBe(before)
  })
})

describe("the number of steps", () => {
  it.each([
    ["§3.1: two passes over 27540 demonstrations in batches of 64", 27540, 64, 2, 862], // 430.3 -> 431 batches an epoch
    ["§3.2.2: one pass over pairs in batches of 512", 160_800, 512, 1, 315], // 314.06
    ["a whole number of batches", 128, 64, 1, 2],
    ["half a pass", 640, 64, 0.5, 5],
    ["fewer examples than a batch", 3, 64, 1, 1],
    ["zero passes still take one step", 64, 64, 0, 1]
  ])("%s", (_, examples, batchSize, epochs, wanted) => {
    expect(stepsFor(examples, batchSize, epochs)).toBe(wanted)
  })
})

describe("the metrics of training", () => {
  it("are the first and last loss and the mean of the last tenth", () => {
    const losses = Array.from({ length: 20 }, (_, i) => 20 - i)
    expect(trainingMetrics({ losses, gradientNorms: [], fitted: {} })).toEqual({
      steps: 20,
      firstLoss: 20,
      lastLoss: 1,
      meanOfLastTenthLoss: 1.5
    })
  })
})
