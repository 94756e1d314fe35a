/**
 * Fits a training step on a GPU: chooses how many rows go through the model at once, and how many blocks recompute their activations in the backward pass.
 *
 * Both depend only on the config, the model's shape and the total memory of this GPU model, never on the memory that is currently free: the GPU model is part of
 * the key, so the key determines the results. `caravan plan` shows the choice, and the stage uses it.
 */
import * as Effect from "effect/Effect"
import * as Device from "../../engine/device.ts"
import { ranks, sharding } from "../../engine/ranks.ts"
import {
  type CostedModel,
  type Cut,
  type Memory,
  onOneRank,
  type Precision,
  type SpreadOver,
  totalMemory,
  trainedWeightBytes,
  trainingMemory,
  usableMemory
} from "../../models/memory.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"
import { hyperInt, hyperText } from "../../schemas/hyper.ts"
import type { MicroBatch } from "./cutting.ts"

/** The config field for the micro-batch size; if the choice is left to Caravan, the CPU uses `usual`. */
export const microBatchField = (rows: string, usual: number) =>
  hyperInt(
    0,
    `${rows} per micro-batch, a trade-off of memory against speed; it affects the loss only through the order of floating-point sums. 0: as many as fit on this type of GPU, measured in tokens; ${usual} on the CPU`,
    { min: 0 }
  )

export const recomputeField = hyperText(
  "number of blocks, from the first, that recompute their activations in the backward pass instead of keeping them: all, none or a number; the gradients are unchanged. auto: the fewest with which a step fits on this type of GPU; none on the CPU",
  (value) =>
    /^(auto|all|none|[0-9]+)$/.test(String(value))
      ? undefined
      : `must be auto, all, none or a number of blocks; found ${JSON.stringify(value)}`,
  "auto"
)

/** How steps are computed. */
export interface Fit {
  readonly microBatch: MicroBatch
  readonly recompute: number
}
/** A fit with the GPU memory that it needs. */
export interface PlannedFit extends Fit {
  readonly memory: Memory
  /** Whether it fits on the GPU. */
  readonly fits: boolean
}

/** A step to fit. */
export interface Step {
  /** Rows of a batch (with several ranks: of one rank), and the maximum tokens of a row; a pair counts the tokens of both dialogues. */
  readonly rows: number
  readonly longest: number
  readonly layers: number
  readonly memory: (cut: Cut) => Memory
}

/** The settings of a model that is trained alone. */
export interface Steps {
  readonly model: CostedModel
  readonly precision: Precision
  /** Rows of a batch, and the maximum tokens of a row. */
  readonly rows: number
  readonly longest: number
  /** Whether a copy of the best weights so far is kept. */
  readonly keepsBest: boolean
  /** The ranks it is distributed over; one by default. */
  readonly spread?: SpreadOver | undefined
}

export const trainingStep = ({ keepsBest, longest, model, precision, rows, spread = onOneRank }: Steps): Step => ({
  ...{ rows: Math.ceil(rows / spread.ranks), longest, layers: model.config.layers },
  memory: (cut) => {
    const memory = trainingMemory(model, precision, cut, spread)
    const best = trainedWeightBytes(model, precision) / (spread.sharding === "none" ? 1 : spread.ranks)
    return keepsBest ? { ...memory, weights: memory.weights + best } : memory
  }
})

/** The group of ranks that this process belongs to. */
export const ownSpread = (): SpreadOver => ({ ranks: ranks(), sharding: sharding() })

/** The settings of a config. */
export interface AskedFit {
  /** Rows per micro-batch; 0: chosen automatically. */
  readonly microBatch: number
  /** "auto", "all", "none" or a number of blocks. */
  readonly recompute: string
}

/** With this many tokens per micro-batch, a large model's matrix products run at full speed: no block is recomputed to have more. */
const enoughTokens = 4096
/** Larger micro-batches do not make any model faster. */
const mostTokens = 65536

const blocksOf = (recompute: string, layers: number): number | undefined =>
  recompute === "auto" ? undefined : recompute === "all" ? layers : recompute === "none" ? 0 : Math.min(Number(recompute), layers)

/** On the CPU: as configured, and for automatic settings `usual` rows without recomputation. */
export const fitOnCpu = (asked: AskedFit, layers: number, usual: number): Fit => ({
  microBatch: { rows: asked.microBatch === 0 ? usual : asked.microBatch },
  recompute: blocksOf(asked.recompute, layers) ?? 0
})

/**
 * On a GPU with `deviceMemory` bytes: as configured, with automatic settings chosen so that the step fits. The batch is halved until it fits without recomputation;
 * if that leaves too few tokens to keep the GPU busy, more tokens with as few recomputed blocks as possible. If nothing fits, the smallest setting.
 */
export const fitOnGpu = (asked: AskedFit, deviceMemory: number, step: Step): PlannedFit => {
  const { layers, longest, memory, rows } = step
  const whole = rows * longest
  const room = usableMemory(deviceMemory)
  const planned = (tokens: number, recompute: number, microBatch: MicroBatch = { tokens }): PlannedFit => {
    const taken = memory({ tokens, several: tokens < whole, recompute })
    return { microBatch, recompute, memory: taken, fits: totalMemory(taken) <= room }
  }
  const fixed = blocksOf(asked.recompute, layers)
  /** With the fewest recomputed blocks that fit. */
  const leanest = (tokens: number, microBatch?: MicroBatch): PlannedFit => {
    const counts = fixed === undefined ? Array.from({ length: layers + 1 }, (_, blocks) => blocks) : [fixed]
    const all = counts.map((blocks) => planned(tokens, blocks, microBatch))
    return all.find(({ fits }) => fits) ?? all.at(-1)!
  }
  if (asked.microBatch > 0) return leanest(Math.min(asked.microBatch, rows) * longest, { rows: asked.microBatch })
  const sizes: Array<number> = []
  for (let size = rows; ; size = Math.ceil(size / 2)) {
    if (size * longest <= mostTokens || size === 1) sizes.push(size * longest)
    if (size === 1) break
  }
  const kept = sizes.map((tokens) => planned(tokens, fixed ?? 0)).find(({ fits }) => fits)
  const isEnough = (tokens: number) => tokens >= enoughTokens || tokens === sizes[0]
  if (kept !== undefined && isEnough((kept.microBatch as { readonly tokens: number }).tokens)) return kept
  const busy = sizes.findLast(isEnough)!
  return (
    sizes
      .filter((tokens) => tokens <= busy)
      .map((tokens) => leanest(tokens))
      .find(({ fits }) => fits) ?? leanest(sizes.at(-1)!)
  )
}

/** A step that does not fit any GPU of this model. */
export class DoesNotFitError extends ExplainedError<DoesNotFitError>()("DoesNotFitError") {}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** Chooses how a stage's step is computed; fails if the choice is automatic and nothing fits. `advice` says what would fit. */
export const chooseFit = (
  asked: AskedFit,
  { device, usual }: { readonly device: "cpu" | "cuda"; readonly usual: number },
  step: Step,
  advice: (deviceMemory: number) => string
): Effect.Effect<Fit | PlannedFit, DoesNotFitError> => {
  const deviceMemory = Device.totalMemory(device)
  if (deviceMemory === undefined) return Effect.succeed(fitOnCpu(asked, step.layers, usual))
  const fit = fitOnGpu(asked, deviceMemory, step)
  if (fit.fits || asked.microBatch > 0) return Effect.succeed(fit)
  return DoesNotFitError.of({
    doing: "Fitting a step of training on the GPU",
    expected: `at most ${gib(usableMemory(deviceMemory))} for tensors, of the GPU's ${gib(deviceMemory)}`,
    found: `that one row at a time needs ${gib(totalMemory(fit.memory))}`,
    hint: `${advice(deviceMemory)} A micro-batch size set explicitly is tried regardless.`
  })
}
