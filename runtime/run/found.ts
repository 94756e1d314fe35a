/**
 * Finds all existing results of a graph whose keys can be computed without running anything: the first step of a plan, and all that a run does if
 * nothing has changed. Looks up thousands of nodes with few SQL statements and no fibers.
 */
import * as Effect from "effect/Effect"
import { dependencies, type Graph, type StageNode } from "../define/graph.ts"
import type { StoreError } from "../errors.ts"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import type { JournalOperations } from "../store/journal.ts"
import type { Presence } from "../store/objects.ts"
import type { StoreOperations } from "../store/store.ts"
import type { Trace } from "../store/traces.ts"
import { type Facts, keyParts } from "./facts.ts"

/** A node with a known key. */
export interface Keyed {
  readonly node: StageNode
  readonly parts: KeyParts
  readonly key: string
  /** The journal's entry under the key. */
  readonly trace: Trace | undefined
  /** The result's state in the store. */
  readonly presence: Presence
}

/** The nodes whose keys are known, because the results of all their inputs exist; inputs first. `fileDigest`: the known digests of the user's files. */
export const findAll = (
  graph: Graph,
  facts: Facts,
  fileDigest: (id: string) => string | undefined,
  { journal, store }: { readonly journal: JournalOperations; readonly store: StoreOperations },
  force: ReadonlySet<string>
): Effect.Effect<ReadonlyMap<string, Keyed>, StoreError> =>
  Effect.gen(function* () {
    const traces = yield* journal.someTraces(2 * graph.nodes.size)
    const contents = new Map<string, string>()
    const keyed: Array<Omit<Keyed, "presence">> = []
    const contentOf = (id: string) => contents.get(id)!
    for (const node of graph.nodes.values()) {
      if (node.kind === "file") {
        const digest = fileDigest(node.id)
        if (digest !== undefined) contents.set(node.id, digest)
        continue
      }
      if (!dependencies(node).every((id) => contents.has(id))) continue
      const parts = keyParts(node, facts, contentOf)
      const key = cacheKey(parts)
      const trace = traces.get(key) ?? (yield* journal.trace(key))
      keyed.push({ node, parts, key, trace })
      if (trace !== undefined && !force.has(node.id)) contents.set(node.id, trace.contentDigest)
    }
    const digests = [...new Set(keyed.flatMap(({ trace }) => trace?.digest ?? []))]
    const presences = yield* store.presences(digests)
    const presenceOf = new Map(digests.map((digest, i) => [digest, presences[i]!]))
    const found = new Map<string, Keyed>()
    const exists = (id: string) => graph.nodes.get(id)!.kind === "file" || (found.get(id)?.presence ?? "missing") !== "missing"
    for (const each of keyed) {
      // The content of an input that has to be recomputed is unknown.
      if (!dependencies(each.node).every(exists)) continue
      found.set(each.node.id, { ...each, presence: each.trace === undefined ? "missing" : presenceOf.get(each.trace.digest)! })
    }
    return found
  })
