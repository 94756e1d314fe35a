/** State shared by the parts of one run. */
import type { Graph } from "../define/graph.ts"
import type { JournalOperations } from "../store/journal.ts"
import type { HeldStore } from "../store/store.ts"
import type { RunEvent } from "./events.ts"
import type { Execute } from "./execute.ts"
import type { Facts } from "./facts.ts"
import type { RunOptions } from "./options.ts"

/** A node's result during the run. */
export interface KnownResult {
  readonly digest: string
  readonly contentDigest: string
  readonly path: string
  readonly type: string
  /** For the user's files: their stamp when they were hashed. */
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
  /** Known results, by node. */
  readonly known: Map<string, KnownResult>
  /** Digests of objects whose bytes were verified or written in this run. */
  readonly verified: Set<string>
}

export const isForced = ({ options }: RunContext, id: string): boolean => options.force?.includes(id) === true
