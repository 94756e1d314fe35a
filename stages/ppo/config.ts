/**
 * Inputs and hyperparameters of PPO. The paper does not specify the value model and its learning rate, GAE's parameters, the temperature or the handling
 * of truncated responses; the descriptions of these fields give the sources of the defaults.
 *
 * There is no top-k or top-p: responses would come from a different distribution than the one whose probabilities the update uses.
 */
import * as Schema from "effect/Schema"
import { optional } from "../../runtime/define/stage.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Prompts } from "../../schemas/rows.ts"
import { microBatchField, recomputeField } from "../training/fit.ts"
import { loraFields, targetsNeedRank } from "../training/lora.ts"

/**
 * Without a safety reward model R_c is R_h; without held-out prompts PPO runs to its last iteration. `base`: the checkpoint from which the reward models
 * were trained with LoRA. They are then loaded as adapters on it, and its weights are in memory only once; without `base` they are loaded as complete
 * models.
 */
export const ppoInputs = {
  policy: Policy,
  helpfulness: HelpfulnessReward,
  safety: optional(SafetyReward),
  prompts: Prompts,
  heldOut: optional(Prompts),
  base: optional(Policy)
}

/** Responses per micro-batch of an update on the CPU. */
export const defaultResponses = 8

export const PpoConfig = Schema.Struct({
  iterations: hyperInt(400, "maximum number of iterations, one batch each; §3.2.3: between 200 and 400, with early stopping", { min: 1 }),
  batchSize: hyperInt(512, "responses per iteration; §3.2.3: 512", { min: 1 }),
  miniBatchSize: hyperInt(64, "responses per gradient step; §3.2.3: 64", { min: 1 }),
  epochs: hyperInt(1, "number of passes over a batch; §3.2.3: one gradient step per mini-batch", { min: 1 }),
  learningRate: hyper(1e-6, "learning rate of the policy, constant; §3.2.3: 1e-6", { min: 0 }),
  valueLearningRate: hyper(9e-6, "learning rate of the value model, constant; §3.2.3 gives none, InstructGPT C.4: 9e-6", { min: 0 }),
  weightDecay: hyper(0.1, "AdamW's weight decay; §3.2.3: 0.1", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm, for each trained model separately; §3.2.3: 1.0", { min: 0 }),
  clip: hyper(0.2, "clip range of the probability ratio; §3.2.3: 0.2", { min: 0 }),
  valueClip: hyper(0.2, "clip range of a value's change from its old value; the default is that of the ratio", { min: 0 }),
  beta: hyper(0.01, "weight of the KL penalty (the initial one if adaptive); §3.2.3: 0.01 (7B, 13B), 0.005 (34B, 70B)", { min: 0 }),
  klControl: hyper("fixed", "whether beta is fixed (§3.2.3) or adapted to reach klTarget", ["fixed", "adaptive"]),
  klTarget: hyper(6, "target KL of an adaptive beta, in nats per response; Ziegler et al. 2019: 6", { min: 1e-6 }),
  klHorizon: hyper(10_000, "number of responses over which an adaptive beta reacts; Ziegler et al. 2019: 10000", { min: 1 }),
  klEstimator: hyper("k1", "per-token estimate of the KL: log pi / pi_0 (k1), half its square (k2), or r - 1 - log r (k3)", [
    "k1",
    "k2",
    "k3"
  ]),
  gamma: hyper(1, "discount factor; with 1, a response's score does not depend on its length", { min: 0, max: 1 }),
  lambda: hyper(0.95, "lambda of generalised advantage estimation; Schulman et al. 2016", { min: 0, max: 1 }),
  whitenAdvantages: hyper(
    "shift",
    "whitening of the advantages over the batch's tokens to standard deviation 1: shift the mean to 0, keep the mean, or no whitening",
    ["shift", "keep", "none"]
  ),
  terminal: hyper("last-token", "whether a response's score is the reward of its last token or of a step after it", [
    "last-token",
    "past-end"
  ]),
  noEos: hyper(
    "none",
    "score of a truncated response: none keeps it, penalty subtracts noEosPenalty, replace sets it to minus noEosPenalty",
    ["none", "penalty", "replace"]
  ),
  noEosPenalty: hyper(1, "penalty for a truncated response (noEos), in units of the whitened reward: standard deviations of the batch", {
    min: 0
  }),
  unreadableScore: hyper(0.01, "R_c of a response that reward models cannot read: empty, or with tags of the chat format", {
    min: 1e-6,
    max: 1 - 1e-6
  }),
  threshold: hyper(0.15, "below this safety score, R_c is the safety score alone; §3.2.3: 0.15", { min: 0, max: 1 }),
  temperature: hyper(1, "temperature of sampling, of the reference and of the update; §3.2.3 gives none for PPO", { min: 0.01 }),
  maxNewTokens: hyperInt(256, "maximum number of tokens per response", { min: 1 }),
  oldLogProbabilities: hyper(
    "recorded",
    "log-probabilities of responses under the policy that sampled them: recorded during sampling, or recomputed as in the update (one more pass; useful in bfloat16, where the two round differently)",
    ["recorded", "recomputed"]
  ),
  maxMismatchKl: hyper(
    0.1,
    "KL, in nats per token, between the log-probabilities recorded during sampling and those of the update under the same policy, above which training fails; Caravan's choice: rounding alone gives less than 0.01",
    { min: 0 }
  ),
  precision: hyper(
    "float32",
    "dtype of weights and activations; scores, log-probabilities and the optimisers' copies of the weights are always float32",
    ["float32", "bfloat16"]
  ),
  valueInit: hyper("reward", "initial weights of the value model, with a new head: the helpfulness reward model's or the policy's", [
    "reward",
    "policy"
  ]),
  ...loraFields,
  evaluateEvery: hyperInt(10, "number of iterations between evaluations on the held-out prompts; §3.2.3: early stopping", { min: 1 }),
  patience: hyperInt(5, "number of evaluations without a better mean reward after which training stops", { min: 1 }),
  onDivergence: hyper("fail", "what to do when a loss is NaN or infinite: fail, or stop and keep the best policy on the held-out prompts", [
    "fail",
    "keep-best"
  ]),
  sampleTexts: hyperInt(2, "number of responses per iteration quoted in the diagnostics", { min: 0 }),
  microBatchSize: microBatchField("responses", defaultResponses),
  recompute: recomputeField,
  inferenceBatchSize: hyperInt(64, "responses per batch when sampling and scoring, a trade-off of memory against speed", { min: 1 })
}).check(targetsNeedRank)
export type PpoConfig = typeof PpoConfig.Type
