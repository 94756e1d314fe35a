/**
 * Reward modelling (Llama 2 §3.2.2): a scalar head on the chat checkpoint, trained to score the chosen response of a pair above the rejected
 * one by a margin that depends on its rating. The safety model also learns to distinguish safe from unsafe responses (table
 * 29). A general model, for helpfulness and safety together and from other data, guards against reward hacking (§3.4.1).
 *
 * Not in the paper: the auxiliary loss's formula and weight (here binary cross-entropy of each labelled response, weight 1).
 * Deviation: a pair without a rating has margin 0.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { cosineSchedule } from "../../engine/schedule.ts"
import { type Device, tensor, type Tensor } from "../../engine/tensor.ts"
import { loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import type { LlamaConfig } from "../../models/config.ts"
import { initRewardModel, type RewardModel } from "../../models/reward-model.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { GeneralReward, HelpfulnessReward, Policy, SafetyReward } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, rowCount, sized } from "../common/cost/size.ts"
import { scalarModel } from "../common/cost/work.ts"
import { nothingLeft } from "../common/left-out.ts"
import { scoreSequences } from "../common/scoring.ts"
import { TokenStore } from "../common/token-store.ts"
import { fitOneModel } from "../training/advice.ts"
import { trainingCost, withHeldOut } from "../training/cost.ts"
import { microBatchField, recomputeField } from "../training/fit.ts"
import { evaluating, heldOutFields, patienceNeedsHeldOut, splitHeldOut } from "../training/held-out.ts"
import { adaptedBy, adapterOf, loraFields, targetsNeedRank, trainedParameters, withLora } from "../training/lora.ts"
import { stepsFor, train, trainingCheckpoints, trainingMetrics } from "../training/train.ts"
import { pairBatches, pairPass, readPairs, type TokenisedPair } from "./pairs.ts"

/** Ranking loss with margin, Llama 2 §3.2.2 eq. 2, summed over pairs: -log sigmoid(r_chosen - r_rejected - m). Each argument (B,); returns (). */
export const rankingLoss = (chosen: Tensor, rejected: Tensor, margin: Tensor): Tensor =>
  chosen.sub(rejected).sub(margin).logSigmoid().sum().neg()

/**
 * Safety auxiliary loss, Llama 2 table 29, summed over responses: binary cross-entropy of sigmoid(r) with the safety label,
 * -log sigmoid(r) for safe and -log sigmoid(-r) for unsafe responses. Labels are 1 safe, -1 unsafe, 0 unlabelled (no loss). Each argument
 * (N,); returns ().
 */
export const safetyLoss = (scores: Tensor, labels: Tensor): Tensor => scores.mul(labels).logSigmoid().mul(labels.square()).sum().neg()

/** Pairs per micro-batch on the CPU. */
const defaultPairs = 8

export const RewardModelConfig = Schema.Struct({
  margin: hyper("small", "margin of the ranking loss by rating; §A.3.3, table 27", ["none", "small", "large"]),
  learningRate: hyper(1e-5, "peak learning rate; §3.2.2: 1e-5, 5e-6 at 70B", { min: 0 }),
  finalLearningRate: hyper(0.1, "final learning rate as a fraction of the peak; §3.2.2: 10%", { min: 0, max: 1 }),
  warmupFraction: hyper(0.03, "share of the steps used for linear warm-up; §3.2.2: 3%", { min: 0, max: 1 }),
  warmupMinimum: hyperInt(5, "minimum number of warm-up steps; §3.2.2: 5", { min: 0 }),
  epochs: hyper(1, "number of passes over the pairs; §3.2.2: 1, since more overfits", { min: 0 }),
  batchPairs: hyperInt(512, "pairs per optimiser step; §3.2.2: 512, that is 1024 rows", { min: 1 }),
  microBatchPairs: microBatchField("pairs", defaultPairs),
  recompute: recomputeField,
  weightDecay: hyper(0.1, "AdamW's weight decay; §2.2: 0.1", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm; larger gradients are scaled down; §2.2: 1.0", { min: 0 }),
  precision: hyper("float32", "dtype of weights and activations; scores and the optimiser's copy of the weights are always float32", [
    "float32",
    "bfloat16"
  ]),
  ...loraFields,
  ...heldOutFields
}).check(patienceNeedsHeldOut, targetsNeedRank)
type Config = typeof RewardModelConfig.Type

const SafetyRewardModelConfig = Schema.Struct({
  ...RewardModelConfig.fields,
  safetyLossWeight: hyper(
    1,
    "weight of the auxiliary safety loss (the mean over a pair's two responses) relative to the ranking loss; 0 disables it; table 29 uses it without giving a weight; at 1 both losses start at log 2",
    { min: 0 }
  )
}).check(patienceNeedsHeldOut, targetsNeedRank)

/**
 * Loss of B pairs, summed; returns (). It is the ranking loss plus the weighted auxiliary loss, which is the mean over a pair's two responses. Chosen and
 * rejected responses go through the model as one batch of 2 B rows.
 */
export const pairLoss = (
  model: RewardModel,
  pairs: ReadonlyArray<TokenisedPair>,
  options: { readonly padId: number; readonly device: Device; readonly safetyLossWeight?: number }
): Tensor => {
  const { device, safetyLossWeight = 0 } = options
  const scores = scoreSequences(model, [...pairs.map((pair) => pair.chosen), ...pairs.map((pair) => pair.rejected)], options) // (2 B,)
  const column = (values: ReadonlyArray<number>) => tensor(Float32Array.from(values), { device })
  const margin = column(pairs.map((pair) => pair.margin))
  const ranking = rankingLoss(scores.slice(0, 0, pairs.length), scores.slice(0, pairs.length, 2 * pairs.length), margin)
  if (safetyLossWeight === 0) return ranking
  const labels = column([...pairs.map((pair) => pair.safety?.[0] ?? 0), ...pairs.map((pair) => pair.safety?.[1] ?? 0)]) // (2 B,)
  return ranking.add(safetyLoss(scores, labels).mul(safetyLossWeight / 2))
}

/** Number of warm-up steps: the given share of all steps, but at least the minimum (§3.2.2). */
export const warmupSteps = (config: Pick<Config, "warmupFraction" | "warmupMinimum">, steps: number): number =>
  Math.max(config.warmupMinimum, Math.ceil(config.warmupFraction * steps))

const inputs = { init: Policy, pairs: Preferences }

const fitSettings = (config: Config) => ({ microBatch: config.microBatchPairs, recompute: config.recompute })
/** A row is a pair: two dialogues, each at most as long as the context. */
const stepsOf = (config: Config, shape: LlamaConfig) => {
  const { batchPairs: rows, patience, precision } = config
  const model = adaptedBy(config, { config: shape, scalarHead: true })
  return { model, precision, rows, longest: 2 * shape.maxPositions, keepsBest: patience > 0 }
}

const trainRewardModel = Effect.fn("trainRewardModel")(function* (
  {
    config,
    inputs: given,
    output,
    seed,
    device,
    progress,
    checkpoints,
    skipped,
    recorded
  }: Stage.Context<typeof RewardModelConfig, typeof inputs>,
  options: { readonly safetyLossWeight: number }
) {
  const { safetyLossWeight } = options
  const { model: policy, tokenizer } = yield* loadPolicy(given.init, { device, dtype: config.precision })
  const context = policy.config.maxPositions
  const store = yield* TokenStore.scoped({ vocabSize: tokenizer.vocabSize, folder: output.path })
  const pairs = yield* readPairs(given.pairs, {
    ...{ tokenizer, margin: config.margin, length: context, store },
    leftOut: (row) => skipped.add({ what: "pairs", ...row })
  })
  const { labelled, leftOut, shortened } = pairs
  if (pairs.length === 0)
    return yield* nothingLeft("train a reward model on", { name: "pairs", count: pairs.rows }, leftOut, { length: context, context })
  yield* skipped.check("pairs", pairs.rows)
  const { heldOut, training } = yield* splitHeldOut(pairs.length, config.heldOut, seed)
  const model = initRewardModel(withLora(policy, config, seed), { seed })
  const lossOf = (part: ReadonlyArray<TokenisedPair>) => pairLoss(model, part, { padId: tokenizer.padId, device, safetyLossWeight })
  const fit = yield* fitOneModel(fitSettings(config), { device, rowsOnCpu: defaultPairs }, stepsOf(config, policy.config))
  const steps = stepsFor(training.length, config.batchPairs, config.epochs)
  const result = yield* train({
    ...{ fit, recorded, parameters: trainedParameters(model) },
    checkpoints: trainingCheckpoints(checkpoints, output, { model, tokenizer }),
    batches: pairBatches(pairs, config, seed, lossOf, training),
    heldOut: evaluating(heldOut, config, () => pairPass(pairs, heldOut, config, lossOf)),
    steps,
    schedule: cosineSchedule({
      peak: config.learningRate,
      steps,
      warmup: warmupSteps(config, steps),
      finalFraction: config.finalLearningRate
    }),
    maxNorm: config.maxNorm,
    weightDecay: config.weightDecay,
    progress
  })
  const count = { pairs: pairs.length, tooLong: leftOut.tooLong, format: leftOut.format, shortened }
  // `labelled` is the number of responses with an auxiliary loss; at 0 the model learns only from the ranking.
  return {
    model,
    tokenizer,
    base: given.init,
    metrics: { ...trainingMetrics(result), ...count, ...(safetyLossWeight > 0 ? { labelled } : {}) }
  }
}, Effect.scoped)

export const helpfulnessRewardModel = Stage.make("helpfulness-reward-model", {
  description: "§3.2.2 trains a helpfulness reward model, initialised from the chat checkpoint",
  config: RewardModelConfig,
  inputs,
  output: HelpfulnessReward,
  inherits: { tokenizer: "init" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("helpfulness-reward-model")(function* (context) {
    return yield* saveCheckpoint(context.output, yield* trainRewardModel(context, { safetyLossWeight: 0 }))
  })
})

export const safetyRewardModel = Stage.make("safety-reward-model", {
  description: "§3.2.2, table 29: trains a safety reward model with the auxiliary safety loss, initialised from the chat checkpoint",
  config: SafetyRewardModelConfig,
  inputs,
  output: SafetyReward,
  inherits: { tokenizer: "init" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("safety-reward-model")(function* (context) {
    return yield* saveCheckpoint(context.output, yield* trainRewardModel(context, { safetyLossWeight: context.config.safetyLossWeight }))
  })
})

export const generalRewardModel = Stage.make("general-reward-model", {
  description: "§3.4.1 trains a general reward model on other data, which is not used for tuning and guards against reward hacking",
  config: RewardModelConfig,
  inputs,
  output: GeneralReward,
  inherits: { tokenizer: "init" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("general-reward-model")(function* (context) {
    return yield* saveCheckpoint(context.output, yield* trainRewardModel(context, { safetyLossWeight: 0 }))
  })
})

export const helpfulnessRewardModelCost = costOf(helpfulnessRewardModel, {
  size: ({ config, inputs: { init } }) => sized(init, { adapter: adapterOf(config) }),
  cost: ({ config, deviceMemory, inputs: { init, pairs }, spread }) => {
    const { batchPairs, epochs, heldOut, precision } = config
    const trained = stepsOf(config, scalarModel(init, "the model to start from").config)
    const [count, length] = [rowCount(pairs, "pairs"), dialogueLength(pairs, "the pairs")]
    const trainedOn = (1 - heldOut) * count * epochs
    const cost = trainingCost({ ...trained, fit: fitSettings(config), spread }, { rows: 2 * trainedOn, length }, deviceMemory)
    const steps = Math.ceil(trainedOn / batchPairs)
    return withHeldOut(cost, config, { model: trained.model, precision, rows: () => 2 * heldOut * count, length, steps })
  }
})
export const safetyRewardModelCost = costOf(safetyRewardModel, helpfulnessRewardModelCost)
export const generalRewardModelCost = costOf(generalRewardModel, helpfulnessRewardModelCost)
