/**
 * Direct preference optimisation (Rafailov et al. 2023): trains the policy directly on preference pairs, without a reward model and without sampling.
 *
 *     loss = -log sigmoid(beta log(pi(y_w) / pi_0(y_w)) - beta log(pi(y_l) / pi_0(y_l)))                                         (eq. 7)
 *
 * pi_0 is the initial policy. If labels are drawn from a Bradley-Terry model of a reward r, the optimum is pi_0 exp(r / beta) / Z, as for PPO's objective.
 * With noise-free labels there is no optimum: the margin grows as long as training continues.
 *
 * pi_0's log-probabilities are computed once, before the first step, so that no second model is in memory. Deviation: AdamW (with the weight decay of
 * Llama 2 §2.2) instead of RMSprop. The pairs' ratings are not used.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { rowsOfRank, sumOver } from "../../engine/ranks.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { tensor, type Tensor } from "../../engine/tensor.ts"
import { loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import type { LlamaConfig } from "../../models/config.ts"
import type { Llama } from "../../models/llama.ts"
import { forwardBytes, larger } from "../../models/memory.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Preferences } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { dialogueLength, rowCount } from "../common/cost/size.ts"
import { frozen, languageModel, reading } from "../common/cost/work.ts"
import { nothingLeft } from "../common/left-out.ts"
import { chunks, type Sequence } from "../common/sequences.ts"
import { TokenStore } from "../common/token-store.ts"
import { logProbabilitiesOf, perResponse, responseDistribution } from "../ppo/models.ts"
import { pairBatches, pairPass, type Pairs, type PromptedPair, readPairs } from "../reward/pairs.ts"
import { fitOneModel } from "../training/advice.ts"
import { trainingCost, withHeldOut } from "../training/cost.ts"
import { microBatchField, recomputeField } from "../training/fit.ts"
import { evaluating, heldOutFields, patienceNeedsHeldOut, splitHeldOut } from "../training/held-out.ts"
import { adaptedBy, loraFields, targetsNeedRank, trainedParameters, withLora } from "../training/lora.ts"
import { precision, stepsFor, train, trainingCheckpoints, trainingMetrics } from "../training/train.ts"
import { dpoLoss } from "./losses.ts"

/** Pairs per micro-batch on the CPU. */
const defaultPairs = 8

export const DpoConfig = Schema.Struct({
  beta: hyper(0.1, "strength of the implicit KL penalty to the initial policy; appendix B: 0.1, and 0.5 for summarisation", { min: 1e-6 }),
  learningRate: hyper(1e-6, "learning rate, constant after the warm-up; appendix B: 1e-6", { min: 0 }),
  warmupSteps: hyperInt(150, "steps of linear learning rate warm-up; appendix B: 150", { min: 0 }),
  epochs: hyper(1, "number of passes over the pairs; the paper does not give one", { min: 0 }),
  batchPairs: hyperInt(64, "pairs per optimiser step; appendix B: 64", { min: 1 }),
  microBatchPairs: microBatchField("pairs", defaultPairs),
  recompute: recomputeField,
  weightDecay: hyper(0.1, "AdamW's weight decay, as in all other training (§2.2); the paper's RMSprop has none", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm; larger gradients are scaled down; §2.2: 1.0", { min: 0 }),
  inferencePairs: hyperInt(
    32,
    "pairs per batch when the initial policy's log-probabilities are computed, a trade-off of memory against speed",
    { min: 1 }
  ),
  precision,
  ...loraFields,
  ...heldOutFields
}).check(patienceNeedsHeldOut, targetsNeedRank)
type DpoConfig = typeof DpoConfig.Type

/** The initial policy's log-probability of a pair is not finite, so training can't start. */
export class ReferenceError extends ExplainedError<ReferenceError>()("ReferenceError") {}

/** A pair with the log-probabilities of its responses under the initial policy. */
interface ReferencedPair extends PromptedPair {
  readonly reference: readonly [chosen: number, rejected: number]
}

/** The responses of all pairs with their prompts: first the chosen responses, then the rejected ones. */
const responsesOf = (pairs: ReadonlyArray<PromptedPair>) =>
  (["chosen", "rejected"] as const).flatMap((which) =>
    pairs.map((pair) => ({ prompt: pair[which].slice(0, pair.promptLength), response: pair[which].slice(pair.promptLength) }))
  )

/** Options for log-probabilities at temperature 1: the responses of pairs were not sampled from this model. */
const ofPairs = (padId: number, inferencePairs: number) => ({ padId, config: { temperature: 1, inferenceBatchSize: 2 * inferencePairs } })

/** Loss of B pairs (eq. 7), summed; returns (). Chosen and rejected responses go through the model as one batch of 2 B rows. */
export const pairsLoss = (
  model: Llama,
  pairs: ReadonlyArray<ReferencedPair>,
  { beta, padId }: { readonly beta: number; readonly padId: number }
): Tensor => {
  const responses = responsesOf(pairs)
  const { logProbabilities } = responseDistribution(model, responses, ofPairs(padId, pairs.length), false)
  const sums = perResponse(logProbabilities, responses) // (2 B,)
  const halves = (all: Tensor) => ({ chosen: all.slice(0, 0, pairs.length), rejected: all.slice(0, pairs.length, 2 * pairs.length) })
  const references = [0, 1].flatMap((which) => pairs.map(({ reference }) => reference[which as 0 | 1]))
  const { device, dtype } = sums
  return dpoLoss(halves(sums), halves(tensor(Float64Array.from(references), { device, dtype })), beta)
}

/** Adds the initial policy's log-probabilities to the pairs. */
const addReference = Effect.fn("dpo.addReference")(function* (
  policy: Llama,
  pairs: Pairs,
  {
    inferencePairs,
    padId,
    progress
  }: { readonly inferencePairs: number; readonly padId: number; readonly progress: (progress: Progress) => Effect.Effect<void> }
): Effect.fn.Return<Sequence<ReferencedPair>, ReferenceError> {
  const chosen = new Float64Array(pairs.length)
  const rejected = new Float64Array(pairs.length)
  const indices = Array.from({ length: pairs.length }, (_, i) => i)
  for (const part of rowsOfRank(chunks(indices, inferencePairs))) {
    const responses = responsesOf(part.map((i) => pairs.at(i)!))
    const sums = logProbabilitiesOf(policy, responses, ofPairs(padId, inferencePairs)).map((row) => row.reduce((sum, x) => sum + x, 0))
    part.forEach((i, at) => {
      chosen[i] = sums[at]!
      rejected[i] = sums[part.length + at]!
    })
    const bad = part.find((i) => !Number.isFinite(chosen[i]! + rejected[i]!))
    if (bad !== undefined)
      return yield* ReferenceError.of({
        doing: `Computing the initial policy's log-probabilities of pair ${bad + 1} of ${pairs.length}`,
        expected: "two finite numbers",
        found: `${chosen[bad]} and ${rejected[bad]}`,
        hint: "The policy's weights are damaged or have diverged: check the stage that made it, or compute in float32."
      })
    yield* progress({
      message: "computing the initial policy's log-probabilities",
      tokens: responses.reduce((sum, { prompt, response }) => sum + prompt.length + response.length, 0)
    })
  }
  // Each entry is computed on one rank and is 0 on the others.
  chosen.set(sumOver(chosen, "gathering the initial policy's log-probabilities"))
  rejected.set(sumOver(rejected, "gathering the initial policy's log-probabilities"))
  return {
    length: pairs.length,
    at: (i) => {
      const pair = pairs.at(i)
      return pair === undefined ? undefined : { ...pair, reference: [chosen[i]!, rejected[i]!] }
    }
  }
})

const fitSettings = (config: DpoConfig) => ({ microBatch: config.microBatchPairs, recompute: config.recompute })
/** A row is a pair: two dialogues, each at most as long as the context. */
const stepsOf = (config: DpoConfig, shape: LlamaConfig) => {
  const { batchPairs: rows, patience, precision } = config
  const model = adaptedBy(config, { config: shape, scalarHead: false })
  return { model, precision, rows, longest: 2 * shape.maxPositions, keepsBest: patience > 0 }
}

export const dpo = Stage.make("dpo", {
  description:
    "Rafailov et al. 2023: direct preference optimisation (DPO), trains the policy on preference pairs while keeping it close to the initial policy",
  config: DpoConfig,
  inputs: { policy: Policy, pairs: Preferences },
  output: Policy,
  inherits: { tokenizer: "policy" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("dpo")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped, recorded }) {
    const { beta, inferencePairs } = config
    const { model: first, tokenizer } = yield* loadPolicy(inputs.policy, { device, dtype: config.precision })
    const { padId } = tokenizer
    const context = first.config.maxPositions
    const store = yield* TokenStore.scoped({ vocabSize: tokenizer.vocabSize, folder: output.path })
    const tokenised = yield* readPairs(inputs.pairs, {
      ...{ tokenizer, margin: "none", length: context, store },
      leftOut: (row) => skipped.add({ what: "pairs", ...row })
    })
    const { leftOut, shortened } = tokenised
    if (tokenised.length === 0)
      return yield* nothingLeft("tune on", { name: "pairs", count: tokenised.rows }, leftOut, { length: context, context })
    yield* skipped.check("pairs", tokenised.rows)
    const { heldOut, training } = yield* splitHeldOut(tokenised.length, config.heldOut, seed)
    // The reference must be computed before the first step, and before an adapter is added.
    const pairs = yield* addReference(first, tokenised, { inferencePairs, padId, progress })
    const model = withLora(first, config, seed)
    const lossOf = (part: ReadonlyArray<ReferencedPair>) => pairsLoss(model, part, { beta, padId })
    const fit = yield* fitOneModel(fitSettings(config), { device, rowsOnCpu: defaultPairs }, stepsOf(config, model.config))
    const steps = stepsFor(training.length, config.batchPairs, config.epochs)
    const result = yield* train({
      ...{ fit, recorded, parameters: trainedParameters(model) },
      checkpoints: trainingCheckpoints(checkpoints, output, { model, tokenizer }),
      batches: pairBatches(pairs, config, seed, lossOf, training),
      heldOut: evaluating(heldOut, config, () => pairPass(pairs, heldOut, config, lossOf)),
      steps,
      schedule: cosineSchedule({ peak: config.learningRate, steps, warmup: config.warmupSteps, finalFraction: 1 }),
      maxNorm: config.maxNorm,
      weightDecay: config.weightDecay,
      progress
    })
    const { tooLong, format } = leftOut
    const metrics = { ...trainingMetrics(result), pairs: pairs.length, tooLong, format, shortened }
    return yield* saveCheckpoint(output, { model, tokenizer, metrics, base: inputs.policy })
  }, Effect.scoped)
})

export const dpoCost = costOf(dpo, {
  size: ({ inputs }) => inputs.policy,
  cost: ({ config, deviceMemory, inputs, spread }) => {
    const { batchPairs, epochs, heldOut, inferencePairs, precision } = config
    const start = languageModel(inputs.policy, "the policy")
    const trained = stepsOf(config, start.config)
    const [count, length] = [rowCount(inputs.pairs, "pairs"), dialogueLength(inputs.pairs, "the pairs")]
    const trainedOn = (1 - heldOut) * count * epochs
    const cost = trainingCost({ ...trained, fit: fitSettings(config), spread }, { rows: 2 * trainedOn, length }, deviceMemory)
    const { model } = trained
    // The reference is read before there is an optimiser.
    const first = frozen(start, precision, forwardBytes(start, precision, 2 * Math.min(inferencePairs, count) * length))
    const withReference = {
      ...cost,
      memory: larger(cost.memory, first),
      work: [reading("reference", start, precision, 2 * count, length), ...cost.work]
    }
    const steps = Math.ceil(trainedOn / batchPairs)
    return withHeldOut(withReference, config, { model, precision, rows: () => 2 * heldOut * count, length, steps })
  }
})
