/**
 * Fits a training step on a GPU: chooses the micro-batch size, and how many blocks recompute their activations in the backward pass.
 *
 * Both depend only on the config, the model's shape and the total memory of this GPU model, never on the memory that is currently free: the GPU model is
 * part of the key, so the key determines the results. `caravan plan` shows the same choice.
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
import type { MicroBatch } from "./micro-batches.ts"

/** The config field for the micro-batch size. If it is 0 (automatic), the CPU uses `rowsOnCpu`. */
export const microBatchField = (rows: string, rowsOnCpu: number) =>
  hyperInt(
    0,
    `${rows} per micro-batch, a trade-off of memory against speed; it affects the loss only through the order of floating-point sums. 0: as many as fit on this type of GPU, measured in tokens; ${rowsOnCpu} on the CPU`,
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

/** The arguments of `trainingStep`: a step that trains one model. */
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

/** The number of ranks in this process's group, and their sharding. */
export const ownSpread = (): SpreadOver => ({ ranks: ranks(), sharding: sharding() })

/** The fit that a config requests. */
export interface FitSettings {
  /** Rows per micro-batch; 0: chosen automatically. */
  readonly microBatch: number
  /** "auto", "all", "none" or a number of blocks. */
  readonly recompute: string
}

/** With this many tokens per micro-batch, a large model's matrix products run at full speed, so no block is recomputed to fit more. */
const enoughTokens = 4096
/** Micro-batches with more tokens do not make any model faster. */
const maxTokens = 65536

const blocksOf = (recompute: string, layers: number): number | undefined =>
  recompute === "auto" ? undefined : recompute === "all" ? layers : recompute === "none" ? 0 : Math.min(Number(recompute), layers)

/** The fit on the CPU: as configured; automatic settings mean `rowsOnCpu` rows per micro-batch and no recomputation. */
export const fitOnCpu = (settings: FitSettings, layers: number, rowsOnCpu: number): Fit => ({
  microBatch: { rows: settings.microBatch === 0 ? rowsOnCpu : settings.microBatch },
  recompute: blocksOf(settings.recompute, layers) ?? 0
})

/**
 * The fit on a GPU with `deviceMemory` bytes: as configured, with automatic settings chosen so that the step fits. The batch is halved until it fits
 * without recomputation. If that leaves too few tokens to keep the GPU busy, blocks are recomputed instead, as few as possible, so that a micro-batch
 * has more tokens. If nothing fits, returns the smallest setting, with `fits` false.
 */
export const fitOnGpu = (settings: FitSettings, deviceMemory: number, step: Step): PlannedFit => {
  const { layers, longest, memory, rows } = step
  const batchTokens = rows * longest
  const available = usableMemory(deviceMemory)
  const planned = (tokens: number, recompute: number, microBatch: MicroBatch = { tokens }): PlannedFit => {
    const needed = memory({ tokens, several: tokens < batchTokens, recompute })
    return { microBatch, recompute, memory: needed, fits: totalMemory(needed) <= available }
  }
  const fixed = blocksOf(settings.recompute, layers)
  /** The fit with the fewest recomputed blocks. */
  const fewestRecomputed = (tokens: number, microBatch?: MicroBatch): PlannedFit => {
    const counts = fixed === undefined ? Array.from({ length: layers + 1 }, (_, blocks) => blocks) : [fixed]
    const all = counts.map((blocks) => planned(tokens, blocks, microBatch))
    return all.find(({ fits }) => fits) ?? all.at(-1)!
  }
  if (settings.microBatch > 0) return fewestRecomputed(Math.min(settings.microBatch, rows) * longest, { rows: settings.microBatch })
  const sizes: Array<number> = []
  for (let size = rows; ; size = Math.ceil(size / 2)) {
    if (size * longest <= maxTokens || size === 1) sizes.push(size * longest)
    if (size === 1) break
  }
  const kept = sizes.map((tokens) => planned(tokens, fixed ?? 0)).find(({ fits }) => fits)
  const isEnough = (tokens: number) => tokens >= enoughTokens || tokens === sizes[0]
  if (kept !== undefined && isEnough((kept.microBatch as { readonly tokens: number }).tokens)) return kept
  const busy = sizes.findLast(isEnough)!
  return (
    sizes
      .filter((tokens) => tokens <= busy)
      .map((tokens) => fewestRecomputed(tokens))
      .find(({ fits }) => fits) ?? fewestRecomputed(sizes.at(-1)!)
  )
}

/** A step that does not fit any GPU of this model. */
export class DoesNotFitError extends ExplainedError<DoesNotFitError>()("DoesNotFitError") {}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** Chooses how a stage's step is computed. Fails if the micro-batch size is automatic and nothing fits; `advice` says what would fit. */
export const chooseFit = (
  settings: FitSettings,
  { device, rowsOnCpu }: { readonly device: "cpu" | "cuda"; readonly rowsOnCpu: number },
  step: Step,
  advice: (deviceMemory: number) => string
): Effect.Effect<Fit | PlannedFit, DoesNotFitError> => {
  const deviceMemory = Device.totalMemory(device)
  if (deviceMemory === undefined) return Effect.succeed(fitOnCpu(settings, step.layers, rowsOnCpu))
  const fit = fitOnGpu(settings, deviceMemory, step)
  if (fit.fits || settings.microBatch > 0) return Effect.succeed(fit)
  return DoesNotFitError.of({
    doing: "Fitting a step of training on the GPU",
    expected: `at most ${gib(usableMemory(deviceMemory))} for tensors, of the GPU's ${gib(deviceMemory)}`,
    found: `that a single row needs ${gib(totalMemory(fit.memory))}`,
    hint: `${advice(deviceMemory)} An explicit micro-batch size is tried even if it does not fit.`
  })
}
