/** Fits tokenised dialogues into a model's context. */
import type { Message } from "../../schemas/rows.ts"
import { chatFault, encodePrompt, lossMaskOf, readDialogue } from "../../models/chat.ts"
import type { ReadDialogue } from "../../models/chat-format.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Example } from "./sequences.ts"

/** The dialogue, then versions without its oldest exchanges, one fewer each time, down to a single exchange; the system prompt is kept. */
function* shortened(messages: ReadonlyArray<Message>): Generator<ReadonlyArray<Message>> {
  const system = messages[0]?.role === "system" ? messages.slice(0, 1) : []
  yield messages
  for (let turns = messages.slice(system.length + 2); turns.length > 0; turns = turns.slice(2)) yield [...system, ...turns]
}

/** The result of `encode` for the first version of a dialogue that fits; undefined if none does. `encode` returns undefined for a version that is too long. */
const firstFitting = <A>(
  messages: ReadonlyArray<Message>,
  tooLong: "shorten" | "leave out",
  encode: (form: ReadonlyArray<Message>) => A | undefined
): A | undefined => {
  for (const form of shortened(messages)) {
    const found = encode(form)
    if (found !== undefined || tooLong === "leave out") return found
  }
  return undefined
}

/**
 * Encodes a dialogue that ends with an answer in the model's chat format. If it has more than `length` tokens, its oldest exchanges are removed. If the
 * last exchange alone is too long, the result is undefined: without its end, it would teach the model not to stop; without its beginning, to answer a
 * question that was not asked. Also undefined if the chat format cannot represent the dialogue.
 */
export const fitDialogue = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>, length: number): Example | undefined => {
  const out = new TokenBuffer()
  const fitted = appendFittingDialogue(tokenizer, messages, { length, tooLong: "shorten" }, out)
  return fitted === undefined ? undefined : { tokens: out.slice(), lossMask: lossMaskOf(fitted.ends) }
}

/** Like fitDialogue, but appends to a buffer; if `tooLong` is "leave out", nothing is removed. Returns the remaining messages and the ends of the parts without and with loss (`ReadDialogue`), or undefined with the buffer unchanged. */
export const appendFittingDialogue = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  { length, tooLong }: { readonly length: number; readonly tooLong: "shorten" | "leave out" },
  out: TokenBuffer
): { readonly messages: ReadonlyArray<Message>; readonly ends: Array<number> } | undefined => {
  const start = out.length
  const whole = readDialogue(tokenizer, messages)
  if (whole === undefined) return undefined
  return firstFitting(messages, tooLong, (form) => {
    const ends = (form === messages ? whole : readDialogue(tokenizer, form))?.appendDialogue(out)
    if (ends !== undefined && ends.at(-1)! <= length) return { messages: form, ends }
    out.length = start
    return undefined
  })
}

/**
 * Appends the tokens of several answers to one prompt: the prompt once, then each answer. If the prompt and an answer together have more than `length`
 * tokens, the same exchanges are removed for all answers, so that they still answer the same prompt. Returns the token offsets at which the prompt and
 * each answer end, relative to the start of the prompt; undefined, with the buffer unchanged, if no version fits all answers or the chat format cannot
 * represent one.
 */
export const appendFittingAnswers = (
  tokenizer: Tokenizer,
  prompt: ReadonlyArray<Message>,
  answers: ReadonlyArray<string>,
  length: number,
  out: TokenBuffer
): { readonly ends: ReadonlyArray<number>; readonly shortened: boolean } | undefined => {
  const start = out.length
  const dialogues = (form: ReadonlyArray<Message>): ReadonlyArray<ReadDialogue> | undefined => {
    const read = answers.map((content) => readDialogue(tokenizer, [...form, { role: "assistant", content }]))
    return read.includes(undefined) ? undefined : (read as ReadonlyArray<ReadDialogue>)
  }
  const whole = dialogues(prompt)
  if (whole === undefined) return undefined
  return firstFitting(prompt, "shorten", (form) => {
    const read = form === prompt ? whole : dialogues(form)
    if (read === undefined) return undefined
    read[0]!.appendPrompt(out)
    const ends = [out.length - start]
    for (const dialogue of read) {
      dialogue.appendAnswer(out)
      ends.push(out.length - start)
    }
    if (ends.every((end, i) => i === 0 || ends[0]! + end - ends[i - 1]! <= length)) return { ends, shortened: form !== prompt }
    out.length = start
    return undefined
  })
}

/** A prompt as tokens for a model to continue. */
export interface FittedPrompt {
  readonly tokens: ReadonlyArray<number>
  /** Whether its oldest exchanges were removed. */
  readonly shortened: boolean
}

/** Like fitDialogue, for a dialogue that ends with a question: its tokens, and whether it was shortened. */
export const shortenPrompt = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  length: number,
  tooLong: "shorten" | "leave out" = "shorten"
): FittedPrompt | undefined =>
  chatFault(tokenizer, messages) === undefined
    ? firstFitting(messages, tooLong, (form) => {
        const tokens = encodePrompt(tokenizer, form)
        return tokens.length <= length ? { tokens, shortened: form !== messages } : undefined
      })
    : undefined

/** Only the tokens of shortenPrompt's result. */
export const fitPrompt = (...of: Parameters<typeof shortenPrompt>): ReadonlyArray<number> | undefined => shortenPrompt(...of)?.tokens

/** The number of tokens of a prompt when only its system prompt and last question are left; undefined if the chat format cannot represent it. */
export const shortestForm = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): number | undefined =>
  chatFault(tokenizer, messages) === undefined ? encodePrompt(tokenizer, [...shortened(messages)].at(-1)!).length : undefined
