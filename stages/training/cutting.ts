/**
 * How a batch is cut into micro-batches, and what is done when the memory does not hold one after all, because another program fills the GPU: the step is computed again
 * with half of it, from the weights as they were, and so are all that follow. The loss is the same but for the order of float sums.
 */
import { isOutOfMemory } from "../../engine/device.ts"
import { type Parameters } from "../../engine/gradients.ts"
import { dealt, rank, ranks } from "../../engine/ranks.ts"
import { clearGradients, type Tensor } from "../../engine/tensor.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"

/** What a micro-batch holds at most: so many rows, or so many tokens, padding included; a row at least. */
export type MicroBatch = { readonly rows: number } | { readonly tokens: number }

/** In words: "8 rows". */
export const wordsOf = (microBatch: MicroBatch): string =>
  "rows" in microBatch ? `${microBatch.rows} row${microBatch.rows === 1 ? "" : "s"}` : `${microBatch.tokens} tokens`

const halfOf = (microBatch: MicroBatch): MicroBatch =>
  "rows" in microBatch ? { rows: Math.ceil(microBatch.rows / 2) } : { tokens: Math.ceil(microBatch.tokens / 2) }

/** Splits rows into micro-batches, in their order. `tokensOf` a row: all of a micro-batch are padded to the longest. */
export const microBatches = <A>(rows: ReadonlyArray<A>, microBatch: MicroBatch, tokensOf: (row: A) => number): Array<Array<A>> => {
  const out: Array<Array<A>> = []
  let longest = 0
  for (const row of rows) {
    const part = out.at(-1)
    const [size, length] = [(part?.length ?? 0) + 1, Math.max(longest, tokensOf(row))]
    const isRoom = "rows" in microBatch ? size <= microBatch.rows : size * length <= microBatch.tokens
    if (part !== undefined && isRoom) part.push(row)
    else out.push([row])
    longest = part !== undefined && isRoom ? length : tokensOf(row)
  }
  return out
}

/**
 * This rank's micro-batches of rows that are dealt out to all, each as a function of its loss. Every rank has as many, since they gather weights together: one that is short of rows computes
 * with a row again, and a loss of 0.
 */
export const dealtMicroBatches = <A>(
  rows: ReadonlyArray<A>,
  microBatch: MicroBatch,
  tokensOf: (row: A) => number
): { readonly parts: ReadonlyArray<ReadonlyArray<A>>; readonly isBlank: (part: ReadonlyArray<A>) => boolean } => {
  const all = Array.from({ length: ranks() }, (_, to) => microBatches(dealt(rows, to), microBatch, tokensOf))
  const mine = all[rank()]!
  const most = Math.max(...all.map(({ length }) => length))
  const blanks = new Set<ReadonlyArray<A>>(Array.from({ length: most - mine.length }, () => rows.slice(0, 1)))
  return { parts: [...mine, ...blanks], isBlank: (part) => blanks.has(part) }
}

/** The same as functions of each part's loss, a tensor of one element. */
export const dealtLosses = <A>(
  rows: ReadonlyArray<A>,
  microBatch: MicroBatch,
  tokensOf: (row: A) => number,
  loss: (rows: ReadonlyArray<A>) => Tensor
): ReadonlyArray<() => Tensor> => {
  const { isBlank, parts } = dealtMicroBatches(rows, microBatch, tokensOf)
  return parts.map((part) => () => (isBlank(part) ? loss(part).mul(0) : loss(part)))
}

/** The memory does not hold a step. */
export class OutOfMemoryError extends ExplainedError<OutOfMemoryError>()("OutOfMemoryError") {
  static during(doing: string, cause: Error): OutOfMemoryError {
    return OutOfMemoryError.of({
      doing,
      expected: "memory for it",
      found: cause.message.split("\n")[0]!.replace(/\.$/, ""),
      hint: "What would help: LoRA (loraRank), shorter sequences, precision bfloat16, recompute all, or a GPU that no other program uses (nvidia-smi lists them).",
      isRetryable: true
    })
  }
}

/** Names of the metrics that say before which steps' update the micro-batch was halved. */
const halvedMetric = "microBatchHalvedInStep"

/** The micro-batch of a training as it goes on. */
export class Cutting {
  #microBatch: MicroBatch
  /** Steps, counted from 1, in which it was halved; one that was halved twice is there twice. */
  readonly #halved: Array<number> = []
  /** Of a result that is made again: when that was halved. */
  readonly #recorded: ReadonlyArray<number>
  readonly #notes: Array<string> = []

  /** `recorded`: the metrics of the result that is to be made again, bit for bit. */
  constructor(microBatch: MicroBatch, recorded: Readonly<Record<string, number>> = {}) {
    this.#microBatch = microBatch
    this.#recorded = Object.keys(recorded)
      .filter((name) => name.startsWith(halvedMetric))
      .map((name) => recorded[name]!)
  }

  get microBatch(): MicroBatch {
    return this.#microBatch
  }
  get halved(): ReadonlyArray<number> {
    return this.#halved
  }
  /** For the trace. */
  get metrics(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#halved.map((step, i) => [`${halvedMetric}${i + 1}`, step]))
  }
  /** What there is to tell since the last call. */
  notes(): ReadonlyArray<string> {
    return this.#notes.splice(0)
  }

  /** Goes on as after these halvings. */
  resume(halved: ReadonlyArray<number>): void {
    for (const step of halved) this.#halve(step)
  }

  /**
   * What `compute` gives for a step, counted from 1: it leaves gradients of the parameters, and changes nothing else. `split` says how many micro-batches there are. Throws an
   * OutOfMemoryError where each has one row.
   */
  step<A>(
    step: number,
    parameters: ReadonlyArray<Parameters>,
    split: (microBatch: MicroBatch) => number,
    compute: (microBatch: MicroBatch) => A
  ): A {
    const due = this.#recorded.filter((at) => at === step).length - this.#halved.filter((at) => at === step).length
    for (let i = 0; i < due; i++) this.#halve(step)
    for (;;) {
      try {
        return compute(this.#microBatch)
      } catch (cause) {
        if (!isOutOfMemory(cause)) throw cause
        // The others are in the midst of the step, and wait for this rank.
        if (ranks() > 1) throw OutOfMemoryError.during(`Computing step ${step} on rank ${rank()} of ${ranks()}`, cause)
        for (const trained of parameters) clearGradients(Object.values(trained))
        const before = this.#microBatch
        const [parts, most] = [split(before), split({ rows: 1 })]
        if (parts === most) throw OutOfMemoryError.during(`Computing step ${step}, one row at a time`, cause)
        // Half of what its micro-batches do not fill anyway would be tried in vain.
        do this.#halve(step)
        while (split(this.#microBatch) === parts)
        this.#notes.push(
          `out of memory in step ${step}: computed again, and from here on, with micro-batches of ${wordsOf(this.#microBatch)} in place of ${wordsOf(before)} (${cause.message.split("\n")[0]!})`
        )
      }
    }
  }

  #halve(step: number): void {
    this.#microBatch = halfOf(this.#microBatch)
    this.#halved.push(step)
  }
}
