/** Figures of reward models, from scored held-out pairs and their evaluations (Llama 2 §3.2.2, A.3.3). */
import { unitHistogram, proportion } from "../common/statistics.ts"
import { within } from "../common/text-table.ts"
import type { PairScore } from "../../schemas/rows.ts"
import { scoreOf } from "../reward/combined-reward.ts"
import type { RewardAccuracy, SafetyRecall } from "../reward/evaluate-reward.ts"
import { axis, type Figure, free, palette, panelsBy, type Rows, series, type Table, unit, withIntervals } from "./figure.ts"

export interface NamedScores {
  readonly name: string
  readonly scores: ReadonlyArray<Pick<PairScore, "chosenReward" | "rejectedReward">>
}

const bins = 10
/**
 * How often the response with the higher score was chosen, by the model's probability sigma(|difference|), in equal bins of (0.5, 1). The loss without a margin makes it a
 * probability. A tie has 0.5 and counts half.
 */
export const chosenFrequency = (scores: NamedScores["scores"]) => {
  const sides = scores.map(({ chosenReward, rejectedReward }) => ({
    probability: 1 / (1 + Math.exp(-Math.abs(chosenReward - rejectedReward))),
    chosen: chosenReward > rejectedReward ? 1 : chosenReward === rejectedReward ? 0.5 : 0
  }))
  const binOf = (probability: number) => Math.min(bins - 1, Math.floor((probability - 0.5) * 2 * bins))
  return [...Map.groupBy(sides, ({ probability }) => binOf(probability))]
    .sort(([a], [b]) => a - b)
    .map(([, some]) => {
      const found = proportion(
        some.reduce((sum, { chosen }) => sum + chosen, 0),
        some.length
      )
      return { says: some.reduce((sum, { probability }) => sum + probability, 0) / some.length, pairs: some.length, ...found }
    })
}

export const chosenFrequencyFigure = (models: ReadonlyArray<NamedScores>): Figure => {
  const rows = models.flatMap(({ name, scores }) =>
    chosenFrequency(scores).map(({ high, low, mean, pairs, says }) => ({ model: name, says, chosen: mean, low, high, pairs }))
  )
  const [x, color] = [
    axis("says", "the model's probability: sigma of the difference", { scale: { domain: [0.5, 1] } }),
    series(
      "model",
      null,
      models.map(({ name }) => name)
    )
  ]
  return {
    id: "chosen-frequency",
    title: "How often the response with the higher score was chosen",
    caption:
      "Held-out pairs by sigma of the difference of their scores; bars are 95% Wilson intervals. On the dashed line the model is calibrated, as the ranking loss without a margin implies; a margin pushes scores apart and the points below the line.",
    rows,
    spec: {
      width: 460,
      height: 300,
      layer: [
        {
          data: { values: [{ a: 0.5 }, { a: 1 }] },
          mark: { type: "line", strokeDash: [4, 3], strokeWidth: 1, color: palette[6]! },
          encoding: { x: { field: "a", type: "quantitative" }, y: { field: "a", type: "quantitative" } }
        },
        ...withIntervals({ type: "rule" }, { x, y: axis("chosen", "share chosen", unit), color })
      ]
    }
  }
}

const scoreBins = 20
/** Figure 27: the distribution of scores, R of both responses, for each margin. */
export const marginScoresFigure = (models: ReadonlyArray<NamedScores>): Figure => {
  const names = models.map(({ name }) => name)
  const rows = models.flatMap(({ name, scores }) => {
    const values = scores.flatMap(({ chosenReward, rejectedReward }) => [scoreOf(chosenReward), scoreOf(rejectedReward)])
    return unitHistogram(values, scoreBins).map((count, i) => ({
      margin: name,
      score: (i + 0.5) / scoreBins,
      share: count / Math.max(1, values.length)
    }))
  })
  return {
    id: "margin-scores",
    title: "Scores by the margin of the ranking loss",
    caption:
      "Share of responses in held-out pairs by score. With a margin the model gives more extreme scores (A.3.3): in the paper the distribution becomes bimodal.",
    rows,
    spec: {
      width: 480,
      height: 260,
      mark: { type: "line", interpolate: "monotone" },
      encoding: {
        x: axis("score", "score, sigma of the model's scalar", unit),
        y: axis("share", "share of responses"),
        color: series("margin", "margin", names)
      }
    }
  }
}

export interface SizedAccuracy {
  /** Number of parameters of the reward model. */
  readonly parameters: number
  readonly pairs: number
  readonly accuracy: RewardAccuracy
}
const sizeName = (parameters: number): string =>
  parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)}M` : `${Math.round(parameters / 1e3)}k`

/** Figure 6: accuracy by the number of training pairs, with a line per size; over all pairs, and over those rated significantly better. */
export const rewardScalingFigure = (models: ReadonlyArray<SizedAccuracy>): Figure => {
  const sizes = [...new Set(models.map(({ parameters }) => parameters))].sort((a, b) => a - b).map(sizeName)
  const rows: Rows = models.flatMap(({ accuracy, pairs, parameters }) => {
    const clear = accuracy.byRating.find(({ rating }) => rating === "significantly better")?.accuracy
    const line = (over: string, { high, low, mean }: RewardAccuracy["accuracy"]) => ({
      over,
      model: `${sizeName(parameters)} parameters`,
      pairs,
      accuracy: mean,
      low,
      high
    })
    return [line("all held-out pairs", accuracy.accuracy), ...(clear === undefined ? [] : [line("significantly better", clear)])]
  })
  const x = axis("pairs", "training pairs", {
    scale: { type: "log", nice: false },
    axis: { format: "~s", values: [...new Set(models.map(({ pairs }) => pairs))] }
  })
  const color = series(
    "model",
    null,
    sizes.map((size) => `${size} parameters`)
  )
  return {
    id: "reward-scaling",
    title: "Accuracy of reward models by size and amount of data",
    caption:
      "On the same held-out pairs, with 95% Wilson intervals; the x axis is logarithmic. In the paper larger models are better on the same data, and none has reached a plateau.",
    rows,
    spec: panelsBy("over", {
      width: 280,
      height: 250,
      layer: withIntervals({ type: "rule", opacity: 0.5 }, { x, y: axis("accuracy", "accuracy", free), color })
    })
  }
}

/** Tables 7, 8 and 28: a row per evaluation. */
export const accuracyTable = (
  title: string,
  models: ReadonlyArray<{ readonly name: string; readonly accuracy: RewardAccuracy }>,
  id: "reward-models" | "margins" = "reward-models"
): Table => {
  const ratings = [...new Set(models.flatMap(({ accuracy }) => accuracy.byRating.map(({ rating }) => rating)))]
  return {
    id,
    title,
    caption:
      "How often the chosen response of a held-out pair scores higher (a tie counts half), with 95% Wilson intervals: over all pairs, and by rating.",
    rows: models.map(({ accuracy, name }) => ({
      "evaluated as": name,
      pairs: accuracy.pairs,
      all: within(accuracy.accuracy),
      ...Object.fromEntries(
        ratings.map((rating) => {
          const found = accuracy.byRating.find((one) => one.rating === rating)
          return [rating, found === undefined ? null : `${within(found.accuracy)} of ${found.pairs}`]
        })
      )
    }))
  }
}

/** Table 7: a row per evaluation on several test sets, including other reward models and judges. */
export const accuracyBySourceTable = (
  models: ReadonlyArray<{ readonly name: string; readonly accuracy: RewardAccuracy }>
): ReadonlyArray<Table> => {
  const several = models.filter(({ accuracy }) => accuracy.bySource.length > 1)
  if (several.length === 0) return []
  const sources = [...new Set(several.flatMap(({ accuracy }) => accuracy.bySource.map(({ source }) => source)))]
  return [
    {
      id: "reward-models",
      title: "Reward models by test set",
      caption:
        "How often the chosen response of a held-out pair scores higher (a tie counts half), with 95% Wilson intervals, by source of the pairs. A judge chooses between the two responses. In the paper the two models are best on their own test sets, above open reward models and GPT-4.",
      rows: several.map(({ accuracy, name }) => ({
        "evaluated as": name,
        ...Object.fromEntries(
          sources.map((source) => {
            const found = accuracy.bySource.find((one) => one.source === source)
            return [source, found === undefined ? null : `${within(found.accuracy)} of ${found.pairs}`]
          })
        )
      }))
    }
  ]
}

/** Table 29 and §3.2.3's threshold, with the paper's values. */
export const safetyRecallTable = (models: ReadonlyArray<{ readonly name: string; readonly recall: SafetyRecall }>): Table => ({
  id: "safety-recall",
  title: "Detection of unsafe responses by the safety model",
  caption:
    "Labelled responses of held-out pairs, detected as unsafe if R_s is below a threshold; with 95% Wilson intervals. The paper's 0.15 has a precision of 0.89 and a recall of 0.55 on its own test set (§3.2.3); its recall at 0.5 is 0.904 with the safety loss and 0.730 without (table 29).",
  rows: models.flatMap(({ name, recall }) =>
    [recall.gate, recall.recall].map((at) => ({
      "safety model": name,
      "R_s below": String(at.threshold),
      precision: within(at.precision),
      recall: within(at.recall),
      "detected as unsafe": at.flagged,
      unsafe: recall.unsafe,
      responses: recall.responses
    }))
  )
})
