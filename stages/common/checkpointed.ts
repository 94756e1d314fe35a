/** Saves checkpoints of a stage's tensors, in the background if the machine has enough memory. */
import { totalmem } from "node:os"
import * as Effect from "effect/Effect"
import type { Parameters } from "../../engine/gradients.ts"
import { agree, rank, ranks } from "../../engine/ranks.ts"
import type { Spread } from "../../engine/spread.ts"
import { elementSize } from "../../engine/tensor.ts"
import { readPieces } from "../../models/checkpoint.ts"
import { type TensorSnapshot, type TensorWriter, writeSafetensors } from "../../models/safetensors.ts"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import { messageOf } from "../../schemas/explained-error.ts"

/** Checkpoints for a stage on several ranks: rank 0 looks for them, decides and writes; the other ranks follow. All ranks must make the same calls in the same order. */
export const ofAllRanks = (checkpoints: Checkpoints): Checkpoints =>
  ranks() === 1
    ? checkpoints
    : {
        latest: Effect.map(rank() === 0 ? checkpoints.latest : Effect.undefined, (found) => agree(found, "looking for a checkpoint")),
        due: () => agree(rank() === 0 && checkpoints.due(), "asking whether a checkpoint is due"),
        save: (step, write) => (rank() === 0 ? checkpoints.save(step, write) : Effect.void)
      }

/** The complete tensors of a training run, gathered on rank 0 for a checkpoint. Call `free` once they are written or copied. */
export const wholeTensors = (spread: Spread, parts: Parameters): { readonly tensors: Parameters; readonly free: () => void } => {
  const { copies, tensors } = spread.whole(parts)
  return { tensors, free: () => (copies ? Object.values(tensors).forEach((tensor) => tensor.free()) : undefined) }
}

/** Reads a file of complete tensors into this rank's shards, bit for bit. */
export const readSpread = (path: string, spread: Spread, parts: Parameters) => readPieces(path, spread.pieces(parts))

/**
 * Maximum size in bytes of a snapshot that is held in memory while it is written: a quarter of the machine's memory, or of the process's limit. A
 * stage on the CPU also holds the tensors themselves, their gradients and activations. The stage waits while a larger checkpoint is written.
 */
const largestSnapshot = (): number => {
  const limit = process.constrainedMemory()
  return (limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / 4
}

export interface TensorCheckpoint {
  readonly step: number
  /** All tensors that `write` writes. */
  readonly tensors: ReadonlyArray<Parameters>
  /** Writes the checkpoint's files: tensors with the given writer, each tensor file under its own name. */
  readonly write: (folder: string, writeTensors: TensorWriter) => Promise<void>
}

/** Saves a checkpoint. A stage passes the same `snapshot` for all its checkpoints. */
export const saveTensors = (
  checkpoints: Checkpoints,
  snapshot: TensorSnapshot,
  { step, tensors, write }: TensorCheckpoint,
  limit = largestSnapshot()
): Effect.Effect<void> => {
  const all = tensors.flatMap((named) => Object.values(named))
  const bytes = all.reduce((sum, { elements, dtype }) => sum + elements * elementSize[dtype], 0)
  return checkpoints.save(step, (folder, hold) =>
    Effect.tryPromise({
      try: () => write(folder, bytes <= limit ? snapshot.writer(folder, hold) : writeSafetensors),
      catch: (cause) => ({ message: messageOf(cause) })
    })
  )
}
