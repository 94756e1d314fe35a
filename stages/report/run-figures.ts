/** Figures and tables for the page of a run on your own data, in addition to those in figures.ts. */
import { within } from "../common/text-table.ts"
import type { BestOfN } from "../evaluation/evaluate-policy.ts"
import type { RunSummary } from "../evaluation/run-summary.ts"
import { allVersions } from "../evaluation/run-summary-text.ts"
import { axis, colour, type Figure, free, palette, singleLine, type Table, withIntervals } from "./figure.ts"

/** The table at the top of the page. */
export const runRows = (summary: RunSummary): Table["rows"] =>
  allVersions(summary).map(({ answers, ended, helpfulness, name, reward, safety, tokens }) => ({
    version: name,
    R_c: within(reward),
    R_h: within(helpfulness),
    R_s: within(safety),
    "tokens per answer": tokens,
    ended,
    answers
  }))

/** Mean R_c with its interval for each version and control. */
export const rewardsChart = (
  rows: ReadonlyArray<{
    readonly name: string
    readonly kind: string
    readonly reward: number
    readonly low: number
    readonly high: number
  }>,
  { caption, title }: Pick<Figure, "caption" | "title">
): Figure => {
  const y = { field: "name", type: "nominal", title: null, sort: rows.map(({ name }) => name) }
  const color = colour("kind", null, ["version", "control"])
  return {
    ...{ id: "rewards", title, caption, rows },
    spec: {
      width: 480,
      height: 28 * rows.length,
      layer: [
        { mark: "rule", encoding: { y, x: axis("low", "R_c", free), x2: { field: "high" }, color } },
        { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { y, x: axis("reward", "R_c", free), color } }
      ]
    }
  }
}

/** Each version and control according to the judges. */
export const rewardsFigure = ({ controls, versions }: RunSummary): Figure => {
  const row = (kind: string) => (one: RunSummary["versions"][number]) => {
    const { high, low, mean: reward } = one.reward
    return { name: one.name, kind, reward, low, high }
  }
  return rewardsChart([...versions.map(row("version")), ...controls.map(row("control"))], {
    title: "Each version according to the judges",
    caption: "Mean R_c over held-out prompts with 95% bootstrap intervals, from reward models not used for tuning. Further right is better."
  })
}

/** Figure 7, evaluated by other reward models than those that choose. */
export const bestOfKFigure = ({ byN, mean }: typeof BestOfN.Type): Figure => {
  const rows = byN.map(({ n, reward }) => ({ n, reward: reward.mean, low: reward.low, high: reward.high, mean: mean.mean }))
  const x = {
    ...{ field: "n", type: "quantitative", title: "answers per prompt, N", scale: { type: "log", base: 2 } },
    axis: { values: rows.map(({ n }) => n), format: "d" }
  }
  const title = "logit(R_c) according to the judges"
  return {
    id: "best-of-k",
    title: "The gain from choosing the best of N",
    caption:
      "SFT's answers to held-out prompts, chosen by the reward models and evaluated by the judges: mean logit(R_c) over prompts; the band is a 95% bootstrap interval, the dashed line the mean of all answers.",
    rows,
    spec: {
      width: 480,
      height: 260,
      layer: [
        ...withIntervals({ type: "area", opacity: 0.15, color: palette[0] }, { x, y: axis("reward", title, free) }, singleLine),
        { mark: { type: "line", strokeDash: [6, 4], color: palette[1] }, encoding: { x, y: axis("mean", title, free) } }
      ]
    }
  }
}

/** The last version compared with the others. */
export const runGainTable = ({ gain, versions }: RunSummary): Table => ({
  id: "gains",
  title: `${versions.at(-1)!.name} compared with the other versions and the controls`,
  caption:
    "According to the judges, on the same prompts: differences in R_c with 95% bootstrap intervals, and wins / (wins + losses) with 95% Wilson intervals. The controls are SFT with the same number of additional steps, and a random answer of K instead of the best.",
  rows: gain.map(({ over, reward, wins }) => ({
    over,
    R_c: within(reward),
    "win rate": within(wins.rate),
    ties: wins.ties,
    prompts: wins.prompts
  }))
})

/** The reward models and their judges on held-out pairs. */
export const rewardModelsTable = ({ rewardModels }: RunSummary): Table => ({
  id: "reward-models",
  title: "Reward models on held-out pairs",
  caption:
    "How often the chosen answer scores higher, with 95% Wilson intervals, compared with length alone, words alone and randomly swapped labels.",
  rows: (["helpfulness", "safety"] as const).flatMap((name) => {
    const one = rewardModels[name]
    if (one === null) return []
    return [
      {
        ...{ "reward model": name, pairs: one.pairs, right: within(one.accuracy), "its judge": within(one.judge) },
        ...{ "length alone": within(one.lengthOnly), "bag of words": within(one.bagOfWords), "labels shuffled": within(one.shuffledLabels) }
      }
    ]
  })
})
