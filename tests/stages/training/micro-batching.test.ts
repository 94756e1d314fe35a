/** How batches are cut, and what happens when memory runs out: libtorch is asked for more than any machine has. */
import * as Effect from "effect/Effect"
import { afterEach, describe, expect, it } from "vitest"
import { isOutOfMemory } from "../../../engine/device.ts"
import { constantSchedule } from "../../../engine/schedule.ts"
import { type Device, liveTensors, scoped, type Tensor, tensor, TensorError, zeros } from "../../../engine/tensor.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import { MicroBatching, microBatches, OutOfMemoryError } from "../../../stages/training/micro-batches.ts"
import { train, type TrainingBatch, trainingMetrics } from "../../../stages/training/train.ts"
import { devices } from "../../devices.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

/** More than any machine has: 2^48 numbers. */
const allocateTooMuch = (device: Device) => scoped(() => zeros([2 ** 48], { device }))
const thrown = (body: () => unknown): unknown => {
  try {
    body()
  } catch (cause) {
    return cause
  }
  return undefined
}

describe("micro-batches", () => {
  const rows = [3, 3, 4, 5, 9, 9]
  const cut = (microBatch: Parameters<typeof microBatches>[1]) => microBatches(rows, microBatch, (row) => row)
  it("have a given number of rows", () => {
    expect(cut({ rows: 4 })).toEqual([
      [3, 3, 4, 5],
      [9, 9]
    ])
  })
  it("have a given number of tokens with all rows padded to the longest, and at least one row", () => {
    expect(cut({ tokens: 12 })).toEqual([[3, 3, 4], [5], [9], [9]])
    expect(cut({ tokens: 18 })).toEqual([[3, 3, 4], [5, 9], [9]])
    expect(cut({ tokens: 1 })).toEqual(rows.map((row) => [row]))
    expect(cut({ tokens: 1000 })).toEqual([rows])
    expect(microBatches([], { tokens: 5 }, () => 1)).toEqual([])
  })
})

describe("a libtorch error", () => {
  it("about a failed allocation is distinguished from others", () => {
    const error = thrown(() => allocateTooMuch("cpu"))
    expect(error).toMatchObject({
      code: "OUT_OF_MEMORY",
      message: expect.stringContaining("DefaultCPUAllocator: can't allocate memory") as string
    })
    expect(isOutOfMemory(error)).toBe(true)
    const other = thrown(() => scoped(() => zeros([2]).add(zeros([3]))))
    expect(other).toBeInstanceOf(TensorError)
    expect(isOutOfMemory(other)).toBe(false)
    expect(isOutOfMemory(new Error("can't allocate memory"))).toBe(false)
  })
})

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`training on ${device} whose memory does not hold a micro-batch`, () => {
    /** Maximum rows that fit in the memory. */
    let most = Infinity
    afterEach(() => (most = Infinity))
    /** Least squares of w x = 2 x; there are already gradients when the second half of the batch runs out of memory. */
    const batchOf = (weight: Tensor, xs: ReadonlyArray<number>): TrainingBatch => ({
      count: xs.length,
      tokens: xs.length,
      parts: (microBatch) =>
        microBatches(xs, microBatch, () => 1).map((part, i) => () => {
          // Its gradient has that size.
          if (part.length > most && i === 1)
            return weight
              .expand(2 ** 47)
              .indexSelect(0, tensor([0], { dtype: "int64", device }))
              .sum()
          const x = tensor(part, { dtype: "float64", device })
          return x.mul(weight).sub(x.mul(2)).square().sum()
        })
    })
    const run = async (rows: number, maxInStep: (step: number) => number = () => Infinity, recorded?: Readonly<Record<string, number>>) => {
      const weight = tensor([0.5], { dtype: "float64", device }).requiresGrad()
      const told: Array<Progress> = []
      const batches = (function* () {
        for (let step = 1; ; step++) {
          most = maxInStep(step)
          yield batchOf(
            weight,
            Array.from({ length: 16 }, (_, i) => Math.sin(step * 16 + i))
          )
        }
      })()
      const before = liveTensors()
      const exit = await Effect.runPromiseExit(
        train({
          ...{ parameters: { weight }, batches, steps: 6, schedule: constantSchedule(0.1), maxNorm: 1, weightDecay: 0, recorded },
          fit: { microBatch: { rows }, recompute: 0 },
          progress: (report) => Effect.sync(() => void told.push(report))
        })
      )
      // The weight's gradient at the failure.
      expect(liveTensors() - before).toBeLessThanOrEqual(1)
      return { exit, weight: weight.item(), notes: told.flatMap(({ note }) => note ?? []) }
    }
    const succeeded = async (...given: Parameters<typeof run>) => {
      const { exit, ...rest } = await run(...given)
      if (exit._tag === "Failure") throw new Error(String(exit.cause))
      return { ...rest, result: exit.value, metrics: trainingMetrics(exit.value) }
    }

    it("repeats the step with half of it, and uses half from then on; the result is the same except for rounding", async () => {
      const plenty = await succeeded(8)
      const scarce = await succeeded(8, (step) => (step < 3 ? Infinity : 4))
      expect(scarce.result.losses).toHaveLength(6)
      expect(largestDifference(scarce.result.losses, plenty.result.losses)).toBeLessThanOrEqual(float64)
      expect(largestDifference(scarce.result.gradientNorms, plenty.result.gradientNorms)).toBeLessThanOrEqual(float64)
      expect(Math.abs(scarce.weight - plenty.weight)).toBeLessThanOrEqual(float64)
      expect(scarce.metrics).toMatchObject({ microBatchHalvedInStep1: 3 })
      expect(plenty.metrics).not.toHaveProperty("microBatchHalvedInStep1")
      expect(scarce.notes).toEqual([
        expect.stringMatching(
          /^out of memory in step 3: this step is repeated, and training continues, with micro-batches of 4 rows instead of 8 rows \(/
        )
      ])
    })

    it("halves again if half is still too much", async () => {
      const { metrics, notes } = await succeeded(8, (step) => (step < 5 ? 4 : 1))
      expect(metrics).toMatchObject({ microBatchHalvedInStep1: 1, microBatchHalvedInStep2: 5, microBatchHalvedInStep3: 5 })
      expect(notes).toHaveLength(3)
    })

    it("does not try sizes that a step does not fill", async () => {
      // 16 rows are one micro-batch, with a limit of 64 or of 32.
      const microBatching = new MicroBatching({ rows: 64 })
      const tried: Array<unknown> = []
      microBatching.step(
        1,
        [],
        (microBatch) => microBatches(Array<number>(16).fill(1), microBatch, () => 1).length,
        (microBatch) => {
          tried.push(microBatch)
          if (tried.length === 1) allocateTooMuch(device)
        }
      )
      expect(tried).toEqual([{ rows: 64 }, { rows: 8 }])
      expect(microBatching.halved).toEqual([1, 1, 1])
    })

    it("resumes from a checkpoint with the reduced micro-batch", () => {
      const microBatching = new MicroBatching({ tokens: 100 })
      microBatching.resume([2, 5])
      expect(microBatching.microBatch).toEqual({ tokens: 25 })
      expect(microBatching.metrics).toEqual({ microBatchHalvedInStep1: 2, microBatchHalvedInStep2: 5 })
    })

    it("is repeated bit for bit from the recorded metrics, on a machine with enough memory", async () => {
      const scarce = await succeeded(8, (step) => (step < 3 ? Infinity : 2))
      const again = await succeeded(8, undefined, scarce.metrics)
      expect(again.weight).toBe(scarce.weight)
      expect(again.result.losses).toEqual(scarce.result.losses)
      expect(again.metrics).toEqual(scarce.metrics)
      expect(again.notes).toEqual([])
    })

    it("fails with one row at a time, and says what would help", async () => {
      const { exit } = await run(8, () => 0)
      expect(exit).toMatchObject({ _tag: "Failure" })
      const error = await Effect.runPromise(Effect.flip(exit))
      expect(error).toBeInstanceOf(OutOfMemoryError)
      expect(error.message).toMatch(
        /^Computing step 1, one row at a time: expected enough memory, found .*\. Use LoRA \(loraRank\), shorter sequences/
      )
    })

    it("does not affect other errors: those are rethrown", () => {
      const microBatching = new MicroBatching({ rows: 8 })
      const broken = () =>
        microBatching.step(
          1,
          [],
          () => 2,
          () => scoped(() => zeros([2]).add(zeros([3])))
        )
      expect(broken).toThrow(/size/)
      expect(microBatching.halved).toEqual([])
    })
  })
}
