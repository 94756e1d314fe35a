/** Finds results: recorded under their key, complete in the store, with the correct bytes. */
import * as Effect from "effect/Effect"
import type { StageNode } from "../define/graph.ts"
import type { StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import { skippedReport } from "../store/sidecar.ts"
import type { Trace } from "../store/traces.ts"
import { driftMessage, driftOf } from "./changes.ts"
import type { RunContext } from "./context.ts"
import { fairSemaphore } from "./fair-semaphore.ts"
import type { Recorder } from "./recorder.ts"

/** Maximum number of results whose bytes are read concurrently. */
const concurrentReads = 16

export interface Finder {
  /** The result under a key, if all its files exist. Its bytes are read only if a file was modified; `isDamaged`: the bytes have changed. */
  readonly look: (key: string) => Effect.Effect<{ readonly trace: Trace; readonly isDamaged: boolean } | undefined, StoreError>
  /**
   * The result under a claimed key. Moves it aside if it is incomplete, or if it is the object `suspect` and its bytes are damaged. Another object stays:
   * the previous holder of the claim may have recomputed the result.
   */
  readonly lookOrMoveAside: (id: string, key: string, suspect: string | undefined) => Effect.Effect<Trace | undefined, StoreError>
  /** A description of the damage to a result's bytes; undefined if there is none. A run reads an intact result only once. */
  readonly damage: (digest: string) => Effect.Effect<string | undefined, StoreError>
  /** Uses an existing result. Returns false, and reports a failure, if the run is locked and a pinned stage's code has drifted. */
  readonly take: (node: StageNode, key: string, parts: KeyParts, trace: Trace) => Effect.Effect<boolean, StoreError>
}

export const makeFinder = (
  { emit, facts, journal, known, options, store, verified }: RunContext,
  { executionOf, recordSoon, report }: Recorder
): Finder => {
  const reading = fairSemaphore(concurrentReads)
  const damage: Finder["damage"] = (digest) =>
    Effect.suspend(() =>
      verified.has(digest)
        ? Effect.succeed(undefined)
        : reading
            .withPermit(store.damage(digest))
            .pipe(Effect.tap((found) => Effect.sync(() => found === undefined && verified.add(digest))))
    )
  const look: Finder["look"] = Effect.fnUntraced(function* (key) {
    const trace = yield* journal.trace(key)
    if (trace === undefined) return undefined
    const presence = yield* store.presence(trace.digest)
    if (presence === "missing") return undefined
    return { trace, isDamaged: presence === "modified" && (yield* damage(trace.digest)) !== undefined }
  })
  const lookOrMoveAside: Finder["lookOrMoveAside"] = Effect.fnUntraced(function* (id, key, suspect) {
    const trace = yield* journal.trace(key)
    if (trace === undefined) return undefined
    let wrong = "damaged or no longer in the store"
    if (yield* store.present(trace.digest)) {
      if (trace.digest !== suspect) return trace
      const found = yield* damage(trace.digest)
      if (found === undefined) return trace
      wrong = `damaged (${found})`
    }
    emit({ type: "note", node: id, message: `its result is ${wrong}: recomputing it` })
    yield* store.quarantine(trace.digest)
    yield* journal.forgetTrace(key)
    return undefined
  })
  const take: Finder["take"] = Effect.fnUntraced(function* (node, key, parts, trace) {
    const drift = yield* driftOf(node, facts, trace, journal)
    if (drift.length > 0) {
      const error = driftMessage(node, drift)
      if (options.locked !== undefined) {
        recordSoon(executionOf(node, key, parts, { status: "failed", error }))
        report(node, { status: "failed", milliseconds: 0, key, digest: null, metrics: {}, error })
        return false
      }
      emit({ type: "note", node: node.id, message: error })
    }
    known.set(node.id, { ...trace, path: store.path(trace.digest) })
    recordSoon(executionOf(node, key, parts, { status: "hit", digest: trace.digest }))
    report(node, {
      status: "hit",
      milliseconds: 0,
      key,
      digest: trace.digest,
      metrics: trace.metrics,
      ...skippedReport(store, trace),
      error: null
    })
    return true
  })
  return { look, lookOrMoveAside, damage, take }
}
