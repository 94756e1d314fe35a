/**
 * The tokenizer interface, implemented by SentencePiece's tokenizer.model (sentencepiece.ts) and Hugging Face's tokenizer.json (hugging-face.ts). Control tokens never come from
 * text: a "<s>" or "<|eot_id|>" that a user typed is ordinary characters. transformers would produce the control token; here that would let a user's text end a turn.
 */
import type { Piece } from "./model-file.ts"
import type { TokenBuffer } from "./token-buffer.ts"

/** A model's chat format when it is not Llama 2's (models/chat.ts). */
export interface ChatSettings {
  /** A Jinja template, as in chat_template.jinja. */
  readonly template: string
  /** The value for a template that asks for today's date, as "26 Jul 2024". */
  readonly date: string
}

export interface Tokenizer {
  /** By id. */
  readonly pieces: ReadonlyArray<Piece>
  readonly vocabSize: number
  /** undefined: the model has no BOS, and texts start without one (Qwen). */
  readonly bosId: number | undefined
  readonly eosId: number
  /**
   * Pads the shorter sequences of a batch, always masked. Llama 2 has no padding token, so the unknown token is used; never the end-of-sequence token if there is another choice,
   * since that one carries loss.
   */
  readonly padId: number
  /** Tokens that each end an answer; EOS is the first. */
  readonly stopIds: ReadonlyArray<number>
  /** Control tokens by their text in templates. */
  readonly controls: ReadonlyMap<string, number>
  /** undefined: Llama 2's format. */
  readonly chat: ChatSettings | undefined

  /** Token ids of a text, without BOS and EOS. Lone surrogates are read as U+FFFD. */
  encode(text: string): Array<number>
  /** Appends the token ids of a text. Only a control token may precede it. */
  append(text: string, out: TokenBuffer): void
  /**
   * Appends the tokens that `text` adds to those of `before`, which `out` ends with. Returns false, without appending, if a token would span both.
   * `text` starts with a space and `before` ends without one.
   */
  appendAfter(before: string, text: string, out: TokenBuffer): boolean
  /** The text of token ids; control tokens are dropped. Throws RangeError for an invalid id. */
  decode(ids: Iterable<number>): string
}
