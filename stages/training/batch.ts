import type { Tensor } from "../../engine/tensor.ts"
import type { MicroBatch } from "./cutting.ts"

/** One optimiser step's data. */
export interface TrainingBatch {
  /** What the summed loss is divided by: over all parts. */
  readonly count: number
  /** Tokens of its rows: for the throughput shown. */
  readonly tokens: number
  /** Its micro-batches: each gives the loss of its rows, summed and not averaged, as a tensor of one element. */
  readonly parts: (microBatch: MicroBatch) => ReadonlyArray<() => Tensor>
}
