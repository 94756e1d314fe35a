/** The cost of training: on packed sequences, and with a loss on held-out rows. */
import { type CostedModel, type Precision, trainedParameterCount, trainedWeightBytes } from "../../models/memory.ts"
import type { CostRequest } from "../common/cost/estimator.ts"
import { dialogueLength, rowCount, type Size } from "../common/cost/size.ts"
import { languageModel, reading, type StageCost, training } from "../common/cost/work.ts"
import { trainingAdvice } from "./advice.ts"
import { type FitSettings, fitOnGpu, type Steps, trainingStep } from "./fit.ts"
import { adaptedBy, type LoraCost } from "./lora.ts"

export type { Steps } from "./fit.ts"
export type { LoraCost } from "./lora.ts"

/** The config fields that define the held-out rows; if they are absent, no rows are held out. */
export interface HeldOutCost {
  readonly heldOut?: number
  readonly evaluateEvery?: number
  readonly patience?: number
}

/** Adds to the cost of training that of reading `rows()` held-out sequences before the first step, at each evaluation and after the last step, without early stopping. */
export const withHeldOut = (
  cost: StageCost,
  { heldOut = 0, evaluateEvery = 1 }: HeldOutCost,
  read: {
    readonly model: CostedModel
    readonly precision: Precision
    readonly rows: () => number
    readonly length: number
    readonly steps: number
  }
): StageCost => {
  if (heldOut === 0) return cost
  const { length, model, precision, rows, steps } = read
  const times = 1 + Math.ceil(steps / evaluateEvery)
  return { ...cost, work: [...cost.work, reading("held-out loss", model, precision, times * rows(), length)] }
}

/** Bytes of one checkpoint of a trained model: its weights (or the adapter's), the optimiser's state and, if kept, the best weights so far. */
export const resumeBytes = (model: CostedModel, precision: Precision, keepsBest = false): number =>
  trainedParameterCount(model) * (precision === "bfloat16" ? 12 : 8) + (keepsBest ? 2 : 1) * trainedWeightBytes(model, precision)

/** The cost of a stage that trains one model on a total of `rows` rows of `length` tokens. */
export const trainingCost = (
  steps: Steps & { readonly fit: FitSettings },
  over: { readonly rows: number; readonly length: number },
  deviceMemory: number
): StageCost => {
  const { fit, keepsBest, model, precision } = steps
  const { fits, memory, microBatch, recompute } = fitOnGpu(fit, deviceMemory, trainingStep(steps))
  return {
    work: [training("update", model, precision, over.rows, over.length, recompute)],
    memory,
    step: { microBatch, recompute, blocks: model.config.layers },
    resume: resumeBytes(model, precision, keepsBest),
    ...(fits ? {} : { advice: trainingAdvice(steps, deviceMemory) })
  }
}

/** The config of a stage that trains on packed sequences. */
export interface PackedConfig extends LoraCost, HeldOutCost {
  readonly sequenceLength: number
  readonly batchSize: number
  readonly microBatchSize: number
  readonly recompute: string
  readonly epochs: number
  readonly steps?: number
  readonly precision: Precision
}

/** The cost of training on dialogues packed into full sequences. */
export const packedTraining = (
  init: Size,
  data: Size,
  config: PackedConfig,
  what: string,
  { deviceMemory, spread }: Pick<CostRequest, "deviceMemory" | "spread">
): StageCost => {
  const { batchSize, epochs, heldOut = 0, microBatchSize, patience = 0, precision, recompute, steps = 0 } = config
  const model = adaptedBy(config, languageModel(init, "the model to start from"))
  const length = Math.min(config.sequenceLength, model.config.maxPositions)
  const all = () => Math.ceil((rowCount(data, what) * dialogueLength(data, what)) / length)
  const rows = steps > 0 ? steps * batchSize : (1 - heldOut) * all() * epochs
  const fit = { microBatch: microBatchSize, recompute }
  const cost = trainingCost(
    { model, precision, rows: batchSize, longest: length, fit, keepsBest: patience > 0, spread },
    { rows, length },
    deviceMemory
  )
  return withHeldOut(cost, config, { model, precision, rows: () => heldOut * all(), length, steps: Math.ceil(rows / batchSize) })
}
