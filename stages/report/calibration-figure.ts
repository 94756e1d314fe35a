/** Reward models' scores compared with ratings from raters who made no training labels (Llama 2 A.3.4, figure 29). */
import type { Calibration } from "../evaluation/calibration.ts"
import { axis, type Figure, palette, panelsBy, singleLine, unit, withIntervals } from "./figure.ts"

const panels = [
  ["helpfulness", "R_h, prompts to help with"],
  ["safety", "R_s, safety prompts"]
] as const

const correlationsOf = (found: Calibration): string =>
  panels
    .flatMap(([kind, name]) => {
      const panel = found[kind]
      if (panel === null) return []
      const { answers, correlation } = panel
      return [
        `${name}: ${answers} answers, ${correlation === null ? "no correlation: one side does not vary" : `rank correlation ${correlation.toFixed(2)}`}`
      ]
    })
    .join("; ")

const whose = ({ leftOut: { trainedOn, unrated, unscored }, policies, raters }: Calibration, names: ReadonlyArray<string>): string =>
  `Each answer has the median rating of ${raters} ${raters === 1 ? "rater" : "raters"}, who made no training labels; the answers are from ${names.length > 0 ? names.join(", ") : `${policies} policies`}, which generated no training pairs. Left out: ${trainedOn} answers from policies that generated training pairs, ${unrated} without a rating, ${unscored} without a score.`

/** Median rating by score: the two panels of figure 29, by score. `names`: those of the policies. */
export const ratingByScoreFigure = (found: Calibration, names: ReadonlyArray<string> = []): Figure | undefined => {
  const rows = panels.flatMap(([kind, name]) =>
    (found[kind]?.byScore ?? []).map(({ answers, high, low, median, score }) => ({
      panel: name,
      score,
      rating: median,
      low,
      high,
      answers
    }))
  )
  if (rows.length === 0) return undefined
  const x = axis("score", "score", unit)
  const scale = { scale: { domain: [1, 7] }, axis: { values: [1, 2, 3, 4, 5, 6, 7], format: "d" } }
  return {
    id: "calibration",
    title: "Median rating by the reward models' scores",
    caption: `Median rating, from 1 to 7, of the answers in each bin of the scores; bars are quartiles. ${whose(found, names)} ${correlationsOf(found)}.`,
    rows,
    spec: panelsBy("panel", {
      width: 290,
      height: 220,
      layer: withIntervals({ type: "rule", color: palette[0]!, opacity: 0.6 }, { x, y: axis("rating", "median rating", scale) }, singleLine)
    })
  }
}

/** Mean score by rating, as in the paper's figure 29: the band is one standard deviation. */
export const scoreByRatingFigure = (found: Calibration, names: ReadonlyArray<string> = []): Figure | undefined => {
  const rows = panels.flatMap(([kind, name]) =>
    (found[kind]?.byRating ?? []).map(({ answers, deviation, mean, rating }) => ({
      ...{ panel: name, rating, score: mean, low: Math.max(0, mean - deviation), high: Math.min(1, mean + deviation), answers }
    }))
  )
  if (rows.length === 0) return undefined
  const x = axis("rating", "median rating", { scale: { domain: [1, 7] }, axis: { values: [1, 2, 3, 4, 5, 6, 7], format: "d" } })
  return {
    id: "score-by-rating",
    title: "Mean score by rating",
    caption: `Mean score of the answers with each rating; the band is one standard deviation, within (0, 1). In the paper scores increase with ratings in both panels, with wide bands. ${whose(found, names)}`,
    rows,
    spec: panelsBy("panel", {
      width: 290,
      height: 220,
      layer: withIntervals({ type: "area", opacity: 0.15, color: palette[0]! }, { x, y: axis("score", "mean score", unit) }, singleLine)
    })
  }
}
