/**
 * The tokenizer (Llama 2 §2.2): SentencePiece BPE, byte-exactly as spm_encode. A space becomes U+2581, one is put in front, then the pair of
 * neighbours that makes the best-scored piece is joined until none does; what no piece covers becomes bytes. Control tokens never come from
 * text: a "<s>" that somebody typed is three characters.
 */
import { Heap } from "./heap.ts"
import type { ModelFile, Piece } from "./model-file.ts"
import { decodeUtf8 } from "./utf8.ts"

const space = "\u2581"
/** Surface of the unknown piece. */
const unknown = " \u2047 "

/** Words (a run of spaces and what follows) are tokenised once and remembered, up to so many, unless they are longer than so many characters. */
const cachedWords = 100_000
const cachedLength = 256

interface Join {
  readonly score: number
  readonly left: number
  readonly right: number
  /** Of the joined text: tells a join that is out of date. */
  readonly length: number
}
/** Highest score first, among equals the leftmost. */
const before = (a: Join, b: Join): boolean => a.score > b.score || (a.score === b.score && a.left < b.left)

export class Tokenizer {
  readonly model: ModelFile
  /** Ids of what joining may make, by text: never a control, unknown or byte piece. */
  readonly #ids = new Map<string, number>()
  /** Ids of the byte pieces, and back. */
  readonly #byteIds: Array<number> = []
  readonly #bytes = new Map<number, number>()
  readonly #cache = new Map<string, ReadonlyArray<number>>()
  /** Whether no piece joins a word to the one before it, so that words can be tokenised apart. */
  readonly #wordwise: boolean
  /** 0 in Llama 2's vocabulary, as BOS is 1 and EOS 2. */
  readonly unkId: number
  readonly bosId: number
  readonly eosId: number

  constructor(model: ModelFile) {
    this.model = model
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
    this.#wordwise = [...this.#ids.keys()].every((text) => !/[^\u2581]\u2581/.test(text))
  }

  get vocabSize(): number {
    return this.model.pieces.length
  }
  get pieces(): ReadonlyArray<Piece> {
    return this.model.pieces
  }
  /**
   * What fills up the shorter sequences of a batch. Llama 2 has no token for it, so the unknown one serves, always masked; never the
   * end-of-sequence token, which must carry loss.
   */
  get padId(): number {
    return this.unkId
  }

  /** Token ids of a text, without BOS and EOS. Lone surrogates count as U+FFFD. */
  encode(text: string): Array<number> {
    if (text === "") return []
    const escaped = (this.model.addDummyPrefix ? space : "") + text.toWellFormed().replaceAll(" ", space)
    const out: Array<number> = []
    for (const [word] of this.#wordwise ? escaped.matchAll(/\u2581*[^\u2581]+|\u2581+/g) : [[escaped]]) {
      let ids = this.#cache.get(word)
      if (ids === undefined) {
        ids = this.#encodeWord(word)
        if (word.length <= cachedLength) {
          if (this.#cache.size >= cachedWords) this.#cache.clear()
          this.#cache.set(word, ids)
        }
      }
      // A run of unknown characters is one unknown piece.
      for (const id of ids) if (id !== this.unkId || out.at(-1) !== id) out.push(id)
    }
    return out
  }

  /** Joins the best pair of neighbours again and again. */
  #encodeWord(word: string): ReadonlyArray<number> {
    const symbols = Array.from(word)
    const next = symbols.map((_, i) => (i + 1 < symbols.length ? i + 1 : -1))
    const previous = symbols.map((_, i) => i - 1)
    const agenda = new Heap(before)
    /** Of unused pieces: what they were joined of. */
    const parts = new Map<string, readonly [string, string]>()
    const consider = (left: number, right: number) => {
      if (left === -1 || right === -1) return
      const joined = symbols[left]! + symbols[right]!
      const id = this.#ids.get(joined)
      if (id === undefined) return
      const { score, type } = this.model.pieces[id]!
      agenda.push({ score, left, right, length: joined.length })
      if (type === "unused") parts.set(joined, [symbols[left]!, symbols[right]!])
    }
    for (let i = 0; i + 1 < symbols.length; i++) consider(i, i + 1)
    for (let best = agenda.pop(); best !== undefined; best = agenda.pop()) {
      const { left, right, length } = best
      // Out of date when either side has been joined since.
      if (symbols[left] === "" || symbols[right] === "" || symbols[left]!.length + symbols[right]!.length !== length) continue
      symbols[left] += symbols[right]!
      symbols[right] = ""
      const after = next[right]!
      next[left] = after
      if (after !== -1) previous[after] = left
      consider(previous[left]!, left)
      consider(left, after)
    }
    const out: Array<number> = []
    const emit = (symbol: string): void => {
      const id = this.#ids.get(symbol)
      const split = parts.get(symbol)
      if (split !== undefined) split.forEach(emit)
      else if (id !== undefined) out.push(id)
      else if (this.model.byteFallback) for (const byte of Buffer.from(symbol)) out.push(this.#byteIds[byte]!)
      else out.push(this.unkId)
    }
    for (const symbol of symbols) if (symbol !== "") emit(symbol)
    return out
  }

  /** The text of token ids, as SentencePiece gives it: control tokens vanish, bytes are joined, the space put in front is taken away. Throws a RangeError for what is not an id. */
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
