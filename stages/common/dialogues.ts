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

/**
 * Several answers to one prompt, each as a dialogue. Where one of them is too long, all lose the same exchanges, so that they are compared as answers to the
 * same; undefined when there is no way that all fit, or when the chat format can't hold one.
 */
export const fitAnswers = (
  tokenizer: Tokenizer,
  prompt: ReadonlyArray<Message>,
  answers: ReadonlyArray<string>,
  length: number
): { readonly examples: ReadonlyArray<Example>; readonly shortened: boolean } | undefined => {
  const dialogue = (messages: ReadonlyArray<Message>, content: string): ReadonlyArray<Message> => [
    ...messages,
    { role: "assistant", content }
  ]
  if (!answers.every((answer) => fitsChatFormat(dialogue(prompt, answer)))) return undefined
  for (let rest: ReadonlyArray<Message> | undefined = prompt; rest !== undefined; rest = withoutOldestExchange(rest)) {
    const from = rest
    const examples = answers.map((answer) => encodeDialogue(tokenizer, dialogue(from, answer)))
    if (examples.every(({ tokens }) => tokens.length <= length)) return { examples, shortened: rest !== prompt }
  }
  return undefined
}

/** A prompt as the tokens that a model is to continue. */
export interface FittedPrompt {
  readonly tokens: ReadonlyArray<number>
  /** Whether its oldest exchanges were left out. */
  readonly shortened: boolean
}

/** The same for a dialogue that ends with a question. */
export const shortenPrompt = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  length: number,
  tooLong: "shorten" | "leave out" = "shorten"
): FittedPrompt | undefined => {
  if (!fitsChatFormat(messages)) return undefined
  for (let rest: ReadonlyArray<Message> | undefined = messages; rest !== undefined; rest = withoutOldestExchange(rest)) {
    const tokens = encodePrompt(tokenizer, rest)
    if (tokens.length <= length) return { tokens, shortened: rest !== messages }
    if (tooLong === "leave out") return undefined
  }
  return undefined
}

/** Its tokens alone. */
export const fitPrompt = (...of: Parameters<typeof shortenPrompt>): ReadonlyArray<number> | undefined => shortenPrompt(...of)?.tokens

/** The fewest tokens that each prompt can be brought to; undefined where the chat format can't hold it. */
export const shortestForm = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): number | undefined => {
  if (!fitsChatFormat(messages)) return undefined
  let last = messages
  for (let rest: ReadonlyArray<Message> | undefined = messages; rest !== undefined; rest = withoutOldestExchange(rest)) last = rest
  return encodePrompt(tokenizer, last).length
}
