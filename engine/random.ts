/**
 * Random numbers by purpose: each use names its purpose, so adding a use never changes the numbers of another. The generator is xoshiro128** (Blackman
 * and Vigna) in pure JavaScript, seeded with the sha256 of the seed and the purpose; it gives the same numbers on every machine.
 */
import { createHash } from "node:crypto"

export type Purpose = ReadonlyArray<string | number>

const digest = (seed: number, purpose: Purpose): Buffer => {
  const hash = createHash("sha256")
  for (const part of [seed, ...purpose]) {
    const text = String(part)
    hash.update(`${typeof part}:${text.length}:${text};`)
  }
  return hash.digest()
}

/** Derives a seed (0 .. 2^48 - 1) for one purpose from a seed: deriveSeed(7, "reward model", "head"). */
export const deriveSeed = (seed: number, ...purpose: Purpose): number => digest(seed, purpose).readUIntLE(0, 6)

/** A generator for one purpose: the same seed and purpose give the same numbers. */
export class Random {
  readonly #state: Uint32Array
  constructor(seed: number, ...purpose: Purpose) {
    const bytes = digest(seed, purpose)
    this.#state = new Uint32Array([bytes.readUInt32LE(0), bytes.readUInt32LE(4), bytes.readUInt32LE(8), bytes.readUInt32LE(12) | 1])
  }
  /** 32 random bits. */
  bits(): number {
    const s = this.#state
    const x = Math.imul(s[1]!, 5)
    const result = Math.imul((x << 7) | (x >>> 25), 9) >>> 0
    const t = s[1]! << 9
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= t
    s[3] = (s[3]! << 11) | (s[3]! >>> 21)
    return result
  }
  /** Uniform in [0, 1), 53 bits. */
  next(): number {
    return ((this.bits() >>> 5) * 67108864 + (this.bits() >>> 6)) / 9007199254740992
  }
  /** Uniform integer in [0, bound), without modulo bias. */
  int(bound: number): number {
    if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 32)
      throw new RangeError(`Random.int: the bound must be an integer from 1 to 2^32, got ${bound}`)
    const limit = 2 ** 32 - (2 ** 32 % bound)
    let bits = this.bits()
    while (bits >= limit) bits = this.bits()
    return bits % bound
  }
  /** Standard normal (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next())
  }
  /** A shuffled copy. */
  shuffle<A>(items: ReadonlyArray<A>): Array<A> {
    return Array.from(this.permutation(items.length), (i) => items[i]!)
  }
  /** The integers 0 .. count - 1 in the order in which `shuffle` puts `count` items (Fisher and Yates). */
  permutation(count: number): Uint32Array {
    const out = new Uint32Array(count)
    for (let i = 0; i < count; i++) out[i] = i
    for (let i = count - 1; i > 0; i--) {
      const j = this.int(i + 1)
      const held = out[i]!
      out[i] = out[j]!
      out[j] = held
    }
    return out
  }
  pick<A>(items: ReadonlyArray<A>): A {
    if (items.length === 0) throw new RangeError("Random.pick: expected at least one item, got an empty list")
    return items[this.int(items.length)]!
  }
}
