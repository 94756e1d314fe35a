/** The difficulty of the prompts in later annotation batches (Llama 2 A.3.2, figure 26). */
import type { BatchRewards } from "../evaluation/batch-rewards.ts"
import { axis, colour, type Figure, free, withIntervals } from "./figure.ts"

/** Figure 26: one model's maximum and median reward by batch. */
export const batchRewardsFigure = ({ batches, n }: BatchRewards, policy?: string): Figure => {
  const names = [`maximum of ${n}`, "median"]
  const rows = batches.flatMap(({ batch, max, median, prompts, turns }) =>
    [max, median].map(({ high, low, mean }, i) => ({ batch, score: names[i]!, reward: mean, low, high, prompts, turns }))
  )
  const x = { field: "batch", type: "ordinal", title: "annotation batch", axis: { labelAngle: 0 } }
  const color = colour("score", null, names)
  const [first, last] = [batches[0], batches.at(-1)]
  const overlap = first !== undefined && last !== undefined && first.median.low <= last.median.high && last.median.low <= first.median.high
  const turns =
    (first?.turns ?? 1) === (last?.turns ?? 1) ? "" : ` Prompts grow from ${first!.turns.toFixed(1)} to ${last!.turns.toFixed(1)} turns.`
  return {
    id: "batch-rewards",
    title: "Rewards of one model on the prompts of each batch",
    caption: `Rewards, before the sigmoid, of ${policy ?? "one model"}'s answers from one reward model: means over a batch's prompts; bars are 95% bootstrap intervals.${turns} In the paper both fall from batch to batch, because later prompts are harder.${overlap ? " Here the intervals of the first and the last batch's medians overlap." : ""}`,
    rows,
    spec: {
      width: 420,
      height: 240,
      layer: withIntervals({ type: "rule" }, { x, y: axis("reward", "reward", free), color })
    }
  }
}
