/** DPO on pairs with Bradley and Terry's labels for a known reward (tests/stages/ppo/bandit.ts): its optimum is PPO's, pi_0 exp(r / beta) / Z. */
import { describe, expect, it } from "vitest"
import { accumulateGradients, clipGradientNorm } from "../../../engine/gradients.ts"
import { AdamW } from "../../../engine/optimizer.ts"
import { Random } from "../../../engine/random.ts"
import { backward } from "../../../engine/segments.ts"
import { scoped } from "../../../engine/tensor.ts"
import { chunks } from "../../../stages/common/sequences.ts"
import { pairsLoss } from "../../../stages/dpo/dpo.ts"
import { bandit, distance, optimum, probabilities, rewards } from "../ppo/bandit.ts"

const first = probabilities(bandit(), 1)
const pairOf = (chosen: number, rejected: number) => ({
  ...{ chosen: [1, chosen], rejected: [1, rejected], promptLength: 1, margin: 0 },
  reference: [Math.log(first[chosen]!), Math.log(first[rejected]!)] as const
})
/** Labels for each two tokens, in the proportions of sigmoid(r_a - r_b): so many that there is no sampling noise. */
const labelled = (perPair: number, chance: (difference: number) => number) =>
  rewards.flatMap((a, i) =>
    rewards.flatMap((b, j) => {
      if (j <= i) return []
      const wins = Math.round(perPair * chance(a - b))
      return Array.from({ length: perPair }, (_, n) => (n < wins ? pairOf(i, j) : pairOf(j, i)))
    })
  )

const train = (pairs: ReturnType<typeof labelled>, beta: number, epochs: number): Array<number> => {
  const policy = bandit()
  const optimizer = new AdamW({ parameters: policy.parameters, weightDecay: 0 })
  for (let epoch = 0; epoch < epochs; epoch++)
    for (const batch of chunks(new Random(3, "dpo", epoch).shuffle(pairs), 400))
      scoped(() => {
        accumulateGradients(policy.parameters, [batch], (part) => backward(pairsLoss(policy, part, { beta, padId: 0 }).div(batch.length)))
        clipGradientNorm(policy.parameters, 1)
        optimizer.step(0.02 * (1 - epoch / epochs))
      })
  return probabilities(policy, 1)
}
const bradleyTerry = (difference: number) => 1 / (1 + Math.exp(-difference))

describe("DPO on a one-step bandit", () => {
  it("converges to the KL-regularised optimum of the reward from which labels are drawn", () => {
    const end = train(labelled(50, bradleyTerry), 0.5, 40)
    for (const other of [first, optimum(0.3, first), optimum(1, first)]) expect(distance(optimum(0.5, first), other)).toBeGreaterThan(0.05)
    expect(distance(end, optimum(0.5, first))).toBeLessThan(0.02)
  })
  it("has no optimum on noiseless labels: the longer it is trained, the more probability the best token gets", () => {
    const certain = labelled(4, (difference) => (difference > 0 ? 1 : 0))
    const [short, long] = [train(certain, 0.5, 20)[6]!, train(certain, 0.5, 120)[6]!]
    expect(short).toBeGreaterThan(optimum(0.5, first)[6]!)
    expect(long).toBeGreaterThan(short)
  })
})
