/** Tokenised dialogues that fit a model's context. */
import type { Message } from "../../schemas/rows.ts"
import { encodeDialogue, encodePrompt, fitsChatFormat } from "../../models/chat.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { Example } from "./sequences.ts"

/** The dialogue, then what is left of it without its oldest exchanges, one fewer each time, down to a single one; the system prompt stays. */
function* shortened(messages: ReadonlyArray<Message>): Generator<ReadonlyArray<Message>> {
  const system = messages[0]?.role === "system" ? messages.slice(0, 1) : []
  yield messages
  for (let turns = messages.slice(system.length + 2); turns.length > 0; turns = turns.slice(2)) yield [...system, ...turns]
}

/** What of a dialogue fits, or why nothing does: `encode` gives undefined for a form that is too long. */
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
 * A dialogue that ends with an answer, in Llama 2's chat format. One that is longer than `length` loses its oldest exchanges first; when a
 * single exchange is too long still, the result is undefined: cutting its end would teach the model not to stop, cutting its beginning to
 * answer what was not asked. Undefined as well when the chat format can't hold it, or when it is too long and `tooLong` says to leave such ones out.
 */
export const fitDialogue = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>,
  length: number,
  tooLong: "shorten" | "leave out" = "shorten"
): Example | undefined =>
  fitsChatFormat(messages)
    ? firstFitting(messages, tooLong, (form) => {
        const example = encodeDialogue(tokenizer, form)
        return example.tokens.length <= length ? example : undefined
      })
    : undefined

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
  return firstFitting(prompt, "shorten", (form) => {
    const examples = answers.map((answer) => encodeDialogue(tokenizer, dialogue(form, answer)))
    return examples.every(({ tokens }) => tokens.length <= length) ? { examples, shortened: form !== prompt } : undefined
  })
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
): FittedPrompt | undefined =>
  fitsChatFormat(messages)
    ? firstFitting(messages, tooLong, (form) => {
        const tokens = encodePrompt(tokenizer, form)
        return tokens.length <= length ? { tokens, shortened: form !== messages } : undefined
      })
    : undefined

/** Its tokens alone. */
export const fitPrompt = (...of: Parameters<typeof shortenPrompt>): ReadonlyArray<number> | undefined => shortenPrompt(...of)?.tokens

/** The fewest tokens that each prompt can be brought to; undefined where the chat format can't hold it. */
export const shortestForm = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): number | undefined =>
  fitsChatFormat(messages) ? encodePrompt(tokenizer, [...shortened(messages)].at(-1)!).length : undefined
