/**
 * Losses of RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024). Tensor arguments have one entry per response (B,) or per token of the responses (N,),
 * without padding. The result is a sum, (): divided by the number of responses in the complete mini-batch, the sums of its parts add up to the mean,
 * however it is split.
 */
import type { Tensor } from "../../engine/tensor.ts"
import { clippedObjective } from "../ppo/losses.ts"

/**
 * RLOO, with the response as one action: max(-A ratio, -A clip(ratio, 1 - c, 1 + c)), ratio = pi(y) / pi_old(y). If pi equals pi_old, the gradient is the
 * paper's -A grad log pi(y). All (B,): `logProbabilities` and `old` are those of whole responses, sums over their tokens. Differentiable in the first
 * argument.
 */
export const rlooLoss = (logProbabilities: Tensor, old: Tensor, advantages: Tensor, clip: number): Tensor =>
  clippedObjective(logProbabilities, old, advantages, clip).sum()

/**
 * GRPO, eq. 3 and 4: for each token, weight (max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) + beta KL). The KL to the reference is estimated by
 * k3 = rho - log rho - 1, rho = pi_0 / pi. All (N,); in the paper a token's weight is 1 / the length of its response. Differentiable in the first argument.
 *
 * The expected gradient of k3 is that of KL(pi_0 || pi). With klGradient "unbiased" (DeepSeek-AI 2025, DeepSeek-V3.2), k3 is multiplied by the ratio, and
 * its expected gradient is that of KL(pi || pi_0).
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
