/**
 * Inputs and hyperparameters of RLOO and GRPO. Fields that also exist in PPO (sampling and scoring of responses, LoRA, early stopping) have PPO's
 * defaults, so that the three methods can be compared directly. If a paper's value differs, the description says so.
 */
import * as Schema from "effect/Schema"
import { optional } from "../../runtime/define/stage.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Prompts } from "../../schemas/rows.ts"
import { PpoConfig } from "../ppo/config.ts"
import { targetsNeedRank } from "../training/lora.ts"

/** As in PPO (ppoInputs). */
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
  noEosPenalty: hyper(
    1,
    "penalty for a truncated response (noEos), in units of the reward: standard deviations of the batch if rewards are whitened",
    { min: 0 }
  ),
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
            issue: `a batch of ${batchSize} responses cannot be divided into groups of ${groupSize}: set batchSize to a multiple of groupSize, for example ${groupSize * Math.ceil(batchSize / groupSize)}`
          }
        ]
)

const clipOf = (of: string) => hyper(0.2, `clip range of ${of}; it has an effect only from the second step on a batch`, { min: 0 })

export const RlooConfig = Schema.Struct({
  ...shared,
  groupSize: hyperInt(4, "number of responses per prompt, k; Ahmadian et al. 2024 §4: 2 and 4", { min: 2 }),
  miniBatchSize: hyperInt(512, "responses per gradient step; the paper's estimator assumes one step per batch", { min: 1 }),
  beta: hyper(0.03, "weight of the KL penalty in the reward; Ahmadian et al. 2024 §4: 0.03 on TL;DR, 0.10 on HH", { min: 0 }),
  clip: clipOf("the response's probability ratio; the paper does not clip, TRL uses 0.2"),
  whitenRewards: hyper(
    true,
    "whether rewards are whitened over the batch, as in PPO (Llama 2 §3.2.3 eq. 4); the paper does not whiten them"
  )
}).check(targetsNeedRank, wholeGroups)
export type RlooConfig = typeof RlooConfig.Type

export const GrpoConfig = Schema.Struct({
  ...shared,
  groupSize: hyperInt(64, "number of responses per prompt, G; Shao et al. 2024 §4.2: 64", { min: 2 }),
  miniBatchSize: hyperInt(512, 'responses per gradient step; §4.2: "a single update following each exploration stage"', { min: 1 }),
  beta: hyper(0.04, "weight of the KL penalty in the loss; §4.2: 0.04", { min: 0 }),
  clip: clipOf("a token's probability ratio; the paper gives no value, the default is PPO's"),
  scale: hyper(
    "deviation",
    "whether advantages are divided by the group's standard deviation (§4.1.2) or not (none; Liu et al. 2025, Dr. GRPO)",
    ["deviation", "none"]
  ),
  tokenWeights: hyper(
    "response",
    "weight of a token in the loss: response, 1 / the length of its response (eq. 3); constant, 1 / maxNewTokens, so that long responses are not down-weighted (Dr. GRPO)",
    ["response", "constant"]
  ),
  klGradient: hyper(
    "k3",
    "gradient of the KL in the loss: k3, its own gradient (eq. 4), whose expectation is that of KL(pi_0 || pi); unbiased, k3 times the ratio, whose expectation is that of KL(pi || pi_0) (DeepSeek-V3.2)",
    ["k3", "unbiased"]
  )
}).check(targetsNeedRank, wholeGroups)
export type GrpoConfig = typeof GrpoConfig.Type

/** The fields that RLOO and GRPO share. */
export type CriticFreeConfig = Pick<RlooConfig, keyof RlooConfig & keyof GrpoConfig>
