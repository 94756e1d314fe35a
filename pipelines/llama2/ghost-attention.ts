/** Ghost Attention in pipelines/llama2-chat.ts (§3.3): the data that it is learned from, and how long versions keep an instruction. */
import type { Demonstration } from "../../schemas/rows.ts"
import { evaluateGhostAttention } from "../../stages/ghost-attention/evaluate.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { Named } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { answers, type Params, samplingOf } from "./params.ts"

export const ghostData = (policy: Policy, params: Params, { ghostPrompts }: Datasets, named: Named): Rows<Demonstration> => {
  const dialogues = ghostInstructions({ prompts: ghostPrompts("ghost-prompts") })
  const samples = named(ghostSample({ policy, dialogues }, samplingOf(params)), "ghost-sample").expecting(answers)
  return named(ghostTrainingData({ samples }), "ghost-data")
}

/** Table 30: an instruction that a text can be told by. It asks for short answers, so that twenty turns fit the context. */
const signed = [
  [
    {
      full: "Act as Napoleon from now on, answer in one or two sentences, and sign every answer with your name.",
      short: "Figure: Napoleon, brief, signed.",
      mustContain: "Napoleon"
    }
  ]
]
/**
 * Twenty questions of 31.4 tokens (table 6) and nineteen answers of 60 (assumed: two sentences and a name) are 1,768 tokens: with about ten a turn of the chat
 * format, half of Llama 2's 4096. Answers of up to 140 on average fit. An answer may take 512: one that is cut off would end its dialogue, and the longer it may be
 * the less room is left. A model that forgets to be brief (234 tokens, table 6) ends after turn 13 and is missing from then on, where it would have counted
 * against its version: read a turn with the number of its dialogues and with why the others ended, which the report has.
 */
const ghostTurns = { turns: 20, maxNewTokens: 512, expected: { responseTokens: 60 } }

/** On held-out dialogues. */
export const ghostEvaluation = (params: Params, { ghostPrompts }: Datasets) => {
  const dialogues = ghostInstructions(
    { prompts: ghostPrompts("ghost-held-out") },
    { constraints: signed, combine: 0, turns: ghostTurns.turns }
  ).named("ghost-held-out-dialogues")
  const maxNewTokens = Math.min(params.maxNewTokens, ghostTurns.maxNewTokens)
  return (policy: Policy, name: string) =>
    evaluateGhostAttention({ policy, dialogues }, { ...samplingOf(params), maxNewTokens })
      .named(`ghost-attention-${name}`)
      .expecting(ghostTurns.expected)
}
