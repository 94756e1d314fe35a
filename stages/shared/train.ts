/**
 * The loop every training stage runs: batches in parts, gradients accumulated, clipped, one AdamW step a batch (Llama 2 §2.2, §3.1, §3.2.2).
 *
 * A batch's loss is the sum over its parts divided by the batch's whole count (tokens that carry loss, or pairs), so that it does not depend
 * on how the batch is split into parts.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { AdamW, clipGradientNorm, type Parameters } from "../../engine/optimizer.ts"
import type { Schedule } from "../../engine/schedule.ts"
import { scoped, type Tensor } from "../../engine/tensor.ts"
import { hyper } from "../../schemas/hyper.ts"
import type { Progress } from "../../runtime/stage.ts"

/** How a stage that trains computes. */
export const precision = hyper("float32", "of weights and activations; the optimiser's copy of the weights is float32 either way", [
  "float32",
  "bfloat16"
])

/** One optimiser step's data. */
export interface TrainingBatch {
  /** What the summed loss is divided by: over all parts. */
  readonly count: number
  /** Tokens fed to the model, padding included: for the throughput shown. */
  readonly tokens: number
  /** Each gives the loss of a part, summed and not averaged, as a tensor of one element. */
  readonly parts: ReadonlyArray<() => Tensor>
}

export interface TrainingOptions {
  readonly parameters: Parameters
  readonly batches: Iterable<TrainingBatch>
  readonly steps: number
  readonly schedule: Schedule
  /** Global gradient norm above which gradients are scaled down (§2.2: 1.0). */
  readonly maxNorm: number
  readonly weightDecay: number
  readonly progress: (progress: Progress) => Effect.Effect<void>
}

/** A loss or gradient that is no longer a number: training can't go on from there. */
export class DivergedError extends Schema.TaggedError<DivergedError>()("DivergedError", {
  step: Schema.Number,
  what: Schema.String,
  message: Schema.String
}) {}

export interface TrainingResult {
  /** Each step's loss, before its update. */
  readonly losses: ReadonlyArray<number>
  readonly gradientNorms: ReadonlyArray<number>
}

/** The metrics that a training stage leaves in its trace. */
export const trainingMetrics = (result: TrainingResult): Record<string, number> => {
  const tail = result.losses.slice(-Math.max(1, Math.ceil(result.losses.length / 10)))
  return {
    steps: result.losses.length,
    firstLoss: result.losses[0] ?? 0,
    lastLoss: result.losses.at(-1) ?? 0,
    meanOfLastTenthLoss: tail.reduce((sum, loss) => sum + loss, 0) / Math.max(1, tail.length)
  }
}

/** Trains in place and returns the losses. Fails with DivergedError when a loss or a gradient norm is not finite. */
export const train = Effect.fn("train")(function* (options: TrainingOptions): Effect.fn.Return<TrainingResult, DivergedError> {
  const optimizer = new AdamW({ parameters: options.parameters, weightDecay: options.weightDecay })
  const losses: Array<number> = []
  const gradientNorms: Array<number> = []
  yield* Effect.gen(function* () {
    for (const batch of options.batches) {
      const step = losses.length
      if (step === options.steps) break
      const learningRate = options.schedule(step)
      const { loss, norm } = scoped(() => {
        let loss = 0
        for (const part of batch.parts) {
          loss += scoped(() => {
            const mean = part().div(batch.count)
            mean.backward()
            return mean.item()
          })
        }
        const norm = clipGradientNorm(options.parameters, options.maxNorm).item()
        if (Number.isFinite(loss) && Number.isFinite(norm)) optimizer.step(learningRate)
        return { loss, norm }
      })
      if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
        const what = Number.isFinite(loss) ? `gradient norm ${norm}` : `loss ${loss}`
        return yield* new DivergedError({
          step,
          what,
          message: `Training diverged at step ${step + 1} of ${options.steps}: ${what} (learning rate ${learningRate}; the last finite loss was ${losses.at(-1) ?? "none"}). Lower the learning rate, or look at the data of that step.`
        })
      }
      losses.push(loss)
      gradientNorms.push(norm)
      yield* options.progress({ step: step + 1, total: options.steps, loss, learningRate, gradientNorm: norm, tokens: batch.tokens })
    }
  }).pipe(Effect.ensuring(Effect.sync(() => optimizer.free())))
  return { losses, gradientNorms }
})

/** Steps that `epochs` passes over `examples` take in batches of `batchSize`; at least one. The last batch of an epoch may be smaller. */
export const stepsFor = (examples: number, batchSize: number, epochs: number): number =>
  Math.max(1, Math.round(Math.ceil(examples / batchSize) * epochs))
