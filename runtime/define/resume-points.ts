/**
 * Checkpoints as a stage sees them: what it goes on from when it was killed. When one is written is a matter of time, so the result must not depend on it: a
 * stage saves all that its next steps read, and on nothing else does it look whether it was resumed. How they are kept: store/resume-points.ts.
 */
import * as Effect from "effect/Effect"
import type { StageError } from "../errors.ts"

/** What a stage left of itself. */
export interface ResumePoint {
  /** How many steps were done: the next is step number `step`, counted from 0. */
  readonly step: number
  /** The folder with the stage's files. */
  readonly path: string
}

/** A file of a checkpoint that is yet to be written, whole, and is not changed until then. */
export interface HeldFile {
  readonly path: string
  readonly bytes: Uint8Array<SharedArrayBuffer>
}

/** How a stage keeps its way. Every `due` is to be followed by a `save` when it is true. */
export interface Checkpoints {
  /** The newest whole one. A damaged one is passed over, with a note, for the one before. Fails when it can't be told what is there. */
  readonly latest: Effect.Effect<ResumePoint | undefined, StageError>
  /** Whether it is time for one: call it after each step. */
  readonly due: () => boolean
  /**
   * Keeps what `write` puts into the folder it is given: all that is needed to go on after `step` steps. Files that it gives to `hold` are written while
   * the stage goes on: their bytes are to stay as they are until `write` is called for the next one, which waits for that; so does the stage's end. A disk
   * that is full does not stop the stage: a note says so, the older ones stay, and it is tried again later.
   */
  readonly save: (step: number, write: WriteCheckpoint) => Effect.Effect<void>
}
export type WriteCheckpoint = (folder: string, hold: (file: HeldFile) => void) => Effect.Effect<void, { readonly message: string }>

/** For a stage that is to be made from its beginning (verify), and for tests. */
export const noCheckpoints: Checkpoints = { latest: Effect.succeed(undefined), due: () => false, save: () => Effect.void }
