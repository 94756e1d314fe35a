/**
 * Byte-pair encoding of one text: repeatedly joins the two neighbouring symbols that make the best-scored piece, the leftmost on ties,
 * until no two make a piece. A symbol is a number: a piece's id, or the vocabulary size plus the code point of a character without a piece.
 */
import type { ModelFile } from "./model-file.ts"
import type { TokenBuffer } from "./token-buffer.ts"

const none = -1

/** Maps two symbols to the piece they make: a hash table of all merges. */
class PairTable {
  /** Three numbers per slot: left, right, and the piece they make; left is `none` in a free slot. */
  readonly #slots: Int32Array
  readonly #mask: number
  /** `ways`: left, right and piece of each merge, flattened. */
  constructor(ways: ReadonlyArray<number>) {
    const size = 2 ** Math.ceil(Math.log2(2 + (2 * ways.length) / 3))
    this.#mask = size - 1
    this.#slots = new Int32Array(3 * size).fill(none)
    for (let i = 0; i < ways.length; i += 3) {
      let slot = this.#slotOf(ways[i]!, ways[i + 1]!)
      while (this.#slots[3 * slot] !== none) slot = (slot + 1) & this.#mask
      this.#slots.set([ways[i]!, ways[i + 1]!, ways[i + 2]!], 3 * slot)
    }
  }
  #slotOf(left: number, right: number): number {
    const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    return (mixed ^ (mixed >>> 15)) & this.#mask
  }
  /** The piece; `none` if the two do not make one. */
  get(left: number, right: number): number {
    for (let slot = this.#slotOf(left, right); ; slot = (slot + 1) & this.#mask) {
      const found = this.#slots[3 * slot]!
      if (found === none) return none
      if (found === left && this.#slots[3 * slot + 1] === right) return this.#slots[3 * slot + 2]!
    }
  }
}

/** A binary heap of numbers, smallest first. */
class NumberHeap {
  #entries = new Float64Array(64)
  length = 0
  push(entry: number): void {
    if (this.length === this.#entries.length) {
      const grown = new Float64Array(2 * this.length)
      grown.set(this.#entries)
      this.#entries = grown
    }
    const entries = this.#entries
    let at = this.length++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (entries[parent]! <= entry) break
      entries[at] = entries[parent]!
      at = parent
    }
    entries[at] = entry
  }
  /** The smallest entry; the heap must not be empty. */
  pop(): number {
    const entries = this.#entries
    const top = entries[0]!
    const last = entries[--this.length]!
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= this.length) break
      if (child + 1 < this.length && entries[child + 1]! < entries[child]!) child++
      if (entries[child]! >= last) break
      entries[at] = entries[child]!
      at = child
    }
    entries[at] = last
    return top
  }
}

export class Joiner {
  readonly #vocabSize: number
  /** Ids of the pieces that joining may make, by text. */
  readonly #ids: ReadonlyMap<string, number>
  readonly #pairs: PairTable
  /** By piece: 0 for the best score, 1 for the next; equal scores have equal ranks. */
  readonly #ranks: Int32Array
  readonly #unused: Uint8Array
  readonly #byteIds: ReadonlyArray<number>
  readonly #byteFallback: boolean
  readonly #unkId: number
  // Per position of the text being joined: the symbol that starts there, its neighbours' positions, and the piece it makes with the next symbol.
  #symbols = new Int32Array(0)
  #next = new Int32Array(0)
  #previous = new Int32Array(0)
  #joined = new Int32Array(0)
  /** Rank of the piece times 2^32, plus the position of the left symbol. An entry is stale when the piece at that position has another rank now. */
  readonly #agenda = new NumberHeap()
  /** For unused pieces: the two symbols they are made of. */
  readonly #parts = new Map<number, readonly [number, number]>()

  constructor(
    model: ModelFile,
    { ids, byteIds, unkId }: { readonly ids: ReadonlyMap<string, number>; readonly byteIds: ReadonlyArray<number>; readonly unkId: number }
  ) {
    const { pieces } = model
    this.#vocabSize = pieces.length
    this.#ids = ids
    this.#byteIds = byteIds
    this.#byteFallback = model.byteFallback
    this.#unkId = unkId
    this.#unused = Uint8Array.from(pieces, ({ type }) => (type === "unused" ? 1 : 0))
    const scores = [...new Set(pieces.map(({ score }) => score))].sort((a, b) => b - a)
    const rankOf = new Map(scores.map((score, rank) => [score, rank]))
    this.#ranks = Int32Array.from(pieces, ({ score }) => rankOf.get(score)!)
    const ways: Array<number> = []
    for (const [text, id] of ids) {
      for (let at = codeUnits(text, 0); at < text.length; at += codeUnits(text, at)) {
        const left = this.#symbolOf(text.slice(0, at))
        const right = left === none ? none : this.#symbolOf(text.slice(at))
        if (right !== none) ways.push(left, right, id)
      }
    }
    this.#pairs = new PairTable(ways)
  }

  /** The symbol of a text; `none` if no merge makes it. */
  #symbolOf(text: string): number {
    const id = this.#ids.get(text)
    if (id !== undefined) return id
    return text.length === codeUnits(text, 0) ? this.#vocabSize + text.codePointAt(0)! : none
  }

  /** Appends the tokens of a text in which U+2581 stands for spaces. */
  append(text: string, out: TokenBuffer): void {
    const count = this.#layOut(text)
    const agenda = this.#agenda
    for (let at = 0; at + 1 < count; at++) this.#consider(at, at + 1)
    while (agenda.length > 0) {
      const entry = agenda.pop()
      const rank = Math.floor(entry / 2 ** 32)
      const left = entry - rank * 2 ** 32
      const piece = this.#joined[left]!
      if (piece === none || this.#ranks[piece] !== rank) continue
      const right = this.#next[left]!
      const after = this.#next[right]!
      this.#symbols[left] = piece
      this.#joined[right] = none
      this.#next[left] = after
      if (after !== none) this.#previous[after] = left
      if (this.#previous[left] !== none) this.#consider(this.#previous[left]!, left)
      if (after !== none) this.#consider(left, after)
      else this.#joined[left] = none
    }
    for (let at = 0; at !== none; at = this.#next[at]!) this.#emit(this.#symbols[at]!, out)
    if (this.#parts.size > 0) this.#parts.clear()
  }

  /** Splits the text into one symbol per character; returns their number. */
  #layOut(text: string): number {
    if (text.length > this.#symbols.length) {
      this.#symbols = new Int32Array(2 * text.length)
      this.#next = new Int32Array(2 * text.length)
      this.#previous = new Int32Array(2 * text.length)
      this.#joined = new Int32Array(2 * text.length)
    }
    let count = 0
    for (const character of text) {
      this.#symbols[count] = this.#symbolOf(character)
      this.#next[count] = count + 1
      this.#previous[count] = count - 1
      this.#joined[count++] = none
    }
    this.#next[count - 1] = none
    return count
  }

  #consider(left: number, right: number): void {
    const piece = this.#pairs.get(this.#symbols[left]!, this.#symbols[right]!)
    this.#joined[left] = piece
    if (piece === none) return
    this.#agenda.push(this.#ranks[piece]! * 2 ** 32 + left)
    if (this.#unused[piece] === 1) this.#parts.set(piece, [this.#symbols[left]!, this.#symbols[right]!])
  }

  #emit(symbol: number, out: TokenBuffer): void {
    const parts = this.#parts.get(symbol)
    if (parts !== undefined) for (const part of parts) this.#emit(part, out)
    else if (symbol < this.#vocabSize) out.push(symbol)
    else if (!this.#byteFallback) out.push(this.#unkId)
    else for (const byte of Buffer.from(String.fromCodePoint(symbol - this.#vocabSize))) out.push(this.#byteIds[byte]!)
  }
}

/** The number of code units of the character at a position. */
const codeUnits = (text: string, at: number): number => (text.codePointAt(at)! > 0xffff ? 2 : 1)
