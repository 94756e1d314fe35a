/** Encodes dialogues as tokens in the format of the model's tokenizer: a chat template or Llama 2's format. */
import type { Message } from "../schemas/rows.ts"
import { ChatError, type ChatFormat, type ReadDialogue } from "./chat-format.ts"
import { llama2Format } from "./llama2-format.ts"
import { templateFormat } from "./template-format.ts"
import { TokenBuffer } from "./tokenizer/token-buffer.ts"
import type { Tokenizer } from "./tokenizer/tokenizer.ts"

const formats = new WeakMap<Tokenizer, ChatFormat>()

/** The chat format of a tokenizer's model. Throws ChatTemplateError for an unusable template. */
export const formatOf = (tokenizer: Tokenizer): ChatFormat => {
  let format = formats.get(tokenizer)
  if (format === undefined) {
    format = tokenizer.chat === undefined ? llama2Format(tokenizer) : templateFormat(tokenizer, tokenizer.chat)
    formats.set(tokenizer, format)
  }
  return format
}

/** The dialogue in the tokenizer's format; undefined if the format cannot represent it. */
export const readDialogue = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): ReadDialogue | undefined => {
  const read = formatOf(tokenizer).read(messages)
  return read instanceof ChatError ? undefined : read
}

/** Why the tokenizer's format cannot represent the dialogue; undefined if it can. */
export const chatFault = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): ChatError | undefined => {
  const read = formatOf(tokenizer).read(messages)
  return read instanceof ChatError ? read : undefined
}

const readOrThrow = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): ReadDialogue => {
  const read = formatOf(tokenizer).read(messages)
  if (read instanceof ChatError) throw read
  return read
}

/** The tokens of a dialogue that ends with an answer, and their loss mask: true for the tokens of answers and the token that ends each. Throws ChatError. */
export const encodeDialogue = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>
): { readonly tokens: Array<number>; readonly lossMask: Array<boolean> } => {
  const dialogue = readOrThrow(tokenizer, messages)
  const out = new TokenBuffer()
  const ends = dialogue.appendDialogue(out)
  return { tokens: out.slice(), lossMask: lossMaskOf(ends) }
}

/** The loss mask for a dialogue whose parts end at these token counts: every second part has loss. */
export const lossMaskOf = (ends: ReadonlyArray<number>): Array<boolean> =>
  ends.flatMap((end, i) => new Array<boolean>(end - (ends[i - 1] ?? 0)).fill(i % 2 === 1))

/** The tokens of a dialogue that ends with a question: the model's prompt. Throws ChatError. */
export const encodePrompt = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): Array<number> => {
  const dialogue = readOrThrow(tokenizer, messages)
  if (dialogue.answered)
    throw new ChatError({
      reason: "with an answer at the end",
      message: "The dialogue ends with an answer: there is nothing to continue."
    })
  const out = new TokenBuffer()
  dialogue.appendPrompt(out)
  return out.slice()
}
