/**
 * Losses of proximal policy optimisation (Schulman et al. 2017; Llama 2 §3.2.3), and related statistics. Every tensor argument is (N,): one entry per
 * response token, without padding. Unless stated otherwise, the result is a sum over tokens, (): divided by the number of tokens of the complete
 * mini-batch, the sums of its parts add up to the mean, however it is split.
 */
import type { Tensor } from "../../engine/tensor.ts"

/**
 * PPO's clipped objective, negated (Schulman et al. 2017 eq. 7), per token (N,): max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) with ratio =
 * exp(log pi - log pi_old). Differentiable in the first argument.
 */
export const clippedObjective = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor => {
  const ratio = logProbabilities.sub(old).exp()
  const cost = advantages.neg()
  return cost.mul(ratio).maximum(cost.mul(ratio.clamp(1 - clip, 1 + clip)))
}

/** clippedObjective, summed. */
export const policyLoss = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor =>
  clippedObjective(logProbabilities, old, advantages, clip).sum()

/** Clipped value loss (OpenAI Baselines' ppo2): 1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2). Differentiable in the first argument. */
export const valueLoss = (values: Tensor, old: Tensor, returns: Tensor, clip: number): Tensor => {
  const clipped = old.add(values.sub(old).clamp(-clip, clip))
  return values.sub(returns).square().maximum(clipped.sub(returns).square()).sum().mul(0.5)
}

/** Per token (N,): 1 if its ratio is outside 1 - c .. 1 + c, otherwise 0. */
export const beyondClip = (logProbabilities: Tensor, old: Tensor, clip: number): Tensor =>
  logProbabilities.sub(old).exp().sub(1).abs().gt(clip).to({ dtype: old.dtype })

/** The number of tokens whose ratio is outside the clip range. */
export const clippedTokens = (logProbabilities: Tensor, old: Tensor, clip: number): Tensor => beyondClip(logProbabilities, old, clip).sum()
