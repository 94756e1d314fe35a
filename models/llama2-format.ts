/**
 * Llama 2's chat format, as in Meta's released code:
 *
 *     <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {answer} </s><s>[INST] {user} [/INST]
 *
 * BOS and EOS are control tokens around each exchange, never text; the last [/INST] has no EOS after it. Questions (including the system
 * prompt) and answers are stripped. Each exchange is tokenised separately, so that a prefix of the dialogue is a prefix of its tokens.
 */
import type { Message } from "../schemas/rows.ts"
import { ChatTemplate, ChatTemplateError, defaultDate, inTime, RenderError } from "./chat-template.ts"
import { ChatError, type ChatFormat, type Exchange, exchangesOf, strip, unanswered } from "./chat-format.ts"
import type { TokenBuffer } from "./tokenizer/token-buffer.ts"
import type { Tokenizer } from "./tokenizer/tokenizer.ts"

/** The format's tags. They are ordinary text to the tokenizer: one in a user's text would end a turn. */
const tags = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]
/** The first tag that a text contains, if any. */
export const tagIn = (text: string): string | undefined => tags.find((tag) => text.includes(tag))
export const withTag = "with a tag of the chat format in the text"

/** The text with a backslash inserted into each of the format's tags, so that it contains none: `[\INST]`, `<\</SYS>>`. */
export const escapeTags = (text: string): string => text.replaceAll(/\[(?=\/?INST\])/g, "[\\").replaceAll(/<(?=<\/?SYS>>)/g, "<\\")

const contentOf = (message: Message, index: number): string => {
  const found = tagIn(message.content)
  if (found !== undefined)
    throw new ChatError({
      reason: withTag,
      message: `Message ${index + 1} (${message.role}) contains the tag ${found} of Llama 2's chat format. Remove the tag or the dialogue.`
    })
  return message.content
}

const foldSystem = (system: string, question: string): string => `<<SYS>>\n${system}\n<</SYS>>\n\n${question}`

const readOrFault = (messages: ReadonlyArray<Message>): ReadonlyArray<Exchange> | ChatError => {
  try {
    return exchangesOf(messages, contentOf).map(({ answer, question, system }) => ({
      question: strip(system === undefined ? question : foldSystem(system, question)),
      answer
    }))
  } catch (cause) {
    if (cause instanceof ChatError) return cause
    throw cause
  }
}

/** The format of a tokenizer's model. Throws ChatTemplateError if it has no BOS. */
export const llama2Format = (tokenizer: Tokenizer): ChatFormat => {
  if (tokenizer.bosId === undefined)
    throw ChatTemplateError.of({
      doing: "Reading the model's chat format",
      expected: "a chat template (chat_template.jinja), or a beginning-of-sequence token for Llama 2's format",
      found: "neither",
      hint: "Put the chat template of the model's chat version into the folder, or choose one of Caravan's templates at import with chatTemplate."
    })
  return {
    stopIds: tokenizer.stopIds,
    // A space and EOS.
    closing: 2,
    read: (messages) => {
      const exchanges = readOrFault(messages)
      if (exchanges instanceof ChatError) return exchanges
      return {
        answered: exchanges.at(-1)!.answer !== undefined,
        appendDialogue: (out) => appendDialogue(tokenizer, exchanges, out),
        appendPrompt: (out) => appendPrompt(tokenizer, exchanges, out),
        appendAnswer: (out) => appendAnswer(tokenizer, exchanges.at(-1)!, out)
      }
    }
  }
}

/** Whether a chat template produces this format, as the one in Llama 2's published folders does. */
export const isLlama2Template = (template: string): boolean => {
  const dialogue: ReadonlyArray<Message> = [
    { role: "system", content: " Be brief. " },
    { role: "user", content: " Who?\n" },
    { role: "assistant", content: " I. " },
    { role: "user", content: "Why? " }
  ]
  const written = (messages: ReadonlyArray<Message>) =>
    exchangesOf(messages, contentOf)
      .map(
        ({ answer, question, system }) =>
          `<s>[INST] ${strip(system === undefined ? question : foldSystem(system, question))} [/INST]${answer === undefined ? "" : ` ${answer} </s>`}`
      )
      .join("")
  try {
    const rendered = new ChatTemplate(template, { date: defaultDate, tokens: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" } })
    return inTime(() =>
      [dialogue, dialogue.slice(1), dialogue.slice(1, 3)].every(
        (messages) => rendered.render(messages, messages.at(-1)!.role === "user") === written(messages)
      )
    )
  } catch (cause) {
    if (cause instanceof RenderError || cause instanceof ChatTemplateError) return false
    throw cause
  }
}

/**
 * Appends the tokens of a dialogue that ends with an answer. Returns the cumulative token counts at the end of each question and answer in turn: the first
 * question ([/INST]), the first answer (its EOS), the second question, and so on.
 */
const appendDialogue = (tokenizer: Tokenizer, exchanges: ReadonlyArray<Exchange>, out: TokenBuffer): Array<number> => {
  if (exchanges.at(-1)!.answer === undefined) throw unanswered()
  const start = out.length
  return exchanges.flatMap((exchange) => {
    appendQuestion(tokenizer, exchange, out)
    const asked = out.length - start
    appendAnswer(tokenizer, exchange, out)
    return [asked, out.length - start]
  })
}

/** Appends the tokens of a dialogue up to its last question's [/INST], whether or not an answer follows. */
const appendPrompt = (tokenizer: Tokenizer, exchanges: ReadonlyArray<Exchange>, out: TokenBuffer): void => {
  for (const { question, answer } of exchanges.slice(0, -1)) {
    out.push(tokenizer.bosId!)
    tokenizer.append(`[INST] ${question} [/INST] ${answer!} `, out)
    out.push(tokenizer.eosId)
  }
  appendQuestion(tokenizer, exchanges.at(-1)!, out)
}

const appendQuestion = (tokenizer: Tokenizer, { question }: Exchange, out: TokenBuffer): void => {
  out.push(tokenizer.bosId!)
  tokenizer.append(`[INST] ${question} [/INST]`, out)
}

/** Appends the tokens of an answer and its EOS after those of its question. */
const appendAnswer = (tokenizer: Tokenizer, { question, answer }: Exchange, out: TokenBuffer): void => {
  // The tokenizer treats question and answer as one text, so the answer's tokens are those after the question's.
  if (!tokenizer.appendAfter(`[INST] ${question} [/INST]`, ` ${answer!} `, out))
    throw new ChatError({
      reason: "whose answer the tokenizer joins to [/INST]",
      message:
        "The tokenizer joins [/INST] to the answer, so there is no token boundary between them. Use a tokenizer whose pieces do not span words."
    })
  out.push(tokenizer.eosId)
}

/** A dialogue as text in the format, without BOS and EOS, for pretraining a small base model. Throws ChatError. */
export const dialogueText = (messages: ReadonlyArray<Message>): string => {
  const exchanges = readOrFault(messages)
  if (exchanges instanceof ChatError) throw exchanges
  return exchanges
    .map(({ question, answer }) => (answer === undefined ? `[INST] ${question} [/INST]` : `[INST] ${question} [/INST] ${answer}`))
    .join(" ")
}

/** Why the format cannot represent the dialogue; undefined if it can: user and assistant alternate, there are no tags in the text, and no answer is empty. */
export const formatFault = (messages: ReadonlyArray<Message>): ChatError | undefined => {
  const read = readOrFault(messages)
  return read instanceof ChatError ? read : undefined
}

/** Whether the format can represent the dialogue. */
export const fitsChatFormat = (messages: ReadonlyArray<Message>): boolean => formatFault(messages) === undefined
