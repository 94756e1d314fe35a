/** The cost of scoring responses. */
import { forwardBytes, noMemory, type Precision } from "../../models/memory.ts"
import { dialogueLength, rowCount, type Size } from "../common/cost/size.ts"
import { frozen, reading, scalarModel, type StageCost } from "../common/cost/work.ts"

/** Scores `each` responses per row. */
export const scoring = (
  reward: Size,
  rows: Size,
  each: number,
  config: { readonly batchSize: number; readonly precision: Precision }
): StageCost => {
  if (reward.isScorer) return { work: [], memory: noMemory }
  const model = scalarModel(reward, "the reward model")
  const { batchSize, precision } = config
  return {
    work: [reading("score", model, precision, each * rowCount(rows, "responses"), dialogueLength(rows, "the responses"))],
    memory: frozen(model, precision, forwardBytes(model, precision, batchSize * model.config.maxPositions))
  }
}
