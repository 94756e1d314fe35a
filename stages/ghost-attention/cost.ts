/** The cost of answering the turns of dialogues one after the other. */
import type { Sizes } from "../../runtime/define/cost.ts"
import { need, promptLength, rowCount, type Size } from "../common/cost/size.ts"
import { larger, noMemory } from "../../models/memory.ts"
import { languageModel, type Sampling, sampling, type StageCost } from "../common/cost/work.ts"

/** Growing dialogues, as long as they fit the context: the prompt of turn t contains t questions and t - 1 answers. */
export const conversing = (policy: Size, dialogues: Size, config: Sampling, expected: Sizes): StageCost => {
  const { config: shape } = languageModel(policy, "the policy")
  const rows = rowCount(dialogues, "dialogues")
  const turns = need(dialogues.turns, "how many turns the dialogues have")
  const question = promptLength(dialogues, "the dialogues")
  const response = expected.responseTokens ?? config.maxNewTokens
  const each = Array.from({ length: Math.round(turns) }, (_, turn) => (turn + 1) * question + turn * response)
    .filter((prompt) => prompt <= shape.maxPositions - config.maxNewTokens)
    .map((prompt) => sampling(policy, config, rows, { prompt, response }))
  return { work: each.flatMap(({ work }) => work), memory: each.map(({ memory }) => memory).reduce(larger, noMemory) }
}
