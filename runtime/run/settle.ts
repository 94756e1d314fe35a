/** Settles a node: finds its result under its key or computes it, or reports why there is none. */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { isThere } from "../../schemas/file-pattern.ts"
import { ancestors, dependencies, type StageNode } from "../define/graph.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import { digestFile } from "../key/file-source.ts"
import { isForced, type RunContext } from "./context.ts"
import { keyParts } from "./facts.ts"
import type { Finder } from "./find.ts"
import type { Make } from "./make.ts"
import type { Recorder } from "./recorder.ts"

/** `selected`: the nodes that may run; undefined: all. */
export const makeSettler = (
  run: RunContext,
  selected: ReadonlySet<string> | undefined,
  { executionOf, recordSoon, report }: Recorder,
  finder: Finder,
  make: Make
): ((id: string) => Effect.Effect<void, PipelineError | StoreError>) => {
  const { facts, graph, journal, known } = run
  /** The selected nodes and everything they depend on; undefined: everything. */
  const needed = selected === undefined ? undefined : ancestors(graph, selected)
  const isNeeded = (id: string): boolean => needed === undefined || needed.has(id)
  /** The user's files that can't be read: id -> reason. */
  const unreadable = new Map<string, string>()
  /** Nodes that share an input wait for each other while its bytes are checked. */
  const checking = new Map<string, Semaphore.Semaphore>()

  const partsOf = (node: StageNode): KeyParts => keyParts(node, facts, (dependency) => known.get(dependency)!.contentDigest)
  /** The key parts known so far. */
  const knownParts = (node: StageNode): KeyParts => keyParts(node, facts, (dependency) => known.get(dependency)?.contentDigest ?? "")

  /** Fails a node with an unreadable input. */
  const fail = (node: StageNode, error: string): void => {
    recordSoon(executionOf(node, "", knownParts(node), { status: "failed", error }))
    report(node, { status: "failed", milliseconds: 0, key: null, digest: null, metrics: {}, error })
  }
  const skip = (node: StageNode, key: string | null): void => {
    recordSoon(executionOf(node, key ?? "", knownParts(node), { status: "skipped" }))
    report(node, { status: "skipped", milliseconds: 0, key, digest: null, metrics: {}, error: null })
  }

  /**
   * Checks a result's bytes against its manifest, once per run, before a stage uses it. A damaged result is moved aside and recomputed, unless another
   * run has already done so. Returns false if that fails.
   */
  const ensureIntact = (id: string): Effect.Effect<boolean, StoreError> => {
    const input = graph.nodes.get(id)!
    if (input.kind === "file") return Effect.succeed(true)
    let lock = checking.get(id)
    if (lock === undefined) checking.set(id, (lock = Semaphore.makeUnsafe(1)))
    return Effect.gen(function* () {
      for (;;) {
        const result = known.get(id)
        if (result === undefined) return false
        if ((yield* finder.damage(result.digest)) === undefined) return true
        for (const dependency of new Set(dependencies(input))) {
          if (yield* ensureIntact(dependency)) continue
          known.delete(id)
          return false
        }
        const parts = partsOf(input)
        // A result computed here is intact; a result of another run is checked first.
        if (!(yield* make(input, cacheKey(parts), parts, result.digest))) return false
      }
    }).pipe(lock.withPermits(1))
  }

  const settleFile = Effect.fnUntraced(function* (id: string, path: string, type: string) {
    const read = yield* Effect.result(digestFile(path, journal, (read) => run.emit({ type: "reading", ...read })))
    if (read._tag === "Success") {
      const { digest, stamp } = read.success
      known.set(id, { digest, contentDigest: digest, path, type, stamp })
    } else if (read.failure._tag === "PipelineError" && isThere(path)) unreadable.set(id, read.failure.message)
    // Probably a wrong path: fail before anything runs for hours. A file that no selected node needs may be missing.
    else if (read.failure._tag === "StoreError" || isNeeded(id)) return yield* read.failure
  })

  const settle: (id: string) => Effect.Effect<void, PipelineError | StoreError> = Effect.fnUntraced(function* (id) {
    const node = graph.nodes.get(id)!
    if (node.kind === "file") return yield* settleFile(id, node.path, node.type.name)
    const unread = dependencies(node).find((dependency) => unreadable.has(dependency))
    if (unread !== undefined) return fail(node, unreadable.get(unread)!)
    if (dependencies(node).some((dependency) => !known.has(dependency))) return skip(node, null)
    const parts = partsOf(node)
    const key = cacheKey(parts)
    const found = isForced(run, id) ? undefined : yield* finder.look(key)
    if (found?.isDamaged === false) {
      yield* finder.take(node, key, parts, found.trace)
      return
    }
    if (selected !== undefined && !selected.has(id)) {
      if (!isNeeded(id)) return skip(node, key)
      // A damaged result is recomputed even if its node is not selected, as in `ensureIntact`.
      if (found === undefined)
        return yield* new PipelineError({
          message: `Node "${id}" is needed but not selected, and its result is not in the store. Run it first (--until ${id}), or remove the selection.`
        })
    }
    for (const dependency of new Set(dependencies(node))) if (!(yield* ensureIntact(dependency))) return skip(node, key)
    // A recomputed input may have different content.
    if (cacheKey(partsOf(node)) !== key) return yield* settle(id)
    yield* make(node, key, parts, found?.trace.digest)
  })
  return settle
}
