/** A share, corrected for how often what counts it errs. */
import type { Estimate } from "../common/statistics.ts"

/** How often that is, from answers that people labelled. */
export interface ErrorRates {
  /** Answers that are so, by people, and how many of them were told. */
  readonly positives: number
  readonly told: number
  /** Answers that are not, and how many of them were told all the same. */
  readonly negatives: number
  readonly falseAlarms: number
}

const z = 1.959963984540054
const within = (value: number): number => Math.min(1, Math.max(0, value))

/**
 * What a share of `n` trials would be without the errors, with its 95% interval:
 *
 *     (share + specificity - 1) / (sensitivity + specificity - 1)
 *
 * within [0, 1] (Rogan and Gladen 1978, American Journal of Epidemiology 107). The interval is Lang and Reiczigel's (2014, Preventive Veterinary Medicine 113), which counts in that sensitivity and
 * specificity are themselves estimates: all three with pseudo-counts (z^2 / 2 of z^2, 1 of 2), the delta method's variance, and a shift. Undefined where what tells it
 * does no better than chance (sensitivity + specificity <= 1), and where the whole interval is beyond 0 or 1: errors like these would give no such share, so they are not the errors that were made.
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
