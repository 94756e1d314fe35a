/** Ghost Attention on the small world (§3.3): training data for keeping an instruction, and how well versions keep one. */
import type { Demonstration } from "../../schemas/rows.ts"
import { ghostInstructions } from "../../stages/ghost-attention/instructions.ts"
import { ghostSample } from "../../stages/ghost-attention/sample.ts"
import { ghostTrainingData } from "../../stages/ghost-attention/training-data.ts"
import { evaluateWorldGhostAttention } from "../../stages/world/ghost-attention.ts"
import { worldConstraints, worldPrompts } from "../../stages/world/data.ts"
import type { Policy, Rows } from "../nodes.ts"
import { samplingOf, type WorldParams } from "./params.ts"

export const ghostAttention = (params: WorldParams) => {
  const dialogues = (split: "train" | "heldOut", name: string) =>
    ghostInstructions(
      { prompts: worldPrompts({}, { kind: "plain", split, count: params.dialogues, followUps: 5, seed: 5 }).named(`${name}-prompts`) },
      { constraints: worldConstraints, combine: 0, turns: 6 }
    ).named(name)
  const heldOut = dialogues("heldOut", "held-out-dialogues")
  return {
    dataOf: (policy: Policy): Rows<Demonstration> =>
      ghostTrainingData({ samples: ghostSample({ policy, dialogues: dialogues("train", "dialogues") }, samplingOf(params)) }),
    evaluate: (policy: Policy, name: string) => evaluateWorldGhostAttention({ policy, dialogues: heldOut }, samplingOf(params)).named(name)
  }
}
export type GhostAttention = ReturnType<typeof ghostAttention>

/** The training data for later versions, and how well the model that generated it keeps instructions. */
export interface Ghost {
  readonly data: ReturnType<GhostAttention["dataOf"]>
  readonly before: ReturnType<GhostAttention["evaluate"]>
}
