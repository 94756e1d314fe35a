/** The interface of a model's chat format, implemented by Llama 2's format (llama2-format.ts) and by chat templates (template-format.ts), and the dialogue checks that both share. */
import * as Schema from "effect/Schema"
import type { Message } from "../schemas/rows.ts"
import type { TokenBuffer } from "./tokenizer/token-buffer.ts"

/** A dialogue that the format cannot represent. */
export class ChatError extends Schema.TaggedError<ChatError>()("ChatError", {
  /** The kind of fault, shared by many dialogues; worded to follow "90 dialogues:". */
  reason: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** A dialogue that the format can represent. */
export interface ReadDialogue {
  /** Whether the dialogue ends with an answer. */
  readonly answered: boolean
  /**
   * Appends the tokens of a dialogue that ends with an answer, including the token that ends it. Returns the cumulative token counts at the ends of its alternating parts: the first
   * part without loss, the first part with loss (an answer and its end token), the second part without loss, and so on. Throws ChatError for a dialogue that ends with a question.
   */
  readonly appendDialogue: (out: TokenBuffer) => Array<number>
  /** Appends the tokens up to the start of the last answer, whether or not an answer exists: the model's prompt. */
  readonly appendPrompt: (out: TokenBuffer) => void
  /** Appends the tokens of the last answer, including its end token, after those of its prompt. */
  readonly appendAnswer: (out: TokenBuffer) => void
}

/** The error for appending the answers of a dialogue that ends with a question. */
export const unanswered = (): ChatError =>
  new ChatError({
    reason: "without an answer at the end",
    message: "The dialogue ends with a question: there is no answer to train on or score."
  })

export interface ChatFormat {
  /** Tokens that each end an answer. */
  readonly stopIds: ReadonlyArray<number>
  /** Number of tokens that close an answer after its text, including the stop token. A truncated answer does not have them. */
  readonly closing: number
  /** The dialogue, or the reason why the format cannot represent it. */
  readonly read: (messages: ReadonlyArray<Message>) => ReadDialogue | ChatError
}

/** White space as defined by Python's strip; trim() would keep U+001C to U+001F and U+0085, and remove a byte-order mark. */
const isWhiteSpace = (code: number): boolean =>
  (code >= 0x1c && code <= 0x1f) || code === 0x85 || (code !== 0xfeff && String.fromCharCode(code).trim() === "")
export const strip = (text: string): string => {
  let [start, end] = [0, text.length]
  while (start < end && isWhiteSpace(text.charCodeAt(start))) start++
  while (end > start && isWhiteSpace(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

/** A question and its answer. White space around the answer is removed. */
export interface Exchange {
  /** The system prompt before the first question, if any. */
  readonly system?: string | undefined
  readonly question: string
  readonly answer: string | undefined
}

/**
 * The dialogue as exchanges. Throws ChatError unless user and assistant alternate, after at most one system message, and no answer is empty.
 * `contentOf` may throw ChatError for a message that the format cannot represent.
 */
export const exchangesOf = (
  messages: ReadonlyArray<Message>,
  contentOf: (message: Message, index: number) => string = (message) => message.content
): Array<Exchange> => {
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
        message: `Message ${i + offset + 1} must come from the ${expected}, but comes from the ${message.role}: user and assistant must alternate, starting with the user, after at most one system message.`
      })
  })
  for (let i = 0; i < turns.length; i += 2) {
    const question = contentOf(turns[i]!, i + offset)
    const reply = turns[i + 1]
    const answer = reply === undefined ? undefined : strip(contentOf(reply, i + offset + 1))
    if (answer === "")
      throw new ChatError({
        reason: "with an empty answer",
        message: `Message ${i + offset + 2} (assistant) is empty: there is nothing to train on or score.`
      })
    exchanges.push({ system: i === 0 ? system : undefined, question, answer })
  }
  return exchanges
}
