/** Preference data (Llama 2 §3.2.1, §3.4.1): statistics by batch, shares of ratings, and how often each round's newest model was chosen. */
import * as Effect from "effect/Effect"
import { BatchRewardsReport } from "../evaluation/batch-rewards.ts"
import { type PreferenceStatistics, PreferenceStatisticsReport } from "../preferences/preference-statistics.ts"
import { within } from "../common/text-table.ts"
import { type RoundWins, RoundWinsReport } from "../preferences/round-wins.ts"
import { batchRewardsFigure } from "./batch-rewards-figure.ts"
import { axis, type Figure, palette, panelsBy, type Section, series, type Table, unit } from "./figure.ts"
import type { Result, Results } from "./results.ts"
import { statisticsTable } from "./tables.ts"

const ratingNames = {
  significantlyBetter: "significantly better",
  better: "better",
  slightlyBetter: "slightly better",
  negligiblyBetterOrUnsure: "negligibly better or unsure"
} as const

/** Figure 25: the shares of ratings by batch. */
export const ratingSharesFigure = (statistics: PreferenceStatistics): Figure | undefined => {
  const rows = (["helpfulness", "safety"] as const).flatMap((data) =>
    (statistics[data]?.batches ?? []).flatMap(({ ratings }, i) =>
      ratings === null
        ? []
        : Object.entries(ratingNames).map(([field, rating]) => ({
            data,
            batch: i + 1,
            rating,
            share: ratings[field as keyof typeof ratingNames]
          }))
    )
  )
  if (rows.length === 0) return undefined
  return {
    id: "rating-shares",
    title: "Ratings by batch",
    caption:
      "Share of each rating among the rated pairs of a batch. In the paper clear ratings become rarer as versions improve, because their answers become more similar.",
    rows,
    spec: panelsBy("data", {
      width: 290,
      height: 220,
      mark: { type: "line", point: true },
      encoding: {
        x: { field: "batch", type: "ordinal", title: "batch", axis: { labelAngle: 0 } },
        y: axis("share", "share of pairs", { axis: { format: "%" } }),
        color: series("rating", null, Object.values(ratingNames))
      }
    })
  }
}

/** §3.4.1: how often each round's newest model was chosen over the previous one. */
export const roundsWonFigure = ({ rounds }: RoundWins): Figure | undefined => {
  const rows = rounds.flatMap(({ comparisons, name, rate }) =>
    rate === null ? [] : [{ round: name, rate: rate.mean, low: rate.low, high: rate.high, comparisons }]
  )
  if (rows.length === 0) return undefined
  const y = {
    field: "round",
    type: "nominal",
    sort: rows.map(({ round }) => round),
    title: null,
    axis: { labelLimit: 260, labelExpr: "split(datum.label, ', ')" }
  }
  return {
    id: "rounds-won",
    title: "How often each round's newest model was chosen",
    caption:
      "Share of the round's existing comparisons, with 95% Wilson intervals; on the dashed line neither model is better. The two models' answers are sampled at separate temperatures.",
    rows,
    spec: {
      width: 480,
      // The kind of the pairs is a second line of a round's name: on a phone one line would leave no room for the figure.
      height: 32 * rows.length,
      layer: [
        { mark: { type: "rule", strokeDash: [4, 3] }, encoding: { x: { datum: 0.5 } } },
        { mark: "rule", encoding: { y, x: axis("low", "share of comparisons", unit), x2: { field: "high" } } },
        {
          mark: { type: "point", filled: true, size: 60, opacity: 1, color: palette[0]! },
          encoding: { y, x: axis("rate", "share of comparisons", unit) }
        }
      ]
    }
  }
}

export const roundsWonTable = ({ rounds }: RoundWins): Table => ({
  id: "rounds-won",
  title: "Wins in each round's pairs",
  caption: "Clear: better or significantly better. Left out: no preference, or dropped by the safety rule.",
  rows: rounds.map(({ clearLosses, clearWins, comparisons, leftOut, name, rate, temperatures, wins }) => ({
    ...{
      round: name,
      "win rate": within(rate),
      wins,
      comparisons,
      "clear wins": clearWins,
      "clear losses": clearLosses,
      "left out": leftOut
    },
    temperatures: `${temperatures.newer ?? "several"}, ${temperatures.older ?? "several"}`
  }))
})

/** The one model whose answers a comparison of batches uses. */
const answeredBy = (run: Results, one: Result): string | undefined =>
  run.input(run.input(run.inputs(one, "scored")[0], "completions"), "policy")?.node

export const preferencesChapter = Effect.fnUntraced(function* (run: Results) {
  const statistics = yield* run.reports(PreferenceStatisticsReport)
  const wins = yield* run.reports(RoundWinsReport)
  const batches = yield* run.reports(BatchRewardsReport)
  const section: Section = {
    title: "Preference data",
    figures: [
      ...statistics.map(({ content }) => ratingSharesFigure(content)),
      ...wins.map(({ content }) => roundsWonFigure(content)),
      ...batches.map((one) => batchRewardsFigure(one.content, answeredBy(run, one)))
    ].filter((figure) => figure !== undefined),
    tables: [...statistics.map(({ content }) => statisticsTable(content)), ...wins.map(({ content }) => roundsWonTable(content))]
  }
  return [section]
})
