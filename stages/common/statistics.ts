/** Statistics of evaluations. */
import { Random } from "../../engine/random.ts"

export interface Estimate {
  readonly mean: number
  readonly low: number
  readonly high: number
}

export const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** The median; for an even number of values, the mean of the two middle ones. */
export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Standard error of the mean (sample variance, n - 1); 0 for a single value. */
export const standardError = (values: ReadonlyArray<number>): number => {
  if (values.length < 2) return 0
  const m = mean(values)
  return Math.sqrt(values.reduce((sum, value) => sum + (value - m) ** 2, 0) / (values.length - 1) / values.length)
}

/** A proportion with its 95% Wilson score interval (Wilson 1927), which stays within [0, 1] and is valid for small n. */
export const proportion = (successes: number, n: number): Estimate => {
  if (n === 0) return { mean: Number.NaN, low: 0, high: 1 }
  const z = 1.959963984540054
  const p = successes / n
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n)
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))
  return { mean: p, low: Math.max(0, centre - half), high: Math.min(1, centre + half) }
}

/** Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom. */
const t95 = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093
]
/** Mean of at least two values with Student's 95% interval; for small numbers of values, such as one per seed. */
export const studentMean = (values: ReadonlyArray<number>): Estimate => {
  if (values.length < 2) throw new RangeError(`studentMean: expected at least two values, got ${values.length}`)
  const z = 1.959964
  // Beyond 20 values the first correction of the normal quantile is accurate to three digits (Cornish and Fisher 1938).
  const half = (t95[values.length - 2] ?? z + (z ** 3 + z) / (4 * (values.length - 1))) * standardError(values)
  return { mean: mean(values), low: mean(values) - half, high: mean(values) + half }
}

/** Mean of the values with a 95% percentile bootstrap interval (Efron 1979), resampled `resamples` times. */
export const bootstrapMean = (values: ReadonlyArray<number>, seed: number, resamples = 2000): Estimate => {
  const random = new Random(seed, "bootstrap")
  const means = Array.from({ length: resamples }, () => {
    let sum = 0
    for (let i = 0; i < values.length; i++) sum += values[random.int(values.length)]!
    return sum / values.length
  }).sort((a, b) => a - b)
  return { mean: mean(values), low: means[Math.floor(resamples * 0.025)]!, high: means[Math.ceil(resamples * 0.975) - 1]! }
}

/**
 * The mean difference of `ours` minus `theirs`, with its 95% percentile bootstrap interval. Value i of both belongs to the same prompt: pairs
 * are resampled together, so that prompts that are difficult for both do not widen the interval (Efron and Tibshirani 1993, chapter 8).
 */
export const pairedBootstrap = (ours: ReadonlyArray<number>, theirs: ReadonlyArray<number>, seed: number, resamples = 2000): Estimate => {
  if (ours.length !== theirs.length || ours.length === 0)
    throw new RangeError(
      `pairedBootstrap: expected the same number of values on both sides, at least one, got ${ours.length} and ${theirs.length}`
    )
  return bootstrapMean(
    ours.map((value, i) => value - theirs[i]!),
    seed,
    resamples
  )
}

/**
 * Expected maximum of n values drawn without replacement from the given K. If the K values are independent samples of one distribution, this is an
 * unbiased estimate of E[max of n draws], for any K >= n.
 *
 *     E = sum over i = n .. K of C(i-1, n-1) / C(K, n) x_(i),   x_(1) <= .. <= x_(K)
 *
 * C(i-1, n-1) of the C(K, n) subsets have x_(i) as their maximum. The weight of x_(K) is n/K; each next lower weight is (i-n)/(i-1) times the previous one.
 */
export const expectedMax = (values: ReadonlyArray<number>, n: number): number => {
  const k = values.length
  if (!Number.isInteger(n) || n < 1 || n > k) throw new RangeError(`expectedMax: n must be an integer from 1 to ${k}, got ${n}`)
  const sorted = values.toSorted((a, b) => a - b)
  let [sum, weight] = [0, n / k]
  for (let i = k; i >= n; i--) {
    sum += weight * sorted[i - 1]!
    weight *= (i - n) / (i - 1)
  }
  return sum
}

/** Ranks from 1; equal values share the mean of their ranks. */
export const ranks = (values: ReadonlyArray<number>): Array<number> => {
  const order = values.map((_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const out = new Array<number>(values.length)
  for (let start = 0; start < order.length;) {
    let end = start + 1
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++
    for (let i = start; i < end; i++) out[order[i]!] = (start + 1 + end) / 2
    start = end
  }
  return out
}

/** Pearson's correlation; null if one side does not vary. */
export const correlation = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number | null => {
  if (a.length !== b.length)
    throw new RangeError(`correlation: expected the same number of values on both sides, got ${a.length} and ${b.length}`)
  const [meanA, meanB] = [mean(a), mean(b)]
  let [ab, aa, bb] = [0, 0, 0]
  a.forEach((value, i) => {
    const [x, y] = [value - meanA, b[i]! - meanB]
    ab += x * y
    aa += x * x
    bb += y * y
  })
  return aa === 0 || bb === 0 || a.length === 0 ? null : ab / Math.sqrt(aa * bb)
}

/** Spearman's rank correlation: Pearson's correlation of the ranks, where ties share a rank; null if one side does not vary. */
export const spearman = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number | null => correlation(ranks(a), ranks(b))

/** Counts values in [0, 1] in bins of equal width: bin i counts i / bins <= x < (i + 1) / bins, and the last bin includes 1. Throws RangeError for a value outside [0, 1]. */
export const unitHistogram = (values: ReadonlyArray<number>, bins: number): Array<number> => {
  const counts = new Array<number>(bins).fill(0)
  for (const value of values) {
    if (!(value >= 0 && value <= 1)) throw new RangeError(`unitHistogram: expected values from 0 to 1, got ${value}`)
    counts[Math.min(bins - 1, Math.floor(value * bins))]!++
  }
  return counts
}
