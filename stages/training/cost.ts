/** What training on packed sequences costs. */
import { activationBytes, type Precision } from "../../models/cost.ts"
import { dialogueLength, rowCount, type Size } from "../common/cost/size.ts"
import { languageModel, type StageCost, trained, training } from "../common/cost/work.ts"

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
  },
  what: string
): StageCost => {
  const { batchSize, epochs, microBatchSize, precision, steps = 0 } = config
  const model = languageModel(init, "the model to start from")
  const length = Math.min(config.sequenceLength, model.config.maxPositions)
  const rows = steps > 0 ? steps * batchSize : Math.ceil((rowCount(data, what) * dialogueLength(data, what)) / length) * epochs
  const tokens = microBatchSize * length
  return {
    work: [training("update", model, precision, rows, length)],
    memory: trained(model, precision, activationBytes(model, precision, tokens, tokens))
  }
}
