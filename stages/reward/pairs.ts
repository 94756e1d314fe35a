/** Preference pairs for training a reward model: tokenised, held in a token store, and batched. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { streamRows } from "../../data/dataset.ts"
import { Random } from "../../engine/random.ts"
import type { Tensor } from "../../engine/tensor.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { ArtifactError, ArtifactRef, Dataset } from "../../schemas/artifact.ts"
import { type Message, type Preference, Preferences } from "../../schemas/rows.ts"
import { appendFittingAnswers } from "../common/dialogues.ts"
import { LeftOutCounter, type LeftOutRow } from "../common/left-out.ts"
import { batchesOf, inOrder, type Sequence } from "../common/sequences.ts"
import type { TokenStore } from "../common/token-store.ts"
import { permuted } from "../training/held-out.ts"
import { lossesOfRank } from "../training/micro-batches.ts"
import type { TrainingBatch } from "../training/train.ts"

/** Margin by rating (significantly better, better, slightly better, negligibly better or unsure), §A.3.3 table 27. */
export const margins = {
  none: [0, 0, 0, 0],
  small: [1, 2 / 3, 1 / 3, 0],
  large: [3, 2, 1, 0]
} as const
export type MarginTable = keyof typeof margins

/** A tokenised pair: both dialogues, and their margin. */
export interface TokenisedPair {
  readonly chosen: ReadonlyArray<number>
  readonly rejected: ReadonlyArray<number>
  readonly margin: number
  /** Safety label of the chosen and the rejected response: 1 safe, -1 unsafe, 0 not labelled. Absent: both 0. */
  readonly safety?: readonly [chosen: number, rejected: number]
  /** Whether the oldest exchanges were removed from both dialogues to fit the context. */
  readonly shortened?: boolean
}

/** A pair of a dataset, with the position at which its responses start. */
export interface PromptedPair extends TokenisedPair {
  /** Number of tokens of the prompt, with which both dialogues start. */
  readonly promptLength: number
}

const safetyLabel = (safe: boolean | null): number => (safe === null ? 0 : safe ? 1 : -1)

/**
 * Appends the tokens of a pair: those of the prompt, the chosen response and the rejected response. Returns the pair's other data as non-negative
 * integers (decoded by `pairOf`), or undefined if either dialogue does not fit the context.
 */
const appendPair = (tokenizer: Tokenizer, pair: Preference, length: number, out: TokenBuffer): ReadonlyArray<number> | undefined => {
  const fitted = appendFittingAnswers(tokenizer, pair.prompt, [pair.chosen, pair.rejected], length, out)
  return fitted === undefined
    ? undefined
    : [
        ...fitted.ends.slice(0, 2),
        pair.rating === null ? 0 : 1 + pair.rating,
        1 + safetyLabel(pair.chosenSafe),
        1 + safetyLabel(pair.rejectedSafe),
        fitted.shortened ? 1 : 0
      ]
}

const pairOf = (tokens: ReadonlyArray<number>, numbers: ReadonlyArray<number>, table: MarginTable): PromptedPair => {
  const [promptEnd, chosenEnd, rating, chosenSafe, rejectedSafe, shortened] = numbers as [number, number, number, number, number, number]
  return {
    chosen: tokens.slice(0, chosenEnd),
    rejected: [...tokens.slice(0, promptEnd), ...tokens.slice(chosenEnd)],
    promptLength: promptEnd,
    margin: rating === 0 ? 0 : (margins[table][rating - 1] ?? 0),
    safety: [chosenSafe - 1, rejectedSafe - 1],
    shortened: shortened === 1
  }
}

/** Tokenises a pair, both responses after the same prompt; undefined if either dialogue does not fit the context. */
export const tokenisePair = (tokenizer: Tokenizer, pair: Preference, table: MarginTable, length: number): TokenisedPair | undefined => {
  const out = new TokenBuffer()
  const numbers = appendPair(tokenizer, pair, length, out)
  return numbers === undefined ? undefined : pairOf(out.slice(), numbers, table)
}

/** The dialogues of both responses. */
export const dialoguesOf = ({ chosen, prompt, rejected }: Preference): ReadonlyArray<ReadonlyArray<Message>> =>
  [chosen, rejected].map((content) => [...prompt, { role: "assistant", content }])

export interface PairOptions {
  readonly tokenizer: Tokenizer
  readonly margin: MarginTable
  /** Maximum number of tokens in a dialogue. */
  readonly length: number
  /** An empty store for the pairs' tokens. */
  readonly store: TokenStore
  /** Called for each row that is left out. */
  readonly leftOut?: (row: LeftOutRow) => void
}

/** The pairs that fit, in order; the prompt's tokens are stored once for both responses. */
export class Pairs implements Sequence<PromptedPair> {
  readonly #options: PairOptions
  readonly #leftOut: LeftOutCounter
  readonly #buffer = new TokenBuffer()
  #rows = 0
  #shortened = 0
  #labelled = 0

  constructor(options: PairOptions) {
    this.#options = options
    this.#leftOut = new LeftOutCounter(options.tokenizer, options.length, options.leftOut)
  }

  /** Number of rows added, including those left out. */
  get rows(): number {
    return this.#rows
  }
  get leftOut(): LeftOutCounter["counts"] {
    return this.#leftOut.counts
  }
  /** Number of pairs. */
  get length(): number {
    return this.#options.store.length
  }
  /** Number of pairs whose oldest exchanges were removed. */
  get shortened(): number {
    return this.#shortened
  }
  /** Number of responses with a safety label. */
  get labelled(): number {
    return this.#labelled
  }

  add(pair: Preference): void {
    const { tokenizer, length, store } = this.#options
    this.#rows++
    this.#buffer.length = 0
    const numbers = appendPair(tokenizer, pair, length, this.#buffer)
    if (numbers === undefined) return this.#leftOut.add(pair, dialoguesOf(pair))
    store.add(this.#buffer, numbers)
    this.#shortened += numbers.at(-1)!
    this.#labelled += (pair.chosenSafe === null ? 0 : 1) + (pair.rejectedSafe === null ? 0 : 1)
  }

  at(index: number): PromptedPair | undefined {
    const { margin, store } = this.#options
    return index < store.length ? pairOf(store.tokens(index), store.numbers(index), margin) : undefined
  }
}

export const readPairs = Effect.fn("readPairs")(function* (
  ref: ArtifactRef<Dataset<Preference>>,
  options: PairOptions
): Effect.fn.Return<Pairs, ArtifactError> {
  const pairs = new Pairs(options)
  yield* Stream.runForEachArray(streamRows(ref, Preferences), (rows) => Effect.sync(() => rows.forEach((row) => pairs.add(row))))
  return pairs
})

interface BatchSizes {
  readonly batchPairs: number
}

/** One pass over these pairs, in batches. Within a batch, pairs of similar length share a micro-batch, to reduce padding. */
export function* pairPass<Pair extends TokenisedPair>(
  pairs: Sequence<Pair>,
  order: Uint32Array,
  { batchPairs }: BatchSizes,
  loss: (pairs: ReadonlyArray<Pair>) => Tensor
): Generator<TrainingBatch> {
  const longest = (pair: Pair) => Math.max(pair.chosen.length, pair.rejected.length)
  for (const batch of batchesOf(inOrder(pairs, order), batchPairs)) {
    const sorted = batch.toSorted((a, b) => longest(a) - longest(b))
    yield {
      count: batch.length,
      tokens: batch.reduce((sum, { chosen, rejected }) => sum + chosen.length + rejected.length, 0),
      parts: (microBatch) => lossesOfRank(sorted, microBatch, (pair) => 2 * longest(pair), loss)
    }
  }
}

/** Batches of all pairs, or of those at the given indices, epoch after epoch without end. Each epoch has a new permutation. */
export function* pairBatches<Pair extends TokenisedPair>(
  pairs: Sequence<Pair>,
  config: BatchSizes,
  seed: number,
  loss: (pairs: ReadonlyArray<Pair>) => Tensor,
  of: Uint32Array = Uint32Array.from({ length: pairs.length }, (_, i) => i)
): Generator<TrainingBatch> {
  for (let epoch = 0; ; epoch++) yield* pairPass(pairs, permuted(of, new Random(seed, "reward-model", "epoch", epoch)), config, loss)
}
