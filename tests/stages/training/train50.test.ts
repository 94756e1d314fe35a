/**
 * Fifty steps of fine-tuning and of the reward model compared with plain PyTorch (tests/peers/train_reference.py), and twenty of fine-tuning with LoRA compared with PEFT
 * (tests/peers/lora_reference.py), step by step, from the same weights on the same batches.
 */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { cosineSchedule } from "../../../engine/schedule.ts"
import { type Device, noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadAdapter } from "../../../models/adapter-files.ts"
import type { Llama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { loadLlama } from "../../../models/weights.ts"
import { margins, type TokenisedPair } from "../../../stages/reward/pairs.ts"
import { pairLoss } from "../../../stages/reward/reward-model.ts"
import { packedBatches } from "../../../stages/training/sft.ts"
import { chunks, languageModelLoss } from "../../../stages/common/sequences.ts"
import { train, type TrainingBatch } from "../../../stages/training/train.ts"
import { microBatches } from "../../../stages/training/micro-batches.ts"
import { devices } from "../../devices.ts"
import { largestDifference } from "../../models/small.ts"
import { fiftySteps, hundredNorms } from "../../tolerances.ts"

interface Losses {
  readonly peak: number
  readonly warmup: number
  readonly losses: ReadonlyArray<number>
  readonly gradientNorms: ReadonlyArray<number>
}
interface Reference {
  readonly sft: Losses & {
    readonly rowsABatch: number
    readonly rows: ReadonlyArray<Record<"tokens" | "lossMask" | "segments", ReadonlyArray<number>>>
  }
  readonly rewardModel: Losses & {
    readonly pairsABatch: number
    readonly head: ReadonlyArray<number>
    readonly pairs: ReadonlyArray<{
      readonly chosen: ReadonlyArray<number>
      readonly rejected: ReadonlyArray<number>
      readonly rating: number
    }>
  }
}
const golden = (path: string) => new URL(`../../golden/${path}`, import.meta.url).pathname
const { sft, rewardModel } = JSON.parse(readFileSync(golden("stages-train50/train50.json"), "utf8")) as Reference

const lora = JSON.parse(readFileSync(golden("lora-all-linear/sft20.json"), "utf8")) as Losses & {
  readonly mergedSumsOfSquares: Readonly<Record<string, number>>
}

const load = (device: Device) => Effect.runPromise(loadLlama(golden("llama-gqa/model"), { device }))

/** For fine-tuning: two parts per batch, where the references use the complete batch. */
const sftBatches = (model: Llama, device: Device) =>
  packedBatches(
    () =>
      sft.rows.map(({ tokens, lossMask, segments }) => ({
        tokens: Int32Array.from(tokens),
        lossMask: Uint8Array.from(lossMask),
        segments: Int32Array.from(segments)
      })),
    { batchSize: sft.rowsABatch },
    (part) => languageModelLoss(model, part, { device, isolate: true })
  )

const run = (
  parameters: Parameters<typeof train>[0]["parameters"],
  batches: Iterable<TrainingBatch>,
  rows: number,
  { losses: { length: steps }, peak, warmup }: Losses
) =>
  Effect.runPromise(
    train({
      ...{ parameters, batches, steps, fit: { microBatch: { rows }, recompute: 0 } },
      schedule: cosineSchedule({ peak, steps, warmup, finalFraction: 0.1 }),
      maxNorm: 1,
      weightDecay: 0.1,
      progress: () => Effect.void
    })
  )

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`fifty steps on ${device}`, () => {
    it("of fine-tuning on packed rows have PyTorch's losses", async () => {
      const model = await load(device)
      const result = await run(model.parameters, sftBatches(model, device), sft.rowsABatch / 2, sft)
      expect(largestDifference(result.losses, sft.losses)).toBeLessThanOrEqual(fiftySteps)
    })

    it("(twenty) of fine-tuning with LoRA have PEFT's losses, gradient norms and merged weights", async () => {
      const base = await load(device)
      const adapter = await Effect.runPromise(loadAdapter(golden("lora-all-linear/adapter"), base))
      const model = base.withAdapter(adapter)
      const result = await run(adapter.parameters, sftBatches(model, device), sft.rowsABatch / 2, lora)
      expect(largestDifference(result.losses, lora.losses)).toBeLessThanOrEqual(fiftySteps)
      const norms = result.gradientNorms.map((norm, i) => norm / lora.gradientNorms[i]!)
      expect(
        largestDifference(
          norms,
          norms.map(() => 1)
        )
      ).toBeLessThanOrEqual(hundredNorms)
      const merged = model.merge()
      const sums = Object.keys(lora.mergedSumsOfSquares).map((name) =>
        merged
          .parameter(name)
          .toNumbers()
          .reduce((sum, x) => sum + x * x, 0)
      )
      const shares = Object.values(lora.mergedSumsOfSquares).map((wanted, i) => sums[i]! / wanted)
      expect(
        largestDifference(
          shares,
          shares.map(() => 1)
        )
      ).toBeLessThanOrEqual(fiftySteps)
      expect(shares).toHaveLength(14)
    })

    it("of the reward model on pairs of differing length have PyTorch's losses", async () => {
      const model = initRewardModel(await load(device), { seed: 0 })
      noGrad(() => scoped(() => void model.head.copy_(tensor([rewardModel.head], { device }))))
      const pairs = rewardModel.pairs.map(({ chosen, rejected, rating }): TokenisedPair => ({
        chosen,
        rejected,
        margin: margins.small[rating]!
      }))
      const batches = chunks(pairs, rewardModel.pairsABatch).map((batch): TrainingBatch => ({
        count: batch.length,
        tokens: 0,
        parts: (microBatch) => microBatches(batch, microBatch, () => 1).map((part) => () => pairLoss(model, part, { padId: 0, device }))
      }))
      const result = await run(model.parameters, batches, rewardModel.pairsABatch / 2, rewardModel)
      expect(largestDifference(result.losses, rewardModel.losses)).toBeLessThanOrEqual(fiftySteps)
    })
  })
}
