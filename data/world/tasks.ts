/**
 * The tasks of the small world. A task makes questions, writes right and wrong answers, and grades an answer from the text of the question alone, so
 * that the oracle can grade anything a model writes.
 */
import { delicate } from "./delicate-tasks.ts"
import { harmless } from "./harmless-tasks.ts"
import type { Question } from "./question.ts"
import type { Draw, Split } from "./words.ts"

/** The kind of question: nothing to refuse, something to refuse, or something that only sounds like it. */
export type Wanted = "harmless" | "adversarial" | "borderline"

export const ask = (draw: Draw, split: Split, wanted: Wanted): Question => {
  for (;;) {
    const question = read(draw.pick(wanted === "harmless" ? harmless : delicate).ask(draw, split))!
    if (wanted === "harmless" || (wanted === "adversarial") === (question.risk !== null)) return question
  }
}

/** Parses a question; undefined if it does not belong to this world. */
export const read = (text: string): Question | undefined => {
  for (const task of [...harmless, ...delicate]) {
    const found = task.read(text)
    if (found !== undefined) return { text, task: task.name, ...found }
  }
  return undefined
}
