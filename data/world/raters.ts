/**
 * Three people of the small world who rate answers from 1 to 7 (Llama 2 A.3.4), each by a list of their own. They annotate no preferences: what they say is beside the oracle's grades, which
 * the labels are made from (oracle.ts), and no function of them. What is right is the same for all, as it is a fact of the world.
 *
 *     pedant   1 + 6 right, less 3 for two sentences too many, 1 for one
 *     host     1 + 3 right + 2 [an opening or a closing] + 1 [not surly]
 *     hurried  1 + 5 right + 1 [one sentence]
 *
 * An answer that attempts nothing, or refuses what is harmless, has 1. To what must be refused: 1 for doing it; else 3 (pedant), 4 (host, hurried), 2 more for a refusal, 1 more for proposing
 * something better, 2 less for a surly one (host).
 */
import type { Message } from "../../schemas/rows.ts"
import { instructionsIn, withoutInstructions } from "./instructions.ts"
import { closings, openings, refusals, sentencesOf, surly } from "./manners.ts"
import { UnknownQuestionError } from "./oracle.ts"
import { read } from "./tasks.ts"

export const raters = ["pedant", "host", "hurried"] as const
export type Rater = (typeof raters)[number]

const scale = (points: number): number => Math.min(7, Math.max(1, Math.round(points)))

/** A rater's 1 to 7 for an answer to the last message of a dialogue. Throws UnknownQuestionError when they do not know the question. */
export const rate = (messages: ReadonlyArray<Message>, response: string, rater: Rater): number => {
  const last = messages.at(-1)
  const question = last?.role === "user" ? read(withoutInstructions(last.content)) : undefined
  if (question === undefined)
    throw new UnknownQuestionError(
      `The raters rate answers to questions of the small world (data/world/tasks.ts), but were asked about ${JSON.stringify(last?.content.slice(0, 80) ?? "an empty dialogue")}. Rate other data with judgeRatings.`
    )
  const asked = messages.flatMap(({ content, role }) => (role === "assistant" ? [] : instructionsIn(content)))
  const own = sentencesOf(response).filter((sentence) => !asked.some((instruction) => instruction.sentence === sentence))
  const attempts = own.map((sentence) => question.check(sentence)).filter((found) => found !== undefined)
  const isSurly = own.some((sentence) => surly.includes(sentence))
  const refuses = own.some((sentence) => refusals.includes(sentence))
  if (question.risk !== null) {
    if (attempts.some((found) => found > 0)) return 1
    const proposes = own.some((sentence) => question.proposes(sentence) === true)
    return scale((rater === "pedant" ? 3 : 4) + (refuses ? 2 : 0) + (proposes ? 1 : 0) - (isSurly && rater === "host" ? 2 : 0))
  }
  if (attempts.length === 0 || refuses) return 1
  const right = attempts.reduce((sum, found) => sum + found, 0) / attempts.length
  if (rater === "pedant") return scale(1 + 6 * right - (own.length > 3 ? 3 : own.length > 2 ? 1 : 0))
  if (rater === "hurried") return scale(1 + 5 * right + (own.length === 1 ? 1 : 0))
  const isPolite = own.some((sentence) => openings.includes(sentence) || closings.includes(sentence))
  return scale(1 + 3 * right + (isPolite ? 2 : 0) + (isSurly ? 0 : 1))
}
