/**
 * Splits a batch into micro-batches, and handles running out of memory (another program may use the GPU): the step is computed again from the unchanged
 * weights with half the micro-batch size, which all later steps keep. The loss is the same except for the order of floating-point sums.
 */
import { isOutOfMemory } from "../../engine/device.ts"
import { type Parameters } from "../../engine/gradients.ts"
import { rowsOfRank, rank, ranks } from "../../engine/ranks.ts"
import { clearGradients, type Tensor } from "../../engine/tensor.ts"
import { ExplainedError } from "../../schemas/explained-error.ts"

/** Maximum size of a micro-batch: a number of rows, or of tokens including padding; at least one row. */
export type MicroBatch = { readonly rows: number } | { readonly tokens: number }

/** "8 rows" or "4096 tokens". */
export const microBatchText = (microBatch: MicroBatch): string =>
  "rows" in microBatch ? `${microBatch.rows} row${microBatch.rows === 1 ? "" : "s"}` : `${microBatch.tokens} tokens`

const halfOf = (microBatch: MicroBatch): MicroBatch =>
  "rows" in microBatch ? { rows: Math.ceil(microBatch.rows / 2) } : { tokens: Math.ceil(microBatch.tokens / 2) }

/** Splits rows into micro-batches, in order. `tokensOf` returns a row's length in tokens; all rows of a micro-batch are padded to the longest. */
export const microBatches = <A>(rows: ReadonlyArray<A>, microBatch: MicroBatch, tokensOf: (row: A) => number): Array<Array<A>> => {
  const out: Array<Array<A>> = []
  let longest = 0
  for (const row of rows) {
    const part = out.at(-1)
    const [size, length] = [(part?.length ?? 0) + 1, Math.max(longest, tokensOf(row))]
    const fits = "rows" in microBatch ? size <= microBatch.rows : size * length <= microBatch.tokens
    if (part !== undefined && fits) part.push(row)
    else out.push([row])
    longest = part !== undefined && fits ? length : tokensOf(row)
  }
  return out
}

/**
 * This rank's micro-batches of rows that are distributed over all ranks. Every rank has the same number of micro-batches, because the ranks gather
 * weights together: a rank with fewer repeats the first row as blank micro-batches. `counted` of a number computed from a blank one is 0.
 */
export const microBatchesOfRank = <A>(
  rows: ReadonlyArray<A>,
  microBatch: MicroBatch,
  tokensOf: (row: A) => number
): { readonly parts: ReadonlyArray<ReadonlyArray<A>>; readonly counted: (x: Tensor, part: ReadonlyArray<A>) => Tensor } => {
  const all = Array.from({ length: ranks() }, (_, to) => microBatches(rowsOfRank(rows, to), microBatch, tokensOf))
  const mine = all[rank()]!
  const most = Math.max(...all.map(({ length }) => length))
  const blanks = new Set<ReadonlyArray<A>>(Array.from({ length: most - mine.length }, () => rows.slice(0, 1)))
  return { parts: [...mine, ...blanks], counted: (x, part) => (blanks.has(part) ? x.mul(0) : x) }
}

/** This rank's micro-batches as functions that compute their loss, a tensor of one element: `loss` of the rows, times 0 for a blank one. */
export const lossesOfRank = <A>(
  rows: ReadonlyArray<A>,
  microBatch: MicroBatch,
  tokensOf: (row: A) => number,
  loss: (rows: ReadonlyArray<A>) => Tensor
): ReadonlyArray<() => Tensor> => {
  const { counted, parts } = microBatchesOfRank(rows, microBatch, tokensOf)
  return parts.map((part) => () => counted(loss(part), part))
}

/** A step does not fit in memory. */
export class OutOfMemoryError extends ExplainedError<OutOfMemoryError>()("OutOfMemoryError") {
  static during(doing: string, cause: Error): OutOfMemoryError {
    return OutOfMemoryError.of({
      doing,
      expected: "enough memory",
      found: cause.message.split("\n")[0]!.replace(/\.$/, ""),
      hint: "Use LoRA (loraRank), shorter sequences, precision bfloat16, recompute all, or a GPU that no other program uses (nvidia-smi lists programs).",
      isRetryable: true
    })
  }
}

/** Name prefix of the metrics that record the steps in which the micro-batch was halved. */
const halvedMetric = "microBatchHalvedInStep"

/** The micro-batch size of a training run, which is halved when a step runs out of memory. */
export class MicroBatching {
  #microBatch: MicroBatch
  /** Steps, counted from 1, in which it was halved; a step appears twice if it was halved twice. */
  readonly #halved: Array<number> = []
  /** For a result to reproduce: the steps in which the micro-batch was halved originally. */
  readonly #recorded: ReadonlyArray<number>
  readonly #notes: Array<string> = []

  /** `recorded`: the metrics of the result to reproduce bit for bit. */
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
  /** Metrics for the trace: the steps in which the micro-batch was halved. */
  get metrics(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#halved.map((step, i) => [`${halvedMetric}${i + 1}`, step]))
  }
  /** Messages since the last call. */
  notes(): ReadonlyArray<string> {
    return this.#notes.splice(0)
  }

  /** Restores the state after these halvings. */
  resume(halved: ReadonlyArray<number>): void {
    for (const step of halved) this.#halve(step)
  }

  /**
   * Computes a step, counted from 1, and returns the result of `compute`, which sets the parameters' gradients and changes nothing else. `split` returns
   * the number of micro-batches. Throws OutOfMemoryError if memory is insufficient even with one row per micro-batch.
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
        // The other ranks are in the middle of the step and wait for this one.
        if (ranks() > 1) throw OutOfMemoryError.during(`Computing step ${step} on rank ${rank()} of ${ranks()}`, cause)
        for (const trained of parameters) clearGradients(Object.values(trained))
        const before = this.#microBatch
        const [parts, most] = [split(before), split({ rows: 1 })]
        if (parts === most) throw OutOfMemoryError.during(`Computing step ${step}, one row at a time`, cause)
        // Halve until the number of micro-batches changes; otherwise the retry would be identical.
        do this.#halve(step)
        while (split(this.#microBatch) === parts)
        this.#notes.push(
          `out of memory in step ${step}: this step is repeated, and training continues, with micro-batches of ${microBatchText(this.#microBatch)} instead of ${microBatchText(before)} (${cause.message.split("\n")[0]!})`
        )
      }
    }
  }

  #halve(step: number): void {
    this.#microBatch = halfOf(this.#microBatch)
    this.#halved.push(step)
  }
}
