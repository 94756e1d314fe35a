/** A hundred updates of PPO against plain PyTorch (tests/peers/ppo_reference.py), step by step, from the same weights on the same responses. */
import { readFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { constantSchedule } from "../../../engine/schedule.ts"
import { type Device, noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadLlama } from "../../../models/weights.ts"
import type { TerminalPosition } from "../../../stages/ppo/advantages.ts"
import type { KlEstimator } from "../../../stages/ppo/kl.ts"
import { cloneLlama, valueFromPolicy } from "../../../stages/ppo/models.ts"
import { Ppo, type StepStatistics } from "../../../stages/ppo/update.ts"
import { logProbabilitiesOf, type Rollout } from "../../../stages/ppo/rollouts.ts"
import { devices } from "../../devices.ts"
import { largestDifference } from "../../models/small.ts"
import { hundredNorms, hundredSteps } from "../../tolerances.ts"

type Numbers = ReadonlyArray<number>
interface Run {
  readonly options: Readonly<
    Record<
      | "batchSize"
      | "miniBatchSize"
      | "iterations"
      | "clip"
      | "valueClip"
      | "gamma"
      | "lambda"
      | "maxNorm"
      | "learningRate"
      | "valueLearningRate"
      | "temperature"
      | "beta",
      number
    >
  > & {
    readonly klEstimator: KlEstimator
    readonly klTarget: number | null
    readonly klHorizon: number | null
    readonly terminal: TerminalPosition
  }
  readonly rollouts: ReadonlyArray<ReadonlyArray<Omit<Rollout, "logProbabilities">>>
  readonly orders: ReadonlyArray<Numbers>
  /** Of the whole batch, and of its first response. */
  readonly iterations: ReadonlyArray<Record<"kl" | "beta", number> & Record<"old" | "values" | "advantages" | "returns", Numbers>>
  readonly updates: ReadonlyArray<Omit<StepStatistics, "diverged">>
}
const golden = (path: string) => new URL(`../../golden/${path}`, import.meta.url).pathname
const reference = JSON.parse(readFileSync(golden("stages-ppo100/ppo100.json"), "utf8")) as Record<"paper" | "other", Run> & {
  readonly head: Numbers
}

const load = (device: Device) => Effect.runPromise(loadLlama(golden("llama-gqa/model"), { device }))

/** What our trainer sees and does on the run's responses. */
const follow = async ({ options, rollouts, orders }: Run, device: Device) => {
  const start = await load(device)
  const policy = cloneLlama(start)
  const value = valueFromPolicy(start, { seed: 0 })
  noGrad(() => scoped(() => void value.head.copy_(tensor([reference.head], { device }))))
  const trainer = new Ppo({
    ...options,
    policy,
    reference: start,
    value,
    padId: 0,
    device,
    seed: 0,
    microBatchSize: 1, // two parts a mini-batch: the reference takes it whole
    inferenceBatchSize: 3,
    epochs: 1,
    schedule: constantSchedule(options.learningRate),
    valueSchedule: constantSchedule(options.valueLearningRate),
    weightDecay: 0.1,
    klControl: options.klTarget === null ? "fixed" : { target: options.klTarget, horizon: options.klHorizon! },
    whitenAdvantages: "shift",
    permutation: (iteration) => orders[iteration]!
  })
  const { temperature } = options
  const updates: Array<StepStatistics> = []
  const iterations = rollouts.map((batch): Run["iterations"][number] => {
    const given = batch.map((rollout) => ({ ...rollout, logProbabilities: [] }))
    const old = logProbabilitiesOf(policy, given, { padId: 0, device, temperature, batchSize: 8 })
    const { experiences, statistics, steps } = trainer.iterate(batch.map((rollout, i) => ({ ...rollout, logProbabilities: [...old[i]!] })))
    updates.push(...steps)
    const { values, advantages, returns } = experiences[0]!
    return {
      kl: statistics.kl,
      beta: statistics.beta,
      old: [...old[0]!],
      values: [...values],
      advantages: [...advantages],
      returns: [...returns]
    }
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
      // As a share of the norm, where it is above 1: it may be 0, when every value of a mini-batch is beyond its clip.
      const { updates } = await ours
      const scaled = (steps: Run["updates"]) => steps.map((step, i) => step[field] / Math.max(1, wanted.updates[i]![field]))
      expect(largestDifference(scaled(updates), scaled(wanted.updates))).toBeLessThanOrEqual(hundredNorms)
    })
  })
}

describe("the hundred updates", () => {
  it("go far enough to say something: tokens are clipped, and the policy leaves its reference", () => {
    const { updates, iterations } = reference.paper
    expect(updates.filter(({ clipFraction }) => clipFraction > 0).length).toBeGreaterThan(20)
    expect(Math.max(...iterations.map(({ kl }) => Math.abs(kl)))).toBeGreaterThan(0.5)
  })
})
