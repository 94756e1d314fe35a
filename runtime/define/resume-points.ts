/**
 * Resume checkpoints as a stage sees them: the state from which a killed stage continues. When one is written depends on time, so the result must
 * not: a stage saves everything that its later steps read, and must not otherwise depend on whether it was resumed. Storage: store/resume-points.ts.
 */
import * as Effect from "effect/Effect"
import type { StageError } from "../errors.ts"

/** A saved state of a stage. */
export interface ResumePoint {
  /** Number of completed steps: the next step has number `step`, counted from 0. */
  readonly step: number
  /** The folder with the stage's files. */
  readonly path: string
}

/** A file of a checkpoint that will be written later; its bytes must not change until then. */
export interface HeldFile {
  readonly path: string
  readonly bytes: Uint8Array<SharedArrayBuffer>
}

/** Access to a stage's checkpoints. Whenever `due` returns true, call `save`. */
export interface Checkpoints {
  /** The newest intact checkpoint. Damaged ones are skipped with a note. Fails if the checkpoints can't be read. */
  readonly latest: Effect.Effect<ResumePoint | undefined, StageError>
  /** Whether it is time to save: call it after each step. */
  readonly due: () => boolean
  /**
   * Saves what `write` puts into the given folder: everything needed to continue after `step` steps. Files passed to `hold` are written in the
   * background: their bytes must not change until `write` is called for the next checkpoint, which waits for them, as does the end of the stage. A
   * full disk does not stop the stage: a note reports it, older checkpoints stay, and the next save tries again.
   */
  readonly save: (step: number, write: WriteCheckpoint) => Effect.Effect<void>
}
export type WriteCheckpoint = (folder: string, hold: (file: HeldFile) => void) => Effect.Effect<void, { readonly message: string }>

/** For stages that must run from the beginning (verify), and for tests. */
export const noCheckpoints: Checkpoints = { latest: Effect.succeed(undefined), due: () => false, save: () => Effect.void }
