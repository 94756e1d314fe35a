/** Tokenised dialogues that fit a model's context. */
import type { Message } from "../../schemas/rows.ts"
import { encodeDialogue, encodePrompt, fitsChatFormat } from "../../models/chat.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Example } from "./sequences.ts"

/** The dialogue without its oldest exchange (the system prompt stays); undefined when only one is left. */
const withoutOldestExchange = (messages: ReadonlyArray<Message>): ReadonlyArray<Message> | undefined => {
  const system = messages[0]?.role === "system" ? messages.slice(0, 1) : []
  const turns = messages.slice(system.length)
  return turns.length > 2 ? [...system, ...turns.slice(2)] : undefined
}

/**
 * A dialogue that ends with an answer, in Llama 2's chat format. One that is longer than `length` loses its oldest exchanges first; when a
 * single exchange is too long still, the result is undefined: cutting its end would teach the model not to stop, cutting its beginning to
 * answer what was not asked. Undefined as well when the chat format can't hold it, or when it is too long and `tooLong` says to leave such ones out.
 */
export const fitDialogue = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  length: number,
  tooLong: "shorten" | "leave out" = "shorten"
): Example | undefined => {
  if (!fitsChatFormat(messages)) return undefined
  for (let rest: ReadonlyArray<Message> | undefined = messages; rest !== undefined; rest = withoutOldestExchange(rest)) {
    const example = encodeDialogue(tokenizer, rest)
    if (example.tokens.length <= length) return example
    if (tooLong === "leave out") return undefined
  }
  return undefined
}

/** The same for a dialogue that ends with a question: the tokens a model is to continue. */
export const fitPrompt = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  length: number,
  tooLong: "shorten" | "leave out" = "shorten"
): ReadonlyArray<number> | undefined => {
  if (!fitsChatFormat(messages)) return undefined
  for (let rest: ReadonlyArray<Message> | undefined = messages; rest !== undefined; rest = withoutOldestExchange(rest)) {
    const tokens = encodePrompt(tokenizer, rest)
    if (tokens.length <= length) return tokens
    if (tooLong === "leave out") return undefined
  }
  return undefined
}
