/**
 * Losses of proximal policy optimisation (Schulman et al. 2017; Llama 2 §3.2.3) and what is watched beside them. Every argument is (N,): one
 * entry for each response token of some responses, no padding. Every result, but where it is said otherwise, is a sum, a tensor of one element: dividing by the whole
 * mini-batch's count makes it a mean that does not depend on how the mini-batch is split.
 */
import type { Tensor } from "../../engine/tensor.ts"

/** max(-A ratio, -A clip(ratio, 1 - c, 1 + c)), ratio = exp(log pi - log pi_old), of each entry (N,). Differentiable in the first argument. */
export const clippedObjective = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor => {
  const ratio = logProbabilities.sub(old).exp()
  const cost = advantages.neg()
  return cost.mul(ratio).maximum(cost.mul(ratio.clamp(1 - clip, 1 + clip)))
}

/** The same, summed. */
export const policyLoss = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor =>
  clippedObjective(logProbabilities, old, advantages, clip).sum()

/** 1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2). Differentiable in the first argument. */
export const valueLoss = (values: Tensor, old: Tensor, returns: Tensor, clip: number): Tensor => {
  const clipped = old.add(values.sub(old).clamp(-clip, clip))
  return values.sub(returns).square().maximum(clipped.sub(returns).square()).sum().mul(0.5)
}

/** Of each entry (N,): 1 where its ratio lies beyond 1 - c .. 1 + c, else 0. */
export const beyondClip = (logProbabilities: Tensor, old: Tensor, clip: number): Tensor =>
  logProbabilities.sub(old).exp().sub(1).abs().gt(clip).to({ dtype: old.dtype })

/** How many tokens' ratio lies there. */
export const clippedTokens = (logProbabilities: Tensor, old: Tensor, clip: number): Tensor => beyondClip(logProbabilities, old, clip).sum()
