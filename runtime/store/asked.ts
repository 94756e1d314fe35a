/** What a run was asked for, as the journal keeps it, and what became of the run. */
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
  /** Of a run with several ranks. */
  readonly ranks?: number
  readonly sharding?: string
  readonly selection: Readonly<Record<string, string | ReadonlyArray<string>>>
  /** The pipeline's outputs: name -> node. */
  readonly outputs: Readonly<Record<string, string>>
  /** Who holds what the run needs while it goes on: whether it still does (leases.ts). */
  readonly holder: string
  readonly process: { readonly pid: number; readonly node: string }
  /** The name of the listing that has its graph (define/recorded-graph.ts); runs of older versions have none. */
  readonly graph?: string
  /** What asks for the same again; runs of programs and of older versions have none. */
  readonly again?: CommandLine
}

/** A command line of caravan: its words, without those of what it prints and where, and the folder it was called in. */
export interface CommandLine {
  readonly words: ReadonlyArray<string>
  readonly folder: string
}

/** What the run was asked for; undefined for runs of versions that did not record it. */
export const askedOf = (run: Pick<PastRun, "asked">): Asked | undefined => {
  const asked = run.asked as Partial<Asked> | null
  return asked?.settings === undefined || asked.holder === undefined ? undefined : (asked as Asked)
}

/** The run's status; "killed" for one that says it runs and whose process is gone. */
export const statusOf = (run: Pick<PastRun, "asked" | "status">): Effect.Effect<string, never, Store> =>
  Effect.gen(function* () {
    if (run.status !== "running") return run.status
    const holder = askedOf(run)?.holder
    return holder !== undefined && (yield* (yield* Store).isHeld(holder)) ? "running" : "killed"
  })
