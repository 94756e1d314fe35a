/**
 * What a tokenizer is to all that use one: SentencePiece's tokenizer.model (sentencepiece.ts), or Hugging Face's tokenizer.json (hugging-face.ts). Control tokens never come from
 * text: a "<s>" or "<|eot_id|>" that somebody typed is ordinary characters. transformers makes the token of it; here that would let a user's text end a turn.
 */
import type { Piece } from "./model-file.ts"
import type { TokenBuffer } from "./token-buffer.ts"

/** How a model's dialogues are written, where it is not Llama 2's way (models/chat.ts). */
export interface ChatSettings {
  /** A Jinja template, as in chat_template.jinja. */
  readonly template: string
  /** What a template that asks for today's date gets, as "26 Jul 2024". */
  readonly date: string
}

export interface Tokenizer {
  /** By id. */
  readonly pieces: ReadonlyArray<Piece>
  readonly vocabSize: number
  /** undefined: the model has none, and texts begin without one (Qwen). */
  readonly bosId: number | undefined
  readonly eosId: number
  /**
   * What fills up the shorter sequences of a batch, always masked. Llama 2 has no token for it, so the unknown one serves; never the end-of-sequence token where there is another,
   * as that carries loss.
   */
  readonly padId: number
  /** Tokens of which each ends an answer; EOS is the first. */
  readonly stopIds: ReadonlyArray<number>
  /** Control tokens by the text that stands for them in templates. */
  readonly controls: ReadonlyMap<string, number>
  /** undefined: Llama 2's format. */
  readonly chat: ChatSettings | undefined

  /** Token ids of a text, without BOS and EOS. Lone surrogates count as U+FFFD. */
  encode(text: string): Array<number>
  /** Appends the token ids of a text. What comes before must be a control token, if anything does. */
  append(text: string, out: TokenBuffer): void
  /**
   * Appends the tokens that `text` adds to those of `before`, which `out` ends with; false, and nothing appended, where a token would hold some of both.
   * `text` begins with a space and `before` ends without one.
   */
  appendAfter(before: string, text: string, out: TokenBuffer): boolean
  /** The text of token ids; control tokens vanish. Throws a RangeError for what is not an id. */
  decode(ids: Iterable<number>): string
}
