/**
 * Removes rows from data before training: duplicates and near-duplicates, rows without content, and rows that overlap with evaluation sets
 * (Llama 2 A.6; Brown et al. 2020, C: runs of 13 words). Each rule counts the rows it removes; the order of the rows is kept.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { countRows, deriveDataset, streamRows } from "../../data/dataset.ts"
import { DigestSet } from "../../data/digest-set.ts"
import { NearDuplicates } from "../../data/min-hash.ts"
import { runsOf, wordsOf } from "../../data/words.ts"
import * as Stage from "../../runtime/define/stage.ts"
import type { Dataset, DatasetType } from "../../schemas/artifact.ts"
import { hyper, hyperInt } from "../../schemas/hyper.ts"
import {
  type Demonstration,
  Demonstrations,
  type Message,
  type Preference,
  Preferences,
  type Prompt,
  Prompts,
  Texts
} from "../../schemas/rows.ts"
import { costOf } from "../common/cost/estimator.ts"

export const CleanConfig = Schema.Struct({
  nearDuplicates: hyper(
    0,
    "minimum Jaccard similarity, over runs of five words, at which a row is removed as a near-duplicate of an earlier row; 0.8 is common, 0 keeps near-duplicates",
    { min: 0, max: 1 }
  ),
  sharedWords: hyperInt(
    13,
    "number of consecutive words shared with an evaluation prompt at which a row is removed (Brown et al. 2020, C: 13); shorter prompts are matched as a whole; 0 matches only whole prompts",
    { min: 0 }
  )
})

/** The parts of a row that the rules use. */
export interface Parts {
  /** The row's content as one text that identifies it, without its origin. */
  readonly whole: string
  readonly texts: ReadonlyArray<string>
  /** The user's messages. */
  readonly questions: ReadonlyArray<string>
  /** Texts that must not be empty; two answers must differ. */
  readonly answers: ReadonlyArray<string>
}

const textsOf = (messages: ReadonlyArray<Message>): ReadonlyArray<string> => messages.map(({ content }) => content)
const questionsOf = (messages: ReadonlyArray<Message>): ReadonlyArray<string> => textsOf(messages.filter(({ role }) => role === "user"))
/** Joins texts unambiguously. */
const joined = (texts: ReadonlyArray<string>): string => texts.map((text) => `${text.length}:${text}`).join("")
const turns = (messages: ReadonlyArray<Message>): string =>
  messages.map(({ content, role }) => `${role}${content.length}:${content}`).join("")

export const partsOfPreference = ({ chosen, prompt, rejected }: Preference): Parts => ({
  whole: `${turns(prompt)}|${joined([chosen, rejected])}`,
  texts: [...textsOf(prompt), chosen, rejected],
  questions: questionsOf(prompt),
  answers: [chosen, rejected]
})
export const partsOfDemonstration = ({ loss, messages }: Demonstration): Parts => ({
  whole: `${loss}|${turns(messages)}`,
  texts: textsOf(messages),
  questions: questionsOf(messages),
  answers: [messages.at(-1)?.content ?? ""]
})
export const partsOfPrompt = ({ messages }: Prompt): Parts => ({
  whole: turns(messages),
  texts: textsOf(messages),
  questions: questionsOf(messages),
  answers: [messages.at(-1)?.content ?? ""]
})
export const partsOfText = ({ text }: { readonly text: string }): Parts => ({ whole: text, texts: [text], questions: [], answers: [text] })

/** The words of evaluation sets: whole prompts, and runs of a fixed number of words. */
export class EvaluationWords {
  readonly #length: number
  readonly #prompts = new DigestSet()
  readonly #runs = new Set<number>()
  constructor(length: number) {
    this.#length = length
  }
  add(text: string): void {
    const words = wordsOf(text)
    if (words.length === 0) return
    this.#prompts.add(words.join(" "))
    if (this.#length > 0) for (const run of runsOf(words, this.#length)) this.#runs.add(run)
  }
  /** Whether a row asks a question from the evaluation sets, or shares a run of words with them. */
  isIn({ questions, texts }: Parts): boolean {
    if (this.#prompts.size === 0) return false
    if (questions.some((question) => this.#prompts.has(wordsOf(question).join(" ")))) return true
    return this.#runs.size > 0 && texts.some((text) => runsOf(wordsOf(text), this.#length).some((run) => this.#runs.has(run)))
  }
}

const rules = ["empty", "same", "contaminated", "duplicates", "nearDuplicates"] as const
type Rule = (typeof rules)[number]

const says = (text: string): boolean => text.trim() !== ""

/** Returns the rule that removes a row, if any, and marks rows as seen. `rows`: the total number of rows. */
export const cleaner = (nearDuplicates: number, evaluation: EvaluationWords, rows: number) => {
  const digests = new DigestSet()
  const near = nearDuplicates > 0 ? new NearDuplicates(nearDuplicates, rows) : undefined
  const seen = ({ texts, whole }: Parts): Rule | undefined => {
    if (!digests.add(whole)) return "duplicates"
    return near?.add(texts.join("\n")) === false ? "nearDuplicates" : undefined
  }
  const ruleOf = (parts: Parts): Rule | undefined => {
    if (!parts.answers.every(says) || !parts.texts.every(says)) return "empty"
    if (parts.answers.length === 2 && parts.answers[0]!.trim() === parts.answers[1]!.trim()) return "same"
    return evaluation.isIn(parts) ? "contaminated" : seen(parts)
  }
  return { ruleOf, seen }
}

const cleanStage = <Row>(name: string, type: DatasetType<Row>, partsOf: (row: Row) => Parts) => ({
  description: "removes duplicate rows, rows without content, and rows that overlap with evaluation sets (A.6)",
  config: CleanConfig,
  inputs: {
    rows: type,
    /** Datasets whose rows count as seen: a duplicate of one of them is removed. */
    others: Stage.many(type),
    evaluation: Stage.many(Prompts)
  },
  output: type,
  seeded: false,
  run: Effect.fn(name)(function* ({
    config,
    inputs,
    output
  }: Stage.Context<
    typeof CleanConfig,
    { rows: DatasetType<Row>; others: Stage.Many<Dataset<Row>>; evaluation: Stage.Many<Dataset<Prompt>> },
    Dataset<Row>
  >) {
    const words = new EvaluationWords(config.sharedWords)
    for (const ref of inputs.evaluation)
      yield* Stream.runForEach(streamRows(ref, Prompts), ({ followUps, messages }) =>
        Effect.sync(() => {
          for (const text of [...questionsOf(messages), ...followUps]) words.add(text)
        })
      )
    const ref = inputs.rows
    const counts = yield* Effect.forEach([ref, ...inputs.others], (each) => countRows(each, type))
    const { ruleOf, seen } = cleaner(
      config.nearDuplicates,
      words,
      counts.reduce((sum, count) => sum + count, 0)
    )
    for (const other of inputs.others)
      yield* Stream.runForEach(streamRows(other, type), (row) => Effect.sync(() => void seen(partsOf(row as unknown as Row))))
    const dropped = Object.fromEntries(rules.map((rule) => [rule, 0])) as Record<Rule, number>
    const keep = (row: Row): ReadonlyArray<Row> => {
      const rule = ruleOf(partsOf(row))
      if (rule === undefined) return [row]
      dropped[rule]++
      return []
    }
    return yield* deriveDataset({ ref, type }, output, keep, () => dropped)
  }, Effect.scoped)
})

export const cleanPreferences = Stage.make("clean-preferences", cleanStage("clean-preferences", Preferences, partsOfPreference))
export const cleanDemonstrations = Stage.make(
  "clean-demonstrations",
  cleanStage("clean-demonstrations", Demonstrations, partsOfDemonstration)
)
export const cleanPrompts = Stage.make("clean-prompts", cleanStage("clean-prompts", Prompts, partsOfPrompt))
export const cleanTexts = Stage.make("clean-texts", cleanStage("clean-texts", Texts, partsOfText))

export const cleanPreferencesCost = costOf(cleanPreferences, { size: ({ inputs }) => inputs.rows })
export const cleanDemonstrationsCost = costOf(cleanDemonstrations, { size: ({ inputs }) => inputs.rows })
export const cleanPromptsCost = costOf(cleanPrompts, { size: ({ inputs }) => inputs.rows })
export const cleanTextsCost = costOf(cleanTexts, { size: ({ inputs }) => inputs.rows })
