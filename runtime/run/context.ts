/** What the parts of one run share. */
import type { Graph } from "../define/graph.ts"
import type { JournalOperations } from "../store/journal.ts"
import type { HeldStore } from "../store/store.ts"
import type { RunEvent } from "./events.ts"
import type { Execute } from "./execute.ts"
import type { Facts } from "./facts.ts"
import type { RunOptions } from "./options.ts"

/** A node's result while the run goes on. */
export interface KnownResult {
  readonly digest: string
  readonly contentDigest: string
  readonly path: string
  readonly type: string
  /** For files of the user's: what they looked like when hashed. */
  readonly stamp?: string
}

export interface RunContext {
  readonly id: string
  readonly graph: Graph
  readonly facts: Facts
  readonly options: RunOptions
  readonly journal: JournalOperations
  readonly store: HeldStore
  readonly execute: Execute
  readonly emit: (event: RunEvent) => void
  /** Results that are known, by node. */
  readonly known: Map<string, KnownResult>
  /** Digests of objects whose bytes were read in this run, or written by it. */
  readonly verified: Set<string>
}

export const isForced = ({ options }: RunContext, id: string): boolean => options.force?.includes(id) === true
