/** PPO's rewards, advantages and losses compared with PyTorch in float64 (tests/golden/rlhf-losses), and the details that other implementations got wrong. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { scoped, tensor, type Tensor } from "../../../engine/tensor.ts"
import { explainedVariance, generalisedAdvantages, tokenRewards, whitenTokens } from "../../../stages/ppo/advantages.ts"
import { adaptBeta, approximateKl, klEstimate } from "../../../stages/ppo/kl.ts"
import { clippedTokens, policyLoss, valueLoss } from "../../../stages/ppo/losses.ts"
import { terminalScore } from "../../../stages/ppo/rollouts.ts"
import { largestDifference } from "../../models/small.ts"
import { float64 } from "../../tolerances.ts"

type Table = ReadonlyArray<ReadonlyArray<number>>
interface Golden extends Readonly<Record<"beta" | "gamma" | "lam" | "clip" | "value_clip", number>> {
  readonly lengths: ReadonlyArray<number>
  readonly terminal_reward: ReadonlyArray<number>
  readonly logp_old: Table
  readonly logp_ref: Table
  readonly logp_new: Table
  readonly values: Table
  readonly values_new: Table
  readonly rewards: Table
  readonly advantages: Table
  readonly returns: Table
  readonly whitened_advantages: Table
  readonly policy_loss: number
  readonly value_loss: number
  readonly clip_fraction: number
  readonly kl_k3_old_new: number
  readonly grad_logp_new: Table
  readonly grad_values_new: Table
}
const { ppo: golden } = JSON.parse(readFileSync(new URL("../../golden/rlhf-losses/rlhf.json", import.meta.url), "utf8")) as {
  readonly ppo: Golden
}
/** The responses' own tokens: the reference pads its rows on the right. */
const tokensOf = (table: Table): Array<Array<number>> => table.map((row, i) => row.slice(0, golden.lengths[i]))
const flat = (rows: ReadonlyArray<ArrayLike<number>>): Array<number> => rows.flatMap((row) => Array.from(row))
const wide = (values: ArrayLike<number>): Tensor => tensor(Float64Array.from(values))
const options = { gamma: golden.gamma, lambda: golden.lam }

describe("PPO's numbers equal PyTorch's in float64", () => {
  const old = tokensOf(golden.logp_old)
  const rewards = old.map((logProbabilities, i) =>
    tokenRewards(
      { logProbabilities, reference: tokensOf(golden.logp_ref)[i]!, score: golden.terminal_reward[i]!, beta: golden.beta },
      { klEstimator: "k1", terminal: "last-token" }
    )
  )
  const estimates = rewards.map((row, i) => generalisedAdvantages(row, tokensOf(golden.values)[i]!, options))
  const whitened = whitenTokens(
    estimates.map(({ advantages }) => advantages),
    "shift"
  )
  const tokens = golden.lengths.reduce((a, b) => a + b, 0)

  it("rewards: -beta k1 for each token, the score on the last", () => {
    expect(largestDifference(flat(rewards), flat(tokensOf(golden.rewards)))).toBeLessThanOrEqual(float64)
  })
  it("advantages and returns", () => {
    const wanted = { advantages: flat(tokensOf(golden.advantages)), returns: flat(tokensOf(golden.returns)) }
    expect(largestDifference(flat(estimates.map(({ advantages }) => advantages)), wanted.advantages)).toBeLessThanOrEqual(float64)
    expect(largestDifference(flat(estimates.map(({ returns }) => returns)), wanted.returns)).toBeLessThanOrEqual(float64)
  })
  it("whitened advantages: over the tokens of all responses and nothing else", () => {
    expect(largestDifference(flat(whitened), flat(tokensOf(golden.whitened_advantages)))).toBeLessThanOrEqual(float64)
  })
  it("the policy's loss and its gradient; the clip fraction; KL(old || new)", () => {
    const ours = scoped(() => {
      const now = wide(flat(tokensOf(golden.logp_new))).requiresGrad()
      const before = wide(flat(old))
      const loss = policyLoss(now, before, wide(flat(whitened)), golden.clip).div(tokens)
      loss.backward()
      return {
        loss: loss.item(),
        gradient: now.grad()!.toNumbers(),
        clipped: clippedTokens(now, before, golden.clip).item() / tokens,
        kl: approximateKl(now, before).item() / tokens
      }
    })
    expect(Math.abs(ours.loss - golden.policy_loss)).toBeLessThanOrEqual(float64)
    expect(largestDifference(ours.gradient, flat(tokensOf(golden.grad_logp_new)))).toBeLessThanOrEqual(float64)
    expect(Math.abs(ours.clipped - golden.clip_fraction)).toBeLessThanOrEqual(float64)
    expect(Math.abs(ours.kl - golden.kl_k3_old_new)).toBeLessThanOrEqual(float64)
  })
  it("the value model's loss and its gradient", () => {
    const ours = scoped(() => {
      const now = wide(flat(tokensOf(golden.values_new))).requiresGrad()
      const returns = wide(flat(estimates.map((estimate) => estimate.returns)))
      const loss = valueLoss(now, wide(flat(tokensOf(golden.values))), returns, golden.value_clip).div(tokens)
      loss.backward()
      return { loss: loss.item(), gradient: now.grad()!.toNumbers() }
    })
    expect(Math.abs(ours.loss - golden.value_loss)).toBeLessThanOrEqual(float64)
    expect(largestDifference(ours.gradient, flat(tokensOf(golden.grad_values_new)))).toBeLessThanOrEqual(float64)
  })
})

describe("a response with no end-of-sequence token (detail 11)", () => {
  it.each([
    ["none", 0.7],
    ["penalty", -1.3], // 0.7 - 2
    ["replace", -2]
  ] as const)("under the rule %s is worth %d instead of 0.7", (noEos, wanted) => {
    expect(terminalScore(0.7, false, { noEos, noEosPenalty: 2 })).toBeCloseTo(wanted, 12)
  })
  it.each(["none", "penalty", "replace"] as const)("leaves finished responses unchanged with the rule %s", (noEos) => {
    expect(terminalScore(0.7, true, { noEos, noEosPenalty: 2 })).toBe(0.7)
  })
})

describe("the terminal score (detail 12)", () => {
  const reward = (terminal: "last-token" | "past-end") =>
    tokenRewards({ logProbabilities: [-1, -2, -3], reference: [-1, -2, -3], score: 1, beta: 0.5 }, { klEstimator: "k1", terminal })
  const eosAdvantage = (terminal: "last-token" | "past-end") => {
    const rewards = reward(terminal)
    return generalisedAdvantages(
      rewards,
      rewards.map(() => 0),
      { gamma: 1, lambda: 0.95 }
    ).advantages[2]!
  }
  it("is on the last token: with zero values, gamma 1 and lambda .95 the EOS advantage is 1", () => {
    expect([...reward("last-token")].map(Math.abs)).toEqual([0, 0, 1])
    expect(eosAdvantage("last-token")).toBe(1)
  })
  it("is one past it: the EOS advantage is .95", () => {
    expect([...reward("past-end")].map(Math.abs)).toEqual([0, 0, 0, 1])
    expect(eosAdvantage("past-end")).toBeCloseTo(0.95, 12)
  })
  it("is added to the last token's KL penalty and does not replace it", () => {
    const rewards = tokenRewards(
      { logProbabilities: [-1, -2], reference: [-1.5, -3], score: 10, beta: 0.1 },
      { klEstimator: "k1", terminal: "last-token" }
    )
    // -0.1 (-1 + 1.5) = -0.05; 10 - 0.1 (-2 + 3) = 9.9
    expect(largestDifference(rewards, [-0.05, 9.9])).toBeLessThanOrEqual(float64)
  })
})

const klEstimators = ["k1", "k2", "k3"] as const

describe("KL estimates on an analytic categorical (detail 15)", () => {
  const random = new Random(3, "categoricals")
  const softmax = (logits: ReadonlyArray<number>) => {
    const total = logits.reduce((sum, x) => sum + Math.exp(x), 0)
    return logits.map((x) => Math.exp(x) / total)
  }
  const draw = () => softmax(Array.from({ length: 9 }, () => 2 * random.normal()))
  const cases = Array.from({ length: 5 }, () => ({ pi: draw(), reference: draw() }))
  /** Over all tokens, weighted by pi's probabilities: no sampling error. */
  const expectation = (estimator: (typeof klEstimators)[number], pi: ReadonlyArray<number>, reference: ReadonlyArray<number>) =>
    pi.reduce((sum, p, i) => sum + p * klEstimate(estimator, Math.log(p), Math.log(reference[i]!)), 0)

  it.each(["k1", "k3"] as const)("E[%s] is KL(pi || reference)", (estimator) => {
    for (const { pi, reference } of cases) {
      const exact = pi.reduce((sum, p, i) => sum + p * Math.log(p / reference[i]!), 0)
      expect(exact).toBeGreaterThan(0.1)
      expect(Math.abs(expectation(estimator, pi, reference) - exact)).toBeLessThanOrEqual(float64)
    }
  })
  it("E[k2] is half the mean squared log-ratio, which is not the KL but close to it for close distributions", () => {
    const pi = softmax([0.1, 0, -0.1])
    const reference = softmax([0, 0.05, 0])
    const exact = pi.reduce((sum, p, i) => sum + p * Math.log(p / reference[i]!), 0)
    expect(Math.abs(expectation("k2", pi, reference) / exact - 1)).toBeLessThan(0.05)
    expect(klEstimate("k2", -1, -1.5)).toBeCloseTo(0.125, 12)
  })
  it.each(["k2", "k3"] as const)("%s is never negative, k1 is", (estimator) => {
    const pairs = cases.flatMap(({ pi, reference }) => pi.map((p, i) => [Math.log(p), Math.log(reference[i]!)] as const))
    for (const [a, b] of pairs) expect(klEstimate(estimator, a, b)).toBeGreaterThanOrEqual(0)
    expect(pairs.some(([a, b]) => klEstimate("k1", a, b) < 0)).toBe(true)
  })
  it.each(klEstimators)("%s of equal log-probabilities is exactly 0 (detail 14)", (estimator) => {
    expect(Math.abs(klEstimate(estimator, -3.7, -3.7))).toBe(0)
  })
  it("k3 between old and new policy equals the estimate from tensors", () => {
    const old = [-1, -0.2, -3]
    const now = [-1.1, -0.3, -2.5]
    const wanted = old.reduce((sum, a, i) => sum + klEstimate("k3", a, now[i]!), 0)
    expect(Math.abs(scoped(() => approximateKl(wide(now), wide(old)).item()) - wanted)).toBeLessThanOrEqual(float64)
  })
})

describe("an adaptive beta (detail 16)", () => {
  const options = { klTarget: 6, klHorizon: 10_000 }
  it.each([
    ["grows by the error where it is small", 6.6, 0.1 * (1 + (0.1 * 512) / 10_000)],
    ["shrinks by the error where it is small", 5.4, 0.1 * (1 - (0.1 * 512) / 10_000)],
    ["grows by at most 0.2 n / horizon", 60, 0.1 * (1 + (0.2 * 512) / 10_000)],
    ["shrinks by at most 0.2 n / horizon", 0, 0.1 * (1 - (0.2 * 512) / 10_000)],
    ["stays at the target", 6, 0.1]
  ])("%s", (_, kl, wanted) => {
    expect(adaptBeta(0.1, { kl, responses: 512 }, options)).toBeCloseTo(wanted, 12)
  })
})

describe("whitening advantages (detail 17)", () => {
  // Mean 3; deviations -2 -1 0 1 2; variance 2.
  const rows = [
    [1, 2],
    [3, 4, 5]
  ]
  const root = Math.sqrt(2)
  it("shifts the mean to 0", () => {
    expect(
      largestDifference(
        flat(whitenTokens(rows, "shift")),
        [-2, -1, 0, 1, 2].map((x) => x / root)
      )
    ).toBeLessThan(1e-7)
  })
  it("keeps the mean", () => {
    expect(
      largestDifference(
        flat(whitenTokens(rows, "keep")),
        [-2, -1, 0, 1, 2].map((x) => x / root + 3)
      )
    ).toBeLessThan(1e-7)
  })
  it("of equal advantages gives their mean or 0, not NaN", () => {
    expect(flat(whitenTokens([[2, 2], [2]], "shift"))).toEqual([0, 0, 0])
    expect(flat(whitenTokens([[2, 2], [2]], "keep"))).toEqual([2, 2, 2])
  })
})

describe("advantages (detail 19)", () => {
  it("equal the double loop of their definition", () => {
    const random = new Random(8, "gae")
    for (const length of [1, 2, 7, 20]) {
      const rewards = Array.from({ length }, () => random.normal())
      const values = Array.from({ length }, () => random.normal())
      const [gamma, lambda] = [0.9 + 0.1 * random.next(), random.next()]
      const wanted = rewards.map((_, t) => {
        let sum = 0
        for (let l = 0; t + l < length; l++) {
          const after = t + l + 1 < length ? values[t + l + 1]! : 0
          sum += (gamma * lambda) ** l * (rewards[t + l]! + gamma * after - values[t + l]!)
        }
        return sum
      })
      const { advantages, returns } = generalisedAdvantages(rewards, values, { gamma, lambda })
      expect(largestDifference(advantages, wanted)).toBeLessThanOrEqual(float64)
      expect(
        largestDifference(
          returns,
          wanted.map((a, t) => a + values[t]!)
        )
      ).toBeLessThanOrEqual(float64)
    }
  })
})

describe("the value model's loss (detail 20)", () => {
  const loss = (now: number, old: number, target: number) => scoped(() => valueLoss(wide([now]), wide([old]), wide([target]), 0.2).item())
  it("is half the square if the value moved little", () => {
    expect(loss(1.1, 1, 2)).toBeCloseTo(0.405, 12) // 0.9^2 / 2
  })
  it("is the maximum of both: a value that moved towards its return beyond the clip counts as clipped", () => {
    expect(loss(1.9, 1, 2)).toBeCloseTo(0.32, 12) // (1.2 - 2)^2 / 2
  })
  it("is the maximum of both: a value that moved away counts in full", () => {
    expect(loss(0, 1, 2)).toBeCloseTo(2, 12)
  })
})

describe("the policy's loss", () => {
  const gradient = (ratio: number, advantage: number) =>
    scoped(() => {
      const now = wide([Math.log(ratio)]).requiresGrad()
      policyLoss(now, wide([0]), wide([advantage]), 0.2).backward()
      return now.grad()!.item()
    })
  it.each([
    ["pushes a good token up while its ratio is within the clip", 1.1, 1, -1.1],
    ["stops where a good token is up by more", 1.3, 1, 0],
    ["still pushes up a good token that went down", 0.5, 1, -0.5],
    ["pushes a bad token down", 0.9, -1, 0.9],
    ["stops where a bad token is down by more", 0.7, -1, 0],
    ["still pushes down a bad token that went up", 1.5, -1, 1.5]
  ])("%s", (_, ratio, advantage, wanted) => {
    expect(gradient(ratio, advantage)).toBeCloseTo(wanted, 12)
  })
})

describe("diagnostics", () => {
  it("explained variance is 1 for perfect values, 0 for a constant, negative for worse, 0 if returns do not vary", () => {
    const returns = [[1, 2], [6]]
    expect(explainedVariance(returns, returns)).toBe(1)
    expect(explainedVariance([[5, 5], [5]], returns)).toBeCloseTo(0, 12)
    expect(explainedVariance([[-1, -2], [-6]], returns)).toBeCloseTo(-3, 12) // errors are twice the returns
    expect(explainedVariance([[1], [2]], [[3], [3]])).toBe(0)
  })
})
