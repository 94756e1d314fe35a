/**
 * The training loop of every stage: batches in parts, accumulated and clipped gradients, one AdamW step per batch (Llama 2 §2.2, §3.1, §3.2.2).
 *
 * A batch's loss is the sum over its parts divided by the batch's total count (tokens that carry loss, or pairs), so that it does not depend
 * on how the batch is split.
 *
 * A checkpoint holds the model (or the trained adapter) in the folder layout of a result and, under training/, everything else that the next step reads:
 * the optimiser's state, the best weights on held-out rows and the measurements so far. Batches are generated again from the seed; those before the next
 * step are skipped.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { deviceMemory, gpuMemory, isOutOfMemory } from "../../engine/device.ts"
import { accumulateGradients, clipGradientNorm, type Parameters } from "../../engine/gradients.ts"
import { AdamW } from "../../engine/optimizer.ts"
import { sumOver } from "../../engine/ranks.ts"
import { backward } from "../../engine/segments.ts"
import type { Schedule } from "../../engine/schedule.ts"
import { type Spread, spreadOver } from "../../engine/spread.ts"
import { scoped } from "../../engine/tensor.ts"
import { adapterWeightsFile, writeAdapter } from "../../models/adapter-files.ts"
import { readInto, roleOf, writeCheckpoint } from "../../models/checkpoint.ts"
import type { Llama } from "../../models/llama.ts"
import type { RewardModel } from "../../models/reward-model.ts"
import { TensorSnapshot, type TensorWriter } from "../../models/safetensors.ts"
import { totalMemory } from "../../models/memory.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ArtifactError, type OutputSlot } from "../../schemas/artifact.ts"
import { hyper } from "../../schemas/hyper.ts"
import { ofAllRanks, readSpread, saveTensors, wholeTensors } from "../common/checkpointed.ts"
import type { TrainingBatch } from "./batch.ts"
import type { Fit, PlannedFit } from "./fit.ts"
import { HeldOut, HeldOutEvaluation, type HeldOutOptions } from "./held-out.ts"
import { MicroBatching, OutOfMemoryError, microBatchText } from "./micro-batches.ts"

export type { TrainingBatch } from "./batch.ts"

/** The config field `precision` of training stages. */
export const precision = hyper("float32", "dtype of weights and activations; the optimiser's copy of the weights is always float32", [
  "float32",
  "bfloat16"
])

export interface TrainingOptions {
  readonly parameters: Parameters
  readonly batches: Iterable<TrainingBatch>
  readonly steps: number
  readonly schedule: Schedule
  /** Global gradient norm above which gradients are scaled down (§2.2: 1.0). */
  readonly maxNorm: number
  readonly weightDecay: number
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** How a batch is split into micro-batches, and how many blocks recompute their activations. */
  readonly fit: Fit | PlannedFit
  /** The metrics of the result to reproduce (verify): micro-batches are halved in the same steps. */
  readonly recorded?: Readonly<Record<string, number>> | undefined
  /** Checkpoints from which a killed training run resumes; undefined: none are saved. */
  readonly checkpoints?: TrainingCheckpoints
  /** Rows excluded from training to measure the loss; undefined: it is not measured. */
  readonly heldOut?: HeldOutOptions | undefined
}

export interface TrainingCheckpoints extends Checkpoints {
  /** Writes a model (or adapter) folder; its `weightsFile` contains the parameters under the names used in training. */
  readonly writeModel: (folder: string, writeTensors: TensorWriter) => Promise<void>
  readonly weightsFile: string
}

/** Checkpoints of a stage that trains its output model, or the adapter on it. */
export const trainingCheckpoints = (
  checkpoints: Checkpoints,
  output: OutputSlot<any>,
  trained: { readonly model: Llama | RewardModel; readonly tokenizer: Tokenizer }
): TrainingCheckpoints => {
  const { model } = trained
  return model.adapter === undefined
    ? {
        ...checkpoints,
        weightsFile: "model.safetensors",
        writeModel: (folder, writeTensors) => writeCheckpoint(folder, { ...trained, role: roleOf(output) }, writeTensors)
      }
    : { ...checkpoints, weightsFile: adapterWeightsFile, writeModel: (folder, writeTensors) => writeAdapter(folder, model, writeTensors) }
}

/** A loss or gradient is no longer finite: training cannot continue. */
export class DivergedError extends Schema.TaggedError<DivergedError>()("DivergedError", {
  step: Schema.Number,
  what: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

export interface TrainingResult {
  /** The loss of each step before its update. */
  readonly losses: ReadonlyArray<number>
  readonly gradientNorms: ReadonlyArray<number>
  /** The planned GPU memory, and changes of the micro-batch size; for the trace. */
  readonly fitted: Readonly<Record<string, number>>
  /** The held-out loss of the final weights, and the step at which they were reached; undefined without held-out rows. */
  readonly kept?: HeldOutEvaluation | undefined
}

/** The metrics that a training stage stores in its trace. */
export const trainingMetrics = (result: TrainingResult): Record<string, number> => {
  const tail = result.losses.slice(-Math.max(1, Math.ceil(result.losses.length / 10)))
  return {
    steps: result.losses.length,
    firstLoss: result.losses[0] ?? 0,
    lastLoss: result.losses.at(-1) ?? 0,
    meanOfLastTenthLoss: tail.reduce((sum, loss) => sum + loss, 0) / Math.max(1, tail.length),
    ...result.fitted,
    ...(result.kept === undefined ? {} : { heldOutLoss: result.kept.loss, keptStep: result.kept.step })
  }
}

type Measures = Pick<TrainingResult, "losses" | "gradientNorms">

/** Files of a checkpoint: the measurements of each step, and the optimiser's tensors. */
const measuredFile = "training/measured.json"
const optimizerFile = "training/optimizer.safetensors"
/** The file with the weights that have the lowest held-out loss. */
const bestFile = "training/best.safetensors"
const Measured = Schema.Struct({
  format: Schema.Literal(1),
  losses: Schema.Array(Schema.Finite),
  gradientNorms: Schema.Array(Schema.Finite),
  heldOut: Schema.Array(HeldOutEvaluation),
  /** Steps in which the micro-batch was halved. */
  halved: Schema.Array(Schema.Finite),
  best: Schema.Boolean
})
const MeasuredFile = Schema.fromJsonString(Measured)

/** The state of a training run. */
interface State {
  readonly spread: Spread
  readonly optimizer: AdamW
  readonly heldOut: HeldOut | undefined
  readonly microBatching: MicroBatching
}

/** What the optimiser reads besides the weights. */
const optimizerState = ({ optimizer, spread }: State): Parameters => ({ ...optimizer.state, ...spread.masters })

/** Restores parameters and optimiser from a checkpoint, and returns the measurements so far. */
const resume = Effect.fnUntraced(function* (
  found: { readonly step: number; readonly path: string },
  weightsFile: string,
  options: TrainingOptions,
  state: State
): Effect.fn.Return<Measures, ArtifactError> {
  const { microBatching, heldOut, optimizer, spread } = state
  const path = join(found.path, measuredFile)
  const damaged = (what: string) =>
    ArtifactError.of({
      doing: `Resuming from ${path}`,
      expected: `the losses and gradient norms of ${found.step} steps of ${options.steps}`,
      found: what,
      hint: `Delete the folder ${found.path} and run again.`
    })
  const text = yield* Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: () => damaged("no such file") })
  const measured = yield* Schema.decodeUnknownEffect(MeasuredFile)(text).pipe(Effect.mapError((error) => damaged(error.message)))
  const { losses, gradientNorms } = measured
  if (losses.length !== found.step || gradientNorms.length !== found.step || found.step > options.steps)
    return yield* damaged(`${losses.length} and ${gradientNorms.length}`)
  spread.gather()
  yield* readInto(join(found.path, weightsFile), options.parameters)
  spread.adopt()
  spread.release()
  yield* readSpread(join(found.path, optimizerFile), spread, optimizerState(state))
  optimizer.resume(found.step)
  microBatching.resume(measured.halved)
  heldOut?.evaluations.push(...measured.heldOut)
  if (measured.best && heldOut !== undefined) yield* readSpread(join(found.path, bestFile), spread, heldOut.allocateBest())
  return { losses, gradientNorms }
})

/** Saves everything that the next step reads, in the form a single process would write, so that any number of ranks can resume. All ranks call it. */
const keepTraining = Effect.fnUntraced(function* (
  checkpoints: TrainingCheckpoints,
  snapshot: TensorSnapshot,
  parameters: Parameters,
  training: State,
  { losses, gradientNorms }: Measures
) {
  const { microBatching, heldOut, optimizer, spread } = training
  const halved = [...microBatching.halved]
  spread.gather()
  const [state, best] = [wholeTensors(spread, optimizerState(training)), wholeTensors(spread, heldOut?.best ?? {})]
  const hasBest = heldOut?.best !== undefined
  yield* saveTensors(checkpoints, snapshot, {
    step: optimizer.steps,
    tensors: [parameters, state.tensors, best.tensors],
    write: async (folder, writeTensors) => {
      await checkpoints.writeModel(folder, writeTensors)
      await mkdir(join(folder, "training"))
      await writeTensors(join(folder, optimizerFile), state.tensors)
      if (hasBest) await writeTensors(join(folder, bestFile), best.tensors)
      const evaluations = heldOut?.evaluations ?? []
      const measured: typeof Measured.Type = {
        ...{ format: 1 as const, losses, gradientNorms, heldOut: evaluations, halved, best: hasBest }
      }
      await writeFile(join(folder, measuredFile), `${JSON.stringify(measured)}\n`)
    }
  })
  for (const { free } of [state, best]) free()
  spread.release()
})

/**
 * One step on a batch: the loss and gradients of each part, clipping, the optimiser's update. If the loss or the gradient norm is not finite, the
 * weights are not updated, and `diverged` is true.
 */
const takeStep = (
  { count, parts }: TrainingBatch,
  { parameters, maxNorm, fit }: TrainingOptions,
  { microBatching, optimizer, spread }: State,
  learningRate: number
): { readonly loss: number; readonly gradientNorm: number; readonly diverged: boolean } =>
  scoped(() => {
    const shares = microBatching.step(
      optimizer.steps + 1,
      [parameters],
      (microBatch) => parts(microBatch).length,
      (microBatch) =>
        accumulateGradients(
          parameters,
          parts(microBatch),
          (part) => {
            const share = part().div(count)
            backward(share)
            return share.item()
          },
          { ...fit, weights: spread }
        )
    )
    const [loss] = sumOver([shares.reduce((sum, share) => sum + share, 0)], "adding up the loss") as [number]
    const gradientNorm = clipGradientNorm(spread.parameters, maxNorm, spread).item()
    const diverged = !Number.isFinite(loss) || !Number.isFinite(gradientNorm)
    if (!diverged) {
      optimizer.step(learningRate)
      spread.updated()
    }
    return { loss, gradientNorm, diverged }
  })

/** Evaluates the held-out loss if it is due. Returns whether to stop. */
const evaluate = Effect.fnUntraced(function* (
  { microBatching: { microBatch }, heldOut, spread }: State,
  step: number,
  { progress, steps: total }: TrainingOptions
): Effect.fn.Return<boolean, DivergedError> {
  if (heldOut === undefined || !heldOut.isDue(step, total)) return false
  spread.gather()
  const loss = yield* heldOut.loss(microBatch, progress)
  spread.release()
  yield* progress({ step, total, heldOutLoss: loss })
  if (!Number.isFinite(loss)) {
    const message = `The loss on held-out rows is ${loss} after step ${step} of ${total}. Lower the learning rate, or check the held-out rows.`
    return yield* new DivergedError({ step, what: `held-out loss ${loss}`, message })
  }
  return heldOut.evaluated({ step, loss })
})

/**
 * Trains the parameters in place and returns the losses. With a patience on held-out rows, training may stop early, and the weights with the lowest
 * held-out loss are kept. Fails with DivergedError if a loss or a gradient norm is not finite, with OutOfMemoryError if a step does not fit in
 * memory, and with ArtifactError or StageError if the checkpoint to resume from is damaged or can't be read.
 */
export const train = Effect.fn("train")(function* (
  options: TrainingOptions
): Effect.fn.Return<TrainingResult, DivergedError | OutOfMemoryError | ArtifactError | StageError> {
  const checkpoints = options.checkpoints === undefined ? undefined : { ...options.checkpoints, ...ofAllRanks(options.checkpoints) }
  const snapshot = new TensorSnapshot()
  const microBatching = new MicroBatching(options.fit.microBatch, options.recorded)
  yield* reportFit(options)
  const spread = spreadOver(options.parameters)
  const optimizer = new AdamW({ parameters: spread.parameters, weightDecay: options.weightDecay })
  const losses: Array<number> = []
  const gradientNorms: Array<number> = []
  const { dtype } = Object.values(options.parameters)[0]!
  const heldOut = options.heldOut === undefined ? undefined : new HeldOut(options.heldOut, spread.parameters, dtype)
  const state: State = { spread, optimizer, heldOut, microBatching }
  const kept = yield* Effect.gen(function* () {
    const found = yield* checkpoints?.latest ?? Effect.undefined
    if (checkpoints !== undefined && found !== undefined) {
      const before = yield* resume(found, checkpoints.weightsFile, options, state)
      losses.push(...before.losses)
      gradientNorms.push(...before.gradientNorms)
      yield* options.progress({ note: `resumes after step ${found.step} of ${options.steps}, from a checkpoint` })
    } else yield* evaluate(state, 0, options)
    let skipped = 0
    for (const batch of options.batches) {
      const step = losses.length
      if (step === options.steps) break
      if (skipped < (found?.step ?? 0)) {
        skipped++
        continue
      }
      const learningRate = options.schedule(step)
      const { loss, gradientNorm, diverged } = yield* Effect.try({
        try: () => takeStep(batch, options, state, learningRate),
        catch: (cause) => {
          if (cause instanceof OutOfMemoryError) return cause
          if (isOutOfMemory(cause)) return OutOfMemoryError.during(`Taking step ${step + 1}`, cause)
          throw cause
        }
      })
      for (const note of microBatching.notes()) yield* options.progress({ note })
      // A diverged step is reported too: it is the last point of the curve.
      const { tokens } = batch
      yield* options.progress({ step: step + 1, total: options.steps, loss, learningRate, gradientNorm, tokens, ...gpuMemory() })
      if (diverged) {
        const what = Number.isFinite(loss) ? `gradient norm ${gradientNorm}` : `loss ${loss}`
        const last = yield* checkpoints?.latest ?? Effect.undefined
        const kept = last === undefined ? "" : ` The model after step ${last.step} is in ${last.path}.`
        return yield* new DivergedError({
          step,
          what,
          message: `Training diverged at step ${step + 1} of ${options.steps}: ${what} (learning rate ${learningRate}; the last finite loss was ${losses.at(-1) ?? "none"}). Lower the learning rate, or check the data of that step.${kept}`
        })
      }
      losses.push(loss)
      gradientNorms.push(gradientNorm)
      const stop = yield* evaluate(state, step + 1, options)
      if (stop && step + 1 < options.steps) {
        yield* options.progress({ note: `stops after step ${step + 1} of ${options.steps}: the held-out loss no longer falls` })
        break
      }
      if (checkpoints?.due() === true) yield* keepTraining(checkpoints, snapshot, options.parameters, state, { losses, gradientNorms })
    }
    const kept = heldOut?.restoreBest()
    spread.updated()
    spread.finish()
    return kept
  }).pipe(
    Effect.ensuring(
      Effect.sync(() => {
        optimizer.free()
        heldOut?.free()
      })
    )
  )
  return { losses, gradientNorms, kept, fitted: { ...fitMetrics(options.fit), ...microBatching.metrics } }
})

const mebi = (bytes: number): number => bytes / 2 ** 20

/** Metrics of a fit on a GPU: planned memory in MiB, and the number of recomputed blocks. Empty on the CPU. */
export const fitMetrics = (fit: Fit | PlannedFit): Record<string, number> =>
  "memory" in fit ? { plannedGpuMemory: mebi(totalMemory(fit.memory)), recomputedBlocks: fit.recompute } : {}

/** On a GPU: reports how steps are computed, and warns if other programs leave less memory than planned. */
export const reportFit = Effect.fn("reportFit")(function* ({ fit, progress }: Pick<TrainingOptions, "fit" | "progress">) {
  if (!("memory" in fit)) return
  const planned = totalMemory(fit.memory)
  const recomputed = fit.recompute === 0 ? "" : `, ${fit.recompute} blocks recomputed`
  yield* progress({
    note: `micro-batches of ${microBatchText(fit.microBatch)}${recomputed}: planned to use ${(planned / 2 ** 30).toFixed(1)} GiB of the GPU`
  })
  const available = deviceMemory()?.available
  if (available !== undefined && available < planned)
    yield* progress({
      note: `other programs leave ${(available / 2 ** 30).toFixed(1)} GiB of the GPU: training may run out of memory (nvidia-smi lists programs)`
    })
})

/** Number of steps for `epochs` passes over `examples` in batches of `batchSize`; at least one. The last batch of an epoch may be smaller. */
export const stepsFor = (examples: number, batchSize: number, epochs: number): number =>
  Math.max(1, Math.round(Math.ceil(examples / batchSize) * epochs))
