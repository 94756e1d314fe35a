/**
 * MT-Bench (Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena"): 80 questions of two turns in eight categories, graded by a strong model. This module reads the
 * published file of questions (question.jsonl), and matches a model's answers to both turns.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { BadRow, readRecords } from "../../../data/records.ts"
import { mtBenchPrompt } from "../../../data/shapes/prompts.ts"
import { own } from "../../../schemas/own.ts"
import type { Completion } from "../../../schemas/rows.ts"
import * as Effect from "effect/Effect"
import { ArtifactError } from "../../../schemas/artifact.ts"
import { PairingError } from "../../common/pairing.ts"

export interface Question {
  readonly id: string
  readonly category: string
  /** The user's messages, turn by turn. */
  readonly turns: ReadonlyArray<string>
  /** Reference answers by turn, for the categories that are graded with them. */
  readonly references: ReadonlyArray<string | undefined>
}

/** §3.4 of the paper: judges grade these categories poorly without a reference answer. */
const guided = new Set(["math", "reasoning", "coding"])
const uncategorised = "(no category)"

const questionOf = (value: unknown): Question => {
  const { category, followUps, id, prompt } = mtBenchPrompt(value) as {
    readonly [K in "category" | "id" | "prompt"]?: unknown
  } & { readonly followUps: ReadonlyArray<string> }
  if (typeof id !== "string") throw new BadRow("question_id", "expected the question's number")
  const kind = typeof category === "string" ? category : uncategorised
  const turns = [prompt as string, ...followUps]
  const given = own(value as Record<string, unknown>, "reference")
  const texts = Array.isArray(given) ? (given as ReadonlyArray<unknown>) : []
  const references = turns.map((_, i) => {
    const text = texts[i]
    return guided.has(kind) && typeof text === "string" && text.trim() !== "" ? text : undefined
  })
  return { id, category: kind, turns, references }
}

/** The questions in a file, in order. Invalid rows are ignored: the import of the same file's prompts skips and reports them. */
export const readQuestions = (path: string): Effect.Effect<ReadonlyArray<Question>, ArtifactError> =>
  Effect.tryPromise({
    try: async () => {
      const questions: Array<Question> = []
      for await (const record of readRecords(path)) {
        try {
          questions.push(questionOf(record.value))
        } catch (cause) {
          if (!(cause instanceof BadRow)) throw cause
        }
      }
      return questions
    },
    catch: (cause) => cause
  }).pipe(
    Effect.catch((cause) => (cause instanceof ArtifactError ? Effect.fail(cause) : Effect.die(cause))),
    Effect.flatMap((questions) =>
      questions.length > 0
        ? Effect.succeed(questions)
        : ArtifactError.of({
            doing: `Reading MT-Bench's questions from ${path}`,
            expected: "rows {question_id, category, turns}",
            found: "none",
            hint: "Pass question.jsonl as published."
          })
    )
  )

/** A question, and a model's answer to each turn; undefined if the answer is empty, or the model was not asked. */
export interface Answered {
  readonly question: Question
  readonly answers: ReadonlyArray<string | undefined>
}

/** The id of a second turn is that of the first plus this suffix (stages/data/prompts.ts `nextTurn`). */
const secondOf = (id: string): string => `${id}+`

/** A model's answers to the questions, from its answers to the first and to the second turns. */
export const answeredOf = Effect.fn("answeredOf")(function* (
  questions: ReadonlyArray<Question>,
  first: ReadonlyArray<Completion>,
  second: ReadonlyArray<Completion>,
  doing: string
): Effect.fn.Return<ReadonlyArray<Answered>, PairingError> {
  const failed = (found: string) =>
    PairingError.of({
      doing,
      expected: "answers to the questions' first turns, and to their second turns after those answers",
      found,
      hint: "Sample the first turns from the same file, and the second turns from the output of continueWithAnswers."
    })
  const known = new Map(questions.map((question) => [question.id, question]))
  const firsts = new Map(first.filter(({ sample }) => sample === 0).map((one) => [one.promptId, one]))
  const seconds = new Map(second.filter(({ sample }) => sample === 0).map((one) => [one.promptId, one]))
  for (const { prompt, promptId } of firsts.values())
    if (known.get(promptId)?.turns[0] !== prompt.at(-1)!.content) return yield* failed(`an answer to another question, "${promptId}"`)
  for (const { prompt, promptId } of seconds.values()) {
    const question = promptId.endsWith("+") ? known.get(promptId.slice(0, -1)) : undefined
    if (question?.turns[1] !== prompt.at(-1)!.content) return yield* failed(`an answer to another second turn, "${promptId}"`)
    if (firsts.get(question.id)?.text !== prompt.at(-2)!.content) return yield* failed(`a second turn after another answer, "${promptId}"`)
  }
  const said = (one: Completion | undefined): string | undefined => (one === undefined || one.text.trim() === "" ? undefined : one.text)
  return questions.map((question) => ({
    question,
    answers: question.turns.slice(0, 2).map((_, turn) => said(turn === 0 ? firsts.get(question.id) : seconds.get(secondOf(question.id))))
  }))
})

/** The judge's answers, turn by turn, for people to read. */
const judgementsFile = "judgements.jsonl"
export const writeJudgements = (folder: string, rows: ReadonlyArray<object>): Effect.Effect<void> =>
  Effect.promise(() => writeFile(join(folder, judgementsFile), rows.map((row) => `${JSON.stringify(row)}\n`).join("")))
