/** Ghost Attention in pipelines/llama2-chat.ts (§3.3): its training data, and how long versions follow an instruction. */
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

/** Table 30: an instruction whose observance can be detected in the text. It asks for short answers, so that twenty turns fit the context. */
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
 * Twenty questions of 31.4 tokens (table 6) and nineteen answers of 60 (assumed: two sentences and a name) are 1,768 tokens: with about ten tokens per turn for the chat
 * format, half of Llama 2's 4096. Answers of up to 140 tokens on average fit. An answer may have up to 512: a truncated answer would end its dialogue, but a higher limit
 * leaves less space. A model that forgets to be brief (234 tokens, table 6) ends after turn 13 and is missing from then on, where it would have counted
 * against its version: read each turn together with the number of its dialogues and the reasons why the others ended, which are in the report.
 */
const ghostTurns = { turns: 20, maxNewTokens: 512, expected: { responseTokens: 60 } }

/** Evaluation on held-out dialogues. */
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
