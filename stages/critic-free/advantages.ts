/**
 * Advantages without a value model: what a response is worth beside the others to the same prompt.
 *
 *     RLOO (Ahmadian et al. 2024; Kool et al. 2019)         A_i = R_i - 1/(k-1) sum over j != i of R_j
 *     GRPO (Shao et al. 2024, §4.1.2)                          A_i = (r_i - mean(r)) / std(r)
 *
 * A group is the k (or G) responses to one prompt. The mean of GRPO holds r_i itself: without the division its advantages are RLOO's times (G - 1) / G.
 */
import { mean } from "../common/statistics.ts"

/** Rewards that differ by less are the same: they are float32's. */
const sameReward = 1e-6
/** Is added to the deviation: of rewards that are alike it would blow up the rounding (TRL's value; the paper has none). */
const smallDeviation = 1e-4

/** Throws a RangeError that names the response, unless these are the rewards of a group of two or more. */
const checkGroup = (rewards: ReadonlyArray<number>, doing: string): void => {
  if (rewards.length < 2)
    throw new RangeError(
      `${doing}: expected the rewards of two responses to a prompt or more, got ${rewards.length}: a response is compared with the others`
    )
  const wrong = rewards.findIndex((reward) => !Number.isFinite(reward))
  if (wrong !== -1)
    throw new RangeError(`${doing}: expected finite rewards, got ${rewards[wrong]} for response ${wrong + 1} of ${rewards.length}`)
}

/** Consecutive responses to one prompt as groups of `size`. Throws a RangeError where the last is not whole. */
export const groupsOf = <A>(responses: ReadonlyArray<A>, size: number): Array<Array<A>> => {
  if (responses.length === 0 || responses.length % size !== 0)
    throw new RangeError(`groupsOf: expected whole groups of ${size} responses, got ${responses.length} responses`)
  return Array.from({ length: responses.length / size }, (_, i) => responses.slice(i * size, (i + 1) * size))
}

/** Each reward less the mean of the others. */
export const leaveOneOutAdvantages = (rewards: ReadonlyArray<number>): Array<number> => {
  checkGroup(rewards, "leaveOneOutAdvantages")
  const sum = rewards.reduce((total, reward) => total + reward, 0)
  return rewards.map((reward) => reward - (sum - reward) / (rewards.length - 1))
}

/** Each reward less the mean of all, divided by their deviation (the sample's: n - 1) + 1e-4, or undivided (Liu et al. 2025, Dr. GRPO). */
export const groupRelativeAdvantages = (rewards: ReadonlyArray<number>, scale: "deviation" | "none"): Array<number> => {
  checkGroup(rewards, "groupRelativeAdvantages")
  const centre = mean(rewards)
  const deviation = Math.sqrt(rewards.reduce((sum, reward) => sum + (reward - centre) ** 2, 0) / (rewards.length - 1))
  return rewards.map((reward) => (reward - centre) / (scale === "deviation" ? deviation + smallDeviation : 1))
}

/** Whether all of a group's rewards are the same: nothing can be learnt from them. */
export const isConstant = (rewards: ReadonlyArray<number>): boolean => Math.max(...rewards) - Math.min(...rewards) < sameReward
