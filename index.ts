/**
 * What a program or a user's pipeline imports from "caravan". Each line is one layer's public part; the rest of a module is its own business.
 */

// Defining and running pipelines.
export * as Stage from "./runtime/stage.ts"
export * as Pipeline from "./runtime/pipeline.ts"
export { fileAt, type Node } from "./runtime/node.ts"
export { type NodeResult, plan, run, type RunEvent, type RunOptions, type RunResult } from "./runtime/run.ts"
export { runEvents } from "./runtime/events.ts"
export { type Grid, sweep, type SweepOptions, type SweepPoint } from "./runtime/sweep.ts"
export type { Measures } from "./runtime/measures.ts"
export { type Checkpoint, type Checkpoints, noCheckpoints } from "./runtime/checkpoints.ts"
export { type Verification, verify, type VerifyOptions } from "./runtime/verify.ts"
export { bless, type Blessed, type BlessOptions } from "./runtime/bless.ts"
export { freeze, type LockFile, readLock, writeLock } from "./runtime/lock-file.ts"
export { collect, type CollectPolicy, planCollection } from "./runtime/collect.ts"
export { findHome } from "./runtime/home.ts"
export { Numerics } from "./runtime/numerics.ts"
export { engineNumerics } from "./cli/numerics.ts"
export { prepareModule } from "./cli/prepare.ts"
export { PipelineError, StageError, StoreError } from "./runtime/errors.ts"

// What stages exchange, and their hyperparameters.
export * from "./schemas/artifact.ts"
export * from "./schemas/rows.ts"
export { GeneralReward, HelpfulnessReward, Policy, Reward, SafetyClassifier, SafetyReward, Value } from "./schemas/checkpoint.ts"
export { TokenizerModel } from "./schemas/tokenizer.ts"
export { ConfigError, hyper, hyperInt, neutral } from "./schemas/hyper.ts"
export * from "./data/dataset.ts"

// Tensors.
export * from "./engine/tensor.ts"
export { AdamW, type AdamWOptions, clipGradientNorm } from "./engine/optimizer.ts"
export { constantSchedule, cosineSchedule, type Schedule } from "./engine/schedule.ts"
export { deriveSeed, Random } from "./engine/random.ts"
export { generatorState, seedGenerator, setGeneratorState } from "./engine/generator.ts"
export { deviceMemory, environment, hasCuda, setThreads, synchronize } from "./engine/device.ts"

// Models.
export { type LlamaConfig, llamaConfig, parameterCount, presets } from "./models/config.ts"
export { type ForwardOptions, initLlama, Llama } from "./models/llama.ts"
export { initRewardModel, RewardModel } from "./models/reward-model.ts"
export { loadPolicy, loadReward, saveCheckpoint } from "./models/checkpoint.ts"
export { generate, type Generated, type GenerateOptions } from "./models/sampler.ts"
export { type StreamedToken, Streamer, type StreamOptions } from "./models/stream.ts"
export { loadTokenizer, saveTokenizer, Tokenizer, trainTokenizer, type TrainOptions } from "./models/tokenizer/index.ts"
export { encodeDialogue, encodePrompt } from "./models/chat.ts"

// The recipe, in the paper's order.
export * from "./stages/import.ts"
export * from "./stages/derive.ts"
export { importPrompts } from "./stages/import-prompts.ts"
export { mixDemonstrations, mixPreferences, mixPrompts, mixTexts } from "./stages/mix.ts"
export { tokenizer } from "./stages/tokenizer.ts"
export { pretrain } from "./stages/pretrain.ts"
export { demonstrationSubset, filterDemonstrations } from "./stages/filter-demonstrations.ts"
export { sft } from "./stages/sft.ts"
export { collectPairs } from "./stages/collect.ts"
export { annotate } from "./stages/annotate.ts"
export { continueDialogues, holdOutPreferences, promptBatch } from "./stages/prompts.ts"
export { preferenceStatistics, PreferenceStatisticsReport } from "./stages/preference-statistics.ts"
export { helpfulnessMixture, safetyMixture } from "./stages/reward-mixture.ts"
export { generalRewardModel, helpfulnessRewardModel, rankingLoss, safetyLoss, safetyRewardModel } from "./stages/reward-model.ts"
export * from "./stages/evaluate-reward.ts"
export { bestHelpfulnessReward, bestSafetyReward } from "./stages/best-reward.ts"
export { sample } from "./stages/sample.ts"
export { score } from "./stages/score.ts"
export { scoreCombined } from "./stages/score-combined.ts"
export { combineRewards, logit, scoreOf, whiten } from "./stages/shared/combined-reward.ts"
export { keepBest } from "./stages/keep-best.ts"
export { selectBest, selectRandom } from "./stages/select-best.ts"
export { sampleAtTemperature, temperatureSweep, TemperatureSweepReport } from "./stages/temperature-sweep.ts"
export { ppo, PpoConfig, PpoDivergedError } from "./stages/ppo.ts"
export * from "./stages/ppo-diagnostics.ts"
export { adaptBeta, klEstimate } from "./stages/shared/kl.ts"
export { generalisedAdvantages, tokenRewards, whitenTokens } from "./stages/shared/advantages.ts"
export { policyLoss, valueLoss } from "./stages/shared/ppo-losses.ts"
export { Ppo, type PpoOptions } from "./stages/shared/ppo-update.ts"
export {
  evaluateGhostAttention,
  GhostAttentionReport,
  GhostDialogues,
  ghostInstructions,
  ghostSample,
  GhostSamples,
  ghostTrainingData
} from "./stages/ghost-attention.ts"
export { distil, distillationGain, DistillationGainReport, preprompt, withoutPreprompt } from "./stages/context-distillation.ts"
export { safeDemonstrations } from "./stages/safety-sft.ts"
export {
  ClassifiedCompletions,
  classifyCompletions,
  classifyPrompts,
  safetyClassifier,
  safetyClassifierData
} from "./stages/safety-classifier.ts"
export { ClassifierEvaluationReport, evaluateClassifier, violationRate, ViolationRateReport } from "./stages/evaluate-classifier.ts"
export * from "./stages/evaluate-policy.ts"
export {
  compareVersions,
  evaluateVersion,
  GradedCompletions,
  oracleGrades,
  VersionComparisonReport,
  VersionReport
} from "./stages/evaluate-versions.ts"
export { winRate, WinRateReport } from "./stages/win-rate.ts"
export { judgedWinRate, JudgedWinRateReport, pairCompletions } from "./stages/judged-win-rate.ts"
export { refusalRate, RefusalRateReport } from "./stages/refusal-rate.ts"
export { selfBleu, SelfBleuReport } from "./stages/self-bleu.ts"
export { rewardDistribution, RewardDistributionReport } from "./stages/reward-distribution.ts"
export { rewardHacking, RewardHackingReport } from "./stages/reward-hacking.ts"
export { HtmlReport, htmlReport } from "./stages/report.ts"
