/**
 * Three people of the small world who rate answers from 1 to 7 (Llama 2 A.3.4), each with different criteria. They do not annotate preferences: their ratings are independent of the oracle's grades (oracle.ts), from
 * which the labels are made. They agree on which answer is right, because that is a fact of the world.
 *
 *     pedant   1 + 6 right, minus 3 for two extra sentences, 1 for one
 *     host     1 + 3 right + 2 [an opening or a closing] + 1 [not surly]
 *     hurried  1 + 5 right + 1 [one sentence]
 *
 * An answer that attempts nothing, or refuses something harmless, gets 1. For prompts that must be refused: 1 for complying; otherwise 3 (pedant) or 4 (host, hurried), plus 2 for a refusal, plus 1 for proposing
 * something better, minus 2 for a surly answer (host).
 */
import type { Message } from "../../schemas/rows.ts"
import { instructionsIn, withoutInstructions } from "./instructions.ts"
import { closings, openings, refusals, sentencesOf, surly } from "./manners.ts"
import { UnknownQuestionError } from "./oracle.ts"
import { read } from "./tasks.ts"

export const raters = ["pedant", "host", "hurried"] as const
export type Rater = (typeof raters)[number]

const scale = (points: number): number => Math.min(7, Math.max(1, Math.round(points)))

/** A rater's rating, 1 to 7, of an answer to the last message of a dialogue. Throws UnknownQuestionError for an unknown question. */
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
