/** A one-token task with known rewards: the best policy with weight beta is pi*(a) ~ pi_0(a) exp(r(a) / beta). */
import { deriveSeed } from "../../../engine/random.ts"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama, type Llama } from "../../../models/llama.ts"
import { generate } from "../../../models/sampler.ts"
import type { Rollout } from "../../../stages/ppo/trainer.ts"

export const temperature = 0.7
export const rewards = [0.3, -0.5, 0.9, 0, 0.6, -1, 1, -0.2]
const config = llamaConfig({ vocabSize: rewards.length, dim: 8, layers: 1, heads: 2, kvHeads: 1, ffn: 12, maxPositions: 4 })

/** The initial policy, far from uniform. */
export const bandit = (): Llama => {
  const model = initLlama(config, { seed: 5 })
  scoped(() => noGrad(() => model.parameter("lm_head.weight").mul_(20)))
  return model
}
/** The distribution of the first token, as sampled. */
export const probabilities = (model: Llama, at = temperature): Array<number> =>
  scoped(() =>
    noGrad(() =>
      model
        .forward(tensor([[1]], { dtype: "int64" }))
        .div(at)
        .softmax(-1)
        .toNumbers()
    )
  )
export const reference = probabilities(bandit())
export const normalised = (weights: ReadonlyArray<number>): Array<number> => {
  const total = weights.reduce((x, y) => x + y, 0)
  return weights.map((weight) => weight / total)
}
/** From the reference, or another policy. */
export const optimum = (beta: number, from: ReadonlyArray<number> = reference): Array<number> =>
  normalised(from.map((p, a) => p * Math.exp(rewards[a]! / beta)))
/** Total variation. */
export const distance = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) => a.reduce((sum, p, i) => sum + Math.abs(p - b[i]!), 0) / 2

/** An iteration's responses with their rewards. */
export const drawn = (policy: Llama, iteration: number, count = 512): Array<Rollout> => {
  const prompts = Array.from({ length: count }, () => [1])
  const generated = generate(policy, prompts, {
    maxNewTokens: 1,
    temperature,
    seeds: prompts.map((_, i) => deriveSeed(7, "bandit", iteration, i)),
    eosId: undefined,
    padId: 0
  })
  return generated.map(({ tokens, logProbabilities }) => ({ prompt: [1], response: tokens, logProbabilities, score: rewards[tokens[0]!]! }))
}
