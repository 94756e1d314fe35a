/**
 * Trains the safety classifier (Inan et al. 2023, Llama Guard): a language model fine-tuned to answer, for a prompt or for a response, "safe", or "unsafe" with
 * the category of the risk.
 *
 * Deviation: Llama Guard also drops and renumbers categories at random during training, so that other categories can be used later; here they are fixed.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Random } from "../../engine/random.ts"
import { cosineSchedule } from "../../engine/schedule.ts"
import { loadPolicy, saveCheckpoint } from "../../models/checkpoint.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { Policy, SafetyClassifier } from "../../schemas/checkpoint.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import { type Demonstration, Demonstrations } from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"
import { nothingLeft } from "../common/left-out.ts"
import { languageModelLoss, type PackedRow } from "../common/sequences.ts"
import { TokenStore } from "../common/token-store.ts"
import { fitPacked, defaultSequences } from "../training/advice.ts"
import { packedTraining } from "../training/cost.ts"
import { readExamples } from "../training/examples.ts"
import { evaluating, heldOutFields, patienceNeedsHeldOut, permuted, splitHeldOut } from "../training/held-out.ts"
import { microBatchField, recomputeField } from "../training/fit.ts"
import { loraFields, targetsNeedRank, trainedParameters, withLora } from "../training/lora.ts"
import { packedBatches, packedPass } from "../training/sft.ts"
import { precision, stepsFor, train, trainingCheckpoints, trainingMetrics } from "../training/train.ts"
import { headerOfTask } from "./classifier-task.ts"
import { ClassifierError, TasksFile, tasksFile } from "./classifier-tasks-file.ts"

/** The task of an example; undefined if it is not one of the classifier's. */
export const taskOfExample = ({ messages }: Demonstration): string | undefined => {
  const [question, answer] = messages
  if (messages.length !== 2 || question?.role !== "user" || answer?.role !== "assistant") return undefined
  return /^(safe|unsafe(\nO[0-9]+)?)$/.test(answer.content) ? headerOfTask(question.content) : undefined
}

const noExample = ({ id }: Demonstration): ClassifierError =>
  ClassifierError.of({
    doing: "Training a safety classifier",
    expected: 'questions of its task, answered "safe" or "unsafe" with a code',
    found: `the example "${id}", which is something else`,
    hint: "Create the examples with safetyClassifierData."
  })

const SafetyClassifierConfig = Schema.Struct({
  learningRate: hyper(2e-6, "peak learning rate; Llama Guard: 2e-6", { min: 0 }),
  finalLearningRate: hyper(0.1, "final learning rate as a fraction of the peak; §2.2: 10%", { min: 0, max: 1 }),
  warmupSteps: hyperInt(0, "steps of linear learning rate warm-up; Llama Guard mentions none", { min: 0 }),
  epochs: hyper(1, "number of passes over the examples; Llama Guard: 500 steps, one pass", { min: 0 }),
  batchSize: hyperInt(2, "sequences per optimiser step; Llama Guard: 2", { min: 1 }),
  sequenceLength: hyperInt(4096, "tokens per sequence, at most the model's context; Llama Guard: 4096", { min: 2 }),
  weightDecay: hyper(0.1, "AdamW's weight decay; §3.1: 0.1", { min: 0 }),
  maxNorm: hyper(1, "maximum global gradient norm; larger gradients are scaled down; §2.2: 1.0", { min: 0 }),
  microBatchSize: microBatchField("sequences", defaultSequences),
  recompute: recomputeField,
  precision,
  ...loraFields,
  ...heldOutFields
}).check(patienceNeedsHeldOut, targetsNeedRank)

export const safetyClassifier = Stage.make("safety-classifier", {
  description:
    "fine-tunes a language model to answer whether a prompt or a response is safe, and which risk category applies (Llama Guard)",
  config: SafetyClassifierConfig,
  inputs: { init: Policy, examples: Demonstrations },
  output: SafetyClassifier,
  inherits: { tokenizer: "init" },
  resources: { tensors: true },
  run: Effect.fn("safety-classifier")(function* ({ config, inputs, output, seed, device, progress, checkpoints, skipped, recorded }) {
    const { model: base, tokenizer } = yield* loadPolicy(inputs.init, { device, dtype: config.precision })
    const model = withLora(base, config, seed)
    const tasks = new Set<string>()
    const check = (row: Demonstration): ClassifierError | undefined => {
      const task = taskOfExample(row)
      if (task !== undefined) tasks.add(task)
      return task === undefined ? noExample(row) : undefined
    }
    const context = model.config.maxPositions
    const length = Math.min(config.sequenceLength, context)
    const store = yield* TokenStore.scoped({ vocabSize: tokenizer.vocabSize, folder: output.path })
    const examples = yield* readExamples(
      inputs.examples,
      { tokenizer, length, store, leftOut: (row) => skipped.add({ what: "examples", ...row }) },
      check
    )
    const { leftOut } = examples
    if (examples.length === 0)
      return yield* nothingLeft("train a safety classifier on", { name: "examples", count: examples.rows }, leftOut, { length, context })
    yield* skipped.check("examples", examples.rows)
    const { heldOut, training } = yield* splitHeldOut(examples.length, config.heldOut, seed)
    const fit = yield* fitPacked(model, config, device)
    const lossOf = (rows: ReadonlyArray<PackedRow>) => languageModelLoss(model, rows, { device, isolate: true })
    const epochRows = (epoch: number) => examples.packed(permuted(training, new Random(seed, "safety classifier", "epoch", epoch)))
    const steps = stepsFor(epochRows(0).length, config.batchSize, config.epochs)
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
    const content = { format: 1, tasks: [...tasks].sort() } satisfies typeof TasksFile.Type
    yield* Effect.promise(() => writeFile(join(output.path, tasksFile), `${JSON.stringify(content, undefined, 2)}\n`))
    const { tooLong, format } = leftOut
    const metrics = { ...trainingMetrics(result), examples: examples.length, tooLong, format }
    return yield* saveCheckpoint(output, { model, tokenizer, metrics, base: inputs.init })
  }, Effect.scoped)
})

export const safetyClassifierCost = costOf(safetyClassifier, {
  size: ({ inputs }) => inputs.init,
  cost: (asked) => packedTraining(asked.inputs.init, asked.inputs.examples, asked.config, "examples", asked)
})
