/** Scores of whole token sequences by a reward model. */
import { type Device, tensor, type Tensor } from "../../engine/tensor.ts"
import type { RewardModel } from "../../models/reward-model.ts"

/**
 * The score of each sequence, read at its last token (the response's EOS, or its last word when it was cut off). Sequences are padded on the
 * right to the longest; returns (B,), in float32.
 */
export const scoreSequences = (
  model: RewardModel,
  sequences: ReadonlyArray<ReadonlyArray<number>>,
  options: { readonly padId: number; readonly device: Device }
): Tensor => {
  const { device, padId } = options
  const length = Math.max(...sequences.map((sequence) => sequence.length))
  const ids = new Int32Array(sequences.length * length).fill(padId)
  sequences.forEach((sequence, i) => ids.set(sequence, i * length))
  const last = Int32Array.from(sequences, (sequence) => sequence.length - 1)
  return model
    .score(tensor(ids, { shape: [sequences.length, length], dtype: "int64", device }), tensor(last, { dtype: "int64", device }))
    .to({ dtype: "float32" })
}
