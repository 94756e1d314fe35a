/** Ghost Attention on the small world (§3.3): training data for keeping an instruction, and how well versions keep one. */
import type { Demonstration } from "../../schemas/rows.ts"
import { attentionMap } from "../../stages/ghost-attention/attention-map.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import { evaluateWorldGhostAttention } from "../../stages/world/ghost-attention.ts"
import { worldConstraints, worldPrompts } from "../../stages/world/data.ts"
import type { Policy, Rows } from "../nodes.ts"
import { samplingOf, type WorldParams } from "./params.ts"

export const ghostAttention = (params: WorldParams) => {
  const dialogues = (split: "train" | "heldOut", name: string, count = params.dialogues) =>
    ghostInstructions(
      { prompts: worldPrompts({}, { kind: "plain", split, count, followUps: 5, seed: 5 }).named(`${name}-prompts`) },
      { constraints: worldConstraints, combine: 0, turns: 6 }
    ).named(name)
  const heldOut = dialogues("heldOut", "held-out-dialogues")
  return {
    dataOf: (policy: Policy): Rows<Demonstration> =>
      ghostTrainingData({ samples: ghostSample({ policy, dialogues: dialogues("train", "dialogues") }, samplingOf(params)) }),
    evaluate: (policy: Policy, name: string) => evaluateWorldGhostAttention({ policy, dialogues: heldOut }, samplingOf(params)).named(name),
    /** Figure 10, for a held-out dialogue: the answers come from the model with Ghost Attention, sampled with the instruction on every turn. */
    attention: (models: { readonly without: Policy; readonly with: Policy }) => {
      const few = dialogues("heldOut", "attention-dialogues", 8)
      const samples = ghostSample({ policy: models.with, dialogues: few }, samplingOf(params)).named("attention-samples")
      return attentionMap({ ...models, samples }, { precision: params.precision }).named("attention")
    }
  }
}
export type GhostAttention = ReturnType<typeof ghostAttention>

/** The training data for later versions, and how well the model that generated it keeps instructions. */
export interface Ghost {
  readonly data: ReturnType<GhostAttention["dataOf"]>
  readonly before: ReturnType<GhostAttention["evaluate"]>
  /** The model that generated the data, and was not trained on it. */
  readonly without: Policy
}
