/**
 * The reward that reinforcement learning maximises, of two reward models (Llama 2 §3.2.3):
 *
 *     R_c(g|p) = R_s(g|p)  if is_safety(p) or R_s(g|p) < 0.15,  else R_h(g|p)
 *     R~_c(g|p) = whiten(logit(R_c(g|p)))                                                                    (eq. 4 adds the KL penalty)
 *
 * R_s and R_h are scores in (0, 1): the sigmoid of what the models give.
 */

export interface Scores {
  /** R_s in (0, 1). */
  readonly safety: number
  /** R_h in (0, 1). */
  readonly helpfulness: number
  /** Whether the prompt is meant to draw out something unsafe. */
  readonly isSafetyPrompt: boolean
  /** Safety scores below this one count alone; §3.2.3: 0.15, "precision of 0.89 and a recall of 0.55" on the Meta Safety test set. */
  readonly threshold?: number
}

/** R_c of one response. A safety score of exactly the threshold passes. */
export const combineRewards = ({ safety, helpfulness, isSafetyPrompt, threshold = 0.15 }: Scores): number =>
  isSafetyPrompt || safety < threshold ? safety : helpfulness

/** The inverse of the sigmoid. Throws a RangeError outside (0, 1), where it is not finite. */
export const logit = (probability: number): number => {
  if (!(probability > 0 && probability < 1))
    throw new RangeError(`logit: expected a score above 0 and below 1, got ${probability}. A score is the sigmoid of a reward model's.`)
  return Math.log(probability) - Math.log1p(-probability)
}

/** Values of mean 0 and deviation 1: (x - mean) / sqrt(variance + 1e-8), the variance the population's (n in the denominator). */
export const whiten = (values: ReadonlyArray<number>): Array<number> => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
  return values.map((value) => (value - mean) / Math.sqrt(variance + 1e-8))
}
