/**
 * Estimates of a KL divergence from tokens sampled from one policy (Schulman 2020, "Approximating KL divergence"), and the controller that keeps
 * the KL to the reference near a target (Ziegler et al. 2019 §2.2).
 *
 * For KL(pi || pi_0), with r = pi_0(token) / pi(token):   k1 = -log r      k2 = (log r)^2 / 2      k3 = r - 1 - log r
 *
 * k1 and k3 are unbiased; k2 and k3 are never negative; k3 has a lower variance than k1 when the two policies are close.
 */
import type { Tensor } from "../../engine/tensor.ts"
import type { PpoConfig } from "./config.ts"

/** The estimate for one token, in nats, from its log-probabilities under the policy that sampled it and under the reference. */
export const klEstimate = (estimator: PpoConfig["klEstimator"], logProbability: number, reference: number): number => {
  const logRatio = reference - logProbability
  if (estimator === "k1") return -logRatio
  if (estimator === "k2") return logRatio ** 2 / 2
  // expm1 keeps small differences that exp would round away.
  return Math.expm1(logRatio) - logRatio
}

/** k3 estimate of KL(old || new), summed over the tokens (N,) sampled from the old policy. */
export const approximateKl = (logProbabilities: Tensor, old: Tensor): Tensor => {
  const logRatio = logProbabilities.sub(old)
  return logRatio.exp().sub(1).sub(logRatio).sum()
}

/**
 * The next beta: beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), for a mean KL (nats per response) over n responses. At a KL of more
 * than 1.2 times the target, beta grows by a factor of e within about 5 horizons of responses.
 */
export const adaptBeta = (
  beta: number,
  observed: { readonly kl: number; readonly responses: number },
  config: Pick<PpoConfig, "klTarget" | "klHorizon">
): number => {
  const error = Math.min(0.2, Math.max(-0.2, observed.kl / config.klTarget - 1))
  return beta * (1 + (error * observed.responses) / config.klHorizon)
}
