/** Everything needed to run a stage, wherever it runs. */
import * as Effect from "effect/Effect"
import type { Placement } from "../define/placement.ts"
import type { Progress, StageInfo } from "../define/stage-info.ts"
import { StageError } from "../errors.ts"
import type { CodeIdentity } from "../key/code-identity.ts"
import type { KeyCache } from "../key/key-cache.ts"
import type { Job, Outcome } from "./run-stage.ts"

/** A stage's limits. */
export interface Limits {
  /** Wall time. */
  readonly seconds?: number
  /** Resident memory of the stage's process, in MiB. */
  readonly memory?: number
}

/** A stage with everything needed to run it. */
export interface Work {
  readonly stage: StageInfo
  readonly job: Job
  /** The stage's code as in its key: exactly this code must run. */
  readonly code: CodeIdentity
  readonly cache: KeyCache
  readonly limits?: Limits
  readonly onProgress: (progress: Progress) => void
  /** Receives the child's output as it arrives. */
  readonly onOutput?: (text: string) => void
  /** For a node placed elsewhere; absent: runs in this machine's processes. */
  readonly on?: Placed | undefined
}

/** Everything needed to run a stage elsewhere, and to find it there again. */
export interface Placed {
  readonly key: string
  readonly node: string
  readonly placement: Placement
  /** The machine properties in the key: they must be the same there. */
  readonly numerics: Readonly<Record<string, string>> | null
  /** What happens to the work if the run is interrupted. */
  readonly onInterruption: () => Interruption
}
/** "leave": it continues without the run, and the next run finds it. */
export type Interruption = "leave" | "cancel"

/** Runs a stage. */
export type Execute = (work: Work) => Effect.Effect<Outcome, StageError>

export const timedOut = (stage: StageInfo, seconds: number): Effect.Effect<never, StageError> =>
  Effect.fail(
    new StageError({
      reason: "Timeout",
      message: `Stage ${stage.name} exceeded its time limit of ${seconds} seconds and was stopped. Increase the limit, or check its log (caravan log) to see where it hung.`,
      isRetryable: true
    })
  )
