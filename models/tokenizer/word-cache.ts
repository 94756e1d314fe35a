/**
 * Tokens of words that were seen before, found by the words' bytes: an open-addressing hash table in typed arrays, so that looking up a word
 * makes neither a string nor an array. When it is full it starts again, empty.
 */
import type { TokenBuffer } from "./token-buffer.ts"

const maxWords = 1 << 18
const maxBytes = 1 << 22
const maxTokens = 1 << 20

/** Longer words are not remembered, in bytes: they hardly come again. */
export const longestWord = 256

export class WordCache {
  /** By hash: the number of the word plus one; 0 where there is none. Half of the slots are free at least. */
  readonly #slots = new Int32Array(2 * maxWords)
  readonly #hashes = new Int32Array(maxWords)
  /** Where the bytes and the tokens of each word end in the pools; they begin where the word before ends. */
  readonly #byteEnds = new Int32Array(maxWords + 1)
  readonly #tokenEnds = new Int32Array(maxWords + 1)
  readonly #bytes = new Uint8Array(maxBytes)
  readonly #tokens = new Int32Array(maxTokens)
  #words = 0

  /** Appends the tokens of the word bytes[from, to), whose hash is given; false where the word is not here. */
  append(bytes: Uint8Array, from: number, to: number, hash: number, out: TokenBuffer): boolean {
    const word = this.#find(bytes, from, to, hash)
    if (word === -1) return false
    const end = this.#tokenEnds[word + 1]!
    let at = this.#tokenEnds[word]!
    out.reserve(end - at)
    const { ids } = out
    let { length } = out
    while (at < end) ids[length++] = this.#tokens[at++]!
    out.length = length
    return true
  }

  #find(bytes: Uint8Array, from: number, to: number, hash: number): number {
    const mask = this.#slots.length - 1
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1
      if (word === -1) return -1
      if (this.#hashes[word] !== hash) continue
      let at = this.#byteEnds[word]!
      if (this.#byteEnds[word + 1]! - at !== to - from) continue
      let i = from
      while (i < to && this.#bytes[at] === bytes[i]) {
        at++
        i++
      }
      if (i === to) return word
    }
  }

  /** Remembers a word that is not here, with the tokens of `out` from `start` on. */
  add(bytes: Uint8Array, from: number, to: number, hash: number, out: TokenBuffer, start: number): void {
    if (to - from > longestWord) return
    const count = out.length - start
    const full =
      this.#words === maxWords || this.#byteEnds[this.#words]! + to - from > maxBytes || this.#tokenEnds[this.#words]! + count > maxTokens
    if (full) {
      this.#slots.fill(0)
      this.#words = 0
    }
    const word = this.#words++
    this.#hashes[word] = hash
    this.#bytes.set(bytes.subarray(from, to), this.#byteEnds[word])
    this.#byteEnds[word + 1] = this.#byteEnds[word]! + to - from
    this.#tokens.set(out.ids.subarray(start, out.length), this.#tokenEnds[word])
    this.#tokenEnds[word + 1] = this.#tokenEnds[word]! + count
    const mask = this.#slots.length - 1
    let slot = hash & mask
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask
    this.#slots[slot] = word + 1
  }
}
