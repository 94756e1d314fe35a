/**
 * A cache of the tokens of words, keyed by the words' bytes: an open-addressing hash table in typed arrays, so that a lookup
 * allocates neither a string nor an array. When full, it is cleared.
 */
import type { TokenBuffer } from "./token-buffer.ts"

const maxWords = 1 << 18
const maxBytes = 1 << 22
const maxTokens = 1 << 20

/** Words longer than this many bytes are not cached: they rarely recur. */
const longestWord = 256

export class WordCache {
  /** By hash: three times the index of the word, plus one; 0 in a free slot. At least half of the slots are free. */
  readonly #slots = new Int32Array(2 * maxWords)
  /** Per word: its hash, and the start of its bytes and of its tokens in the pools; they end where the next word's start. */
  readonly #words = new Int32Array(3 * (maxWords + 1))
  readonly #bytes = new Uint8Array(maxBytes)
  readonly #tokens = new Int32Array(maxTokens)
  /** Three times the number of words. */
  #end = 0

  /** Appends the tokens of the word bytes[from, to) with the given hash; returns false if the word is not cached. */
  append(bytes: Uint8Array, from: number, to: number, hash: number, out: TokenBuffer): boolean {
    const words = this.#words
    const mask = this.#slots.length - 1
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1
      if (word === -1) return false
      if (words[word] !== hash) continue
      let at = words[word + 1]!
      if (words[word + 4]! - at !== to - from) continue
      let i = from
      while (i < to && this.#bytes[at] === bytes[i]) {
        at++
        i++
      }
      if (i < to) continue
      const end = words[word + 5]!
      let token = words[word + 2]!
      out.reserve(end - token)
      const { ids } = out
      let { length } = out
      while (token < end) ids[length++] = this.#tokens[token++]!
      out.length = length
      return true
    }
  }

  /** Caches a word that is not in the cache yet, with the tokens of `out` from `start`. */
  add(bytes: Uint8Array, from: number, to: number, hash: number, out: TokenBuffer, start: number): void {
    if (to - from > longestWord) return
    const words = this.#words
    const count = out.length - start
    if (this.#end === 3 * maxWords || words[this.#end + 1]! + to - from > maxBytes || words[this.#end + 2]! + count > maxTokens) {
      this.#slots.fill(0)
      this.#end = 0
    }
    const word = this.#end
    words[word] = hash
    this.#bytes.set(bytes.subarray(from, to), words[word + 1])
    this.#tokens.set(out.ids.subarray(start, out.length), words[word + 2])
    words[word + 4] = words[word + 1]! + to - from
    words[word + 5] = words[word + 2]! + count
    const mask = this.#slots.length - 1
    let slot = hash & mask
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask
    this.#slots[slot] = word + 1
    this.#end += 3
  }
}
