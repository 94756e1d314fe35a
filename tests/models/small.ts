/** Small models and a small tokenizer for tests. */
import { expect } from "vitest"
import { type LlamaConfig, llamaConfig } from "../../models/config.ts"
import type { SentencePieceTokenizer } from "../../models/tokenizer/sentencepiece.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"

/** Grouped queries, an odd vocabulary size, more than one block. */
export const smallConfig = (over: Partial<LlamaConfig> = {}): LlamaConfig =>
  llamaConfig({ vocabSize: 61, dim: 24, layers: 2, heads: 6, kvHeads: 2, ffn: 40, maxPositions: 48, ...over })

/** 264 pieces: three control pieces, 256 bytes, "\u2581", "a", "b" and two merged ones. */
export const smallTokenizer = (): SentencePieceTokenizer => trainTokenizer(["ab ab abab ba"], { vocabSize: 264 })

export const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length)
  let most = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (Number.isNaN(difference)) return NaN
    most = Math.max(most, difference)
  }
  return most
}
