/** PPO's trainer on given responses: independence of irrelevant choices, and toy tasks with a known optimum. */
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { deriveSeed } from "../../../engine/random.ts"
import { liveTensors, noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { initLlama, type Llama } from "../../../models/llama.ts"
import { initRewardModel, type RewardModel } from "../../../models/reward-model.ts"
import { generate } from "../../../models/sampler.ts"
import { PpoConfig } from "../../../stages/ppo/config.ts"
import { cloneLlama, initValueModel, logProbabilitiesOf, valuesOf } from "../../../stages/ppo/models.ts"
import { PpoTrainer, type PpoTrainerOptions, type Rollout, type StepStatistics } from "../../../stages/ppo/trainer.ts"
import { devices } from "../../devices.ts"
import { largestDifference, smallConfig } from "../../models/small.ts"
import { sharpen } from "../../models/tensors.ts"
import { sameInFloat32, splitGradients } from "../../tolerances.ts"
import { bandit, distance, drawn, optimum, probabilities, reference, temperature } from "./bandit.ts"

const eosId = 2

/** A small model that is far from uniform, so that details matter. */
const strong = (seed: number, device: "cpu" | "cuda" = "cpu"): Llama => sharpen(initLlama(smallConfig(), { seed, device }), 12)
const valueModel = (seed: number, device: "cpu" | "cuda" = "cpu"): RewardModel => initRewardModel(strong(seed, device), { seed })

/** Responses of 1 to 9 tokens to prompts of 1 to 6, sampled from the model. */
const rolloutsOf = (policy: Llama, n = 7): Array<Rollout> => {
  const prompts = Array.from({ length: n }, (_, i) => [1, ...Array.from({ length: i % 6 }, (_, j) => 5 + ((7 * i + 3 * j) % 50))])
  const generated = generate(policy, prompts, {
    maxNewTokens: 9,
    temperature,
    seeds: prompts.map((_, i) => deriveSeed(4, "test", i)),
    eosId,
    padId: 0
  })
  return generated.map(({ tokens, logProbabilities }, i) => {
    const length = 1 + ((5 * i) % 9)
    return {
      prompt: prompts[i]!,
      response: tokens.slice(0, length),
      logProbabilities: logProbabilities.slice(0, length),
      score: [0.5, -1, 2][i % 3]!
    }
  })
}

const configOf = (over: Partial<PpoConfig> = {}): PpoConfig =>
  Schema.decodeSync(PpoConfig)({
    ...{ temperature, miniBatchSize: 4, microBatchSize: 4, inferenceBatchSize: 16, epochs: 1 },
    ...{ learningRate: 1e-3, valueLearningRate: 1e-3, weightDecay: 0.1, maxNorm: 1, clip: 0.2, valueClip: 0.2 },
    ...{ beta: 0.05, klControl: "fixed", klEstimator: "k1", gamma: 1, lambda: 0.95, terminal: "last-token", whitenAdvantages: "shift" },
    ...over
  })
interface Given {
  readonly config?: Partial<PpoConfig>
  readonly models?: Partial<Pick<PpoTrainerOptions, "reference" | "padId" | "schedule">>
}

/** An iteration like that of stages/ppo/ppo.ts. */
const iterate = (trainer: PpoTrainer, rollouts: ReadonlyArray<Rollout>) => {
  const { experience, statistics } = trainer.advantages(rollouts)
  const steps: Array<StepStatistics> = []
  for (const miniBatch of trainer.miniBatches(experience)) steps.push(scoped(() => trainer.step(trainer.loss(miniBatch))))
  trainer.finish(statistics, rollouts.length)
  return { statistics, steps }
}
const numbersOf = (steps: ReadonlyArray<StepStatistics>): Array<number> =>
  steps.flatMap((step) => Object.values(step).filter((value) => typeof value === "number"))

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`an iteration of PPO on ${device}`, () => {
    const options = ({ config, models }: Given = {}): PpoTrainerOptions => {
      const policy = strong(1, device)
      const value = valueModel(2, device)
      return { config: configOf(config), policy, reference: cloneLlama(policy), value, padId: 0, seed: 3, ...models }
    }

    it("has recorded log-probabilities of logits / temperature that are those of reference and update (details 7 and 8)", () => {
      const policy = strong(1, device)
      const rollouts = rolloutsOf(policy)
      const again = logProbabilitiesOf(policy, rollouts, { padId: 0, config: configOf({ inferenceBatchSize: 3 }) })
      const recorded = rollouts.flatMap(({ logProbabilities }) => logProbabilities)
      expect(
        largestDifference(
          again.flatMap((row) => [...row]),
          recorded
        )
      ).toBeLessThanOrEqual(sameInFloat32)
      // The temperature matters: with another one they differ.
      const other = logProbabilitiesOf(policy, rollouts, { padId: 0, config: configOf({ inferenceBatchSize: 3, temperature: 1 }) })
      expect(
        largestDifference(
          other.flatMap((row) => [...row]),
          recorded
        )
      ).toBeGreaterThan(0.1)
    })

    it("starts at ratio 1, and at KL 0 to a reference that is the policy (detail 6)", () => {
      const given = options()
      const { statistics, steps } = iterate(new PpoTrainer(given), rolloutsOf(given.policy))
      expect(Math.abs(statistics.kl)).toBeLessThanOrEqual(sameInFloat32)
      expect(steps[0]!.approximateKl).toBeLessThanOrEqual(sameInFloat32)
      expect(steps[0]!.clipFraction).toBe(0)
      // At ratio 1 the policy's loss is minus the mean advantage: before the first update it only depends on advantages.
      expect(steps[1]!.approximateKl).toBeGreaterThan(1e-6)
    })

    it("does not depend on how mini-batches are split, nor on the padding's contents (details 2, 14 and 18)", () => {
      const run = (over: Partial<PpoConfig>, padId = 0) => {
        const given = options({ config: { epochs: 2, ...over }, models: { padId, reference: strong(9, device) } })
        const { statistics, steps } = iterate(new PpoTrainer(given), rolloutsOf(given.policy))
        const weights = ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"].flatMap((name) =>
          given.policy.parameter(name).toNumbers()
        )
        return { all: [...Object.values(statistics), ...numbersOf(steps)], weights: [...weights, ...given.value.head.toNumbers()] }
      }
      const whole = run({})
      expect(whole.all[0]).toBeGreaterThan(1)
      for (const split of [run({ microBatchSize: 1 }), run({ microBatchSize: 3, inferenceBatchSize: 2 }), run({}, 55)]) {
        expect(largestDifference(split.all, whole.all)).toBeLessThanOrEqual(sameInFloat32)
        expect(largestDifference(split.weights, whole.weights)).toBeLessThanOrEqual(sameInFloat32)
      }
    })

    it("in bfloat16 has the gradients of the complete mini-batch, however it is split (detail 18)", () => {
      const n = 192
      const gradients = (microBatchSize: number) => {
        const [policy, start] = [1, 2].map((seed) => initLlama(smallConfig(), { seed, device, dtype: "bfloat16" })) as [Llama, Llama]
        const value = initRewardModel(start, { seed: 2 })
        // Whether a token is clipped would depend on rounding, so none is.
        const config = configOf({ microBatchSize, miniBatchSize: n, clip: 1e9, valueClip: 1e9, whitenAdvantages: "none" })
        const trainer = new PpoTrainer({ config, policy, reference: cloneLlama(policy), value, padId: 0, seed: 3 })
        const { experience } = trainer.advantages(rolloutsOf(initLlama(smallConfig(), { seed: 1, device }), n))
        scoped(() => trainer.loss(experience))
        return [policy, value].map(({ parameters }) =>
          Object.values(parameters).flatMap((parameter) => scoped(() => parameter.grad()!.to({ dtype: "float32" }).toNumbers()))
        )
      }
      const whole = gradients(n)
      for (const size of [1, 8])
        gradients(size).forEach((split, model) => {
          const difference = Math.hypot(...split.map((x, i) => x - whole[model]![i]!))
          expect(difference / Math.hypot(...whole[model]!)).toBeLessThan(splitGradients)
        })
    })
  })
}

describe("an iteration of PPO", () => {
  const options = ({ config, models }: Given = {}): PpoTrainerOptions => {
    const policy = strong(1)
    return { config: configOf(config), policy, reference: cloneLlama(policy), value: valueModel(2), padId: 0, seed: 3, ...models }
  }

  it("has values one past the end if and only if the score is there (detail 13)", () => {
    // With values 0, beta 0 and a score of 1 the returns are .95^k, k steps before the score: loss = mean of .95^2k / 2.
    const loss = (terminal: "last-token" | "past-end") => {
      const given = options({ config: { terminal, beta: 0, valueClip: 1e9 } })
      scoped(() => noGrad(() => given.value.head.zero_()))
      const response = [5, 6, 7]
      const { steps } = iterate(new PpoTrainer(given), [{ prompt: [1], response, logProbabilities: [-1, -1, -1], score: 1 }])
      return steps[0]!.valueLoss
    }
    const powers = [1, 0.95 ** 2, 0.95 ** 4, 0.95 ** 6]
    const mean = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0) / values.length / 2
    expect(loss("last-token")).toBeCloseTo(mean(powers.slice(0, 3)), 5)
    expect(loss("past-end")).toBeCloseTo(mean(powers), 5)
    const value = valueModel(2)
    const rollouts = rolloutsOf(strong(1))
    const lengths = (terminal: PpoConfig["terminal"]) =>
      valuesOf(value, rollouts, { padId: 0, config: configOf({ terminal, inferenceBatchSize: 4 }) }).map((v) => v.length)
    expect(lengths("last-token")).toEqual(rollouts.map(({ response }) => response.length))
    expect(lengths("past-end")).toEqual(rollouts.map(({ response }) => response.length + 1))
  })

  it("reads a token's value where the token is chosen: at the state of the previous token", () => {
    const value = valueModel(2)
    const [prompt, response] = [
      [1, 9, 8],
      [5, 6, 7]
    ]
    const rollout = { prompt, response, logProbabilities: [0, 0, 0], score: 0 }
    const ours = valuesOf(value, [rollout], { padId: 0, config: configOf({ terminal: "past-end" }) })[0]!
    const all = scoped(() => noGrad(() => value.scores(tensor([[...prompt, ...response]], { dtype: "int64" })).toNumbers()))
    expect(largestDifference(ours, all.slice(2))).toBeLessThanOrEqual(sameInFloat32)
  })

  it("reports how much of the returns' variance the values explain", () => {
    const given = options()
    const { experience, statistics } = new PpoTrainer(given).advantages(rolloutsOf(given.policy))
    const variance = (numbers: ReadonlyArray<number>) => {
      const centre = numbers.reduce((a, b) => a + b, 0) / numbers.length
      return numbers.reduce((sum, x) => sum + (x - centre) ** 2, 0) / numbers.length
    }
    const returns = experience.flatMap((one) => one.returns)
    const errors = experience.flatMap((one) => one.returns.map((x, t) => x - one.values[t]!))
    expect(statistics.explainedVariance).toBeCloseTo(1 - variance(errors) / variance(returns), 9)
  })

  it("changes the learning rate once per iteration, not once per step (detail 21)", () => {
    const asked: Array<number> = []
    const schedule = (step: number) => {
      asked.push(step)
      return 1e-4
    }
    const given = options({ config: { epochs: 2 }, models: { schedule } })
    const trainer = new PpoTrainer(given)
    for (let i = 0; i < 2; i++) iterate(trainer, rolloutsOf(given.policy))
    expect(asked).toEqual([0, 0, 0, 0, 1, 1, 1, 1]) // 7 responses in mini-batches of 4, two passes
  })

  it("uses each response once per epoch, in a new permutation each (detail 21)", () => {
    // Without learning, the loss of a mini-batch of one identifies its response.
    const given = options({ config: { miniBatchSize: 1, epochs: 2, learningRate: 0, valueLearningRate: 0 } })
    const trainer = new PpoTrainer(given)
    const rollouts = rolloutsOf(given.policy)
    const orders = [0, 1].flatMap(() => {
      const losses = iterate(trainer, rollouts).steps.map(({ policyLoss }) => policyLoss.toFixed(5))
      return [losses.slice(0, 7), losses.slice(7)]
    })
    for (const order of orders) expect(order.toSorted()).toEqual(orders[0]!.toSorted())
    expect(new Set(orders[0]).size).toBe(7)
    expect(new Set(orders.map(String)).size).toBe(4)
  })

  it("penalises distance from the reference with beta, which an adaptive controller changes after the iteration (detail 16)", () => {
    const given = options({
      config: { beta: 0.5, klControl: "adaptive", klTarget: 1e-3, klHorizon: 70 },
      models: { reference: strong(9) }
    })
    const trainer = new PpoTrainer(given)
    const { statistics } = iterate(trainer, rolloutsOf(given.policy))
    expect(statistics.beta).toBe(0.5)
    expect(trainer.numbers.beta).toBeCloseTo(0.5 * (1 + (0.2 * 7) / 70), 12)
  })

  it("whitens advantages over the batch's tokens, or does not (detail 17)", () => {
    // At ratio 1 the mini-batch's loss is minus its mean advantage.
    const loss = (whitenAdvantages: PpoConfig["whitenAdvantages"]) => {
      const given = options({ config: { whitenAdvantages, miniBatchSize: 7 } })
      return iterate(new PpoTrainer(given), rolloutsOf(given.policy)).steps[0]!.policyLoss
    }
    expect(Math.abs(loss("shift"))).toBeLessThanOrEqual(sameInFloat32)
    expect(loss("none")).toBeCloseTo(loss("keep"), 4)
    expect(Math.abs(loss("keep"))).toBeGreaterThan(0.01)
  })

  it.each(["policy", "value"] as const)("stops at a NaN loss and leaves the models unchanged (%s)", (which) => {
    const given = options({ config: { whitenAdvantages: "none" } })
    const before = [given.policy.parameter("lm_head.weight"), given.value.head].map((weight) => weight.toNumbers())
    const rollouts = rolloutsOf(given.policy)
    const broken =
      which === "value"
        ? { ...rollouts[0]!, score: NaN }
        : { ...rollouts[0]!, logProbabilities: rollouts[0]!.logProbabilities.map(() => NaN) }
    const { steps } = iterate(new PpoTrainer(given), [broken])
    expect(steps.map(({ diverged }) => diverged)).toEqual([true])
    expect([given.policy.parameter("lm_head.weight"), given.value.head].map((weight) => weight.toNumbers())).toEqual(before)
  })

  it("leaves no tensor behind, and the reference unchanged", () => {
    const given = options()
    const rollouts = rolloutsOf(given.policy)
    const reference = given.reference.parameter("lm_head.weight").toNumbers()
    const run = () => {
      const trainer = new PpoTrainer(given)
      iterate(trainer, rollouts)
      trainer.free()
    }
    run() // models make their rotary tables once
    const before = liveTensors()
    run()
    expect(liveTensors()).toBe(before)
    expect(given.reference.parameter("lm_head.weight").toNumbers()).toEqual(reference)
  })
})

describe("a value model", () => {
  it("starts on a copy of a reward model's weights, with a new head", () => {
    const start = valueModel(2)
    const name = "model.layers.0.mlp.up_proj.weight"
    const weights = start.backbone.parameter(name).toNumbers()
    const made = initValueModel(start.backbone, { seed: 4 })
    expect(made.backbone.parameter(name).toNumbers()).toEqual(weights)
    expect(made.head.toNumbers()).not.toEqual(start.head.toNumbers())
    scoped(() => noGrad(() => [made.head, made.backbone.parameter(name)].forEach((weight) => void weight.zero_())))
    expect(start.head.toNumbers().every((x) => x !== 0)).toBe(true)
    expect(start.backbone.parameter(name).toNumbers()).toEqual(weights)
  })
  it("starts on a copy of a policy's weights without its output layer", () => {
    const policy = strong(1)
    const made = initValueModel(policy, { seed: 4 })
    expect(Object.keys(made.parameters).sort()).toEqual(
      [...Object.keys(policy.parameters).filter((name) => name !== "lm_head.weight"), "score.weight"].sort()
    )
    expect(made.backbone.parameter("model.norm.weight").toNumbers()).toEqual(policy.parameter("model.norm.weight").toNumbers())
  })
})

/** bandit.ts: one token with known rewards. */
describe("a one-step bandit", () => {
  const iterations = 40
  const train = (beta: number): Array<number> => {
    const policy = bandit()
    const trainer = new PpoTrainer({
      config: configOf({
        ...{ beta, miniBatchSize: 128, microBatchSize: 128, inferenceBatchSize: 512 },
        ...{ valueLearningRate: 0.02, weightDecay: 0, whitenAdvantages: "none" }
      }),
      policy,
      reference: bandit(),
      value: initValueModel(policy, { seed: 6 }),
      padId: 0,
      seed: 3,
      schedule: (iteration) => 0.02 * (1 - iteration / iterations)
    })
    for (let iteration = 0; iteration < iterations; iteration++) iterate(trainer, drawn(policy, iteration))
    return probabilities(policy)
  }

  it("has a reference that is not uniform, and optima away from it, so that the task is meaningful", () => {
    expect(Math.max(...reference) / Math.min(...reference)).toBeGreaterThan(2)
    for (const other of [reference, optimum(0.3), optimum(1)]) expect(distance(optimum(0.5), other)).toBeGreaterThan(0.08)
  })
  it("converges to the KL-regularised optimum", () => {
    expect(distance(train(0.5), optimum(0.5))).toBeLessThan(0.02)
  })
  it("converges to the best token with beta 0", () => {
    expect(train(0)[6]).toBeGreaterThan(0.95)
  })
  it("stays at the reference with a very large beta", () => {
    expect(distance(train(100), reference)).toBeLessThan(0.02)
  })
})
