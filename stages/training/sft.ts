/**
 * Supervised fine-tuning (Llama 2 §3.1): next-token prediction on the answers of dialogues, with zero loss on prompt tokens. Several dialogues are
 * packed into one sequence; the tokens of each attend only to its own tokens.
 *
 * Deviation: the paper separates prompt and answer with "a special token"; Meta's released chat format, used here for models without a chat template,
 * has only `[/INST]`.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Random } from "../../engine/random.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { Demonstrations } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { nothingLeft } from "../common/left-out.ts"
import { batchesOf, languageModelLoss, lossTokens, type PackedRow, type Sequence } from "../common/sequences.ts"
import { TokenStore } from "../common/token-store.ts"
import { fitPacked, defaultSequences } from "./advice.ts"
import { packedTraining } from "./cost.ts"
import { readExamples } from "./examples.ts"
import { microBatchField, recomputeField } from "./fit.ts"
import { evaluating, heldOutFields, patienceNeedsHeldOut, permuted, splitHeldOut } from "./held-out.ts"
import { loraFields, targetsNeedRank, trainedParameters, withLora } from "./lora.ts"
import { lossesOfRank } from "./micro-batches.ts"
import { precision, stepsFor, train, type TrainingBatch, trainingCheckpoints, trainingMetrics } from "./train.ts"

const SftConfig = Schema.Struct({
  learningRate: hyper(2e-5, "peak learning rate; §3.1: 2e-5, cosine", { min: 0 }),
  finalLearningRate: hyper(0.1, "final learning rate as a fraction of the peak; §2.2: 10%", { min: 0, max: 1 }),
  warmupSteps: hyperInt(0, "steps of linear learning rate warm-up; §3.1 mentions none", { min: 0 }),
  epochs: hyper(2, "number of passes over the demonstrations; §3.1: 2", { min: 0 }),
  steps: hyperInt(0, "number of optimiser steps, overriding epochs; 0: as many as the epochs need", { min: 0 }),
  batchSize: hyperInt(64, "sequences per optimiser step; §3.1: 64", { min: 1 }),
  sequenceLength: hyperInt(4096, "tokens per sequence, at most the model's context; §3.1: 4096", { min: 2 }),
  weightDecay: hyper(0.1, "AdamW's weight decay; §3.1: 0.1", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm; larger gradients are scaled down; §2.2: 1.0", { min: 0 }),
  microBatchSize: microBatchField("sequences", defaultSequences),
  recompute: recomputeField,
  precision,
  ...loraFields,
  ...heldOutFields
}).check(patienceNeedsHeldOut, targetsNeedRank)

export const sft = Stage.make("sft", {
  description: "§3.1 supervised fine-tuning: next-token prediction on the answers only",
  config: SftConfig,
  inputs: { init: Policy, demonstrations: Demonstrations },
  output: Policy,
  inherits: { tokenizer: "init" },
  resources: { tensors: true, ranks: true },
  run: Effect.fn("sft")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped, recorded }) {
    const { model: base, tokenizer } = yield* loadPolicy(inputs.init, { device, dtype: config.precision })
    const model = withLora(base, config, seed)
    const context = model.config.maxPositions
    const length = Math.min(config.sequenceLength, context)
    const store = yield* TokenStore.scoped({ vocabSize: tokenizer.vocabSize, folder: output.path })
    const examples = yield* readExamples(inputs.demonstrations, {
      ...{ tokenizer, length, store },
      leftOut: (row) => skipped.add({ what: "demonstrations", ...row })
    })
    const { leftOut } = examples
    if (examples.length === 0)
      return yield* nothingLeft("fine-tune on", { name: "demonstrations", count: examples.rows }, leftOut, { length, context })
    yield* skipped.check("demonstrations", examples.rows)
    const { lastAlone } = examples
    if (lastAlone > 0)
      yield* progress({
        note: `${lastAlone} of ${examples.length} dialogues have loss only on their last answer, because the chat template renders earlier answers differently once more messages follow`
      })

    const { heldOut, training } = yield* splitHeldOut(examples.length, config.heldOut, seed)
    const fit = yield* fitPacked(model, config, device)
    const lossOf = (rows: ReadonlyArray<PackedRow>) => languageModelLoss(model, rows, { device, isolate: true })
    const epochRows = (epoch: number) => examples.packed(permuted(training, new Random(seed, "sft", "epoch", epoch)))
    const steps = config.steps > 0 ? config.steps : stepsFor(epochRows(0).length, config.batchSize, config.epochs)
    const result = yield* train({
      ...{ fit, recorded, parameters: trainedParameters(model) },
      checkpoints: trainingCheckpoints(checkpoints, output, { model, tokenizer }),
      batches: packedBatches(epochRows, config, lossOf),
      heldOut: evaluating(heldOut, config, () => packedPass(examples.packed(heldOut), config, lossOf)),
      steps,
      schedule: cosineSchedule({ peak: config.learningRate, steps, warmup: config.warmupSteps, finalFraction: config.finalLearningRate }),
      maxNorm: config.maxNorm,
      weightDecay: config.weightDecay,
      progress
    })
    const { tooLong, format } = leftOut
    const metrics = { ...trainingMetrics(result), examples: examples.length, tooLong, format, ...(lastAlone === 0 ? {} : { lastAlone }) }
    return yield* saveCheckpoint(output, { model, tokenizer, metrics, base: inputs.init })
  }, Effect.scoped)
})

/** One pass over packed rows, in batches. */
export function* packedPass(
  rows: Sequence<PackedRow>,
  config: { readonly batchSize: number },
  loss: (rows: ReadonlyArray<PackedRow>) => ReturnType<typeof languageModelLoss>
): Generator<TrainingBatch> {
  for (const batch of batchesOf(rows, config.batchSize)) {
    yield {
      count: lossTokens(batch),
      tokens: batch.length * batch[0]!.tokens.length,
      parts: (microBatch) => lossesOfRank(batch, microBatch, ({ tokens }) => tokens.length, loss)
    }
  }
}

/** Batches of packed rows, epoch after epoch without end. `epochRows` permutes and packs the examples again for each epoch. */
export function* packedBatches(
  epochRows: (epoch: number) => Sequence<PackedRow>,
  config: { readonly batchSize: number },
  loss: (rows: ReadonlyArray<PackedRow>) => ReturnType<typeof languageModelLoss>
): Generator<TrainingBatch> {
  for (let epoch = 0; ; epoch++) yield* packedPass(epochRows(epoch), config, loss)
}

export const sftCost = costOf(sft, {
  size: ({ inputs }) => inputs.init,
  cost: (asked) => packedTraining(asked.inputs.init, asked.inputs.demonstrations, asked.config, "demonstrations", asked)
})
