/** A run's options and status, as stored in the journal. */
import * as Effect from "effect/Effect"
import type { Settings } from "../define/graph.ts"
import type { PastRun } from "./executions.ts"
import { Store } from "./store.ts"

export interface Asked {
  readonly params: Readonly<Record<string, unknown>>
  readonly settings: Settings
  readonly seed: number
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** Only for runs with several ranks. */
  readonly ranks?: number
  readonly sharding?: string
  readonly selection: Readonly<Record<string, string | ReadonlyArray<string>>>
  /** The pipeline's outputs: name -> node. */
  readonly outputs: Readonly<Record<string, string>>
  /** The holder of the run's leases, which shows whether the run is alive (leases.ts). */
  readonly holder: string
  readonly process: { readonly pid: number; readonly node: string }
  /** The name of the listing with its graph (define/recorded-graph.ts); absent for runs of older versions. */
  readonly graph?: string
  /** The command line that repeats the run; absent for runs started by programs or older versions. */
  readonly again?: CommandLine
}

/** A caravan command line: its arguments without output flags, and the folder in which it was called. */
export interface CommandLine {
  readonly words: ReadonlyArray<string>
  readonly folder: string
}

/** A run's options; undefined for runs of versions that did not record them. */
export const askedOf = (run: Pick<PastRun, "asked">): Asked | undefined => {
  const asked = run.asked as Partial<Asked> | null
  return asked?.settings === undefined || asked.holder === undefined ? undefined : (asked as Asked)
}

/** The run's status; "killed" if it is recorded as running but its process no longer exists. */
export const statusOf = (run: Pick<PastRun, "asked" | "status">): Effect.Effect<string, never, Store> =>
  Effect.gen(function* () {
    if (run.status !== "running") return run.status
    const holder = askedOf(run)?.holder
    return holder !== undefined && (yield* (yield* Store).isHeld(holder)) ? "running" : "killed"
  })
