/**
 * Advantages without a value model: a response's reward relative to the other responses to the same prompt.
 *
 *     RLOO (Ahmadian et al. 2024; Kool et al. 2019)     A_i = R_i - 1/(k-1) sum over j != i of R_j
 *     GRPO (Shao et al. 2024, §4.1.2)                   A_i = (R_i - mean(R)) / std(R)
 *
 * A group is the k (or G) responses to one prompt. GRPO's mean includes R_i itself: without the division its advantages are RLOO's times (G - 1) / G.
 */
import { mean } from "../common/statistics.ts"

/** Rewards that differ by less than this are treated as equal; they come from float32. */
const sameReward = 1e-6
/** Added to the standard deviation: dividing by that of nearly equal rewards would amplify rounding errors. TRL's value; the paper has none. */
const epsilon = 1e-4

/** Throws RangeError if the group has fewer than two rewards, or if a reward is not finite. */
const checkGroup = (rewards: ReadonlyArray<number>, doing: string): void => {
  if (rewards.length < 2)
    throw new RangeError(
      `${doing}: expected the rewards of at least two responses to a prompt, got ${rewards.length}: each response is compared with the others`
    )
  const bad = rewards.findIndex((reward) => !Number.isFinite(reward))
  if (bad !== -1)
    throw new RangeError(`${doing}: expected finite rewards, got ${rewards[bad]} for response ${bad + 1} of ${rewards.length}`)
}

/** Splits responses, those to one prompt being consecutive, into groups of `size`. Throws RangeError if the last group is incomplete or there is none. */
export const groupsOf = <A>(responses: ReadonlyArray<A>, size: number): Array<Array<A>> => {
  if (responses.length === 0 || responses.length % size !== 0)
    throw new RangeError(`groupsOf: expected complete groups of ${size} responses, got ${responses.length} responses`)
  return Array.from({ length: responses.length / size }, (_, i) => responses.slice(i * size, (i + 1) * size))
}

/** RLOO: each reward minus the mean of the others. Throws RangeError for fewer than two rewards or one that is not finite. */
export const leaveOneOutAdvantages = (rewards: ReadonlyArray<number>): Array<number> => {
  checkGroup(rewards, "leaveOneOutAdvantages")
  const sum = rewards.reduce((total, reward) => total + reward, 0)
  return rewards.map((reward) => reward - (sum - reward) / (rewards.length - 1))
}

/**
 * GRPO: each reward minus the mean of all, divided by their sample standard deviation (n - 1) + 1e-4, or not divided ("none"; Liu et al. 2025, Dr. GRPO).
 * Throws RangeError for fewer than two rewards or one that is not finite.
 */
export const groupRelativeAdvantages = (rewards: ReadonlyArray<number>, scale: "deviation" | "none"): Array<number> => {
  checkGroup(rewards, "groupRelativeAdvantages")
  const centre = mean(rewards)
  const deviation = Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - centre) ** 2, 0) / (rewards.length - 1))
  return rewards.map((reward) => (reward - centre) / (scale === "deviation" ? deviation + epsilon : 1))
}

/** Whether all rewards of a group are equal, so that it provides no learning signal. */
export const isConstant = (rewards: ReadonlyArray<number>): boolean => Math.max(...rewards) - Math.min(...rewards) < sameReward
