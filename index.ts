/**
 * What a program or a user's pipeline imports from "caravan". Each line is one layer's public part; the rest of a module is its own business.
 */

// Defining and running pipelines.
export * as Stage from "./runtime/define/stage.ts"
export * as Pipeline from "./runtime/define/pipeline.ts"
export { fileAt, type Node } from "./runtime/define/node.ts"
export { type NodeResult, plan, run, type RunEvent, type RunOptions, type RunResult } from "./runtime/run/run.ts"
export { runEvents } from "./runtime/run/events.ts"
export { type Grid, sweep, type SweepOptions, type SweepPoint } from "./runtime/run/sweep.ts"
export type { Measures } from "./runtime/run/measures.ts"
export { type Checkpoints, noCheckpoints, type ResumePoint } from "./runtime/define/checkpoints.ts"
export { type Verification, verify, type VerifyOptions } from "./runtime/inspect/verify.ts"
export { bless, type Blessed, type BlessOptions } from "./runtime/inspect/bless.ts"
export { freeze, type LockFile, readLock, writeLock } from "./runtime/inspect/lock-file.ts"
export { collect, type CollectPolicy, planCollection } from "./runtime/store/gc.ts"
export { findHome } from "./runtime/store/home.ts"
export { Numerics } from "./runtime/key/numerics.ts"
export { engineNumerics } from "./cli/numerics.ts"
export { prepareModule } from "./cli/prepare.ts"
export { PipelineError, StageError, StoreError } from "./runtime/errors.ts"

// What stages exchange, and their hyperparameters.
export * from "./schemas/artifact.ts"
export { dataset } from "./schemas/dataset.ts"
export { report } from "./schemas/report.ts"
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
export * from "./stages/data/import.ts"
export * from "./stages/data/derive.ts"
export { importPrompts } from "./stages/data/import-prompts.ts"
export { mixDemonstrations, mixPreferences, mixPrompts, mixTexts } from "./stages/data/mix.ts"
export { tokenizer } from "./stages/training/tokenizer.ts"
export { pretrain } from "./stages/training/pretrain.ts"
export { demonstrationSubset, filterDemonstrations } from "./stages/data/filter-demonstrations.ts"
export { sft } from "./stages/training/sft.ts"
export { collectPairs } from "./stages/preferences/collect-pairs.ts"
export { annotate } from "./stages/preferences/annotate.ts"
export { continueDialogues, holdOutPreferences, promptBatch } from "./stages/data/prompts.ts"
export { preferenceStatistics, PreferenceStatisticsReport } from "./stages/preferences/preference-statistics.ts"
export { helpfulnessMixture, safetyMixture } from "./stages/reward/reward-mixture.ts"
export { generalRewardModel, helpfulnessRewardModel, rankingLoss, safetyLoss, safetyRewardModel } from "./stages/reward/reward-model.ts"
export * from "./stages/reward/evaluate-reward.ts"
export { bestHelpfulnessReward, bestSafetyReward } from "./stages/reward/best-reward.ts"
export { sample } from "./stages/rejection-sampling/sample.ts"
export { score } from "./stages/reward/score.ts"
export { scoreCombined } from "./stages/reward/score-combined.ts"
export { combineRewards, logit, scoreOf, whiten } from "./stages/reward/combined-reward.ts"
export { keepBest } from "./stages/rejection-sampling/keep-best.ts"
export { selectBest, selectRandom } from "./stages/rejection-sampling/select-best.ts"
export { sampleAtTemperature, temperatureSweep, TemperatureSweepReport } from "./stages/rejection-sampling/temperature-sweep.ts"
export { ppo, PpoConfig, PpoDivergedError } from "./stages/ppo/ppo.ts"
export * from "./stages/ppo/diagnostics.ts"
export { adaptBeta, klEstimate } from "./stages/ppo/kl.ts"
export { generalisedAdvantages, tokenRewards, whitenTokens } from "./stages/ppo/advantages.ts"
export { policyLoss, valueLoss } from "./stages/ppo/losses.ts"
export { Ppo, type PpoOptions } from "./stages/ppo/update.ts"
export {
  evaluateGhostAttention,
  GhostAttentionReport,
  GhostDialogues,
  ghostInstructions,
  ghostSample,
  GhostSamples,
  ghostTrainingData
} from "./stages/ghost-attention/ghost-attention.ts"
export { distil, distillationGain, DistillationGainReport, preprompt, withoutPreprompt } from "./stages/safety/context-distillation.ts"
export { safeDemonstrations } from "./stages/safety/safety-sft.ts"
export {
  ClassifiedCompletions,
  classifyCompletions,
  classifyPrompts,
  safetyClassifier,
  safetyClassifierData
} from "./stages/safety/safety-classifier.ts"
export { ClassifierEvaluationReport, evaluateClassifier, violationRate, ViolationRateReport } from "./stages/safety/evaluate-classifier.ts"
export * from "./stages/evaluation/evaluate-policy.ts"
export { GradedCompletions, oracleGrades } from "./stages/world/oracle-grades.ts"
export { evaluateVersion, VersionReport } from "./stages/world/evaluate-version.ts"
export { compareVersions, VersionComparisonReport } from "./stages/world/compare-versions.ts"
export { winRate, WinRateReport } from "./stages/evaluation/win-rate.ts"
export { judgedWinRate, JudgedWinRateReport, pairCompletions } from "./stages/evaluation/judged-win-rate.ts"
export { refusalRate, RefusalRateReport } from "./stages/evaluation/refusal-rate.ts"
export { selfBleu, SelfBleuReport } from "./stages/evaluation/self-bleu.ts"
export { rewardDistribution, RewardDistributionReport } from "./stages/evaluation/reward-distribution.ts"
export { rewardHacking, RewardHackingReport } from "./stages/evaluation/reward-hacking.ts"
export { HtmlReport, htmlReport } from "./stages/report/html-report.ts"
