/** Checkpoints of a stage's tensors, written while the stage goes on where its machine has the memory. */
import { totalmem } from "node:os"
import * as Effect from "effect/Effect"
import type { Parameters } from "../../engine/gradients.ts"
import { elementSize } from "../../engine/tensor.ts"
import { type TensorSnapshot, type TensorWriter, writeSafetensors } from "../../models/safetensors.ts"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"

/**
 * The most that is held in memory to be written: a quarter of what the machine, or the limit that the process runs under, has. Beside the copies a stage on
 * the CPU has the tensors themselves, their gradients and activations there. What is larger is written before the stage goes on.
 */
const largestSnapshot = (): number => {
  const limit = process.constrainedMemory()
  return (limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / 4
}

export interface TensorCheckpoint {
  readonly step: number
  /** All that `write` writes. */
  readonly tensors: ReadonlyArray<Parameters>
  /** Writes the checkpoint's files; the tensors by the writer that it is given, and each file of them by a name of its own. */
  readonly write: (folder: string, writeTensors: TensorWriter) => Promise<void>
}

/** Keeps a checkpoint; `snapshot` is the stage's, the same for all of them. */
export const saveTensors = (
  checkpoints: Checkpoints,
  snapshot: TensorSnapshot,
  { step, tensors, write }: TensorCheckpoint,
  most = largestSnapshot()
): Effect.Effect<void> => {
  const all = tensors.flatMap((named) => Object.values(named))
  const bytes = all.reduce((sum, { elements, dtype }) => sum + elements * elementSize[dtype], 0)
  return checkpoints.save(step, (folder, hold) =>
    Effect.tryPromise({
      try: () => write(folder, bytes <= most ? snapshot.writer(folder, hold) : writeSafetensors),
      catch: (cause) => ({ message: cause instanceof Error ? cause.message : String(cause) })
    })
  )
}
