/**
 * Finds near-duplicate texts with MinHash (Broder 1997) and locality-sensitive hashing. The Jaccard similarity of two texts' sets of five-word runs is estimated from
 * 128 hash functions (standard error at most 0.045), of which 8 bits each are kept (Li and König 2010). Needs about 200 to 400 bytes per text, depending on the threshold.
 */
import { mix, runsOf, wordsOf } from "./words.ts"

const functions = 128
/** Words per run. */
const runLength = 5

/** Ways to divide the functions into bands: two texts are compared if all functions of a band agree. [bands, functions per band]. */
const bandings = [
  [16, 8],
  [18, 7],
  [21, 6],
  [25, 5],
  [32, 4],
  [42, 3],
  [64, 2],
  [128, 1]
] as const

/** The banding with the fewest comparisons that compares two texts of this similarity with a probability of 99%. */
export const bandsFor = (threshold: number): readonly [number, number] =>
  bandings.find(([bands, rows]) => 1 - (1 - threshold ** rows) ** bands >= 0.99) ?? [128, 1]

/** A set of texts without near-duplicates. */
export class NearDuplicates {
  readonly #threshold: number
  readonly #bands: number
  readonly #rows: number
  readonly #multipliers: Uint32Array
  readonly #increments: Uint32Array
  /** For each kept text: 8 bits of each minimum. */
  readonly #signatures: Uint8Array
  /** For each bucket of each band: the last text added, counted from 1. */
  readonly #heads: Uint32Array
  readonly #bucketMask: number
  /** For each text and band: the previous text in its bucket. */
  readonly #before: Uint32Array
  #size = 0

  /** For at most `most` texts. Texts whose similarity is at least the threshold (0 to 1) are near-duplicates. */
  constructor(threshold: number, most: number) {
    this.#threshold = threshold
    ;[this.#bands, this.#rows] = bandsFor(threshold)
    const buckets = 2 ** Math.min(22, Math.ceil(Math.log2(Math.max(2, most))))
    this.#bucketMask = buckets - 1
    this.#heads = new Uint32Array(this.#bands * buckets)
    this.#before = new Uint32Array(this.#bands * most)
    this.#signatures = new Uint8Array(functions * most)
    this.#multipliers = Uint32Array.from({ length: functions }, (_, i) => mix(2 * i + 1) | 1)
    this.#increments = Uint32Array.from({ length: functions }, (_, i) => mix(2 * i + 2))
  }

  /** Adds a text unless it is a near-duplicate of an earlier one; returns whether it was added. A text of fewer than five words is never a near-duplicate. */
  add(text: string): boolean {
    const runs = runsOf(wordsOf(text), runLength)
    if (runs.length === 0) return true
    const minima = this.#minimaOf(runs)
    const signature = Uint8Array.from(minima, (value) => value & 0xff)
    const slots = this.#slotsOf(minima)
    const looked = new Set<number>()
    for (let band = 0; band < this.#bands; band++)
      for (let other = this.#heads[slots[band]!]!; other !== 0; other = this.#before[(other - 1) * this.#bands + band]!) {
        if (looked.has(other)) continue
        looked.add(other)
        if (this.#similarity(signature, other - 1) >= this.#threshold) return false
      }
    this.#signatures.set(signature, this.#size * functions)
    this.#size++
    slots.forEach((slot, band) => {
      this.#before[(this.#size - 1) * this.#bands + band] = this.#heads[slot]!
      this.#heads[slot] = this.#size
    })
    return true
  }

  #minimaOf(runs: ReadonlyArray<number>): Uint32Array {
    const minima = new Uint32Array(functions).fill(0xffffffff)
    const [multipliers, increments] = [this.#multipliers, this.#increments]
    for (const run of runs) {
      const hash = mix((run / 2 ** 21) ^ (run >>> 0))
      for (let i = 0; i < functions; i++) {
        const value = (Math.imul(hash, multipliers[i]!) + increments[i]!) >>> 0
        if (value < minima[i]!) minima[i] = value
      }
    }
    return minima
  }

  /** The text's bucket in each band. */
  #slotsOf(minima: Uint32Array): Array<number> {
    return Array.from({ length: this.#bands }, (_, band) => {
      let hash = mix(band + 1)
      for (let i = band * this.#rows; i < (band + 1) * this.#rows; i++) hash = mix(hash ^ minima[i]!)
      return band * (this.#bucketMask + 1) + (hash & this.#bucketMask)
    })
  }

  /** Estimated similarity, corrected for different minima that share 8 bits with a probability of 1 in 256. */
  #similarity(signature: Uint8Array, other: number): number {
    let alike = 0
    for (let i = 0; i < functions; i++) if (signature[i] === this.#signatures[other * functions + i]) alike++
    return (alike / functions - 1 / 256) / (1 - 1 / 256)
  }
}
