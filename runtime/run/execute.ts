/** What it takes to run a stage, wherever it runs. */
import * as Effect from "effect/Effect"
import type { Placement } from "../define/placement.ts"
import type { Progress, StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import type { CodeIdentity } from "../key/code-identity.ts"
import type { KeyCache } from "../key/key-cache.ts"
import type { Job, Outcome } from "./run-stage.ts"

/** What a stage may take before it is stopped. */
export interface Limits {
  /** Wall time. */
  readonly seconds?: number
  /** Resident memory of the stage's process, in MiB. */
  readonly memory?: number
}

/** A stage with all that it takes to run it. */
export interface Work {
  readonly stage: StageInfo
  readonly job: Job
  /** The stage's code as its key has it: what runs must be that. */
  readonly code: CodeIdentity
  readonly cache: KeyCache
  readonly limits?: Limits
  readonly onProgress: (progress: Progress) => void
  /** What a child prints, as it comes. */
  readonly onOutput?: (text: string) => void
  /** Of a node that is placed elsewhere than in this machine's processes; none: it is run here. */
  readonly on?: Placed | undefined
}

/** What it takes to run a stage somewhere else, and to find it there again. */
export interface Placed {
  readonly key: string
  readonly node: string
  readonly placement: Placement
  /** What of this machine the key has: it must be the same there. */
  readonly numerics: Readonly<Record<string, string>> | null
  /** What becomes of the work when the run is interrupted. */
  readonly onInterruption: () => Interruption
}
/** "leave": it goes on without the run, and the next run finds it. */
export type Interruption = "leave" | "cancel"

/** Runs a stage. */
export type Execute = (work: Work) => Effect.Effect<Outcome, StageError>

export const timedOut = (stage: StageInfo, seconds: number): Effect.Effect<never, StageError> =>
  Effect.fail(
    new StageError({
      reason: "Timeout",
      message: `Stage ${stage.name} took longer than the ${seconds} seconds it was given, and was stopped. Give it more time, or see in its log (caravan log) where it hung.`,
      isRetryable: true
    })
  )
