/**
 * RLOO's and GRPO's inputs and hyperparameters. What both share with PPO (how responses are drawn and scored, LoRA, early stopping) are PPO's own fields, so that
 * the three are compared on equal terms; where a paper's value differs, the description says so.
 */
import * as Schema from "effect/Schema"
import { optional } from "../../runtime/define/stage.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Prompts } from "../../schemas/rows.ts"
import { PpoConfig } from "../ppo/config.ts"
import { targetsNeedRank } from "../training/lora.ts"

/** As PPO's: without a safety reward model R_c is R_h; without held-out prompts it goes to its last iteration; `base` is that of reward models by LoRA. */
export const criticFreeInputs = {
  policy: Policy,
  helpfulness: HelpfulnessReward,
  safety: optional(SafetyReward),
  prompts: Prompts,
  heldOut: optional(Prompts),
  base: optional(Policy)
}

const ppoFields = PpoConfig.fields
const shared = {
  iterations: ppoFields.iterations,
  batchSize: ppoFields.batchSize,
  epochs: ppoFields.epochs,
  learningRate: ppoFields.learningRate,
  weightDecay: ppoFields.weightDecay,
  maxNorm: ppoFields.maxNorm,
  noEos: ppoFields.noEos,
  noEosPenalty: hyper(1, "in the units of the reward: deviations of the batch where it is whitened", { min: 0 }),
  unreadableScore: ppoFields.unreadableScore,
  threshold: ppoFields.threshold,
  temperature: ppoFields.temperature,
  maxNewTokens: ppoFields.maxNewTokens,
  oldLogProbabilities: ppoFields.oldLogProbabilities,
  maxMismatchKl: ppoFields.maxMismatchKl,
  precision: ppoFields.precision,
  loraRank: ppoFields.loraRank,
  loraAlpha: ppoFields.loraAlpha,
  loraTargets: ppoFields.loraTargets,
  rsLora: ppoFields.rsLora,
  evaluateEvery: ppoFields.evaluateEvery,
  patience: ppoFields.patience,
  onDivergence: ppoFields.onDivergence,
  sampleTexts: ppoFields.sampleTexts,
  microBatchSize: ppoFields.microBatchSize,
  recompute: ppoFields.recompute,
  inferenceBatchSize: ppoFields.inferenceBatchSize
}

const wholeGroups = Schema.makeFilter(
  ({ batchSize, groupSize }: { readonly batchSize: number; readonly groupSize: number }): ReadonlyArray<Schema.FilterIssue> =>
    batchSize % groupSize === 0
      ? []
      : [
          {
            path: ["batchSize"],
            issue: `a batch of ${batchSize} responses holds no whole number of groups of ${groupSize}: set batchSize to a multiple of groupSize, as ${groupSize * Math.ceil(batchSize / groupSize)}`
          }
        ]
)

const clipOf = (of: string) => hyper(0.2, `of ${of}; it acts only from the second step of a batch on`, { min: 0 })

export const RlooConfig = Schema.Struct({
  ...shared,
  groupSize: hyperInt(4, "responses to a prompt, k; Ahmadian et al. 2024 §4: 2 and 4", { min: 2 }),
  miniBatchSize: hyperInt(512, "responses a gradient step; the estimator is that of a single step a batch", { min: 1 }),
  beta: hyper(0.03, "weight of the KL penalty in the reward; Ahmadian et al. 2024 §4: 0.03 on TL;DR, 0.10 on HH", { min: 0 }),
  clip: clipOf("the response's probability ratio; the paper has none, TRL 0.2"),
  whitenRewards: hyper(true, "over the batch, as PPO's (Llama 2 §3.2.3 eq. 4); the paper has them as they are")
}).check(targetsNeedRank, wholeGroups)
export type RlooConfig = typeof RlooConfig.Type

export const GrpoConfig = Schema.Struct({
  ...shared,
  groupSize: hyperInt(64, "responses to a prompt, G; Shao et al. 2024 §4.2: 64", { min: 2 }),
  miniBatchSize: hyperInt(512, 'responses a gradient step; §4.2: "a single update following each exploration stage"', { min: 1 }),
  beta: hyper(0.04, "weight of the KL in the loss; §4.2: 0.04", { min: 0 }),
  clip: clipOf("a token's probability ratio; the paper names no value, PPO's"),
  scale: hyper("deviation", "whether advantages are divided by the group's deviation (§4.1.2), or not (Liu et al. 2025, Dr. GRPO)", [
    "deviation",
    "none"
  ]),
  tokenWeights: hyper(
    "response",
    "a token's weight: 1 over its response's tokens (eq. 3), or 1 over maxNewTokens, so that long responses count in full (Dr. GRPO)",
    ["response", "constant"]
  ),
  klGradient: hyper(
    "k3",
    "of the KL in the loss: k3's own (eq. 4), in expectation that of KL(pi_0 || pi); or unbiased, that of KL(pi || pi_0): k3 times the ratio (DeepSeek-V3.2)",
    ["k3", "unbiased"]
  )
}).check(targetsNeedRank, wholeGroups)
export type GrpoConfig = typeof GrpoConfig.Type

/** What both have. */
export type CriticFreeConfig = Pick<RlooConfig, keyof RlooConfig & keyof GrpoConfig>
