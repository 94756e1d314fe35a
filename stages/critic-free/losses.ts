/**
 * Losses of RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024). Arguments have one entry per response (B,) or per token of the responses (N,), without padding.
 * Results are sums, tensors of one element: divided by the number of responses in the whole mini-batch, they are means that do not depend on how it is split.
 */
import type { Tensor } from "../../engine/tensor.ts"
import { clippedObjective } from "../ppo/losses.ts"

/**
 * RLOO: the response as one action. max(-A ratio, -A clip(ratio, 1 - c, 1 + c)), ratio = pi(y) / pi_old(y). Where pi equals pi_old, the gradient is the paper's
 * -A grad log pi(y). `logProbabilities` and `old` (B,) are those of whole responses: sums over their tokens. Differentiable in the first argument.
 */
export const rlooLoss = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor =>
  clippedObjective(logProbabilities, old, advantages, clip).sum()

/**
 * GRPO, eq. 3 and 4: for each token w (max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) + beta KL), with the KL to the reference estimated by k3 = rho - log rho - 1,
 * rho = pi_0 / pi. w is 1 / |o| of the token's response. All (N,). Differentiable in the first argument.
 *
 * The expected gradient of k3 is that of the reverse, KL(pi_0 || pi). Multiplied by the ratio ("unbiased"; DeepSeek-AI 2025, DeepSeek-V3.2) it is that of KL(pi || pi_0).
 */
export const grpoLoss = (
  logProbabilities: Tensor,
  {
    advantages,
    old,
    reference,
    weights
  }: { readonly old: Tensor; readonly reference: Tensor; readonly advantages: Tensor; readonly weights: Tensor },
  { beta, clip, klGradient }: { readonly clip: number; readonly beta: number; readonly klGradient: "k3" | "unbiased" }
): Tensor => {
  const logRho = reference.sub(logProbabilities)
  const k3 = logRho.exp().sub(logRho).sub(1)
  const kl = klGradient === "k3" ? k3 : k3.mul(logProbabilities.sub(old).exp())
  return clippedObjective(logProbabilities, old, advantages, clip).add(kl.mul(beta)).mul(weights).sum()
}
