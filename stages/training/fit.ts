/**
 * How a step is made to fit a GPU: how many rows go through the model at once, and how many blocks recompute their activations in the backward pass.
 *
 * Both follow from the config, the model's shape and the memory that a GPU of this model has, never from what of it happens to be free: the GPU's model is part of
 * the key, so results follow from the key. `caravan plan` shows what this function chooses, and the stage runs with it.
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

/** A field that says how many rows are computed at once; on the CPU it is `usual` where it is left to be chosen. */
export const microBatchField = (rows: string, usual: number) =>
  hyperInt(
    0,
    `${rows} at once: memory against speed; the loss does not depend on it, but for the order of float sums. 0: as many as fit a GPU of this model, counted in tokens; on the CPU ${usual}`,
    { min: 0 }
  )

export const recomputeField = hyperText(
  "blocks that do not keep their activations and compute them anew in the backward pass, the first ones: all, none, or how many; the gradients are the same. auto: as few as let a step fit a GPU of this model; on the CPU none",
  (value) =>
    /^(auto|all|none|[0-9]+)$/.test(String(value))
      ? undefined
      : `takes auto, all, none or a number of blocks, got ${JSON.stringify(value)}`,
  "auto"
)

/** How steps are computed. */
export interface Fit {
  readonly microBatch: MicroBatch
  readonly recompute: number
}
/** With what that takes of a GPU's memory. */
export interface PlannedFit extends Fit {
  readonly memory: Memory
  /** Whether a GPU has room for it. */
  readonly fits: boolean
}

/** A step that is to be made to fit. */
export interface Step {
  /** Rows of a batch, of several ranks those of one, and tokens of the longest there may be: a pair's are those of both its dialogues. */
  readonly rows: number
  readonly longest: number
  readonly layers: number
  readonly memory: (cut: Cut) => Memory
}

/** How a model is trained alone. */
export interface Steps {
  readonly model: CostedModel
  readonly precision: Precision
  /** Rows of a batch, and tokens of the longest. */
  readonly rows: number
  readonly longest: number
  /** Whether a copy of its best weights so far is kept. */
  readonly keepsBest: boolean
  /** The ranks that it is spread over; one unless given. */
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

/** The ranks that this process is one of. */
export const ownSpread = (): SpreadOver => ({ ranks: ranks(), sharding: sharding() })

/** What a config asks for. */
export interface AskedFit {
  /** Rows at once; 0: chosen. */
  readonly microBatch: number
  /** "auto", "all", "none" or a number of blocks. */
  readonly recompute: string
}

/** With so many tokens at once the matrix products of a large model run at full speed: no block is recomputed to have more. */
const enoughTokens = 4096
/** More at once make no model faster. */
const mostTokens = 65536

const blocksOf = (recompute: string, layers: number): number | undefined =>
  recompute === "auto" ? undefined : recompute === "all" ? layers : recompute === "none" ? 0 : Math.min(Number(recompute), layers)

/** On the CPU: as asked, and where it is to be chosen `usual` rows and nothing recomputed. */
export const fitOnCpu = (asked: AskedFit, layers: number, usual: number): Fit => ({
  microBatch: { rows: asked.microBatch === 0 ? usual : asked.microBatch },
  recompute: blocksOf(asked.recompute, layers) ?? 0
})

/**
 * On a GPU with `deviceMemory` bytes: as asked, and what is to be chosen so that the step fits. As many tokens as fit with nothing recomputed, the batch halved until
 * they do; when that leaves too few for the GPU to be busy with, more, with as few blocks recomputed as let them fit. Where nothing fits: the least that there is.
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
  /** With as few blocks recomputed as let it fit. */
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

/** A step that no GPU of this model has room for. */
export class DoesNotFitError extends ExplainedError<DoesNotFitError>()("DoesNotFitError") {}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** What a stage's step is made to fit; fails where that was left to be chosen and nothing fits. `advice` says what would. */
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
    expected: `at most ${gib(usableMemory(deviceMemory))} for tensors, of its ${gib(deviceMemory)}`,
    found: `that one row at a time takes ${gib(totalMemory(fit.memory))}`,
    hint: `${advice(deviceMemory)} A micro-batch that is given as a number is tried all the same.`
  })
}
