/** The cost of classifying texts with the safety classifier, and the size of sets of labelled texts. */
import { forwardBytes, type Precision } from "../../models/memory.ts"
import { pool, type Size, sized } from "../common/cost/size.ts"
import { frozen, languageModel, reading, type StageCost } from "../common/cost/work.ts"

/** Both verdicts per text; categories of unsafe texts are not counted. */
export const classifying = (
  classifier: Size,
  rows: number,
  length: number,
  config: { readonly batchSize: number; readonly precision: Precision }
): StageCost => {
  const model = languageModel(classifier, "the classifier")
  const { batchSize, precision } = config
  return {
    work: [reading("judge", model, precision, 2 * rows, length)],
    memory: frozen(model, precision, forwardBytes(model, precision, 2 * batchSize * model.config.maxPositions))
  }
}

/** Labelled texts: each prompt, and both responses of each pair with the messages before them. Their length is stored as the prompt's. */
export const labelledSize = (prompts: ReadonlyArray<Size>, preferences: ReadonlyArray<Size>): Size =>
  pool([...prompts, ...preferences.map((set) => sized(set, { rows: 2 * set.rows, promptTokens: set.promptTokens + set.responseTokens }))])
