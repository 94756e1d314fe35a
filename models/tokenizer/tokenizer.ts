/**
 * The tokenizer (Llama 2 §2.2): SentencePiece BPE, byte-exactly as spm_encode. A space becomes U+2581, one is put in front, then the pair of
 * neighbours that makes the best-scored piece is joined until none does; what no piece covers becomes bytes. Control tokens never come from
 * text: a "<s>" that somebody typed is three characters.
 */
import type { ModelFile, Piece } from "./model-file.ts"

const space = "\u2581"

/** Words (a run of spaces and what follows) are tokenised once and remembered, up to so many. */
const cachedWords = 100_000

export class Tokenizer {
  readonly model: ModelFile
  /** Joined pieces by text: what merging may make. */
  readonly #ranks = new Map<string, number>()
  readonly #bytes = new Map<number, number>()
  readonly #cache = new Map<string, ReadonlyArray<number>>()
  /** Whether no piece joins a word to the one before it, so that words can be tokenised apart. */
  readonly #wordwise: boolean
  readonly unkId: number
  readonly bosId: number
  readonly eosId: number

  constructor(model: ModelFile) {
    this.model = model
    model.pieces.forEach((piece, id) => {
      if (piece.type === "normal" || piece.type === "unused") {
        if (!this.#ranks.has(piece.text)) this.#ranks.set(piece.text, id)
      } else if (piece.type === "byte") this.#bytes.set(Number.parseInt(piece.text.slice(3, 5), 16), id)
    })
    const idOf = (text: string, otherwise: number) => {
      const id = model.pieces.findIndex((piece) => piece.text === text && piece.type === "control")
      return id === -1 ? otherwise : id
    }
    this.unkId = model.pieces.findIndex((piece) => piece.type === "unknown")
    this.bosId = idOf("<s>", 1)
    this.eosId = idOf("</s>", 2)
    this.#wordwise = model.pieces.every((piece) => piece.type !== "normal" || !/[^\u2581]\u2581/.test(piece.text))
  }

  get vocabSize(): number {
    return this.model.pieces.length
  }
  get pieces(): ReadonlyArray<Piece> {
    return this.model.pieces
  }
  /** What fills up shorter sequences of a batch: Llama 2 has no token for it, so the unknown one, always masked; never the end-of-sequence token, which must carry loss. */
  get padId(): number {
    return this.unkId
  }

  /** Token ids of a text, without control tokens. Lone surrogates count as U+FFFD. */
  encode(text: string): Array<number> {
    if (text === "") return []
    const escaped = (this.model.addDummyPrefix ? space : "") + text.toWellFormed().replaceAll(" ", space)
    if (!this.#wordwise) return [...this.#encodeWord(escaped)]
    const out: Array<number> = []
    for (const [word] of escaped.matchAll(/\u2581*[^\u2581]+|\u2581+/g)) {
      let ids = this.#cache.get(word)
      if (ids === undefined) {
        ids = this.#encodeWord(word)
        if (this.#cache.size >= cachedWords) this.#cache.clear()
        this.#cache.set(word, ids)
      }
      for (const id of ids) out.push(id)
    }
    return out
  }

  /** Joins the best pair of neighbours again and again: highest score first, among equals the leftmost. */
  #encodeWord(word: string): ReadonlyArray<number> {
    const symbols = Array.from(word)
    const next = symbols.map((_, i) => (i + 1 < symbols.length ? i + 1 : -1))
    const previous = symbols.map((_, i) => i - 1)
    const agenda = new Agenda()
    const consider = (left: number, right: number) => {
      if (left === -1 || right === -1) return
      const joined = symbols[left]! + symbols[right]!
      const id = this.#ranks.get(joined)
      if (id !== undefined) agenda.push({ score: this.model.pieces[id]!.score, left, right, length: joined.length })
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
    for (const symbol of symbols) {
      if (symbol === "") continue
      const id = this.#ranks.get(symbol)
      if (id !== undefined) out.push(id)
      else if (this.#bytes.size === 256) for (const byte of Buffer.from(symbol)) out.push(this.#bytes.get(byte)!)
      else out.push(this.unkId)
    }
    return out
  }

  /** The text of token ids, as SentencePiece gives it: control tokens vanish, bytes are joined, the space put in front is taken away. */
  decode(ids: Iterable<number>): string {
    const parts: Array<string> = []
    let bytes: Array<number> = []
    const flush = () => {
      if (bytes.length > 0) parts.push(decodeBytes(bytes))
      bytes = []
    }
    let atStart = this.model.addDummyPrefix
    for (const id of ids) {
      const piece = this.model.pieces[id]
      if (piece === undefined) throw new RangeError(`token ${id} is not in the vocabulary of ${this.vocabSize}`)
      if (piece.type === "byte") {
        bytes.push(Number.parseInt(piece.text.slice(3, 5), 16))
        atStart = false
        continue
      }
      flush()
      if (piece.type === "control") continue
      if (piece.type === "unknown") parts.push(" \u2047 ")
      else parts.push((atStart && piece.text.startsWith(space) ? piece.text.slice(1) : piece.text).replaceAll(space, " "))
      atStart = false
    }
    flush()
    return parts.join("")
  }
}

/** UTF-8; each byte that is not part of a character gives one U+FFFD. */
const decodeBytes = (bytes: ReadonlyArray<number>): string => {
  const buffer = Buffer.from(bytes)
  let out = ""
  for (let at = 0; at < buffer.length; ) {
    const lead = buffer[at]!
    const length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1
    const character = buffer.subarray(at, at + length).toString("utf8")
    if (at + length <= buffer.length && !character.includes("\ufffd")) {
      out += character
      at += length
    } else if (buffer.subarray(at, at + 3).equals(replacement)) {
      out += "\ufffd"
      at += 3
    } else {
      out += "\ufffd"
      at++
    }
  }
  return out
}
const replacement = Buffer.from("\ufffd")

interface Merge {
  readonly score: number
  readonly left: number
  readonly right: number
  /** Of the joined text: tells a merge that is out of date. */
  readonly length: number
}

/** A binary heap of merges: highest score first, among equals the leftmost. */
class Agenda {
  readonly #heap: Array<Merge> = []
  #before(a: Merge, b: Merge): boolean {
    return a.score > b.score || (a.score === b.score && a.left < b.left)
  }
  push(merge: Merge): void {
    const heap = this.#heap
    let at = heap.push(merge) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.#before(merge, heap[parent]!)) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = merge
  }
  pop(): Merge | undefined {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && this.#before(heap[child + 1]!, heap[child]!)) child++
      if (!this.#before(heap[child]!, last)) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
    return top
  }
}
