/** Ghost Attention in pipelines/llama2-chat.ts (§3.3): its training data, and how long versions follow an instruction. */
import type { Demonstration } from "../../schemas/rows.ts"
import { attentionMap } from "../../stages/ghost-attention/attention-map.ts"
import { evaluateGhostAttention } from "../../stages/ghost-attention/evaluate.ts"
import { ghostInstructions, languageConstraints } from "../../stages/ghost-attention/instructions.ts"
import { judgeGhostAttention } from "../../stages/ghost-attention/judge.ts"
import { ghostLists } from "../../stages/ghost-attention/lists.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import type { Policy, Rows } from "../nodes.ts"
import type { Named } from "../rounds.ts"
import type { Datasets } from "./data.ts"
import { answers, type Params, samplingOf, tensors } from "./params.ts"

export const ghostData = (policy: Policy, params: Params, { ghostPrompts }: Datasets, named: Named): Rows<Demonstration> => {
  const prompts = ghostPrompts("ghost-prompts")
  // §3.3: the model that answers makes the lists of hobbies and public figures itself.
  const dialogues =
    params.ghostLists === "built-in"
      ? ghostInstructions({ prompts })
      : ghostInstructions({ prompts, lists: named(ghostLists({ policy }, tensors), "ghost-lists") }, { constraints: [languageConstraints] })
  const samples = named(ghostSample({ policy, dialogues }, samplingOf(params)), "ghost-sample").expecting(answers)
  return named(ghostTrainingData({ samples }), "ghost-data")
}

type Constraints = NonNullable<NonNullable<Parameters<typeof ghostInstructions>[1]>["constraints"]>
/** Table 30: an instruction whose observance can be detected in the text. It asks for short answers, so that twenty turns fit the context. */
const signed: Constraints = [
  [
    {
      full: "Act as Napoleon from now on, answer in one or two sentences, and sign every answer with your name.",
      short: "Figure: Napoleon, brief, signed.",
      mustContain: "Napoleon"
    }
  ]
]
/** Figure 28: instructions that no dialogue of Ghost Attention's data has. The first can be told by a text, the second by a judge alone. */
const neverTrained: Constraints = [
  [
    {
      full: "Answer in one or two sentences, and begin each answer with the words Dear reader.",
      short: "Brief, Dear reader.",
      mustContain: "Dear reader"
    }
  ],
  [{ full: "Answer with a haiku.", short: "Haiku.", mustContain: null }]
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
  const prompts = ghostPrompts("ghost-held-out")
  const dialoguesOf = (turns: number, name: string, constraints: Constraints = signed) =>
    ghostInstructions({ prompts }, { constraints, combine: 0, turns }).named(name)
  const dialogues = dialoguesOf(ghostTurns.turns, "ghost-held-out-dialogues")
  const maxNewTokens = Math.min(params.maxNewTokens, ghostTurns.maxNewTokens)
  const sampling = { ...samplingOf(params), maxNewTokens }
  return {
    keeping: (policy: Policy, name: string) =>
      evaluateGhostAttention({ policy, dialogues }, sampling).named(`ghost-attention-${name}`).expecting(ghostTurns.expected),
    /** Figure 28, by text, and by a judge where there is one. */
    keepingNeverTrained: (policy: Policy, name: string) => {
      const [byText] = neverTrained
      const told = dialoguesOf(6, "never-trained-dialogues", [byText!])
      const evaluated = evaluateGhostAttention({ policy, dialogues: told }, sampling)
        .named(`never-trained-${name}`)
        .expecting(ghostTurns.expected)
      const { judge: model, keyVariable, url } = params
      if (url === "") return { [`neverTrained-${name}`]: evaluated }
      const samples = ghostSample(
        { policy, dialogues: dialoguesOf(6, "judged-dialogues", neverTrained) },
        { ...sampling, instruction: "first turn" }
      )
        .named(`judged-dialogues-${name}`)
        .expecting(ghostTurns.expected)
      return {
        [`neverTrained-${name}`]: evaluated,
        [`judgedGhostAttention-${name}`]: judgeGhostAttention({ samples }, { model, keyVariable, url }).named(
          `judged-ghost-attention-${name}`
        )
      }
    },
    /** Figure 10: of a dialogue of six turns, answered by the model with Ghost Attention under the instruction on every turn. */
    attention: (models: { readonly without: Policy; readonly with: Policy }) => {
      const samples = ghostSample({ policy: models.with, dialogues: dialoguesOf(6, "ghost-attention-dialogues") }, sampling)
        .named("ghost-attention-samples")
        .expecting(ghostTurns.expected)
      return attentionMap({ ...models, samples }, tensors).named("ghost-attention-map")
    }
  }
}
