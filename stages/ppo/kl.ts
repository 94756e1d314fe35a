/**
 * Estimates of KL(pi || pi_0) from tokens drawn from pi (Schulman 2020, "Approximating KL divergence"), and the controller that holds it near a
 * target (Ziegler et al. 2019 §2.2).
 *
 * With r = pi_0(token) / pi(token):   k1 = -log r      k2 = (log r)^2 / 2      k3 = r - 1 - log r
 *
 * k1 and k3 have the right mean; k2 and k3 are never negative; k3 varies less than k1 where the two are close.
 */

export const klEstimators = ["k1", "k2", "k3"] as const
export type KlEstimator = (typeof klEstimators)[number]

/** One token's estimate, in nats: its log-probability under the policy that drew it, and under the other. */
export const klEstimate = (estimator: KlEstimator, logProbability: number, reference: number): number => {
  const logRatio = reference - logProbability
  if (estimator === "k1") return -logRatio
  if (estimator === "k2") return logRatio ** 2 / 2
  // expm1 keeps the small differences that exp would round away.
  return Math.expm1(logRatio) - logRatio
}

/**
 * The next beta: beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), for a mean KL (nats a response) seen on n responses. At a KL of more
 * than 1.2 times the target beta grows by a factor e in about 5 horizons of responses.
 */
export const adaptBeta = (
  beta: number,
  observed: { readonly kl: number; readonly responses: number },
  options: { readonly target: number; readonly horizon: number }
): number => {
  const error = Math.min(0.2, Math.max(-0.2, observed.kl / options.target - 1))
  return beta * (1 + (error * observed.responses) / options.horizon)
}
