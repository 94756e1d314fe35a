/** Statistics of evaluations. */
import { Random } from "../../engine/random.ts"

export interface Estimate {
  readonly mean: number
  readonly low: number
  readonly high: number
}

export const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** The middle value; between two middles, their mean. */
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

/** A proportion with its 95% Wilson score interval (Wilson 1927): it stays within [0, 1] and holds for small n. */
export const proportion = (successes: number, n: number): Estimate => {
  if (n === 0) return { mean: Number.NaN, low: 0, high: 1 }
  const z = 1.959963984540054
  const p = successes / n
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n)
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))
  return { mean: p, low: Math.max(0, centre - half), high: Math.min(1, centre + half) }
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
