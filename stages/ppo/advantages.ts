/**
 * Turns scores of whole responses into an advantage per token (Llama 2 §3.2.3 eq. 3-4; Schulman et al. 2016, generalised advantage estimation).
 *
 * Every array belongs to one response and has one entry per token, without padding, so that padding never enters a sum.
 */
import { mean } from "../common/statistics.ts"
import type { PpoConfig } from "./config.ts"
import { klEstimate } from "./kl.ts"

/**
 * Rewards of one response's tokens: -beta KL_t each, plus the score of the whole response, either on the last token ("last-token") or in a separate entry
 * after it ("past-end": the array then has one more entry than there are tokens). `logProbabilities` and `reference` are the tokens' log-probabilities
 * under policy and reference.
 */
export const tokenRewards = (
  response: {
    readonly logProbabilities: ReadonlyArray<number>
    readonly reference: ReadonlyArray<number>
    readonly score: number
    readonly beta: number
  },
  config: Pick<PpoConfig, "klEstimator" | "terminal">
): Array<number> => {
  const { logProbabilities, reference, score, beta } = response
  const rewards = logProbabilities.map((logProbability, t) => -beta * klEstimate(config.klEstimator, logProbability, reference[t]!))
  if (config.terminal === "past-end") rewards.push(0)
  rewards[rewards.length - 1]! += score
  return rewards
}

/**
 * Generalised advantage estimation: with delta_t = r_t + gamma V_{t+1} - V_t and V = 0 after the last entry,
 *
 *     A_t = sum_{l >= 0} (gamma lambda)^l delta_{t+l}          return_t = A_t + V_t
 *
 * V_t is values[t], the value of the state in which token t is chosen. All arrays have the same length.
 */
export const generalisedAdvantages = (
  rewards: ReadonlyArray<number>,
  values: ReadonlyArray<number>,
  config: Pick<PpoConfig, "gamma" | "lambda">
): { readonly advantages: Array<number>; readonly returns: Array<number> } => {
  const { gamma, lambda } = config
  const advantages = new Array<number>(rewards.length)
  const returns = new Array<number>(rewards.length)
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
 * Whitens over all tokens of all rows: (x - mean) / sqrt(variance + 1e-8), with the population variance ("shift"), plus the original mean ("keep").
 * "none" returns the rows unchanged.
 */
export const whitenTokens = (
  rows: ReadonlyArray<ReadonlyArray<number>>,
  how: PpoConfig["whitenAdvantages"]
): ReadonlyArray<ReadonlyArray<number>> => {
  if (how === "none") return rows
  const all = rows.flat()
  const centre = mean(all)
  const scale = 1 / Math.sqrt(variance(all) + 1e-8)
  const offset = how === "keep" ? centre : 0
  return rows.map((row) => row.map((x) => (x - centre) * scale + offset))
}

/** 1 - Var(returns - values) / Var(returns): 1 for a perfect value model, 0 for one no better than a constant; 0 if the returns do not vary. */
export const explainedVariance = (values: ReadonlyArray<ReadonlyArray<number>>, returns: ReadonlyArray<ReadonlyArray<number>>): number => {
  const total = variance(returns.flat())
  return total === 0 ? 0 : 1 - variance(returns.flatMap((row, i) => row.map((x, t) => x - values[i]![t]!))) / total
}

/** The population variance. */
const variance = (numbers: ReadonlyArray<number>): number => {
  const centre = mean(numbers)
  return mean(numbers.map((x) => (x - centre) ** 2))
}
