import type { Tensor } from "../../engine/tensor.ts"

/** One optimiser step's data. */
export interface TrainingBatch {
  /** What the summed loss is divided by: over all parts. */
  readonly count: number
  /** Tokens fed to the model, padding included: for the throughput shown. */
  readonly tokens: number
  /** Each gives the loss of a part, summed and not averaged, as a tensor of one element. */
  readonly parts: ReadonlyArray<() => Tensor>
}
