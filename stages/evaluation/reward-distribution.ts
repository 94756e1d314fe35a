/**
 * The distribution of a version's scores (Llama 2 §5.1, figure 20: each version from SFT on moves to the right): histograms of R_h and R_s.
 *
 * Over all completions that have the score, or only over those to the prompts that it is meant for: R_h of a refusal is low, even if refusing is right.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { mean, median, unitHistogram } from "../common/statistics.ts"

const Distribution = Schema.Struct({
  completions: Schema.Number,
  mean: Schema.Number,
  median: Schema.Number,
  /** Bin i counts the scores from i / bins up to (i + 1) / bins; the last bin includes 1. */
  counts: Schema.Array(Schema.Number)
})
const RewardDistribution = Schema.Struct({
  /** R_h and R_s; null if no completion has the score. */
  helpfulness: Schema.NullOr(Distribution),
  safety: Schema.NullOr(Distribution)
})
export const RewardDistributionReport = report(RewardDistribution, "reward-distribution/1")

const distributionOf = (scores: ReadonlyArray<number>, bins: number): typeof Distribution.Type | null =>
  scores.length === 0
    ? null
    : { completions: scores.length, mean: mean(scores), median: median(scores), counts: unitHistogram(scores, bins) }

const present = (score: number | null): score is number => score !== null

export const distributionsOf = (
  scored: ReadonlyArray<Pick<ScoredCompletion, "safety" | "helpfulnessScore" | "safetyScore">>,
  options: { readonly bins: number; readonly prompts: "all" | "own" }
): typeof RewardDistribution.Type => {
  const part = (safety: boolean) => scored.filter((one) => options.prompts === "all" || one.safety === safety)
  return {
    helpfulness: distributionOf(
      part(false)
        .map((one) => one.helpfulnessScore)
        .filter(present),
      options.bins
    ),
    safety: distributionOf(
      part(true)
        .map((one) => one.safetyScore)
        .filter(present),
      options.bins
    )
  }
}

export const rewardDistribution = Stage.make("reward-distribution", {
  description: "figure 20: histograms of a version's helpfulness and safety scores",
  config: Schema.Struct({
    bins: hyperInt(20, "number of bins of equal width over (0, 1)", { min: 1 }),
    prompts: hyper(
      "all",
      "prompts to include: all, or for each score only its own: helpfulness over prompts that are not safety prompts, safety over those that are",
      ["all", "own"]
    )
  }),
  inputs: { scored: ScoredCompletions },
  output: RewardDistributionReport,
  seeded: false,
  run: Effect.fn("reward-distribution")(function* ({ config, inputs, output }) {
    const { bins, prompts } = config
    const scored = yield* readRows(inputs.scored, ScoredCompletions)
    const found = distributionsOf(scored, { bins, prompts })
    if (found.helpfulness === null && found.safety === null)
      return yield* EmptyDatasetError.of(
        "draw the distribution of",
        `${scored.length} scored completions without a helpfulness or safety score; score them with such a reward model`
      )
    return yield* writeReport(output, found)
  })
})
