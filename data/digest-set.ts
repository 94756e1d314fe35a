/** A set of millions of texts, stored as digests of 16 bytes. Texts with equal digests count as equal (the chance of a collision is 10^-21 at 10^9 texts). */
import { hash } from "node:crypto"

/** 128 bits of the sha256 of a text. */
const digestOf = (text: string): Uint32Array => {
  const bytes = hash("sha256", text, "buffer")
  return new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + 16))
}

export class DigestSet {
  #size = 0
  /** Slots of four words; an all-zero slot is empty (the digest of a text is never all zeros). */
  #words: Uint32Array
  #mask: number

  constructor(capacity = 1 << 12) {
    this.#words = new Uint32Array(4 * capacity)
    this.#mask = capacity - 1
  }

  get size(): number {
    return this.#size
  }

  /** Adds a text; returns whether it was new. */
  add(text: string): boolean {
    if (this.#size * 10 >= (this.#mask + 1) * 7) this.#grow()
    const slot = this.#slotOf(digestOf(text))
    if (slot < 0) return false
    this.#size++
    return true
  }

  has(text: string): boolean {
    const digest = digestOf(text)
    for (let at = digest[0]! & this.#mask; ; at = (at + 1) & this.#mask) {
      if (this.#isAt(at, digest)) return true
      if (this.#isEmpty(at)) return false
    }
  }

  #isAt(at: number, [a, b, c, d]: Uint32Array): boolean {
    const words = this.#words
    return words[4 * at] === a && words[4 * at + 1] === b && words[4 * at + 2] === c && words[4 * at + 3] === d
  }
  #isEmpty(at: number): boolean {
    const words = this.#words
    return (words[4 * at]! | words[4 * at + 1]! | words[4 * at + 2]! | words[4 * at + 3]!) === 0
  }
  /** Fills a slot and returns its index; -1 if the digest is already in the set. */
  #slotOf(digest: Uint32Array): number {
    for (let at = digest[0]! & this.#mask; ; at = (at + 1) & this.#mask) {
      if (this.#isAt(at, digest)) return -1
      if (this.#isEmpty(at)) {
        this.#words.set(digest, 4 * at)
        return at
      }
    }
  }
  #grow(): void {
    const old = this.#words
    this.#words = new Uint32Array(2 * old.length)
    this.#mask = 2 * this.#mask + 1
    for (let at = 0; at < old.length; at += 4) {
      const digest = old.subarray(at, at + 4)
      if ((digest[0]! | digest[1]! | digest[2]! | digest[3]!) !== 0) this.#slotOf(digest)
    }
  }
}
