/** The positions of the instruction, the questions and the answers among a dialogue's tokens, and binned maps over tokens. */
import { formatOf } from "../../models/chat.ts"
import { ChatError } from "../../models/chat-format.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Message } from "../../schemas/rows.ts"

/** Tokens from `from` up to, excluding, `to`. */
export interface Span {
  readonly from: number
  readonly to: number
}
export interface Part extends Span {
  readonly kind: "instruction" | "question" | "answer"
  /** From 1; 0 for the instruction. */
  readonly turn: number
}

/** The shortest run of tokens whose text contains `wanted`, among the first `end` tokens; undefined if the tokenizer does not reproduce the text. */
const findText = (tokenizer: Tokenizer, tokens: ReadonlyArray<number>, end: number, wanted: string): Span | undefined => {
  const has = (from: number, to: number) => tokenizer.decode(tokens.slice(from, to)).includes(wanted)
  if (!has(0, end)) return undefined
  let [from, to] = [0, 1]
  while (!has(0, to)) to++
  while (from + 1 < to && has(from + 1, to)) from++
  return { from, to }
}

/**
 * The tokens of a dialogue that ends with an answer, and its parts in order. The instruction is the start of the first user message; if its text is not found in the tokens, it
 * counts as part of the first question. A chat format that marks only the last answer gives only that one. Fails with ChatError for a dialogue that the format cannot represent.
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

/** The maximum weight of each block of `size` x `size` tokens: (T, T) row by row -> the rows of the bins, each with the bins up to its own. */
export const binnedMap = (map: ArrayLike<number>, length: number, size: number): Array<Array<number>> => {
  const rows: Array<Array<number>> = Array.from({ length: Math.ceil(length / size) }, (_, row) => new Array<number>(row + 1).fill(0))
  for (let query = 0; query < length; query++)
    for (let key = 0; key <= query; key++) {
      const [row, column] = [rows[Math.floor(query / size)]!, Math.floor(key / size)]
      row[column] = Math.max(row[column]!, map[query * length + key]!)
    }
  return rows
}

/** The maximum weight from the positions that predict a span's tokens to any token of another span, averaged over the span: token t is predicted by the query of token t - 1. */
export const attentionTo = (map: ArrayLike<number>, length: number, of: Span, to: Span): number => {
  let sum = 0
  for (let query = of.from - 1; query < of.to - 1; query++) {
    let most = 0
    for (let key = to.from; key < to.to; key++) most = Math.max(most, map[query * length + key]!)
    sum += most
  }
  return sum / (of.to - of.from)
}
