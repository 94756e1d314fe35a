/** A hundred updates of PPO compared with plain PyTorch (tests/peers/ppo_reference.py), step by step, from the same weights on the same responses. */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { type Device, noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadLlama } from "../../../models/weights.ts"
import { PpoConfig } from "../../../stages/ppo/config.ts"
import { cloneLlama, initValueModel } from "../../../stages/ppo/models.ts"
import { PpoTrainer, type Rollout, type StepStatistics } from "../../../stages/ppo/trainer.ts"
import { chunks } from "../../../stages/common/sequences.ts"
import { devices } from "../../devices.ts"
import { largestDifference } from "../../models/small.ts"
import { hundredNorms, hundredSteps } from "../../tolerances.ts"

type Numbers = ReadonlyArray<number>
interface Run {
  readonly options: Omit<typeof PpoConfig.Encoded, "klTarget" | "klHorizon"> & {
    readonly miniBatchSize: number
    readonly klTarget: number | null
    readonly klHorizon: number | null
  }
  readonly rollouts: ReadonlyArray<ReadonlyArray<Omit<Rollout, "logProbabilities">>>
  readonly orders: ReadonlyArray<Numbers>
  /** Of the complete batch, and of its first response. */
  readonly iterations: ReadonlyArray<Record<"kl" | "beta", number> & Record<"old" | "values" | "advantages" | "returns", Numbers>>
  readonly updates: ReadonlyArray<Omit<StepStatistics, "diverged">>
}
const golden = (path: string) => new URL(`../../golden/${path}`, import.meta.url).pathname
const reference = JSON.parse(readFileSync(golden("stages-ppo100/ppo100.json"), "utf8")) as Record<"paper" | "other", Run> & {
  readonly head: Numbers
}

const load = (device: Device) => Effect.runPromise(loadLlama(golden("llama-gqa/model"), { device }))

/** What our trainer computes on the run's responses. */
const follow = async ({ options, rollouts, orders }: Run, device: Device) => {
  const start = await load(device)
  const policy = cloneLlama(start)
  const value = initValueModel(start, { seed: 0 })
  noGrad(() => scoped(() => void value.head.copy_(tensor([reference.head], { device }))))
  const { klTarget, klHorizon, ...rest } = options
  const config = Schema.decodeSync(PpoConfig)({
    ...rest,
    ...(klTarget === null ? { klControl: "fixed" } : { klControl: "adaptive", klTarget, klHorizon: klHorizon! }),
    microBatchSize: 1, // two parts per mini-batch: the reference uses it as a whole
    inferenceBatchSize: 3,
    epochs: 1,
    weightDecay: 0.1,
    whitenAdvantages: "shift",
    oldLogProbabilities: "recomputed"
  })
  const trainer = new PpoTrainer({ config, policy, reference: start, value, padId: 0, seed: 0 })
  const updates: Array<StepStatistics> = []
  const iterations = rollouts.map((batch, iteration): Run["iterations"][number] => {
    const { experience, statistics } = trainer.advantages(batch.map((rollout) => ({ ...rollout, logProbabilities: [] })))
    // The reference's order: it has other random numbers.
    for (const miniBatch of chunks(orders[iteration]!, config.miniBatchSize))
      updates.push(scoped(() => trainer.step(trainer.loss(miniBatch.map((i) => experience[i]!)))))
    trainer.finish(statistics, batch.length)
    const { logProbabilities: old, values, advantages, returns } = experience[0]!
    return { kl: statistics.kl, beta: statistics.beta, old, values, advantages, returns }
  })
  trainer.free()
  return { iterations, updates }
}

for (const { device, skip } of devices) {
  describe.skipIf(skip).each([
    ["a hundred updates as the paper has them", "paper", 100],
    ["twenty updates with the k3 estimate, an adaptive beta, a temperature and the score past the end", "other", 20]
  ] as const)(`%s, on ${device},`, (_, name, count) => {
    const wanted = reference[name]
    const ours = skip ? undefined! : follow(wanted, device)

    it.each(["old", "values", "advantages", "returns"] as const)("have PyTorch's %s in every iteration", async (field) => {
      const { iterations } = await ours
      iterations.forEach((iteration, i) =>
        expect(largestDifference(iteration[field], wanted.iterations[i]![field])).toBeLessThanOrEqual(hundredSteps)
      )
    })
    it.each(["kl", "beta"] as const)("have PyTorch's %s in every iteration", async (field) => {
      const numbers = (rows: Run["iterations"]) => rows.map((row) => row[field])
      expect(largestDifference(numbers((await ours).iterations), numbers(wanted.iterations))).toBeLessThanOrEqual(hundredSteps)
    })
    it.each(["policyLoss", "valueLoss", "entropy", "clipFraction", "approximateKl"] as const)(
      "have PyTorch's %s at every update",
      async (field) => {
        const numbers = (steps: Run["updates"]) => steps.map((step) => step[field])
        const { updates } = await ours
        expect(updates).toHaveLength(count)
        expect(largestDifference(numbers(updates), numbers(wanted.updates))).toBeLessThanOrEqual(hundredSteps)
      }
    )
    it.each(["policyGradientNorm", "valueGradientNorm"] as const)("have PyTorch's %s at every update", async (field) => {
      // Relative to the norm if that is above 1: it may be 0, if every value of a mini-batch is beyond its clip.
      const { updates } = await ours
      const scaled = (steps: Run["updates"]) => steps.map((step, i) => step[field] / Math.max(1, wanted.updates[i]![field]))
      expect(largestDifference(scaled(updates), scaled(wanted.updates))).toBeLessThanOrEqual(hundredNorms)
    })
  })
}

describe("the hundred updates", () => {
  it("go far enough to be meaningful: tokens are clipped, and the policy leaves its reference", () => {
    const { updates, iterations } = reference.paper
    expect(updates.filter(({ clipFraction }) => clipFraction > 0).length).toBeGreaterThan(20)
    expect(Math.max(...iterations.map(({ kl }) => Math.abs(kl)))).toBeGreaterThan(0.5)
  })
})
