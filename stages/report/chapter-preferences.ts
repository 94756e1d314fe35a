/** Preference data (Llama 2 §3.2.1): statistics batch by batch, and the shares of ratings. */
import * as Effect from "effect/Effect"
import { type PreferenceStatistics, PreferenceStatisticsReport } from "../preferences/preference-statistics.ts"
import { axis, type Figure, type Section, series } from "./figure.ts"
import type { Results } from "./results.ts"
import { statisticsTable } from "./tables.ts"

const ratingNames = {
  significantlyBetter: "significantly better",
  better: "better",
  slightlyBetter: "slightly better",
  negligiblyBetterOrUnsure: "negligibly better or unsure"
} as const

/** Figure 25: the shares of ratings, batch by batch. */
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
    title: "Ratings, batch by batch",
    caption:
      "Share of each rating among the rated pairs of a batch. In the paper clear ratings become rarer as versions improve: their answers become alike.",
    rows,
    spec: {
      facet: { column: { field: "data", type: "nominal", title: null } },
      spec: {
        width: 290,
        height: 220,
        mark: { type: "line", point: true },
        encoding: {
          x: { field: "batch", type: "ordinal", title: "batch", axis: { labelAngle: 0 } },
          y: axis("share", "share of pairs", { axis: { format: "%" } }),
          color: series("rating", null, Object.values(ratingNames))
        }
      }
    }
  }
}

export const preferencesChapter = Effect.fnUntraced(function* (run: Results) {
  const statistics = yield* run.reports(PreferenceStatisticsReport)
  return statistics.map(({ content }): Section => ({
    title: "Preference data",
    figures: [ratingSharesFigure(content)].filter((figure) => figure !== undefined),
    tables: [statisticsTable(content)]
  }))
})
