/** Dialogues as the examples of a fine-tuning: read batch by batch, tokenised and kept as tokens. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { streamRows } from "../../data/dataset.ts"
import { lossMaskOf } from "../../models/chat.ts"
import { TokenBuffer } from "../../models/tokenizer/token-buffer.ts"
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts"
import type { ArtifactError, ArtifactRef, Dataset } from "../../schemas/artifact.ts"
import { type Demonstration, Demonstrations } from "../../schemas/rows.ts"
import { appendFittingDialogue } from "../common/dialogues.ts"
import { LeftOutCounter, type LeftOutRow } from "../common/left-out.ts"
import { type Example, packedRows, type PackedRow, packRows, type Sequence } from "../common/sequences.ts"
import type { TokenStore } from "../common/token-store.ts"

export interface ExampleOptions {
  readonly tokenizer: Tokenizer
  /** Tokens that an example may have. */
  readonly length: number
  /** Empty; the examples' tokens go into it. */
  readonly store: TokenStore
  /** Told of each row that is left out. */
  readonly leftOut?: (row: LeftOutRow) => void
}

/**
 * Dialogues as examples that fit. One that carries loss on its last answer alone (Ghost Attention, §3.3) is there for what its first turn says, so it is
 * left out, not shortened, when it is too long.
 */
export class Examples implements Sequence<Example> {
  readonly #options: ExampleOptions
  readonly #leftOut: LeftOutCounter
  readonly #buffer = new TokenBuffer()
  #rows = 0
  #lastAlone = 0

  constructor(options: ExampleOptions) {
    this.#options = options
    this.#leftOut = new LeftOutCounter(options.tokenizer, options.length, options.leftOut)
  }

  /** Rows that were added, those left out among them. */
  get rows(): number {
    return this.#rows
  }
  get leftOut(): LeftOutCounter["counts"] {
    return this.#leftOut.counts
  }
  /** Examples of several answers of which the last alone carries loss, as the chat template writes those before it otherwise once more follows. */
  get lastAlone(): number {
    return this.#lastAlone
  }
  /** How many examples there are. */
  get length(): number {
    return this.#options.store.length
  }

  add(row: Demonstration): void {
    const { messages, loss } = row
    const { tokenizer, length, store } = this.#options
    this.#rows++
    this.#buffer.length = 0
    const tooLong = loss === "answers" ? "shorten" : "leave out"
    const fitted = appendFittingDialogue(tokenizer, messages, { length, tooLong }, this.#buffer)
    if (fitted === undefined) return this.#leftOut.add(row, [messages])
    const { ends } = fitted
    store.add(this.#buffer, loss === "answers" ? ends : ends.slice(-2))
    // One that lost its older exchanges for want of room may have a single answer left.
    const answers = fitted.messages.filter(({ role }) => role === "assistant").length
    if (loss === "answers" && ends.length === 2 && answers > 1) this.#lastAlone++
  }

  at(index: number): Example | undefined {
    const { store } = this.#options
    return index < store.length ? { tokens: store.tokens(index), lossMask: lossMaskOf(store.numbers(index)) } : undefined
  }

  /** The examples packed, in an order, into rows of `length`, each made when it is asked for. */
  packed(order: Uint32Array): Sequence<PackedRow> {
    const { length, store, tokenizer } = this.#options
    const packing = packRows(order, { sizeOf: (example) => store.sizeOf(example), length })
    return packedRows(this, packing, { length, padId: tokenizer.padId })
  }
}

/** The dialogues of a dataset as examples. `check` is given each row before. */
export const readExamples = Effect.fn("readExamples")(function* <E = never>(
  ref: ArtifactRef<Dataset<Demonstration>>,
  options: ExampleOptions,
  check: (row: Demonstration) => E | undefined = () => undefined
): Effect.fn.Return<Examples, ArtifactError | E> {
  const examples = new Examples(options)
  yield* Stream.runForEachArray(streamRows(ref, Demonstrations), (rows) =>
    Effect.suspend(() => {
      for (const row of rows) {
        const fault = check(row)
        if (fault !== undefined) return Effect.fail(fault)
        examples.add(row)
      }
      return Effect.void
    })
  )
  return examples
})
