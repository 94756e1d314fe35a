/**
 * A chat template as a chat format. The answer tokens are found by rendering turn by turn:
 *
 *     prompt      the rendering of the messages before an answer, with the generation prompt
 *     answer      the rendering of the messages including the answer, minus the prompt, up to the last control token: the answer and its stop token
 *
 * Only the answers carry loss. A template may render the start of a dialogue differently once more messages follow (Qwen 3's own template removes the thinking from earlier answers): then only
 * the last answer carries loss.
 *
 * A control token spelled out in a message is treated as text: a noncharacter is inserted into it before rendering and removed afterwards.
 */
import type { Message } from "../schemas/rows.ts"
import { ChatError, type ChatFormat, exchangesOf, type ReadDialogue, strip, unanswered } from "./chat-format.ts"
import { ChatTemplate, ChatTemplateError, inTime, RenderError } from "./chat-template.ts"
import { anyOf } from "./tokenizer/hugging-face.ts"
import { TokenBuffer } from "./tokenizer/token-buffer.ts"
import type { ChatSettings, Tokenizer } from "./tokenizer/tokenizer.ts"

/** A range in a rendered text. */
interface Span {
  readonly from: number
  readonly to: number
}
/** A rendered dialogue. */
interface Rendered {
  readonly text: string
  /** The noncharacter inserted into each control token that a message spells out. */
  readonly breaker: string
  /** From the start of each answer to the end of its stop token. */
  readonly answers: ReadonlyArray<Span>
}

/** Noncharacters, which messages rarely contain. */
const breakers = Array.from({ length: 30 }, (_, i) => String.fromCharCode(0xfdd2 + i))

const hint =
  "Correct chat_template.jinja (or chat_template in tokenizer_config.json), or choose one of Caravan's templates at import with chatTemplate."

class TemplateFormat implements ChatFormat {
  readonly #tokenizer: Tokenizer
  readonly #template: ChatTemplate
  readonly #controls: RegExp | undefined
  readonly stopIds: ReadonlyArray<number>
  readonly closing: number

  constructor(tokenizer: Tokenizer, { date, template }: ChatSettings) {
    const named = { bos_token: tokenizer.bosId, eos_token: tokenizer.eosId, pad_token: tokenizer.padId }
    const tokens = Object.entries(named).flatMap(([name, id]) => (id === undefined ? [] : [[name, tokenizer.pieces[id]!.text] as const]))
    this.#tokenizer = tokenizer
    this.#template = new ChatTemplate(template, { date, tokens: Object.fromEntries(tokens) })
    this.#controls = anyOf([...tokenizer.controls.keys()])
    const { closing, stop } = this.#probe()
    this.closing = closing
    this.stopIds = [...new Set([...tokenizer.stopIds, stop])]
  }

  read(messages: ReadonlyArray<Message>): ReadDialogue | ChatError {
    try {
      exchangesOf(messages)
      const answered = messages.at(-1)!.role === "assistant"
      const { ends, ids } = this.#tokenise(this.#render(messages))
      const promptEnd = answered ? ends.at(-2)! : ids.length
      const append = (out: TokenBuffer, from: number, to: number) => {
        for (let i = from; i < to; i++) out.push(ids[i]!)
      }
      return {
        answered,
        appendDialogue: (out) => {
          if (!answered) throw unanswered()
          append(out, 0, ids.length)
          return [...ends]
        },
        appendPrompt: (out) => append(out, 0, promptEnd),
        appendAnswer: (out) => append(out, promptEnd, ids.length)
      }
    } catch (cause) {
      if (cause instanceof ChatError) return cause
      throw cause
    }
  }

  /** Tries the template on a dialogue. Throws ChatTemplateError if it is unsuitable for training: it fails, or an answer or its stop token would carry no loss. */
  #probe(): { readonly closing: number; readonly stop: number } {
    const answers = ["Caravan one.", "Caravan two."]
    const messages = answers.flatMap((content, i): Array<Message> => [
      { role: "user", content: `Question ${i + 1}?` },
      { role: "assistant", content }
    ])
    const refuse = (expected: string, found: string): ChatTemplateError =>
      ChatTemplateError.of({ doing: "Trying the chat template on a dialogue of two questions and answers", expected, found, hint })
    try {
      const rendered = this.#render(messages)
      const { ends, ids } = this.#tokenise(rendered)
      const trained = ends.flatMap((end, i) => (i % 2 === 1 ? [this.#tokenizer.decode(ids.slice(ends[i - 1], end))] : []))
      for (const [i, text] of trained.entries()) {
        const answer = answers.at(i - trained.length)!
        if (!text.includes(answer)) throw refuse(`the answer ${JSON.stringify(answer)} in the text with loss`, JSON.stringify(text))
        if (text.includes("Question")) throw refuse("no question in the text with loss", JSON.stringify(text))
      }
      const { from } = rendered.answers.at(-1)!
      const said = { from, to: rendered.text.lastIndexOf(answers[1]!) + answers[1]!.length }
      return { closing: ids.length - this.#tokenise({ ...rendered, answers: [said] }).ids.length, stop: ids.at(-1)! }
    } catch (cause) {
      throw cause instanceof ChatError ? refuse("a template suitable for training", cause.message) : cause
    }
  }

  /** The text of a dialogue; a prompt ends where the answer starts. Throws RenderError. */
  #text(messages: ReadonlyArray<Message>, prompt: boolean, breaker: string): string {
    const controls = this.#controls
    const spells = (text: string): boolean => controls !== undefined && text.search(controls) !== -1
    const broken = messages.map(({ role, content }) => {
      let text = role === "assistant" ? strip(content) : content
      // The text around an inserted noncharacter may spell another control token.
      while (spells(text)) text = text.replaceAll(controls!, (token) => token[0] + breaker + token.slice(1))
      return { role, content: text }
    })
    return this.#template.render(broken, prompt)
  }

  /** A dialogue with its answers, or only the last one if the template renders the earlier text differently. Throws ChatError. */
  #render(messages: ReadonlyArray<Message>): Rendered {
    try {
      return inTime(() => this.#renderTurns(messages))
    } catch (cause) {
      if (!(cause instanceof RenderError)) throw cause
      throw new ChatError({
        reason: "that the chat template refuses",
        message: `The chat template refuses the dialogue: ${cause.message}.`
      })
    }
  }

  #renderTurns(messages: ReadonlyArray<Message>): Rendered {
    const breaker = breakers.find((character) => messages.every(({ content }) => !content.includes(character)))
    if (breaker === undefined)
      throw new ChatError({
        reason: "with noncharacters in the text",
        message: `The messages contain ${breakers.length} different noncharacters (from U+FDD2).`
      })
    const turns = messages.flatMap(({ role }, i) =>
      role === "assistant"
        ? [{ prompt: this.#text(messages.slice(0, i), true, breaker), whole: this.#text(messages.slice(0, i + 1), false, breaker) }]
        : []
    )
    if (messages.at(-1)!.role !== "assistant") return { text: this.#text(messages, true, breaker), breaker, answers: [] }
    const { prompt, whole: text } = turns.at(-1)!
    if (!text.startsWith(prompt))
      throw new ChatError({
        reason: "whose answer the chat template does not write after its prompt",
        message: "The chat template renders the text before an answer differently from the prompt for that answer."
      })
    const steady = turns.every((turn) => turn.whole.startsWith(turn.prompt) && text.startsWith(turn.whole))
    const answers = (steady ? turns : turns.slice(-1)).map((turn): Span => {
      const from = turn.prompt.length
      const stop = this.#controls === undefined ? undefined : [...turn.whole.slice(from).matchAll(this.#controls)].at(-1)
      if (stop === undefined)
        throw new ChatError({
          reason: "that the chat template ends without a stop token",
          message: "The chat template writes no control token after an answer: a model would never learn to stop."
        })
      return { from, to: from + stop.index + stop[0].length }
    })
    return { text, breaker, answers }
  }

  /** The tokens up to the end of the last answer, and the cumulative token counts at the ends of the parts without and with loss, in turn. Throws ChatError. */
  #tokenise({ answers, breaker, text }: Rendered): { readonly ids: ReadonlyArray<number>; readonly ends: ReadonlyArray<number> } {
    const out = new TokenBuffer()
    const cuts = answers.flatMap(({ from, to }) => [from, to])
    const end = cuts.at(-1) ?? text.length
    const ends: Array<number> = []
    const plain = (from: number, to: number) => text.slice(from, to).replaceAll(breaker, "")
    const appendText = (from: number, to: number) => {
      const start = out.length
      this.#tokenizer.append(plain(from, to), out)
      // A boundary within this text: the tokens before it must equal those of the prompt.
      for (let cut = cuts[ends.length]; cut !== undefined && cut < to; cut = cuts[ends.length]) {
        const before = new TokenBuffer()
        if (start > 0) before.push(out.ids[start - 1]!)
        const first = before.length
        if (cut > from) this.#tokenizer.append(plain(from, cut), before)
        const tokens = before.slice(first)
        if (tokens.some((id, i) => out.ids[start + i] !== id) || start + tokens.length > out.length)
          throw new ChatError({
            reason: "whose answer the tokenizer joins to its prompt",
            message:
              "The tokenizer merges the end of the prompt and the start of the answer into one token, so there is no boundary between them."
          })
        ends.push(start + tokens.length)
      }
    }
    let at = 0
    for (const { 0: token, index } of this.#controls === undefined ? [] : text.matchAll(this.#controls)) {
      if (index >= end) break
      if (index > at) appendText(at, index)
      while (cuts[ends.length] !== undefined && cuts[ends.length]! <= index) ends.push(out.length)
      out.push(this.#tokenizer.controls.get(token)!)
      at = index + token.length
    }
    if (at < end) appendText(at, end)
    while (ends.length < cuts.length) ends.push(out.length)
    return { ids: out.slice(), ends }
  }
}

/** The format of a chat template. Throws ChatTemplateError for an unusable template. */
export const templateFormat = (tokenizer: Tokenizer, settings: ChatSettings): ChatFormat => new TemplateFormat(tokenizer, settings)
