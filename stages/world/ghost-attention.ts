/** How long models keep an instruction (Llama 2 §3.3, table 30), checked by the small world's oracle, which reads the instruction from the dialogue. */
import { grade, UnknownQuestionError } from "../../data/world/oracle.ts"
import * as Stage from "../../runtime/define/stage.ts"
import { costOf } from "../common/cost/estimator.ts"
import { evaluateGhostAttentionCost, evaluationStage, InstructionCheckError, type InstructionChecker } from "../ghost-attention/evaluate.ts"
import { dialogueTo } from "../ghost-attention/sample.ts"

/** Decides with the small world's oracle, given the dialogue up to the question. Throws InstructionCheckError if it knows neither the question nor an instruction. */
const isKept: InstructionChecker["isKept"] = (dialogue, answers, turn) => {
  const refuse = (found: string) =>
    new InstructionCheckError({
      dialogue: dialogue.id,
      message: `Checking turn ${turn + 1} of dialogue ${JSON.stringify(dialogue.id)} with the small world's oracle: ${found} Use the world's own prompts and instructions, or evaluate other dialogues with evaluateGhostAttention.`
    })
  try {
    const kept = grade(dialogueTo(dialogue, answers, turn, dialogue.instruction, "first turn"), answers[turn]!).keepsInstruction
    if (kept === null) throw refuse(`it knows no instruction in ${JSON.stringify(dialogue.instruction.slice(0, 80))}.`)
    return kept
  } catch (cause) {
    throw cause instanceof UnknownQuestionError ? refuse(cause.message) : cause
  }
}

export const evaluateWorldGhostAttention = Stage.make("evaluate-world-ghost-attention", evaluationStage({ canTell: () => true, isKept }))

export const evaluateWorldGhostAttentionCost = costOf(evaluateWorldGhostAttention, evaluateGhostAttentionCost)
