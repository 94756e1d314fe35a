/** The known shapes of rows in users' files: how to detect each, which kinds of rows it gives, and how to read them. Equal shapes share one name. */
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { text } from "./fields.ts"
import {
  type JudgedOptions,
  helpSteer2Scores,
  parseHelpSteer2Pair,
  parseHelpSteer3,
  parsePkuSafeRlhf,
  parseShp,
  parseStackExchange,
  parseSummarize,
  parseUltraFeedback,
  parseWebGpt
} from "./judged.ts"
import type { Look } from "./look.ts"
import { completionColumns, messageColumns, parseAlpaca, parseMessages, parsePromptCompletion, parseShareGpt } from "./messages.ts"
import { bestPath, pairsOfTree, treeReader } from "./oasst.ts"
import { parseChosenRejected, parseHhRlhf, parsePromptChosenRejected } from "./pairs.ts"
import { mtBenchPrompt, plainPrompt, type PromptFields, xsTestPrompt } from "./prompts.ts"

export interface ReaderOptions extends JudgedOptions {
  /** Called for each row, or part of a row, without the required information. */
  readonly leaveOut: (reason: string) => void
}

/** Reads the rows of a file in order: each gives zero or more of our rows, and `end` returns those that were held back. */
export interface RowReader<Row> {
  readonly rows: (value: unknown, line: number) => Iterable<Row>
  readonly end?: () => Iterable<Row>
}
type MakeReader<Row> = (options: ReaderOptions) => RowReader<Row>

export interface Given {
  readonly preferences: Preference
  readonly demonstrations: Demonstration
  readonly prompts: PromptFields
  readonly texts: { readonly text: string }
}
export type Kind = keyof Given

/** The content of a table column's cells: a number or boolean; lists and objects as JSON; text, or messages as JSON. */
export type Cell = "scalar" | "json" | "messages"

export interface Shape extends Partial<{ readonly [K in Kind]: MakeReader<Given[K]> }> {
  readonly name: string
  /** One-line description of a row's fields. */
  readonly form: string
  /** The columns that are read; other columns of a Parquet file are not. */
  readonly columns: ReadonlyArray<string>
  /** Columns of a table (CSV) whose cells are not plain text. */
  readonly cells?: Readonly<Record<string, Cell>>
  readonly fits: (look: Look) => boolean
}

const one =
  <Row>(parse: (value: unknown, line: number, options: ReaderOptions) => Row): MakeReader<Row> =>
  (options) => ({ rows: (value, line) => [parse(value, line, options)] })
const several =
  <Row>(parse: (value: unknown, line: number, options: ReaderOptions) => ReadonlyArray<Row>): MakeReader<Row> =>
  (options) => ({ rows: (value, line) => parse(value, line, options) })

const labels = ["rating", "chosenSafe", "rejectedSafe"]
const labelCells = { rating: "scalar", chosenSafe: "scalar", rejectedSafe: "scalar" } as const
const promptColumns = ["id", "prompt", "messages", "safety", "category", "followUps"]
/** Whether most dialogues end with an answer. */
const endsWithAnswer = (look: Look, name: string): boolean => {
  const lists = look.values(name).filter((each): each is ReadonlyArray<unknown> => Array.isArray(each))
  const ends = lists.map((messages) => (messages.at(-1) as { readonly role?: unknown } | null | undefined)?.role)
  return 2 * ends.filter((role) => role === "assistant" || role === "gpt").length >= ends.length
}
const isTranscript = (value: unknown): boolean => typeof value === "string" && /^\n\n(Human|Assistant):/.test(value)

/** In the order in which they are tried: the most specific first. */
export const shapes: ReadonlyArray<Shape> = [
  {
    name: "pku-safe-rlhf",
    form: "prompt, response_0, response_1, is_response_0_safe, is_response_1_safe, better_response_id, safer_response_id",
    columns: ["prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe", "better_response_id", "safer_response_id"],
    cells: { is_response_0_safe: "scalar", is_response_1_safe: "scalar", better_response_id: "scalar", safer_response_id: "scalar" },
    fits: (look) => look.has("prompt", "response_0", "response_1") && (look.has("better_response_id") || look.has("safer_response_id")),
    preferences: several(parsePkuSafeRlhf)
  },
  {
    name: "helpsteer3",
    form: "context (messages), response1, response2, overall_preference from -3 to 3, individual_preference",
    columns: ["context", "response1", "response2", "overall_preference", "individual_preference"],
    cells: { context: "json", overall_preference: "scalar", individual_preference: "json" },
    fits: (look) => look.has("context", "response1", "response2", "overall_preference"),
    preferences: several(parseHelpSteer3)
  },
  {
    name: "helpsteer2",
    form: "prompt, response_1, response_2, preference_strength from -3 to 3; or prompt, response, helpfulness (0 to 4), with both answers to a prompt in consecutive rows",
    columns: ["prompt", "response_1", "response_2", "preference_strength", "all_preferences_unprocessed", "response", "helpfulness"],
    cells: { preference_strength: "scalar", all_preferences_unprocessed: "json", helpfulness: "scalar" },
    fits: (look) =>
      look.has("prompt", "response_1", "response_2", "preference_strength") ||
      look.has("prompt", "response", "helpfulness", "correctness", "coherence"),
    preferences: (options) => {
      const scores = helpSteer2Scores(options, options.leaveOut)
      const isPair = (value: unknown) => typeof value === "object" && value !== null && Object.hasOwn(value, "preference_strength")
      return {
        rows: (value, line) => (isPair(value) ? parseHelpSteer2Pair(value, line, options) : scores.rows(value, line)),
        end: scores.end
      }
    }
  },
  {
    name: "shp",
    form: "history, human_ref_A, human_ref_B, labels (1 if A is preferred)",
    columns: ["history", "human_ref_A", "human_ref_B", "labels"],
    cells: { labels: "scalar" },
    fits: (look) => look.has("history", "human_ref_A", "human_ref_B", "labels"),
    preferences: several(parseShp)
  },
  {
    name: "webgpt",
    form: "question {full_text}, answer_0, answer_1, score_0, score_1",
    columns: ["question", "answer_0", "answer_1", "score_0", "score_1"],
    cells: { question: "json", score_0: "scalar", score_1: "scalar" },
    fits: (look) => look.has("question", "answer_0", "answer_1", "score_0", "score_1"),
    preferences: several(parseWebGpt)
  },
  {
    name: "summarize-from-feedback",
    form: "info {subreddit, title, post} or {article}, summaries [{text}, {text}], choice (0 or 1)",
    columns: ["info", "summaries", "choice"],
    cells: { info: "json", summaries: "json", choice: "scalar" },
    fits: (look) => look.has("info", "summaries", "choice"),
    preferences: several(parseSummarize)
  },
  {
    name: "stack-exchange",
    form: "question, answers [{text, pm_score}]; or question, response_j (the better), response_k",
    columns: ["question", "answers", "response_j", "response_k"],
    cells: { answers: "json" },
    fits: (look) =>
      look.has("question") && ((look.has("answers") && look.is("answers", "objects")) || look.has("response_j", "response_k")),
    preferences: several(parseStackExchange)
  },
  {
    name: "ultrafeedback",
    form: "instruction, completions [{response, overall_score}]; or prompt, chosen, rejected (messages), score_chosen, score_rejected",
    columns: ["instruction", "completions", "prompt", "chosen", "rejected", "score_chosen", "score_rejected"],
    cells: { completions: "json", chosen: "messages", rejected: "messages", score_chosen: "scalar", score_rejected: "scalar" },
    fits: (look) =>
      (look.has("instruction", "completions") && look.is("completions", "objects")) ||
      (look.has("chosen", "rejected", "score_chosen", "score_rejected") && look.is("chosen", "messages")),
    preferences: several(parseUltraFeedback)
  },
  {
    name: "oasst",
    form: "message_tree_id, prompt {text, role, replies}; or its messages: message_id, parent_id, message_tree_id, text, role, rank",
    columns: ["message_tree_id", "prompt", "message_id", "parent_id", "text", "role", "rank", "deleted"],
    cells: { prompt: "json", rank: "scalar", deleted: "scalar" },
    fits: (look) => look.has("message_tree_id") && (look.is("prompt", "object") || look.has("message_id", "text", "role")),
    preferences: (options) => treeReader((tree, id) => pairsOfTree(tree, id, options.source, options.pairs), options.leaveOut),
    demonstrations: (options) => treeReader((tree, id) => [bestPath(tree, id)], options.leaveOut)
  },
  {
    name: "hh-rlhf",
    form: 'chosen, rejected: transcripts of "\\n\\nHuman:" and "\\n\\nAssistant:"',
    columns: ["chosen", "rejected"],
    fits: (look) =>
      look.has("chosen", "rejected") &&
      look.values("chosen").filter(isTranscript).length * 2 >= look.values("chosen").length &&
      !look.has("prompt"),
    preferences: one((value, line, { source }) => parseHhRlhf(value, line, source))
  },
  {
    name: "prompt-chosen-rejected",
    form: "prompt, chosen, rejected (text or messages); optional: rating (0 to 3), chosenSafe, rejectedSafe",
    columns: ["prompt", "chosen", "rejected", ...labels, "id", "safety", "category", "followUps"],
    cells: { prompt: "messages", chosen: "messages", rejected: "messages", ...labelCells, safety: "scalar", followUps: "json" },
    fits: (look) => look.has("prompt", "chosen", "rejected"),
    preferences: one((value, line, { source }) => parsePromptChosenRejected(value, line, source)),
    prompts: one(plainPrompt)
  },
  {
    name: "chosen-rejected",
    form: "chosen, rejected (text or messages), both beginning with the prompt",
    columns: ["chosen", "rejected", ...labels],
    cells: { chosen: "messages", rejected: "messages", ...labelCells },
    fits: (look) => look.has("chosen", "rejected"),
    preferences: one((value, line, { source }) => parseChosenRejected(value, line, source))
  },
  {
    name: "unpaired",
    form: "prompt, completion, label: one answer, judged on its own; no stage reads this shape",
    columns: [],
    fits: (look) =>
      (look.has("prompt", "completion", "label") && !look.is("label", "nothing")) ||
      (look.has("prompt", "completions", "labels") && look.is("completions", "texts"))
  },
  {
    name: "xstest",
    form: "prompt, type, label (safe or unsafe); or its answers: prompt, type, completion, final_label",
    columns: ["id", "prompt", "type", "label"],
    fits: (look) =>
      look.has("prompt", "type") &&
      ((look.has("label") && look.values("label").every((each) => each === "safe" || each === "unsafe")) ||
        look.has("completion", "final_label")),
    prompts: one(xsTestPrompt)
  },
  {
    name: "mt-bench",
    form: "question_id, category, turns [first, second]",
    columns: ["question_id", "category", "turns"],
    cells: { turns: "json" },
    fits: (look) => look.has("turns") && look.is("turns", "texts"),
    prompts: one(mtBenchPrompt)
  },
  {
    name: "sharegpt",
    form: "conversations [{from, value}]; optional: system",
    columns: ["conversations", "system"],
    cells: { conversations: "json" },
    fits: (look) => look.has("conversations") && look.is("conversations", "turns"),
    demonstrations: one(parseShareGpt)
  },
  {
    name: "messages",
    form: "messages [{role, content}] that end with the assistant's; optional: loss (answers or last-answer)",
    columns: [...messageColumns, "loss"],
    cells: { messages: "json", conversation: "json", conversations: "json" },
    fits: (look) => messageColumns.some((name) => look.has(name) && look.is(name, "messages") && endsWithAnswer(look, name)),
    demonstrations: one(parseMessages)
  },
  {
    name: "alpaca",
    form: "instruction, input (may be empty), output; optional: system, history",
    columns: ["instruction", "input", "output", "system", "history"],
    cells: { history: "json" },
    fits: (look) => look.has("instruction", "output"),
    demonstrations: one(parseAlpaca)
  },
  {
    name: "prompt-completion",
    form: "prompt, completion (text or messages); or inputs, targets",
    columns: [...completionColumns.flat(), "is_correct", "id", "safety", "category", "followUps", "messages"],
    cells: { prompt: "messages", completion: "messages", is_correct: "scalar", safety: "scalar", followUps: "json" },
    fits: (look) => completionColumns.some((names) => look.has(...names)),
    demonstrations: one(parsePromptCompletion),
    prompts: one(plainPrompt)
  },
  {
    name: "prompt-only",
    form: "prompt (text or messages) or messages that end with the user's; optional: id, safety, category, followUps",
    columns: promptColumns,
    cells: { prompt: "messages", messages: "json", safety: "scalar", followUps: "json" },
    fits: (look) => look.has("prompt") || (look.has("messages") && look.is("messages", "messages") && !endsWithAnswer(look, "messages")),
    prompts: one(plainPrompt)
  },
  {
    name: "text",
    form: "text; or a plain text file",
    columns: ["text"],
    fits: (look) => look.has("text") && look.is("text", "text"),
    texts: one((value) => ({ text: text(value, "text") }))
  }
]

/**
 * The shape that matches a look; undefined if none does. If it does not give rows of the wanted kind, another matching shape that does, for example to read the prompts of
 * compared answers. A shape that no stage reads is not replaced: a completion that may be bad is not a demonstration.
 */
export const shapeOf = (look: Look, kind?: Kind): Shape | undefined => {
  const fitting = shapes.filter((shape) => shape.fits(look))
  const [first] = fitting
  if (first === undefined || kind === undefined || kindsOf(first).length === 0) return first
  return fitting.find((shape) => shape[kind] !== undefined) ?? first
}

export const shapeNamed = (name: string): Shape | undefined => shapes.find((shape) => shape.name === name)
/** Names of the shapes that give rows of a kind. */
export const shapesGiving = (kind: Kind): ReadonlyArray<string> =>
  shapes.filter((shape) => shape[kind] !== undefined).map(({ name }) => name)
/** The kinds of rows that a shape gives. */
export const kindsOf = (shape: Shape): ReadonlyArray<Kind> =>
  (["preferences", "demonstrations", "prompts", "texts"] as const).filter((kind) => shape[kind] !== undefined)
