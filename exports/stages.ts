/**
 * The losses, estimates and rules that the recipe's stages use, as plain functions.
 *
 * @module caravan/stages
 */
export { baselineAccuracy, recallBelow, rewardAccuracy } from "../stages/reward/evaluate-reward.ts"
export type { ResponsesOfPair } from "../stages/reward/baselines.ts"
export { rankingLoss, safetyLoss } from "../stages/reward/reward-model.ts"
export { combineRewards, logit, scoreOf, type Scores, whiten } from "../stages/reward/combined-reward.ts"
export { adaptBeta, klEstimate } from "../stages/ppo/kl.ts"
export { generalisedAdvantages, tokenRewards, whitenTokens } from "../stages/ppo/advantages.ts"
export { policyLoss, valueLoss } from "../stages/ppo/losses.ts"
export { groupRelativeAdvantages, leaveOneOutAdvantages } from "../stages/critic-free/advantages.ts"
export { grpoLoss, rlooLoss } from "../stages/critic-free/losses.ts"
export { dpoLoss } from "../stages/dpo/losses.ts"
export { PpoTrainer, type PpoTrainerOptions, type Rollout } from "../stages/ppo/trainer.ts"
export { bestOfN, summariseRewards } from "../stages/evaluation/evaluate-policy.ts"
export { refusalOf, type Refusal } from "../stages/evaluation/refusals.ts"
export { foldOf } from "../stages/data/derive.ts"

// The cost of your own stage, for `caravan plan`: export `costOf(stage, ...)` next to it.
export type { Sizes } from "../runtime/define/cost.ts"
export * from "../models/memory.ts"
export { type SizeRequest, type CostRequest, costOf, type Estimate, type Estimator } from "../stages/common/cost/estimator.ts"
export * from "../stages/common/cost/size.ts"
export * from "../stages/common/cost/work.ts"
export { type HeldOutCost, type LoraCost, type PackedConfig, packedTraining, type Steps, trainingCost } from "../stages/training/cost.ts"
export type { FitSettings, Fit } from "../stages/training/fit.ts"
export type { MicroBatch } from "../stages/training/micro-batches.ts"
