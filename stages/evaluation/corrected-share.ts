/** A share, corrected for the error rates of the classifier that counted it. */
import type { Estimate } from "../common/statistics.ts"

/** Error rates of the classifier, from answers labelled by people. */
export interface ErrorRates {
  /** Number of positive answers according to people, and how many of them the classifier found. */
  readonly positives: number
  readonly told: number
  /** Number of negative answers, and how many of them the classifier flagged. */
  readonly negatives: number
  readonly falseAlarms: number
}

const z = 1.959963984540054
const within = (value: number): number => Math.min(1, Math.max(0, value))

/**
 * The share among `n` trials without the classifier's errors, with its 95% interval:
 *
 *     (share + specificity - 1) / (sensitivity + specificity - 1)
 *
 * within [0, 1] (Rogan and Gladen 1978, American Journal of Epidemiology 107). The interval is Lang and Reiczigel's (2014, Preventive Veterinary Medicine 113), which accounts for sensitivity and
 * specificity being estimates themselves: pseudo-counts for all three (z^2 / 2 of z^2, 1 of 2), the delta method's variance, and a shift. Undefined if the classifier
 * is no better than chance (sensitivity + specificity <= 1), or if the whole interval is outside [0, 1]: such error rates are inconsistent with the observed share.
 */
export const correctedShare = (share: number, n: number, errors: ErrorRates): Estimate | undefined => {
  const { positives, told, negatives, falseAlarms } = errors
  const [sensitivity, specificity] = [told / positives, 1 - falseAlarms / negatives]
  if (!(sensitivity + specificity > 1)) return undefined
  const trials = n + z * z
  const p = (n * share + (z * z) / 2) / trials
  const se = (told + 1) / (positives + 2)
  const sp = (negatives - falseAlarms + 1) / (negatives + 2)
  const youden = se + sp - 1
  const corrected = (p + sp - 1) / youden
  const ofSensitivity = (se * (1 - se)) / (positives + 2)
  const ofSpecificity = (sp * (1 - sp)) / (negatives + 2)
  const variance = (p * (1 - p)) / trials + ofSensitivity * corrected ** 2 + ofSpecificity * (1 - corrected) ** 2
  const shift = 2 * z * z * (corrected * ofSensitivity - (1 - corrected) * ofSpecificity)
  const half = (z * Math.sqrt(variance)) / Math.abs(youden)
  const [low, high] = [corrected + shift - half, corrected + shift + half]
  if (high <= 0 || low >= 1) return undefined
  return {
    mean: within((share + specificity - 1) / (sensitivity + specificity - 1)),
    low: within(low),
    high: within(high)
  }
}
