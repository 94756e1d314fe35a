import type { Tensor } from "../../engine/tensor.ts"
import type { MicroBatch } from "./micro-batches.ts"

/** The data of one optimiser step. */
export interface TrainingBatch {
  /** Divisor of the summed loss, over all parts. */
  readonly count: number
  /** Number of tokens in its rows, for the displayed throughput. */
  readonly tokens: number
  /** Its micro-batches: each returns the loss of its rows, summed and not averaged, as a tensor of one element. */
  readonly parts: (microBatch: MicroBatch) => ReadonlyArray<() => Tensor>
}
