/** Metrics of RLOO's and GRPO's trainer, on both devices: means over tokens or responses, however a mini-batch is split. */
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { liveTensors, scoped } from "../../../engine/tensor.ts"
import { initLlama, type Llama } from "../../../models/llama.ts"
import { type CriticFreeConfig, GrpoConfig, RlooConfig } from "../../../stages/critic-free/config.ts"
import { grpoMethod, rlooMethod } from "../../../stages/critic-free/methods.ts"
import { CriticFreeTrainer, type Method, type StepStatistics } from "../../../stages/critic-free/trainer.ts"
import { logProbabilitiesOf } from "../../../stages/ppo/models.ts"
import { devices } from "../../devices.ts"
import { largestDifference, smallConfig } from "../../models/small.ts"
import { sharpen } from "../../models/tensors.ts"
import { sameInFloat32 } from "../../tolerances.ts"

const strong = (seed: number, device: "cpu" | "cuda"): Llama => sharpen(initLlama(smallConfig(), { seed, device }), 12)
/** Of 1, 2, 3, 1, 2 and 3 tokens; the first three are one group. */
const responses = [5, 6, 7, 8, 9, 10].map((token, i) => ({
  prompt: [1, 4 + i],
  response: Array.from({ length: 1 + (i % 3) }, (_, t) => token + 7 * t)
}))
const drift = 0.1
const methods: ReadonlyArray<readonly [name: string, make: (over: object) => readonly [config: CriticFreeConfig, method: Method]]> = [
  [
    "RLOO",
    (over) => {
      const config = Schema.decodeSync(RlooConfig)({ batchSize: 6, groupSize: 3, miniBatchSize: 6, ...over })
      return [config, rlooMethod(config)]
    }
  ],
  [
    "GRPO",
    (over) => {
      const config = Schema.decodeSync(GrpoConfig)({ batchSize: 6, groupSize: 3, miniBatchSize: 6, ...over })
      return [config, grpoMethod(config)]
    }
  ]
]

for (const { device, skip } of devices)
  describe.skipIf(skip).each(methods)(`a step of %s on ${device}`, (name, make) => {
    /** The first step on responses whose tokens are e^0.1 times as likely under the policy as under the sampling policy. */
    const step = (over: object = {}, { policy, reference } = { policy: strong(1, device), reference: strong(1, device) }) => {
      const [config, method] = make(over)
      const trainer = new CriticFreeTrainer({ config, method, policy, reference, padId: 0, seed: 3 })
      const now = logProbabilitiesOf(policy, responses, { padId: 0, config })
      const rollouts = responses.map((one, i) => ({
        ...{ ...one, logProbabilities: now[i]!.map((x) => x - drift), score: [1, 0, -2, 0.5, 0.5, 3][i]! }
      }))
      const { experience, statistics } = trainer.advantages(rollouts)
      const told = scoped(() => trainer.step(trainer.loss([...trainer.miniBatches(experience)][0]!)))
      const weights = policy.parameter("lm_head.weight").toNumbers()
      trainer.free()
      return { statistics, told, weights }
    }
    const numbers = (told: StepStatistics) => Object.values(told).filter((value) => typeof value === "number")

    it("reports the KL of each token and the share beyond the clip, for responses of any length", () => {
      const { statistics, told } = step()
      // k3 of KL(old || new) where new is old e^0.1: e^0.1 - 1 - 0.1 of every token.
      expect(Math.abs(told.approximateKl - (Math.exp(drift) - 1 - drift))).toBeLessThanOrEqual(sameInFloat32)
      // The reference is the policy: -0.1 of every token, of which there are 12 in 6 responses.
      expect(Math.abs(statistics.klPerToken + drift)).toBeLessThanOrEqual(sameInFloat32)
      expect(Math.abs(statistics.kl + 2 * drift)).toBeLessThanOrEqual(sameInFloat32)
      expect(statistics.constantGroups).toBe(0)
      // Complete responses are beyond 1.2 from two tokens on (e^0.2 > 1.2); no single token is, and all are beyond 1.05.
      expect(told.clipFraction).toBeCloseTo(name === "RLOO" ? 4 / 6 : 0, 6)
      expect(step({ clip: 0.05 }).told.clipFraction).toBeCloseTo(1, 6)
    })
    it("does not depend on how the mini-batch is split", () => {
      const whole = step({ clip: 0.15 })
      for (const microBatchSize of [1, 4]) {
        const split = step({ clip: 0.15, microBatchSize })
        expect(largestDifference(numbers(split.told), numbers(whole.told))).toBeLessThanOrEqual(sameInFloat32)
        expect(largestDifference(split.weights, whole.weights)).toBeLessThanOrEqual(sameInFloat32)
      }
    })
    it("leaves no tensor behind", () => {
      const models = { policy: strong(1, device), reference: strong(1, device) }
      step({}, models) // models make their rotary tables once
      const before = liveTensors()
      step({}, models)
      expect(liveTensors()).toBe(before)
    })
  })
