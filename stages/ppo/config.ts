/**
 * PPO's inputs and hyperparameters. The paper names neither the value model nor its learning rate, GAE's parameters, the temperature, nor what becomes of
 * responses without an end: their descriptions say where the defaults are from.
 *
 * Top-k and top-p are not offered: the responses would come from another distribution than the one that the update differentiates.
 */
import * as Schema from "effect/Schema"
import { optional } from "../../runtime/define/stage.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Prompts } from "../../schemas/rows.ts"
import { microBatchField, recomputeField } from "../training/fit.ts"
import { loraFields, targetsNeedRank } from "../training/lora.ts"

/**
 * Without a safety reward model R_c is R_h; without held-out prompts PPO goes to its last iteration. `base`: the checkpoint that the reward models were trained
 * from by LoRA; they are then read as adapters on it, and it is in memory once for all of them. Without it they are read as the whole models that they are.
 */
export const ppoInputs = {
  policy: Policy,
  helpfulness: HelpfulnessReward,
  safety: optional(SafetyReward),
  prompts: Prompts,
  heldOut: optional(Prompts),
  base: optional(Policy)
}

/** Responses at once with gradients on the CPU. */
export const usualResponses = 8

export const PpoConfig = Schema.Struct({
  iterations: hyperInt(400, "batches at most; §3.2.3: between 200 and 400, with early stopping", { min: 1 }),
  batchSize: hyperInt(512, "responses an iteration; §3.2.3: 512", { min: 1 }),
  miniBatchSize: hyperInt(64, "responses a gradient step; §3.2.3: 64", { min: 1 }),
  epochs: hyperInt(1, "passes over a batch; §3.2.3: one gradient step per mini-batch", { min: 1 }),
  learningRate: hyper(1e-6, "constant; §3.2.3: 1e-6", { min: 0 }),
  valueLearningRate: hyper(9e-6, "of the value model, constant; §3.2.3 names none, InstructGPT C.4: 9e-6", { min: 0 }),
  weightDecay: hyper(0.1, "§3.2.3: 0.1", { min: 0 }),
  maxNorm: hyper(1, "gradient clipping, of policy and value model each; §3.2.3: 1.0", { min: 0 }),
  clip: hyper(0.2, "of the probability ratio; §3.2.3: 0.2", { min: 0 }),
  valueClip: hyper(0.2, "how far a value may move from its old one; as the ratio's", { min: 0 }),
  beta: hyper(0.01, "weight of the KL penalty, the first one if adaptive; §3.2.3: 0.01 (7B, 13B), 0.005 (34B, 70B)", { min: 0 }),
  klControl: hyper("fixed", "whether beta stays (§3.2.3) or is steered towards klTarget", ["fixed", "adaptive"]),
  klTarget: hyper(6, "nats a response that an adaptive beta aims at; Ziegler et al. 2019: 6", { min: 1e-6 }),
  klHorizon: hyper(10_000, "responses over which an adaptive beta reacts; Ziegler et al. 2019: 10000", { min: 1 }),
  klEstimator: hyper("k1", "per-token estimate of the KL: log pi / pi_0 (k1), half its square (k2), or r - 1 - log r (k3)", [
    "k1",
    "k2",
    "k3"
  ]),
  gamma: hyper(1, "discount; a response is worth the same however long it is", { min: 0, max: 1 }),
  lambda: hyper(0.95, "of generalised advantage estimation; Schulman et al. 2016", { min: 0, max: 1 }),
  whitenAdvantages: hyper("shift", "over the batch's tokens to deviation 1: the mean shifted to 0, kept, or no whitening at all", [
    "shift",
    "keep",
    "none"
  ]),
  terminal: hyper("last-token", "whether a response's score is paid with its last token or one step after it", ["last-token", "past-end"]),
  noEos: hyper("none", "a response that was cut off: its score stays, loses the penalty, or is replaced by minus the penalty", [
    "none",
    "penalty",
    "replace"
  ]),
  noEosPenalty: hyper(1, "in the units of the whitened reward: deviations of the batch", { min: 0 }),
  unreadableScore: hyper(0.01, "R_c of a response that reward models can't read: empty, or with the chat format's own tags", {
    min: 1e-6,
    max: 1 - 1e-6
  }),
  threshold: hyper(0.15, "safety scores below it count alone; §3.2.3: 0.15", { min: 0, max: 1 }),
  temperature: hyper(1, "of sampling, of the reference and of the update alike; §3.2.3 names none for PPO", { min: 0.01 }),
  maxNewTokens: hyperInt(256, "tokens a response at most", { min: 1 }),
  oldLogProbabilities: hyper(
    "recorded",
    "of responses under the policy that drew them: as recorded while sampling, or computed again as the update does (one more pass; worth it in bfloat16, where the two round differently)",
    ["recorded", "recomputed"]
  ),
  maxMismatchKl: hyper(
    0.1,
    "KL in nats a token between the log-probabilities that sampling recorded and the update's of the same policy, above which training stops; ours: rounding alone gives less than 0.01",
    { min: 0 }
  ),
  precision: hyper(
    "float32",
    "of weights and activations; scores, log-probabilities and the optimisers' copies of the weights are float32 either way",
    ["float32", "bfloat16"]
  ),
  valueInit: hyper("reward", "whose weights the value model starts from, its head new: the helpfulness reward model's, or the policy's", [
    "reward",
    "policy"
  ]),
  ...loraFields,
  evaluateEvery: hyperInt(10, "iterations between evaluations on the held-out prompts; §3.2.3: early stopping", { min: 1 }),
  patience: hyperInt(5, "evaluations without a better mean reward until it stops", { min: 1 }),
  onDivergence: hyper("fail", "a loss that is no number: fail, or end with the best policy by the held-out prompts", ["fail", "keep-best"]),
  sampleTexts: hyperInt(2, "responses an iteration that the diagnostics quote", { min: 0 }),
  microBatchSize: microBatchField("responses with gradients", usualResponses),
  recompute: recomputeField,
  inferenceBatchSize: hyperInt(64, "responses at once when sampling and scoring: memory against speed", { min: 1 })
}).check(targetsNeedRank)
export type PpoConfig = typeof PpoConfig.Type
