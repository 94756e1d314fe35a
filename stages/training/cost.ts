/** What training costs: on packed sequences, and with a loss on held-out rows. */
import { activationBytes, bytesOf, type CostedModel, type Precision } from "../../models/cost.ts"
import { dialogueLength, rowCount, type Size } from "../common/cost/size.ts"
import { targetsOf } from "./lora.ts"
import { languageModel, reading, type StageCost, trained, training } from "../common/cost/work.ts"

/** The fields of a config that say what is held out; left out: nothing is. */
export interface HeldOutCost {
  readonly heldOut?: number
  readonly evaluateEvery?: number
  readonly patience?: number
}

/** A training that also reads `rows()` held-out sequences before the first step, every so many and after the last, as if it did not end early. */
export const withHeldOut = (
  cost: StageCost,
  { heldOut = 0, evaluateEvery = 1, patience = 0 }: HeldOutCost,
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
  const { gradients, weights } = cost.memory
  // With a patience, a copy of what is trained, whose gradients are counted in float32.
  const copy = patience > 0 ? (gradients * bytesOf[precision]) / bytesOf.float32 : 0
  return {
    work: [...cost.work, reading("held-out loss", model, precision, times * rows(), length)],
    memory: { ...cost.memory, weights: weights + copy }
  }
}

/** The fields of a config that say which adapter is trained; left out: none is. */
export interface LoraCost {
  readonly loraRank?: number
  readonly loraTargets?: string
}

/** The adapter that is trained under a config. */
export const adapterOf = ({ loraRank = 0, loraTargets = "" }: LoraCost): CostedModel["adapter"] =>
  loraRank === 0 ? undefined : { rank: loraRank, targets: targetsOf(loraTargets) }

/** A model as it is trained under a config. */
export const adaptedBy = (config: LoraCost, model: CostedModel): CostedModel => ({ ...model, adapter: adapterOf(config) })

/** Dialogues packed into full sequences. */
export const packedTraining = (
  init: Size,
  data: Size,
  config: {
    readonly sequenceLength: number
    readonly batchSize: number
    readonly microBatchSize: number
    readonly epochs: number
    readonly steps?: number
    readonly precision: Precision
  } & LoraCost &
    HeldOutCost,
  what: string
): StageCost => {
  const { batchSize, epochs, heldOut = 0, microBatchSize, precision, steps = 0 } = config
  const model = adaptedBy(config, languageModel(init, "the model to start from"))
  const length = Math.min(config.sequenceLength, model.config.maxPositions)
  const all = () => Math.ceil((rowCount(data, what) * dialogueLength(data, what)) / length)
  const rows = steps > 0 ? steps * batchSize : (1 - heldOut) * all() * epochs
  const tokens = microBatchSize * length
  const cost: StageCost = {
    work: [training("update", model, precision, rows, length)],
    memory: trained(model, precision, activationBytes(model, precision, tokens, tokens))
  }
  return withHeldOut(cost, config, { model, precision, rows: () => heldOut * all(), length, steps: Math.ceil(rows / batchSize) })
}
