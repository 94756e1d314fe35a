/** "caravan/stages": the losses, estimates and rules of which the recipe's stages are made, as plain functions. */
export { baselineAccuracy, recallBelow, rewardAccuracy } from "../stages/reward/evaluate-reward.ts"
export type { ResponsesOfPair } from "../stages/reward/baselines.ts"
export { rankingLoss, safetyLoss } from "../stages/reward/reward-model.ts"
export { combineRewards, logit, scoreOf, type Scores, whiten } from "../stages/reward/combined-reward.ts"
export { adaptBeta, klEstimate } from "../stages/ppo/kl.ts"
export { generalisedAdvantages, tokenRewards, whitenTokens } from "../stages/ppo/advantages.ts"
export { policyLoss, valueLoss } from "../stages/ppo/losses.ts"
export { PpoTrainer, type PpoTrainerOptions, type Rollout } from "../stages/ppo/trainer.ts"
export { bestOfN, summariseRewards } from "../stages/evaluation/evaluate-policy.ts"
export { foldOf } from "../stages/data/derive.ts"

// What a stage of one's own would cost, for `caravan plan`: export `costOf(stage, ...)` beside it.
export type { Sizes } from "../runtime/define/cost.ts"
export { activationBytes, type CostedModel, forwardBytes, generationBytes, type Precision } from "../models/cost.ts"
export { type Asked, costOf, type Estimate, type Estimator } from "../stages/common/cost/estimator.ts"
export * from "../stages/common/cost/size.ts"
export * from "../stages/common/cost/work.ts"
export { type HeldOutCost, type LoraCost, packedTraining } from "../stages/training/cost.ts"
