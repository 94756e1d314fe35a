/**
 * The questions to a judge about answers to MT-Bench, and how its answers are read. As in the paper (Zheng et al. 2023, §3.4 and appendix A): the judge explains itself first; a grade is from 1 to
 * 10, a comparison is a win or a tie; math, reasoning and coding are judged with a reference answer; the second turn is judged with the whole dialogue in view.
 *
 * Deviations: the wording is ours; reference answers are those in the questions' file (in the paper GPT-4 writes them).
 */
import type { Question } from "./questions.ts"

/** The criteria; with a reference answer, agreement with it. */
const weighing = (reference: string | undefined): string =>
  reference === undefined
    ? "Weigh how helpful, relevant, accurate, thorough, creative and detailed it is."
    : "A right answer is given: compare with it first, and name the mistakes. What counts is whether the answer is correct, and helps."
const fair = "Do not let the order of the two, their length or their names decide, and stay as objective as you can."

const part = (title: string, text: string): string => `# ${title}\n${text}`

/** The dialogue up to a turn, with one model's answers. */
const dialogue = ({ turns }: Question, turn: number, answers: ReadonlyArray<string | undefined>): string =>
  turns
    .slice(0, turn + 1)
    .map((asked, i) => `## User\n${asked}\n\n## Assistant\n${answers[i] ?? "(nothing)"}`)
    .join("\n\n")

const rightAnswers = ({ references }: Question, turn: number): ReadonlyArray<string> =>
  references
    .slice(0, turn + 1)
    .flatMap((text, i) => (text === undefined ? [] : [part(`A right answer to the user's message ${i + 1}`, text)]))

const subject = (turn: number, what: string): string => (turn === 0 ? what : `${what} to the user's last message`)

/** Asks for a grade from 1 to 10 for the answer to a turn, which counts from 0. */
export const gradeQuestion = (question: Question, turn: number, answers: ReadonlyArray<string | undefined>): string =>
  [
    `Judge ${subject(turn, "an AI assistant's answer")} below. ${weighing(question.references[turn])} Stay as objective as you can. First explain your judgement in a few sentences. Then grade the answer from 1 (worst) to 10 (best), in double brackets and exactly in this form: Rating: [[5]]`,
    ...rightAnswers(question, turn),
    part("The dialogue", dialogue(question, turn, answers))
  ].join("\n\n")

/** Asks which of two models' answers to a turn is better. */
export const comparisonQuestion = (
  question: Question,
  turn: number,
  a: ReadonlyArray<string | undefined>,
  b: ReadonlyArray<string | undefined>
): string =>
  [
    `Compare ${subject(turn, "two AI assistants' answers")} below, and say which is better. ${weighing(question.references[turn])} ${fair} First explain your comparison in a few sentences. Then give your verdict in double brackets, exactly in one of these forms: [[A]] if assistant A's answer is better, [[B]] if assistant B's is, [[C]] if they are equally good.`,
    ...rightAnswers(question, turn),
    part("The dialogue with assistant A", dialogue(question, turn, a)),
    part("The dialogue with assistant B", dialogue(question, turn, b))
  ].join("\n\n")

/** The last match counts: a judge may quote the form, or the answer, before it gives its verdict. */
const lastIn = (said: string, form: RegExp): string | undefined => [...said.matchAll(form)].at(-1)?.[1]

/** A grade from 1 to 10; null if there is none. */
export const readGrade = (said: string): number | null => {
  const found = lastIn(said, /\[\[\s*(\d+(?:\.\d+)?)\s*\]\]/g)
  const grade = found === undefined ? NaN : Number(found)
  return grade >= 1 && grade <= 10 ? grade : null
}

export type Choice = "A" | "B" | "C"
/** The better answer, C for neither; null if unreadable. */
export const readChoice = (said: string): Choice | null => (lastIn(said, /\[\[\s*([ABC])\s*\]\]/g) as Choice | undefined) ?? null
