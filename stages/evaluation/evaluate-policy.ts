/**
 * Rewards of a policy's samples (Llama 2 §3.2.3, figures 7 and 20): mean, median and maximum reward over K samples per prompt, and the gain from choosing
 * the best of N with one reward model, measured by another that was trained on other pairs and therefore does not share its errors.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeReport } from "../../data/dataset.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { report } from "../../schemas/report.ts"
import { EstimateSchema } from "../../schemas/metrics.ts"
import { type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { EmptyDatasetError } from "../common/empty-dataset.ts"
import { sampleId } from "../common/pairing.ts"
import { bootstrapMean, mean, median } from "../common/statistics.ts"
import { anyShare } from "../common/unfit.ts"

export const RewardSummary = Schema.Struct({
  prompts: Schema.Number,
  completions: Schema.Number,
  finished: Schema.Number,
  mean: EstimateSchema,
  /** Means over prompts of each prompt's median and maximum reward. */
  median: EstimateSchema,
  max: EstimateSchema
})
export const RewardSummaryReport = report(RewardSummary, "reward-summary/1")

const byPrompt = (completions: ReadonlyArray<ScoredCompletion>): ReadonlyArray<ReadonlyArray<ScoredCompletion>> => [
  ...Map.groupBy(completions, (completion) => completion.promptId).values()
]
const rewards = (completions: ReadonlyArray<ScoredCompletion>) => completions.map((completion) => completion.reward)

/** Intervals are over prompts, the sampling unit; samples of one prompt are not independent. */
export const summariseRewards = (completions: ReadonlyArray<ScoredCompletion>, seed: number): typeof RewardSummary.Type => {
  const prompts = byPrompt(completions)
  return {
    prompts: prompts.length,
    completions: completions.length,
    finished: completions.filter((completion) => completion.finished).length,
    mean: bootstrapMean(
      prompts.map((samples) => mean(rewards(samples))),
      seed
    ),
    median: bootstrapMean(
      prompts.map((samples) => median(rewards(samples))),
      seed
    ),
    max: bootstrapMean(
      prompts.map((samples) => Math.max(...rewards(samples))),
      seed
    )
  }
}

export const evaluatePolicy = Stage.make("evaluate-policy", {
  description: "§3.2.3 mean, median and maximum reward of a policy's samples",
  config: Schema.Struct({}),
  inputs: { scored: ScoredCompletions },
  output: RewardSummaryReport,
  run: Effect.fn("evaluate-policy")(function* ({ inputs, output, seed }) {
    const scored = yield* readRows(inputs.scored, ScoredCompletions)
    if (scored.length === 0) return yield* EmptyDatasetError.of("summarise rewards of", "no scored completions")
    return yield* writeReport(output, summariseRewards(scored, seed))
  })
})

export const BestOfN = Schema.Struct({
  prompts: Schema.Number,
  /** The evaluator's reward of the selector's best completion among the first n, over prompts. */
  byN: Schema.Array(Schema.Struct({ n: Schema.Number, reward: EstimateSchema })),
  /** The evaluator's mean reward over all completions. */
  mean: EstimateSchema,
  /** Best of all K minus the mean, paired by prompt. */
  gain: EstimateSchema
})
export const BestOfNReport = report(BestOfN, "best-of-n/1")

/** Best of N on completions scored by a selector and by an evaluator. Completions without an evaluator score are ignored. */
export const bestOfN = (
  selected: ReadonlyArray<ScoredCompletion>,
  evaluated: ReadonlyArray<ScoredCompletion>,
  seed: number
): typeof BestOfN.Type => {
  const rewardOf = new Map(evaluated.map((completion) => [sampleId(completion), completion.reward]))
  const prompts = byPrompt(selected)
    .map((samples) =>
      samples.flatMap((completion) => {
        const reward = rewardOf.get(sampleId(completion))
        return reward === undefined ? [] : [{ selector: completion.reward, evaluator: reward }]
      })
    )
    .filter((samples) => samples.length > 0)
  const best = (samples: ReadonlyArray<{ selector: number; evaluator: number }>, n: number) =>
    samples.slice(0, n).reduce((a, b) => (b.selector > a.selector ? b : a)).evaluator
  const k = Math.max(0, ...prompts.map((samples) => samples.length))
  const sizes = Array.from({ length: Math.ceil(Math.log2(Math.max(1, k))) }, (_, i) => 2 ** i).concat(k > 0 ? [k] : [])
  const means = prompts.map((samples) => mean(samples.map((sample) => sample.evaluator)))
  return {
    prompts: prompts.length,
    byN: sizes.map((n) => ({
      n,
      reward: bootstrapMean(
        prompts.map((samples) => best(samples, n)),
        seed
      )
    })),
    mean: bootstrapMean(means, seed),
    gain: bootstrapMean(
      prompts.map((samples, i) => best(samples, samples.length) - means[i]!),
      seed
    )
  }
}

export const evaluateBestOfN = Stage.make("evaluate-best-of-n", {
  description: "§3.2.3, figure 7: the gain from choosing the best of N, measured by another reward model",
  config: Schema.Struct({}),
  inputs: { selector: ScoredCompletions, evaluator: ScoredCompletions },
  output: BestOfNReport,
  run: Effect.fn("evaluate-best-of-n")(function* ({ inputs, output, seed, skipped }) {
    const selected = yield* readRows(inputs.selector, ScoredCompletions)
    const evaluated = yield* readRows(inputs.evaluator, ScoredCompletions)
    const result = bestOfN(selected, evaluated, seed)
    if (result.prompts === 0)
      return yield* EmptyDatasetError.of(
        "choose the best of",
        `${selected.length} completions of the selector and ${evaluated.length} of the evaluator, with none in common`
      )
    const known = new Set(evaluated.map(sampleId))
    for (const row of selected)
      if (!known.has(sampleId(row)))
        skipped.add({ what: "completions", reason: "without a score from the evaluator", id: sampleId(row), row })
    yield* skipped.check("completions", selected.length, anyShare)
    return yield* writeReport(output, result)
  })
})
