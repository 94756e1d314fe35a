/**
 * The exports for pipelines, programs and your own stages. The package's other entry points are in exports/: `caravan/engine` has tensors, `caravan/models`
 * models, and `caravan/stages` the losses and estimates that the recipe's stages use.
 *
 * @module caravan
 */

// Defining and running pipelines and stages.
export * as Caravan from "./caravan.ts"
export * as Pipeline from "./runtime/define/pipeline.ts"
export * as Stage from "./runtime/define/stage.ts"
export { type AnyNode, fileAt, type Node, type NodeLimits } from "./runtime/define/node.ts"
export type { Sizes } from "./runtime/define/cost.ts"
export { type Checkpoints, noCheckpoints, type ResumePoint } from "./runtime/define/resume-points.ts"
export { PipelineError, StageError, StoreError } from "./runtime/errors.ts"
export { deriveSeed, type Purpose, Random } from "./engine/random.ts"

// Artifacts that stages exchange, and hyperparameters.
export * from "./schemas/artifact.ts"
export { dataset } from "./schemas/dataset.ts"
export { report } from "./schemas/report.ts"
export * from "./schemas/rows.ts"
export { GeneralReward, HelpfulnessReward, Policy, Reward, SafetyClassifier, SafetyReward, Value } from "./schemas/checkpoint.ts"
export { TokenizerModel } from "./schemas/tokenizer.ts"
export { type Bounds, ConfigError, type ConfigSchema, hyper, hyperInt, hyperSecretVariable, hyperUrl, neutral } from "./schemas/hyper.ts"
export * from "./data/dataset.ts"

// The recipe's stages, in the paper's order, and their reports.
export { importPreferences } from "./stages/data/import-preferences.ts"
export { importDemonstrations, importTexts } from "./stages/data/import-demonstrations.ts"
export { importGeneralReward, importHelpfulnessReward, importPolicy, importSafetyReward } from "./stages/data/import.ts"
export { foldPreferences, preferenceDemonstrations, preferencePrompts, preferenceTexts } from "./stages/data/derive.ts"
export { importPrompts } from "./stages/data/import-prompts.ts"
export { cleanDemonstrations, cleanPreferences, cleanPrompts, cleanTexts } from "./stages/data/clean.ts"
export { splitDemonstrations, splitPreferences, splitPrompts } from "./stages/data/split.ts"
export { mixDemonstrations, mixPreferences, mixPrompts, mixTexts } from "./stages/data/mix.ts"
export { mixSources } from "./stages/data/mix-sources.ts"
export { tokenizer } from "./stages/training/tokenizer.ts"
export { pretrain } from "./stages/training/pretrain.ts"
export { demonstrationSubset, filterDemonstrations } from "./stages/data/filter-demonstrations.ts"
export { sft } from "./stages/training/sft.ts"
export { collectPairs } from "./stages/preferences/collect-pairs.ts"
export { annotate } from "./stages/preferences/annotate.ts"
export { continueDialogues, continueWithAnswers, holdOutPreferences, promptBatch } from "./stages/data/prompts.ts"
export { preferenceStatistics, PreferenceStatisticsReport } from "./stages/preferences/preference-statistics.ts"
export { roundWins, RoundWinsReport } from "./stages/preferences/round-wins.ts"
export { helpfulnessMixture, safetyMixture } from "./stages/reward/reward-mixture.ts"
export { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "./stages/reward/reward-model.ts"
export {
  evaluateReward,
  RewardAccuracy,
  RewardAccuracyReport,
  RewardBaselines,
  rewardBaselines,
  RewardBaselinesReport,
  SafetyRecall,
  safetyRecall,
  SafetyRecallReport,
  scorePairs
} from "./stages/reward/evaluate-reward.ts"
export { judgePairs } from "./stages/reward/judge-pairs.ts"
export { generalScorer, helpfulnessScorer, safetyScorer } from "./stages/reward/scorers.ts"
export { bestHelpfulnessReward, bestSafetyReward } from "./stages/reward/best-reward.ts"
export { sample } from "./stages/rejection-sampling/sample.ts"
export { score } from "./stages/reward/score.ts"
export { scoreCombined } from "./stages/reward/score-combined.ts"
export { keepBest } from "./stages/rejection-sampling/keep-best.ts"
export { selectBest, selectRandom } from "./stages/rejection-sampling/select-best.ts"
export { sampleAtTemperature, temperatureSweep, TemperatureSweepReport } from "./stages/rejection-sampling/temperature-sweep.ts"
export { ppo } from "./stages/ppo/ppo.ts"
export { UpdateDivergedError } from "./stages/ppo/loop.ts"
export { PpoConfig } from "./stages/ppo/config.ts"
export { ppoDiagnostics, PpoDiagnostics, PpoDiagnosticsReport, PpoEvaluation, PpoIteration, PpoSample } from "./stages/ppo/diagnostics.ts"
export { rloo } from "./stages/critic-free/rloo.ts"
export { grpo } from "./stages/critic-free/grpo.ts"
export { criticFreeDiagnostics, CriticFreeDiagnosticsReport } from "./stages/critic-free/diagnostics.ts"
export { dpo } from "./stages/dpo/dpo.ts"
export { GhostDialogues, ghostInstructions } from "./stages/ghost-attention/instructions.ts"
export { ghostSample, GhostSamples } from "./stages/ghost-attention/sample.ts"
export { ghostTrainingData } from "./stages/ghost-attention/training-data.ts"
export { evaluateGhostAttention, GhostAttentionReport } from "./stages/ghost-attention/evaluate.ts"
export { judgeGhostAttention, JudgedGhostAttentionReport } from "./stages/ghost-attention/judge.ts"
export { ghostLists, ListedConstraints } from "./stages/ghost-attention/lists.ts"
export { attentionMap, AttentionMapReport } from "./stages/ghost-attention/attention-map.ts"
export { distil } from "./stages/safety/distil.ts"
export { distillationGain, DistillationGainReport } from "./stages/safety/distillation-gain.ts"
export { preprompt, withoutPreprompt } from "./stages/safety/preprompt.ts"
export { safeDemonstrations } from "./stages/safety/safety-sft.ts"
export { ClassifiedCompletions, classifyCompletions, classifyPrompts } from "./stages/safety/classify.ts"
export { safetyClassifier } from "./stages/safety/classifier-training.ts"
export { safetyClassifierData } from "./stages/safety/classifier-data.ts"
export { ClassifierEvaluationReport, evaluateClassifier } from "./stages/safety/evaluate-classifier.ts"
export { keepBroken, redTeaming, RedTeamReport } from "./stages/safety/red-team.ts"
export { violationRate, ViolationRateReport } from "./stages/safety/violation-rate.ts"
export {
  BestOfN,
  BestOfNReport,
  evaluateBestOfN,
  evaluatePolicy,
  RewardSummary,
  RewardSummaryReport
} from "./stages/evaluation/evaluate-policy.ts"
export { classifyByOracle } from "./stages/world/classify-by-oracle.ts"
export { GradedCompletions, oracleGrades } from "./stages/world/oracle-grades.ts"
export { evaluateVersion, VersionReport } from "./stages/world/evaluate-version.ts"
export { compareVersions, VersionComparisonReport } from "./stages/world/compare-versions.ts"
export { winRate, WinRateReport } from "./stages/evaluation/win-rate.ts"
export { judgedWinRate, JudgedWinRateReport, pairCompletions } from "./stages/evaluation/judged-win-rate.ts"
export { refusalRate, RefusalRateReport } from "./stages/evaluation/refusal-rate.ts"
export { xsTest, XsTestReport } from "./stages/evaluation/xstest.ts"
export { gradeMtBench, MtBenchGradesReport } from "./stages/evaluation/mt-bench/grade.ts"
export { compareMtBench, MtBenchWinsReport } from "./stages/evaluation/mt-bench/compare.ts"
export { mtBench, MtBenchReport } from "./stages/evaluation/mt-bench/summary.ts"
export { factRecall, FactQuestions, FactRecallReport } from "./stages/evaluation/fact-recall.ts"
export { selfBleu, SelfBleuReport } from "./stages/evaluation/self-bleu.ts"
export { rewardDistribution, RewardDistributionReport } from "./stages/evaluation/reward-distribution.ts"
export { policyKl, PolicyKlReport } from "./stages/evaluation/policy-kl.ts"
export { rewardHacking, RewardHackingReport } from "./stages/evaluation/reward-hacking.ts"
export { judgeRatings, Ratings } from "./stages/evaluation/ratings.ts"
export { calibration, CalibrationReport } from "./stages/evaluation/calibration.ts"
export { batchRewards, BatchRewardsReport } from "./stages/evaluation/batch-rewards.ts"
export { HtmlReport, htmlReport } from "./stages/report/html-report.ts"
export { RunReport, runReport } from "./stages/report/run-report.ts"
