/** Training steps of random shapes leave memory unchanged. */
import { describe, expect, it } from "vitest"
import { deviceMemory } from "../../../engine/device.ts"
import { accumulateGradients, clipGradientNorm } from "../../../engine/gradients.ts"
import { AdamW } from "../../../engine/optimizer.ts"
import { Random } from "../../../engine/random.ts"
import { backward } from "../../../engine/segments.ts"
import { type DType, liveTensors, scoped } from "../../../engine/tensor.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { languageModelLoss, type PackedRow } from "../../../stages/common/sequences.ts"
import { pairLoss } from "../../../stages/reward/reward-model.ts"
import { devices } from "../../devices.ts"
import { smallConfig } from "../../models/small.ts"

const layers = 3
const config = smallConfig({ layers, maxPositions: 128 })

describe.each(devices)("training steps on $device", ({ device, skip }) => {
  it.skipIf(skip).each<DType>(["float32", "bfloat16"])(
    "of random shapes leave no tensor and no byte of the GPU behind, in %s: forty on a CPU, a thousand on a GPU",
    (dtype) => {
      const policy = initLlama(config, { seed: 1, device, dtype })
      const reward = initRewardModel(initLlama(config, { seed: 2, device, dtype }), { seed: 3 })
      const optimisers = { policy: new AdamW({ parameters: policy.parameters }), reward: new AdamW({ parameters: reward.parameters }) }
      const random = new Random(5, "shapes")
      const tokensOf = (length: number) => Array.from({ length }, () => 3 + random.int(config.vocabSize - 3))
      const rowOf = (length: number): PackedRow => ({
        tokens: Int32Array.from(tokensOf(length)),
        lossMask: Uint8Array.from({ length }, (_, at) => (at === 0 ? 0 : 1)),
        segments: Int32Array.from({ length }, (_, at) => (2 * at < length ? 0 : 1))
      })
      const some = <A>(most: number, make: () => A) => Array.from({ length: 1 + random.int(most) }, make)

      const policyStep = () => {
        const length = 2 + random.int(60)
        const microBatches = some(3, () => some(4, () => rowOf(length)))
        accumulateGradients(
          policy.parameters,
          microBatches,
          (rows) => scoped(() => backward(languageModelLoss(policy, rows, { device, isolate: true }))),
          { recompute: random.int(layers + 1) }
        )
        clipGradientNorm(policy.parameters, 1)
        optimisers.policy.step(1e-4)
      }
      const rewardStep = () => {
        const pair = () => ({ chosen: tokensOf(1 + random.int(60)), rejected: tokensOf(1 + random.int(60)), margin: 0 })
        accumulateGradients(
          reward.parameters,
          some(3, () => some(4, pair)),
          (pairs) => scoped(() => backward(pairLoss(reward, pairs, { padId: 0, device }))),
          { recompute: random.int(layers + 1) }
        )
        clipGradientNorm(reward.parameters, 1)
        optimisers.reward.step(1e-4)
      }
      const steps = (count: number) => {
        for (let i = 0; i < count; i++) scoped(i % 2 === 0 ? policyStep : rewardStep)
      }
      steps(device === "cpu" ? 4 : 50)
      const before = { tensors: liveTensors(), bytes: deviceMemory()?.current }
      steps(device === "cpu" ? 40 : 1000)
      expect({ tensors: liveTensors(), bytes: deviceMemory()?.current }).toEqual(before)
    },
    120_000
  )
})
