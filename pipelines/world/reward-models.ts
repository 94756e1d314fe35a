/** Reward models on the small world (§3.2.2): two per round, of which the best so far are used. */
import type { Completion, Preference } from "../../schemas/rows.ts"
import { evaluateReward, scorePairs } from "../../stages/reward/evaluate-reward.ts"
import { scoreCombined } from "../../stages/reward/score-combined.ts"
import { byKind, type HelpfulnessReward, type Policy, type Rewards, type Rows, type SafetyReward } from "../nodes.ts"
import { bestRewards, type Named, rewardModels } from "../rounds.ts"
import { has, ownPairs, scoringOf, type WorldParams } from "./params.ts"
import type { Collected } from "./preferences.ts"

/** The models that score answers: without the safety model, only helpfulness. */
export interface Scorers {
  readonly helpfulness: HelpfulnessReward
  readonly safety?: SafetyReward
}

/** The combined reward (§3.2.3) of completions. */
export const scoredBy = (models: Scorers, completions: Rows<Completion>, params: WorldParams, name: string) =>
  scoreCombined({ completions, ...models }, scoringOf(params)).named(name)

export const rewardTraining = (params: WorldParams) => ({
  margin: has(params, "margin") ? ("small" as const) : ("none" as const),
  learningRate: params.rewardLearningRate,
  batchPairs: params.rewardBatch,
  microBatchPairs: params.rewardBatch,
  precision: params.precision
})

/** Accuracy on the held-out pairs of all rounds so far. */
export const accuracyOf = (
  reward: HelpfulnessReward | SafetyReward,
  test: ReadonlyArray<Rows<Preference>>,
  { inferenceBatch: batchPairs, precision }: WorldParams,
  name: string
) =>
  evaluateReward({
    scores: test.map((pairs, i) =>
      scorePairs({ reward, pairs }, { batchPairs, precision })
        .named(`${name}-on-${i + 1}`)
        .limited(ownPairs)
    )
  }).named(`${name}-accuracy`)

/** Two new reward models, initialised from the chat model of the round; for each kind, the better of the new one and the one in use is kept. */
export const rewardsOfRound = (
  round: number,
  params: WorldParams,
  init: Policy,
  { preferences, test }: Collected,
  inUse: Rewards | undefined
): Rewards => {
  const named: Named = (node, name) => node.named(`${name}-${round}`)
  const trained = rewardModels(init, { preferences, openSource: [], harmless: [] }, rewardTraining(params), (node, name) =>
    named(node, name).limited(ownPairs)
  )
  const candidates =
    inUse === undefined
      ? { helpfulness: [trained.helpfulness], safety: [trained.safety] }
      : { helpfulness: [inUse.helpfulness, trained.helpfulness], safety: [inUse.safety, trained.safety] }
  const accuracies = byKind((kind) =>
    candidates[kind].map((reward) =>
      accuracyOf(reward, test[kind], params, `${kind}-${reward === trained[kind] ? "reward" : "best-before"}-${round}`)
    )
  )
  return bestRewards(candidates, accuracies, named)
}
