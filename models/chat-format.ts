/** How a model's dialogues are written: what Llama 2's format (llama2-format.ts) and chat templates (template-format.ts) both are, and the dialogues that both take. */
import * as Schema from "effect/Schema"
import type { Message } from "../schemas/rows.ts"
import type { TokenBuffer } from "./tokenizer/token-buffer.ts"

/** A dialogue that the format can't hold. */
export class ChatError extends Schema.TaggedError<ChatError>()("ChatError", {
  /** The kind of fault, for many dialogues alike, as what follows "90 dialogues:". */
  reason: Schema.String,
  message: Schema.String
}) {
  readonly isRetryable = false
}

/** A dialogue that the format holds. */
export interface ReadDialogue {
  /** Whether it ends with an answer. */
  readonly answered: boolean
  /**
   * Appends the tokens of a dialogue that ends with an answer, up to the token that ends it. Gives where its parts end, in turn: how many tokens there are up to the end of the first
   * part without loss, of the first part with loss (an answer and the token that ends it), of the second part without loss, and so on. Throws ChatError for one that ends with a question.
   */
  readonly appendDialogue: (out: TokenBuffer) => Array<number>
  /** Appends the tokens up to where the last answer begins, whether or not there is one: what a model is to continue. */
  readonly appendPrompt: (out: TokenBuffer) => void
  /** Appends the tokens of the last answer, with the one that ends it, to those of its prompt. */
  readonly appendAnswer: (out: TokenBuffer) => void
}

/** What appending the answers of a dialogue that ends with a question throws. */
export const unanswered = (): ChatError =>
  new ChatError({
    reason: "without an answer at the end",
    message: "The dialogue ends with a question: there is no answer to learn or score."
  })

export interface ChatFormat {
  /** Tokens of which each ends an answer. */
  readonly stopIds: ReadonlyArray<number>
  /** How many tokens close an answer after its last word, its stop token among them: what one that was cut off lacks. */
  readonly closing: number
  /** The dialogue, or why the format can't hold it. */
  readonly read: (messages: ReadonlyArray<Message>) => ReadDialogue | ChatError
}

/** White space as Python's strip has it: trim() would leave U+001C to U+001F and U+0085, and take a byte-order mark. */
const isWhiteSpace = (code: number): boolean =>
  (code >= 0x1c && code <= 0x1f) || code === 0x85 || (code !== 0xfeff && String.fromCharCode(code).trim() === "")
export const strip = (text: string): string => {
  let [start, end] = [0, text.length]
  while (start < end && isWhiteSpace(text.charCodeAt(start))) start++
  while (end > start && isWhiteSpace(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

/** A question and its answer, which is stripped. */
export interface Exchange {
  /** Before the first question, if there is one. */
  readonly system?: string | undefined
  readonly question: string
  readonly answer: string | undefined
}

/**
 * The dialogue as exchanges. Throws ChatError unless user and assistant alternate, after at most one system message, and no answer is empty; `contentOf` may throw it for a message that the
 * format can't hold.
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
    exchanges.push({ system: i === 0 ? system : undefined, question, answer })
  }
  return exchanges
}
