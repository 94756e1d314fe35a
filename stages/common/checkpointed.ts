/** Checkpoints of a stage's tensors, written while the stage goes on where its machine has the memory. */
import { totalmem } from "node:os"
import * as Effect from "effect/Effect"
import type { Parameters } from "../../engine/gradients.ts"
import { agree, rank, ranks } from "../../engine/ranks.ts"
import type { Spread } from "../../engine/spread.ts"
import { elementSize } from "../../engine/tensor.ts"
import { readPieces } from "../../models/checkpoint.ts"
import { type TensorSnapshot, type TensorWriter, writeSafetensors } from "../../models/safetensors.ts"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"

/** Checkpoints of a stage on several ranks: rank 0 looks, decides and writes, the others do as it says. All ranks call each at the same places. */
export const ofAllRanks = (checkpoints: Checkpoints): Checkpoints =>
  ranks() === 1
    ? checkpoints
    : {
        latest: Effect.map(rank() === 0 ? checkpoints.latest : Effect.undefined, (found) => agree(found, "looking for a checkpoint")),
        due: () => agree(rank() === 0 && checkpoints.due(), "asking whether a checkpoint is due"),
        save: (step, write) => (rank() === 0 ? checkpoints.save(step, write) : Effect.void)
      }

/** Tensors like those that are trained, whole, as a checkpoint has them; on rank 0. `free` them when they are written, or held to be. */
export const wholeTensors = (spread: Spread, parts: Parameters): { readonly tensors: Parameters; readonly free: () => void } => {
  const { copies, tensors } = spread.whole(parts)
  return { tensors, free: () => (copies ? Object.values(tensors).forEach((tensor) => tensor.free()) : undefined) }
}

/** Reads a file of whole tensors into this rank's parts, bit for bit. */
export const readSpread = (path: string, spread: Spread, parts: Parameters) => readPieces(path, spread.pieces(parts))

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
