/** The optima of RLOO and GRPO on a task with a known optimum (tests/stages/ppo/bandit.ts), compared with what follows from their own formulas. */
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { scoped } from "../../../engine/tensor.ts"
import { type CriticFreeConfig, GrpoConfig, RlooConfig } from "../../../stages/critic-free/config.ts"
import { grpoMethod, rlooMethod } from "../../../stages/critic-free/methods.ts"
import { CriticFreeTrainer, type Method } from "../../../stages/critic-free/trainer.ts"
import { bandit, distance, drawn, normalised, optimum, probabilities, reference, rewards, temperature } from "../ppo/bandit.ts"

const groupSize = 4
const common = {
  ...{ temperature, batchSize: 512, miniBatchSize: 128, microBatchSize: 128, inferenceBatchSize: 512, weightDecay: 0, groupSize },
  ...{ maxNewTokens: 1 }
}
const iterations = 60
/** The policy to which it converges. */
const train = (config: CriticFreeConfig, method: Method): Array<number> => {
  const policy = bandit()
  const trainer = new CriticFreeTrainer({
    ...{ config, method, policy, reference: bandit(), padId: 0, seed: 3 },
    schedule: (iteration) => 0.02 * (1 - iteration / iterations)
  })
  for (let iteration = 0; iteration < iterations; iteration++) {
    const { experience } = trainer.advantages(drawn(policy, iteration))
    for (const miniBatch of trainer.miniBatches(experience)) scoped(() => trainer.step(trainer.loss(miniBatch)))
    trainer.finish()
  }
  return probabilities(policy)
}
const rloo = (over: typeof RlooConfig.Encoded) => {
  const config = Schema.decodeSync(RlooConfig)({ ...common, ...over })
  return train(config, rlooMethod(config))
}
const grpo = (over: typeof GrpoConfig.Encoded) => {
  const config = Schema.decodeSync(GrpoConfig)({ ...common, ...over })
  return train(config, grpoMethod(config))
}

describe("RLOO on a one-step bandit", () => {
  it("converges to the KL-regularised optimum, pi_0 exp(r / beta) / Z", () => {
    expect(distance(rloo({ beta: 0.5 }), optimum(0.5))).toBeLessThan(0.02)
  })
  it("converges to the best token with beta 0", () => {
    expect(rloo({ beta: 0 })[6]).toBeGreaterThan(0.9)
  })
})

/** The share of the reward's gradient that remains because a group's mean includes the response itself. */
const kept = (groupSize - 1) / groupSize

describe("GRPO on a one-step bandit", () => {
  it("converges, without the division and with an unbiased KL, to that optimum for rewards times (G - 1) / G", () => {
    const end = grpo({ beta: 0.5, scale: "none", klGradient: "unbiased" })
    expect(distance(end, optimum(0.5 / kept))).toBeLessThan(0.02)
    expect(distance(optimum(0.5), optimum(0.5 / kept))).toBeGreaterThan(0.04)
  })
  it("converges with k3 elsewhere: where beta (1 - pi_0 / pi) is the advantage, the optimum for KL(pi_0 || pi)", () => {
    const wanted = fixedPoint(0.5, (pi) => {
      const mean = pi.reduce((sum, p, a) => sum + p * rewards[a]!, 0)
      return rewards.map((reward) => kept * (reward - mean))
    })
    expect(distance(wanted, optimum(0.5 / kept))).toBeGreaterThan(0.05)
    expect(distance(grpo({ beta: 0.5, scale: "none" }), wanted)).toBeLessThan(0.02)
  })
  it("converges as published, divided by the group's deviation, to its own fixed point", () => {
    const wanted = fixedPoint(1, divided)
    const undivided = fixedPoint(1, (pi) => {
      const mean = pi.reduce((sum, p, a) => sum + p * rewards[a]!, 0)
      return rewards.map((reward) => kept * (reward - mean))
    })
    for (const other of [reference, undivided, optimum(1)]) expect(distance(wanted, other)).toBeGreaterThan(0.05)
    // A single update per batch, as published: nothing is clipped.
    expect(distance(grpo({ beta: 1, miniBatchSize: 512 }), wanted)).toBeLessThan(0.02)
  })
})

/** The expected advantage of each token under pi: over all groups of that token and three others, weighted by pi's probabilities. */
const divided = (pi: ReadonlyArray<number>): Array<number> => {
  const tokens = rewards.map((_, a) => a)
  return tokens.map((a) => {
    let expected = 0
    for (const b of tokens)
      for (const c of tokens)
        for (const d of tokens) {
          const group = [a, b, c, d].map((token) => rewards[token]!)
          const mean = group.reduce((x, y) => x + y, 0) / groupSize
          const deviation = Math.sqrt(group.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (groupSize - 1))
          expected += (pi[b]! * pi[c]! * pi[d]! * (group[0]! - mean)) / (deviation + 1e-4)
        }
    return expected
  })
}

/**
 * Where the expected gradient with respect to the logits is 0: pi(a) A(a) = beta (pi(a) - pi_0(a)), found by steps along it over pi.
 * (The gradient of KL(pi_0 || pi) by logit a is pi(a) - pi_0(a); that of the expected advantage, whose mean under pi is 0, is pi(a) A(a).)
 */
const fixedPoint = (beta: number, advantages: (pi: ReadonlyArray<number>) => ReadonlyArray<number>): Array<number> => {
  const logits = reference.map(Math.log)
  for (let step = 0; step < 300; step++) {
    const pi = normalised(logits.map(Math.exp))
    const found = advantages(pi)
    logits.forEach((logit, a) => (logits[a] = logit + 0.3 * (found[a]! - beta * (1 - reference[a]! / pi[a]!))))
  }
  const end = normalised(logits.map(Math.exp))
  const found = advantages(end)
  expect(Math.max(...end.map((p, a) => Math.abs(p * found[a]! - beta * (p - reference[a]!))))).toBeLessThan(1e-6)
  return end
}
