/**
 * Llama 2's chat format, as Meta's released code has it:
 *
 *     <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {answer} </s><s>[INST] {user} [/INST]
 *
 * BOS and EOS are control tokens around each exchange, never text; there is no EOS after the last [/INST]. Questions (the system prompt folded
 * in) and answers are stripped. Each exchange is tokenised on its own, so that a prefix of the dialogue is a prefix of its tokens.
 */
import * as Schema from "effect/Schema"
import type { Message } from "../schemas/rows.ts"
import { TokenBuffer } from "./tokenizer/token-buffer.ts"
import type { Tokenizer } from "./tokenizer/tokenizer.ts"

/** A dialogue that the format can't hold. */
export class ChatError extends Schema.TaggedError<ChatError>()("ChatError", {
  /** The kind of fault, for many dialogues alike, as what follows "90 dialogues:". */
  reason: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** The format's own tags. They are ordinary text to the tokenizer: a user's text that holds one would end a turn. */
const tags = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]
/** The tag that a text holds, if any. */
export const tagIn = (text: string): string | undefined => tags.find((tag) => text.includes(tag))
export const withTag = "with a tag of the chat format in the text"

/** A text with a backslash within each of the format's tags, so that it holds none: `[\INST]`, `<\</SYS>>`. */
export const escapeTags = (text: string): string => text.replaceAll(/\[(?=\/?INST\])/g, "[\\").replaceAll(/<(?=<\/?SYS>>)/g, "<\\")

const contentOf = (message: Message, index: number): string => {
  const found = tagIn(message.content)
  if (found !== undefined)
    throw new ChatError({
      reason: withTag,
      message: `Message ${index + 1} (${message.role}) contains the tag ${found}, which is Llama 2's own. Take it out, or leave the dialogue out.`
    })
  return message.content
}

/** White space as Python's strip has it: trim() would leave U+001C to U+001F and U+0085, and take a byte-order mark. */
const isWhiteSpace = (code: number): boolean =>
  (code >= 0x1c && code <= 0x1f) || code === 0x85 || (code !== 0xfeff && String.fromCharCode(code).trim() === "")
const strip = (text: string): string => {
  let [start, end] = [0, text.length]
  while (start < end && isWhiteSpace(text.charCodeAt(start))) start++
  while (end > start && isWhiteSpace(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

/** A question, the system prompt folded in, and its answer; both stripped. */
export interface Exchange {
  readonly question: string
  readonly answer: string | undefined
}

/** The dialogue as exchanges, the system prompt folded into the first question. Throws ChatError unless user and assistant alternate. */
const exchangesOf = (messages: ReadonlyArray<Message>): Array<Exchange> => {
  const system = messages[0]?.role === "system" ? contentOf(messages[0], 0) : undefined
  const turns = system === undefined ? messages : messages.slice(1)
  const offset = messages.length - turns.length
  if (turns.length === 0) throw new ChatError({ reason: "without a user message", message: "A dialogue needs at least one user message." })
  const exchanges: Array<Exchange> = []
  turns.forEach((message, i) => {
    const expected = i % 2 === 0 ? "user" : "assistant"
    if (message.role !== expected)
      throw new ChatError({
        reason: "in which user and assistant do not alternate",
        message: `Message ${i + offset + 1} must be the ${expected}'s, but is the ${message.role}'s: user and assistant alternate, the user first, after at most one system message.`
      })
  })
  for (let i = 0; i < turns.length; i += 2) {
    const question = contentOf(turns[i]!, i + offset)
    const reply = turns[i + 1]
    const answer = reply === undefined ? undefined : strip(contentOf(reply, i + offset + 1))
    if (answer === "")
      throw new ChatError({
        reason: "with an empty answer",
        message: `Message ${i + offset + 2} (assistant) is empty: there is nothing to learn or score.`
      })
    exchanges.push({
      question: strip(i === 0 && system !== undefined ? `<<SYS>>\n${system}\n<</SYS>>\n\n${question}` : question),
      answer
    })
  }
  return exchanges
}

const readOrFault = (messages: ReadonlyArray<Message>): ReadonlyArray<Exchange> | ChatError => {
  try {
    return exchangesOf(messages)
  } catch (cause) {
    if (cause instanceof ChatError) return cause
    throw cause
  }
}

/** The dialogue as exchanges; undefined where the format can't hold it. */
export const readExchanges = (messages: ReadonlyArray<Message>): ReadonlyArray<Exchange> | undefined => {
  const read = readOrFault(messages)
  return read instanceof ChatError ? undefined : read
}

/** Tokens of a dialogue that ends with an answer, and which of them carry loss: the answers' and the EOS after each. */
export const encodeDialogue = (
  tokenizer: Tokenizer,
  messages: ReadonlyArray<Message>
): { readonly tokens: Array<number>; readonly lossMask: Array<boolean> } => {
  const out = new TokenBuffer()
  const ends = appendDialogue(tokenizer, exchangesOf(messages), out)
  return { tokens: out.slice(), lossMask: lossMaskOf(ends) }
}

/**
 * Appends the tokens of a dialogue that ends with an answer. Gives where its questions and answers end, in turn: how many tokens there are up to the end of
 * the first question ([/INST]), of the first answer (its EOS), of the second question, and so on.
 */
export const appendDialogue = (tokenizer: Tokenizer, exchanges: ReadonlyArray<Exchange>, out: TokenBuffer): Array<number> => {
  if (exchanges.at(-1)!.answer === undefined)
    throw new ChatError({
      reason: "without an answer at the end",
      message: "The dialogue ends with a question: there is no answer to learn or score."
    })
  const start = out.length
  return exchanges.flatMap((exchange) => {
    appendQuestion(tokenizer, exchange, out)
    const asked = out.length - start
    appendAnswer(tokenizer, exchange, out)
    return [asked, out.length - start]
  })
}

/** Which tokens carry loss, of a dialogue whose questions and answers end so: the answers'. */
export const lossMaskOf = (ends: ReadonlyArray<number>): Array<boolean> =>
  ends.flatMap((end, i) => new Array<boolean>(end - (ends[i - 1] ?? 0)).fill(i % 2 === 1))

/** Tokens of a dialogue that ends with a question: what a model is to continue, up to and including [/INST]. */
export const encodePrompt = (tokenizer: Tokenizer, messages: ReadonlyArray<Message>): Array<number> => {
  const exchanges = exchangesOf(messages)
  if (exchanges.at(-1)!.answer !== undefined)
    throw new ChatError({
      reason: "with an answer at the end",
      message: "The dialogue ends with an answer: there is nothing to continue."
    })
  const out = new TokenBuffer()
  appendPrompt(tokenizer, exchanges, out)
  return out.slice()
}

/** Appends the tokens of a dialogue up to its last question's [/INST], whether or not an answer follows. */
export const appendPrompt = (tokenizer: Tokenizer, exchanges: ReadonlyArray<Exchange>, out: TokenBuffer): void => {
  for (const { question, answer } of exchanges.slice(0, -1)) {
    out.push(tokenizer.bosId)
    tokenizer.append(`[INST] ${question} [/INST] ${answer!} `, out)
    out.push(tokenizer.eosId)
  }
  appendQuestion(tokenizer, exchanges.at(-1)!, out)
}

const appendQuestion = (tokenizer: Tokenizer, { question }: Exchange, out: TokenBuffer): void => {
  out.push(tokenizer.bosId)
  tokenizer.append(`[INST] ${question} [/INST]`, out)
}

/** Appends the tokens of an answer and its EOS, to those of its question. */
export const appendAnswer = (tokenizer: Tokenizer, { question, answer }: Exchange, out: TokenBuffer): void => {
  // Question and answer are one text to the tokenizer, so the answer's tokens are what follows the question's.
  if (!tokenizer.appendAfter(`[INST] ${question} [/INST]`, ` ${answer!} `, out))
    throw new ChatError({
      reason: "whose answer the tokenizer joins to [/INST]",
      message: "The tokenizer joins [/INST] to the answer, so that no token boundary is between them: give one with word-wise pieces."
    })
  out.push(tokenizer.eosId)
}

/** A dialogue as text in the chat format, BOS and EOS left out: what a small base model is pretrained on. */
export const dialogueText = (messages: ReadonlyArray<Message>): string =>
  exchangesOf(messages)
    .map(({ question, answer }) => (answer === undefined ? `[INST] ${question} [/INST]` : `[INST] ${question} [/INST] ${answer}`))
    .join(" ")

/** Why the format can't hold the dialogue; undefined where it can: user and assistant alternate, no tags in the text, no empty answer. */
export const formatFault = (messages: ReadonlyArray<Message>): ChatError | undefined => {
  const read = readOrFault(messages)
  return read instanceof ChatError ? read : undefined
}

/** Whether the format holds the dialogue. */
export const fitsChatFormat = (messages: ReadonlyArray<Message>): boolean => formatFault(messages) === undefined
