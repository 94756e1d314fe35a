/** Dialogues as fine-tuning examples: read batch by batch, tokenised and stored as tokens. */
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
  /** Maximum number of tokens in an example. */
  readonly length: number
  /** An empty store for the examples' tokens. */
  readonly store: TokenStore
  /** Called for each row that is left out. */
  readonly leftOut?: (row: LeftOutRow) => void
}

/**
 * The dialogues that fit, as examples. If a dialogue with loss only on its last answer (Ghost Attention, §3.3) is too long, it is left out instead of
 * shortened, because it depends on its first turn.
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

  /** Number of rows added, including those left out. */
  get rows(): number {
    return this.#rows
  }
  get leftOut(): LeftOutCounter["counts"] {
    return this.#leftOut.counts
  }
  /** Number of examples with several answers of which only the last has loss, because the chat template renders earlier answers differently once more messages follow. */
  get lastAlone(): number {
    return this.#lastAlone
  }
  /** Number of examples. */
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
    // A shortened dialogue may have a single answer left.
    const answers = fitted.messages.filter(({ role }) => role === "assistant").length
    if (loss === "answers" && ends.length === 2 && answers > 1) this.#lastAlone++
  }

  at(index: number): Example | undefined {
    const { store } = this.#options
    return index < store.length ? { tokens: store.tokens(index), lossMask: lossMaskOf(store.numbers(index)) } : undefined
  }

  /** The examples in the given order, packed into rows of `length`, each created on demand. */
  packed(order: Uint32Array): Sequence<PackedRow> {
    const { length, store, tokenizer } = this.#options
    const packing = packRows(order, { sizeOf: (example) => store.sizeOf(example), length })
    return packedRows(this, packing, { length, padId: tokenizer.padId })
  }
}

/** Reads the dialogues of a dataset as examples. `check` receives each row first. */
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
