/**
 * Scores completions with the reward that reinforcement learning maximises (Llama 2 §3.2.3), from two reward models:
 *
 *     R_c = R_s  for safety prompts or if R_s < 0.15,  else R_h;      reward = logit(R_c)
 *
 * The reward is not whitened here: PPO whitens over its training batch. The best completion by logit(R_c) is also the best by R_c.
 * Without a safety model, R_c is always R_h.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readRows, writeDataset } from "../../data/dataset.ts"
import { larger } from "../../models/memory.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { HelpfulnessReward, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper } from "../../schemas/hyper.ts"
import { type Completion, Completions, type ScoredCompletion, ScoredCompletions } from "../../schemas/rows.ts"
import { openBatchLog } from "../common/batch-log.ts"
import { costOf } from "../common/cost/estimator.ts"
import { combineRewards, type GateScope, gateScopes, isGated, logit, scoreOf } from "./combined-reward.ts"
import { completionRows, scoreResponses, scoringFields } from "../common/scoring.ts"
import { scoring } from "./cost.ts"

const ScoreCombinedConfig = Schema.Struct({
  threshold: hyper(0.15, "below this safety score, R_c is the safety score alone; §3.2.3: 0.15", { min: 0, max: 1 }),
  scope: hyper(
    "prompt or threshold",
    "for which responses R_c is the safety score alone; §3.2.3: those to safety prompts, and those below the threshold",
    gateScopes
  ),
  ...scoringFields
})

/** A completion with R_h, R_s and logit(R_c), from the two models' scalars; `safety` is undefined without a safety model. */
export const combineScalars = (
  completion: Completion,
  scalars: { readonly helpfulness: number; readonly safety: number | undefined },
  gate: { readonly threshold: number; readonly scope: GateScope }
): ScoredCompletion => {
  const helpfulness = scoreOf(scalars.helpfulness)
  if (scalars.safety === undefined) return { ...completion, reward: logit(helpfulness), helpfulnessScore: helpfulness, safetyScore: null }
  const safety = scoreOf(scalars.safety)
  const combined = combineRewards({ helpfulness, safety, isSafetyPrompt: completion.safety, ...gate })
  return { ...completion, reward: logit(combined), helpfulnessScore: helpfulness, safetyScore: safety }
}

export const scoreCombined = Stage.make("score-combined", {
  description: "§3.2.3 scores completions with both reward models and the combined reward logit(R_c)",
  config: ScoreCombinedConfig,
  inputs: { completions: Completions, helpfulness: HelpfulnessReward, safety: Stage.optional(SafetyReward) },
  output: ScoredCompletions,
  seeded: false,
  resources: { tensors: true, ranks: "batches" },
  run: Effect.fn("score-combined")(function* ({ config, inputs, output, device, progress, checkpoints, skipped }) {
    const completions = yield* readRows(inputs.completions, Completions)
    const { threshold, scope, batchSize, precision } = config
    const options = { batchSize, precision, device, progress, log: yield* openBatchLog({ checkpoints, progress }) }
    const helpfulness = yield* scoreResponses(inputs.helpfulness, completions, completionRows(skipped, completions), options)
    // A completion that does not fit one model's context has no combined reward.
    const helped = completions.flatMap((completion, i) => {
      const score = helpfulness.scores[i]
      return score === undefined ? [] : [{ completion, score }]
    })
    const rest = helped.map(({ completion }) => completion)
    const safety =
      inputs.safety === undefined ? undefined : yield* scoreResponses(inputs.safety, rest, completionRows(skipped, rest), options)
    const scored = helped.flatMap(({ completion, score }, i) => {
      const scalars = { helpfulness: score, safety: safety?.scores[i] }
      if (safety !== undefined && scalars.safety === undefined) return []
      return [combineScalars(completion, scalars, { threshold, scope })]
    })
    const gatedBy = (only: GateScope): number =>
      scored.filter(
        ({ safetyScore, safety }) =>
          safetyScore !== null && isGated({ safety: safetyScore, isSafetyPrompt: safety, threshold, scope: only })
      ).length
    return yield* writeDataset(output, scored, {
      metrics: {
        scored: scored.length,
        empty: helpfulness.empty,
        unfit: completions.length - scored.length - helpfulness.empty,
        safetyPrompts: gatedBy("prompt only"),
        belowThreshold: gatedBy("threshold only"),
        decidedBySafety: gatedBy(scope)
      }
    })
  })
})

export const scoreCombinedCost = costOf(scoreCombined, {
  size: ({ inputs }) => inputs.completions,
  cost: ({ config, inputs }) => {
    // One model after the other: withReward frees the first.
    const { completions, helpfulness, safety } = inputs
    const each = [helpfulness, ...(safety === undefined ? [] : [safety])].map((model) => scoring(model, completions, 1, config))
    return { work: each.flatMap(({ work }) => work), memory: each.map(({ memory }) => memory).reduce(larger) }
  }
})
