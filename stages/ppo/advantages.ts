/**
 * From scores of whole responses to an advantage for each token (Llama 2 §3.2.3 eq. 3-4; Schulman et al. 2016, generalised advantage estimation).
 *
 * Every array is one response's, without padding: token t of a response has entry t. There is nothing at padding that could enter a sum.
 */
import { type KlEstimator, klEstimate } from "./kl.ts"

export type NoEos = "none" | "penalty" | "replace"

/**
 * The score of a response by how it ended: one that was cut off before the end-of-sequence token keeps its score ("none"), loses `penalty`
 * ("penalty"), or has its score replaced by -penalty ("replace": what it said does not count).
 */
export const terminalScore = (score: number, finished: boolean, rule: { readonly noEos: NoEos; readonly penalty: number }): number => {
  if (finished || rule.noEos === "none") return score
  return rule.noEos === "penalty" ? score - rule.penalty : -rule.penalty
}

/** Where the score of the whole response is paid: with its last token, or one step after it. */
export type TerminalPosition = "last-token" | "past-end"

/**
 * Rewards of one response's tokens: -beta KL_t each, and the score on the last one or in an entry of its own after it (then the array has one
 * entry more than there are tokens). Log-probabilities of the response's tokens under policy and reference.
 */
export const tokenRewards = (options: {
  readonly logProbabilities: ArrayLike<number>
  readonly reference: ArrayLike<number>
  readonly score: number
  readonly beta: number
  readonly estimator: KlEstimator
  readonly terminal: TerminalPosition
}): Float64Array => {
  const { logProbabilities, reference, score, beta, estimator, terminal } = options
  const tokens = logProbabilities.length
  const rewards = new Float64Array(terminal === "past-end" ? tokens + 1 : tokens)
  for (let t = 0; t < tokens; t++) rewards[t] = -beta * klEstimate(estimator, logProbabilities[t]!, reference[t]!)
  rewards[rewards.length - 1]! += score
  return rewards
}

/**
 * Generalised advantage estimation: with delta_t = r_t + gamma V_{t+1} - V_t and V = 0 after the last entry,
 *
 *     A_t = sum_{l >= 0} (gamma lambda)^l delta_{t+l}          return_t = A_t + V_t
 *
 * values[t] is V of the state in which token t is chosen. Both arrays of one length.
 */
export const generalisedAdvantages = (
  rewards: ArrayLike<number>,
  values: ArrayLike<number>,
  options: { readonly gamma: number; readonly lambda: number }
): { readonly advantages: Float64Array; readonly returns: Float64Array } => {
  const { gamma, lambda } = options
  const advantages = new Float64Array(rewards.length)
  const returns = new Float64Array(rewards.length)
  let next = 0
  for (let t = rewards.length - 1; t >= 0; t--) {
    const delta = rewards[t]! + gamma * (values[t + 1] ?? 0) - values[t]!
    next = delta + gamma * lambda * next
    advantages[t] = next
    returns[t] = next + values[t]!
  }
  return { advantages, returns }
}

/**
 * Whitens over all tokens of all rows: deviation 1, and mean 0 ("shift") or the mean as it was ("keep"). (x - mean) / sqrt(variance + 1e-8), the
 * variance the population's.
 */
export const whitenTokens = (rows: ReadonlyArray<Float64Array>, mean: "shift" | "keep"): Array<Float64Array> => {
  let [count, sum, squares] = [0, 0, 0]
  for (const row of rows) {
    count += row.length
    for (const x of row) sum += x
  }
  const centre = sum / count
  for (const row of rows) for (const x of row) squares += (x - centre) ** 2
  const scale = 1 / Math.sqrt(squares / count + 1e-8)
  const offset = mean === "keep" ? centre : 0
  return rows.map((row) => row.map((x) => (x - centre) * scale + offset))
}

/** 1 - Var(returns - values) / Var(returns): 1 is a perfect value model, 0 one no better than a constant; 0 where returns do not vary. */
export const explainedVariance = (values: ReadonlyArray<ArrayLike<number>>, returns: ReadonlyArray<ArrayLike<number>>): number => {
  const variance = (at: (row: number, t: number) => number): number => {
    let [count, sum, squares] = [0, 0, 0]
    returns.forEach((row, i) => {
      count += row.length
      for (let t = 0; t < row.length; t++) sum += at(i, t)
    })
    const centre = sum / count
    returns.forEach((row, i) => {
      for (let t = 0; t < row.length; t++) squares += (at(i, t) - centre) ** 2
    })
    return squares / count
  }
  const total = variance((i, t) => returns[i]![t]!)
  return total === 0 ? 0 : 1 - variance((i, t) => returns[i]![t]! - values[i]![t]!) / total
}
