/**
 * The reward that reinforcement learning maximises, combined from two reward models (Llama 2 §3.2.3):
 *
 *     R_c(g|p) = R_s(g|p)  if is_safety(p) or R_s(g|p) < 0.15,  else R_h(g|p)
 *     R~_c(g|p) = whiten(logit(R_c(g|p)))                                                                    (eq. 4 adds the KL penalty)
 *
 * R_s and R_h are scores in (0, 1): the sigmoid of the models' outputs.
 */

/** For which responses the safety score is used alone; §3.2.3: those to safety prompts, and any below the threshold. */
export const gateScopes = ["prompt or threshold", "prompt only", "threshold only"] as const
export type GateScope = (typeof gateScopes)[number]

export interface Scores {
  /** R_s in (0, 1). */
  readonly safety: number
  /** R_h in (0, 1). */
  readonly helpfulness: number
  /** Whether the prompt is meant to elicit something unsafe. */
  readonly isSafetyPrompt: boolean
  /** Below this safety score, the safety score is used alone; §3.2.3: 0.15, "precision of 0.89 and a recall of 0.55" on the Meta Safety test set. */
  readonly threshold?: number
  readonly scope?: GateScope
}

/** Whether R_c is R_s. A safety score equal to the threshold passes. */
export const isGated = ({
  safety,
  isSafetyPrompt,
  threshold = 0.15,
  scope = "prompt or threshold"
}: Omit<Scores, "helpfulness">): boolean =>
  (scope !== "threshold only" && isSafetyPrompt) || (scope !== "prompt only" && safety < threshold)

/** R_c of one response. */
export const combineRewards = (scores: Scores): number => (isGated(scores) ? scores.safety : scores.helpfulness)

/** Scores are kept this far from 0 and 1: 1 - 2^-24 is the largest float32 below 1. Their logit is within 16.64 of 0. */
export const scoreMargin = 2 ** -24

/**
 * R = sigmoid(r) of a reward model's scalar, clamped to [2^-24, 1 - 2^-24]: a score that rounds to 0 or 1 would have an infinite logit, in
 * float32 from r = 17 on. Responses clamped on the same side tie.
 */
export const scoreOf = (scalar: number): number => Math.min(1 - scoreMargin, Math.max(scoreMargin, 1 / (1 + Math.exp(-scalar))))

/** The inverse of the sigmoid. Throws RangeError outside (0, 1), where it is not finite. */
export const logit = (probability: number): number => {
  if (!(probability > 0 && probability < 1))
    throw new RangeError(
      `logit: expected a score above 0 and below 1, got ${probability}. A score is the sigmoid of a reward model's output.`
    )
  return Math.log(probability) - Math.log1p(-probability)
}

/** Values with mean 0 and standard deviation 1: (x - mean) / sqrt(variance + 1e-8), with the population variance (n in the denominator). */
export const whiten = (values: ReadonlyArray<number>): Array<number> => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
  return values.map((value) => (value - mean) / Math.sqrt(variance + 1e-8))
}
