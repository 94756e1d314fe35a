/** Where the instruction, the questions and the answers are among a dialogue's tokens; and statistics of attention maps between them. */
import { formatOf } from "../../models/chat.ts"
import { ChatError } from "../../models/chat-format.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Message } from "../../schemas/rows.ts"

/** The tokens from `from` (inclusive) to `to` (exclusive). */
export interface Span {
  readonly from: number
  readonly to: number
}
export interface Part extends Span {
  readonly kind: "instruction" | "question" | "answer"
  /** Counted from 1; 0 for the instruction. */
  readonly turn: number
}

/** A minimal run of tokens whose text contains `wanted`, among the first `end` tokens; undefined if the decoded text does not contain it. */
const findText = (tokenizer: Tokenizer, tokens: ReadonlyArray<number>, end: number, wanted: string): Span | undefined => {
  const has = (from: number, to: number) => tokenizer.decode(tokens.slice(from, to)).includes(wanted)
  if (!has(0, end)) return undefined
  let [from, to] = [0, 1]
  while (!has(0, to)) to++
  while (from + 1 < to && has(from + 1, to)) from++
  return { from, to }
}

/**
 * The tokens of a dialogue that ends with an answer, and its parts in order. The instruction is at the start of the first user message; if its text is not
 * found in the tokens, it counts as part of the first question. If the chat format only marks the last answer, only the last question and answer are
 * parts. Returns a ChatError for a dialogue that the format can't represent.
 */
export const dialogueParts = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  instruction: string
): { readonly tokens: ReadonlyArray<number>; readonly parts: ReadonlyArray<Part> } | ChatError => {
  const dialogue = formatOf(tokenizer).read(messages)
  if (dialogue instanceof ChatError) return dialogue
  const out = new TokenBuffer()
  const ends = dialogue.appendDialogue(out)
  const tokens = out.slice()
  const answers = messages.filter(({ role }) => role === "assistant").length
  const found = findText(tokenizer, tokens, ends[0]!, instruction.trim())
  const parts = ends.map((to, i): Part => {
    const turn = answers - ends.length / 2 + Math.floor(i / 2) + 1
    return { kind: i % 2 === 0 ? "question" : "answer", turn, from: i === 0 ? (found?.to ?? 0) : ends[i - 1]!, to }
  })
  return { tokens, parts: found === undefined ? parts : [{ kind: "instruction", turn: 0, ...found }, ...parts] }
}

/** The maximum weight in each bin of `size` x `size` tokens, from a causal map (T, T) in row-major order: one row per bin of queries, without future bins. */
export const binnedMap = (map: ArrayLike<number>, length: number, size: number): Array<Array<number>> => {
  const rows: Array<Array<number>> = Array.from({ length: Math.ceil(length / size) }, (_, row) => new Array<number>(row + 1).fill(0))
  for (let query = 0; query < length; query++)
    for (let key = 0; key <= query; key++) {
      const [row, column] = [rows[Math.floor(query / size)]!, Math.floor(key / size)]
      row[column] = Math.max(row[column]!, map[query * length + key]!)
    }
  return rows
}

/**
 * How strongly the prediction of one span attends to another: for each token of `from`, the maximum weight to any token of `to`, averaged over the tokens.
 * Token t is predicted at position t - 1. `map` is (T, T) in row-major order.
 */
export const attentionTo = (map: ArrayLike<number>, length: number, from: Span, to: Span): number => {
  let sum = 0
  for (let query = from.from - 1; query < from.to - 1; query++) {
    let most = 0
    for (let key = to.from; key < to.to; key++) most = Math.max(most, map[query * length + key]!)
    sum += most
  }
  return sum / (from.to - from.from)
}
