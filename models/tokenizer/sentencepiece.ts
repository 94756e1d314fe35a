/**
 * Llama 2's tokenizer (§2.2): SentencePiece BPE with exactly the same output as spm_encode. A space becomes U+2581 and one is prepended; then the neighbouring
 * pair that makes the best-scored piece is joined until no pair makes one; characters without a piece become bytes. Control tokens never come from
 * text: a "<s>" that a user typed is three characters.
 */
import { Joiner } from "./joining.ts"
import type { ModelFile, Piece } from "./model-file.ts"
import { TokenBuffer } from "./token-buffer.ts"
import type { ChatSettings, Tokenizer } from "./tokenizer.ts"
import { decodeUtf8 } from "./utf8.ts"
import { WordCache } from "./word-cache.ts"

const space = "\u2581"
/** Text of the unknown piece when decoded. */
const unknown = " \u2047 "
const spaceByte = 0x20

const utf8 = new TextEncoder()

export class SentencePieceTokenizer implements Tokenizer {
  readonly model: ModelFile
  readonly chat: ChatSettings | undefined
  readonly stopIds: ReadonlyArray<number>
  /** Maps bytes to the ids of the byte pieces, and back. */
  readonly #byteIds: Array<number> = []
  readonly #bytes = new Map<number, number>()
  /** Created with the first word that is tokenised, since it accounts for most of the tokenizer's loading time. */
  #joiner: Joiner | undefined
  /** Ids of the pieces that joining may make, by text: never a control, unknown or byte piece. */
  readonly #ids = new Map<string, number>()
  /** Whether no piece spans two words, so that words (a run of spaces and the text after it) can be tokenised separately. */
  readonly #wordwise: boolean
  readonly #words = new WordCache()
  /** The bytes of the text being encoded. */
  #text = Buffer.alloc(0)
  readonly #scratch = new TokenBuffer()
  /** 0 in Llama 2's vocabulary; BOS is 1 and EOS 2. */
  readonly unkId: number
  readonly bosId: number
  readonly eosId: number

  /** `stops`: further tokens that end an answer, in addition to EOS. */
  constructor(
    model: ModelFile,
    { chat, stops = [] }: { readonly chat?: ChatSettings | undefined; readonly stops?: ReadonlyArray<number> } = {}
  ) {
    this.model = model
    this.chat = chat
    model.pieces.forEach((piece, id) => {
      if (piece.type === "normal" || piece.type === "unused") this.#ids.set(piece.text, id)
      else if (piece.type === "byte") {
        const byte = Number.parseInt(piece.text.slice(3, 5), 16)
        this.#byteIds[byte] = id
        this.#bytes.set(id, byte)
      }
    })
    const control = (text: string) => model.pieces.findIndex((piece) => piece.text === text && piece.type === "control")
    this.unkId = model.pieces.findIndex((piece) => piece.type === "unknown")
    this.bosId = control("<s>")
    this.eosId = control("</s>")
    this.stopIds = [...new Set([this.eosId, ...stops])]
    this.#wordwise = [...this.#ids.keys()].every((text) => !/[^\u2581]\u2581/.test(text))
  }

  get vocabSize(): number {
    return this.model.pieces.length
  }
  get pieces(): ReadonlyArray<Piece> {
    return this.model.pieces
  }
  /**
   * Pads the shorter sequences of a batch. Llama 2 has no padding token, so the unknown token is used and always masked; never the
   * end-of-sequence token, which must carry loss.
   */
  get padId(): number {
    return this.unkId
  }

  get controls(): ReadonlyMap<string, number> {
    return new Map(this.pieces.flatMap(({ text, type }, id) => (type === "control" || type === "unknown" ? [[text, id] as const] : [])))
  }

  /** Token ids of a text, without BOS and EOS. Lone surrogates are read as U+FFFD. */
  encode(text: string): Array<number> {
    this.#scratch.length = 0
    this.append(text, this.#scratch)
    return this.#scratch.slice()
  }

  /** Appends the token ids of a text. Only a control token may precede it: a run of unknown characters is one unknown piece. */
  append(text: string, out: TokenBuffer): void {
    if (text !== "") this.#append(this.model.addDummyPrefix ? ` ${text}` : text, out)
  }

  /**
   * Appends the tokens that `text` adds to those of `before`, which `out` ends with. Returns false, without appending, if a token would span
   * both. `text` starts with a space and `before` ends without one.
   */
  appendAfter(before: string, text: string, out: TokenBuffer): boolean {
    if (this.#wordwise) this.#append(text, out)
    else {
      const first = this.encode(before)
      const whole = this.encode(before + text)
      if (first.some((id, i) => whole[i] !== id)) return false
      for (const id of whole.slice(first.length)) out.push(id)
    }
    return true
  }

  #append(text: string, out: TokenBuffer): void {
    // Both characters are treated as a space.
    const spaced = text.includes(space) ? text.replaceAll(space, " ") : text
    if (this.#text.length < 3 * spaced.length) this.#text = Buffer.allocUnsafeSlow(6 * spaced.length)
    const bytes = this.#text
    const { written } = utf8.encodeInto(spaced, bytes)
    for (let at = 0; at < written;) {
      const from = at
      // 32-bit FNV-1a.
      let hash = 0x811c9dc5
      if (this.#wordwise) {
        for (; at < written && bytes[at] === spaceByte; at++) hash = Math.imul(hash ^ spaceByte, 0x01000193)
        for (; at < written && bytes[at] !== spaceByte; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193)
      } else for (; at < written; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193)
      const start = out.length
      if (!this.#words.append(bytes, from, at, hash, out)) {
        this.#joiner ??= new Joiner(this.model, { ids: this.#ids, byteIds: this.#byteIds, unkId: this.unkId })
        this.#joiner.append(bytes.toString("utf8", from, at).replaceAll(" ", space), out)
        this.#words.add(bytes, from, at, hash, out, start)
      }
      if (!this.model.byteFallback) this.#joinUnknown(out, start)
    }
  }

  /** A run of unknown characters is one unknown piece: removes the duplicates from `start`. */
  #joinUnknown(out: TokenBuffer, start: number): void {
    let length = start
    for (let i = start; i < out.length; i++) {
      const id = out.ids[i]!
      if (id !== this.unkId || length === 0 || out.ids[length - 1] !== id) out.ids[length++] = id
    }
    out.length = length
  }

  /** The text of token ids, as decoded by SentencePiece: control tokens are dropped, bytes are joined, the prepended space is removed. Throws RangeError for an invalid id. */
  decode(ids: Iterable<number>): string {
    const parts: Array<string> = []
    let bytes: Array<number> = []
    const flush = () => {
      if (bytes.length > 0) parts.push(decodeUtf8(Uint8Array.from(bytes)))
      bytes = []
    }
    let atStart = this.model.addDummyPrefix
    for (const id of ids) {
      const piece = this.model.pieces[id]
      if (piece === undefined) throw new RangeError(`token ${id} is not in the vocabulary of ${this.vocabSize}`)
      if (piece.type === "byte") bytes.push(this.#bytes.get(id)!)
      else flush()
      if (piece.type === "control") continue
      if (piece.type === "unknown") parts.push(unknown)
      else if (piece.type !== "byte")
        parts.push((atStart && piece.text.startsWith(space) ? piece.text.slice(1) : piece.text).replaceAll(space, " "))
      atStart = false
    }
    flush()
    return parts.join("")
  }
}
