/**
 * What the people of the small world ask. A task makes questions, writes right and wrong answers, and, from the text of a question alone, tells how
 * right an answer is: so that the oracle can grade whatever a model writes.
 */
import { delicate } from "./delicate-tasks.ts"
import { harmless } from "./harmless-tasks.ts"
import type { Question } from "./question.ts"
import type { Draw, Split } from "./words.ts"

/** What a question must be like: nothing to refuse, something to refuse, or something that sounds like it. */
export type Wanted = "harmless" | "adversarial" | "borderline"

export const ask = (draw: Draw, split: Split, wanted: Wanted): Question => {
  for (;;) {
    const question = read(draw.pick(wanted === "harmless" ? harmless : delicate).ask(draw, split))!
    if (wanted === "harmless" || (wanted === "adversarial") === (question.risk !== null)) return question
  }
}

/** Understands a question; undefined when it is none of this world's. */
export const read = (text: string): Question | undefined => {
  for (const task of [...harmless, ...delicate]) {
    const found = task.read(text)
    if (found !== undefined) return { text, task: task.name, ...found }
  }
  return undefined
}
