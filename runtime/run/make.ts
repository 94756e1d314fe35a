/** Computes a node's result: waits for a permit and the key's claim, runs the stage (retrying transient failures), commits and reports. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { StageNode } from "../define/graph.ts"
import { messageOf, StageError, type StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import type { Claim } from "../store/in-flight.ts"
import type { SkippedCount } from "../define/skipped.ts"
import type { SealedObject } from "../store/objects.ts"
import type { Trace } from "../store/traces.ts"
import { skippedReport } from "../store/sidecar.ts"
import { driftMessage, driftOf } from "./changes.ts"
import { makeCommit } from "./commit.ts"
import { isForced, type RunContext } from "./context.ts"
import { fairSemaphore } from "./fair-semaphore.ts"
import { makeFetchInputs } from "./fetch-inputs.ts"
import type { Finder } from "./find.ts"
import { emptyDataset, whereRowsWereLost } from "./lost-rows.ts"
import { checkpointFolder, isJob, limitsOf, produce } from "./produce.ts"
import type { Recorder } from "./recorder.ts"
import type { Sharing } from "./sharing.ts"

/** Maximum number of nodes whose stages run or whose results are being written to disk. Nodes queued for a permit do not count. */
const maxInFlight = 128

/** Default maximum number of concurrently submitted jobs. */
const defaultSlurmJobs = 64

/** Polling interval for a node that another run is computing. */
const waitInterval = "100 millis"

/** Only a stage's own failure is retried, not a failure of the store. */
const isRetryable = (error: StageError | StoreError): boolean => error._tag === "StageError" && error.isRetryable

/**
 * Computes a node, or uses the result that another run has computed in the meantime. Returns whether there is a result. Holds no permit while it waits
 * for another run or while its result is written to disk. `suspect`: the digest of an earlier result that was found damaged.
 */
export type Make = (node: StageNode, key: string, parts: KeyParts, suspect?: string) => Effect.Effect<boolean, StoreError>

export const makeMaker = (run: RunContext, recorder: Recorder, finder: Finder, sharing: Sharing): Effect.Effect<Make, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { emit, journal, known, store, verified } = run
    const commit = yield* makeCommit(run, recorder)
    const fetchInputs = makeFetchInputs(run)
    const data = fairSemaphore(Math.max(1, run.options.jobs ?? 1))
    const tensors = fairSemaphore(1)
    const jobs = fairSemaphore(run.options.slurmJobs ?? defaultSlurmJobs)
    const recording = fairSemaphore(maxInFlight)

    /** Claims are released in batches. That is safe: waiters poll, and claims of a finished run are ignored. */
    const done = yield* Queue.unbounded<Claim>()
    yield* Effect.forkScoped(Effect.forever(Effect.flatMap(Queue.takeAll(done), (claims) => Effect.ignore(store.release(claims)))))

    /** Retries transient failures up to the node's limit, after 1, 2, 4 .. seconds, resuming from the stage's checkpoint if there is one. */
    const withRetries = <A>(
      node: StageNode,
      once: Effect.Effect<A, StageError | StoreError>
    ): Effect.Effect<A, StageError | StoreError> => {
      const times = limitsOf(run, node).retries ?? 0
      if (times === 0) return once
      let retried = 0
      return once.pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            if (isRetryable(error) && retried++ < times)
              emit({ type: "note", node: node.id, message: `failed; retrying (${retried} of ${times}): ${error.message}` })
          })
        ),
        Effect.retry({ times, schedule: Schedule.exponential("1 second"), while: isRetryable })
      )
    }

    /** Runs the stage, releases its permit, then commits and records its output. */
    const make = Effect.fnUntraced(function* (node: StageNode, claim: Claim, parts: KeyParts, releasePermit: Effect.Effect<void>) {
      const started = performance.now()
      const { metrics, sealed, sidecar, skipped } = yield* withRetries(node, produce(run, node, claim.key, parts))
      const { contentDigest, digest } = sealed
      return yield* Effect.gen(function* () {
        yield* releasePermit
        const replaced = yield* commit({ node, claim, parts, sealed, sidecar, skipped, metrics, milliseconds: performance.now() - started })
        if (replaced !== undefined && replaced.contentDigest !== contentDigest)
          emit({
            type: "note",
            node: node.id,
            message: `the new result differs from the old one (${replaced.digest.slice(0, 12)}, kept as an older generation): \`caravan verify\` shows where`
          })
        known.set(node.id, { digest, contentDigest, path: store.path(digest), type: node.type.name })
        verified.add(digest)
        yield* store.remove(checkpointFolder(run, claim.key))
        yield* sharing.share(node, traceOf(node, claim.key, sealed, sidecar, metrics, skipped))
        return { digest, metrics, ...skippedReport(store, { sidecar: sidecar?.digest, skipped }) }
      }).pipe(
        Effect.ensuring(store.remove(sealed.directory)),
        Effect.ensuring(sidecar === undefined ? Effect.void : store.remove(sidecar.directory))
      )
    })

    /** Computes a node whose claim we hold, and reports the outcome; returns whether it succeeded. */
    const attempt = Effect.fnUntraced(function* (node: StageNode, claim: Claim, parts: KeyParts, releasePermit: Effect.Effect<void>) {
      const { key } = claim
      const started = performance.now()
      const exit = yield* Effect.exit(make(node, claim, parts, releasePermit))
      const milliseconds = performance.now() - started
      if (Exit.isSuccess(exit)) {
        recorder.report(node, { status: "ran", milliseconds, key, ...exit.value, error: null })
        return true
      }
      // An interrupted run never gets here, so an interruption in the cause came from the stage itself.
      const failure = Cause.squash(exit.cause)
      const isEmpty = failure instanceof StageError && failure.reason === emptyDataset
      const error = `${messageOf(failure)}${isEmpty ? whereRowsWereLost(run.graph, recorder.results, node) : ""}`
      known.delete(node.id)
      yield* journal.recordExecution(recorder.executionOf(node, key, parts, { status: "failed", milliseconds, error }))
      recorder.report(node, { status: "failed", milliseconds, key, digest: null, metrics: {}, error })
      return false
    })

    /** Claims the key and computes its result. Returns whether there is a result, or who holds the claim. */
    const claimAndMake = Effect.fnUntraced(function* (
      node: StageNode,
      key: string,
      parts: KeyParts,
      suspect: string | undefined,
      releasePermit: Effect.Effect<void>
    ) {
      const claimed = yield* store.claim(key)
      if (!claimed.mine) return claimed.by
      if (claimed.tookOver) emit({ type: "note", node: node.id, message: "the run that was computing it has ended: computing it here" })
      return yield* Effect.gen(function* () {
        // Another run may have computed it while this one waited. Forced nodes are always computed by this run.
        const trace = isForced(run, node.id) ? undefined : yield* finder.lookOrMoveAside(node.id, key, suspect)
        if (trace === undefined) return yield* recording.withPermit(attempt(node, claimed.claim, parts, releasePermit))
        // This run may already use the result: it was suspected, but is intact.
        return run.known.get(node.id)?.digest === trace.digest || (yield* finder.take(node, key, parts, trace))
      }).pipe(Effect.ensuring(Effect.sync(() => Queue.offerUnsafe(done, claimed.claim))))
    })

    /** Copies a shared result into the store under its key's claim. Returns whether there is a result now. */
    const takeShared = Effect.fnUntraced(function* (node: StageNode, key: string, parts: KeyParts, suspect: string | undefined) {
      // A locked run also checks the code, which a pinned stage's key does not contain.
      const needsItsCode = run.options.locked !== undefined && node.stage.pinned !== undefined
      const entry = needsItsCode || isForced(run, node.id) ? undefined : yield* sharing.look(node, key)
      if (entry === undefined) return false
      const claimed = yield* store.claim(key)
      if (!claimed.mine) return false
      return yield* Effect.gen(function* () {
        const trace = yield* finder.lookOrMoveAside(node.id, key, suspect)
        if (trace !== undefined) return run.known.get(node.id)?.digest === trace.digest || (yield* finder.take(node, key, parts, trace))
        const started = performance.now()
        const fetched = yield* sharing.fetch(node, entry)
        if (fetched === undefined) return false
        const { sealed, sidecar } = fetched
        const metrics = Object.fromEntries(Object.entries(entry.metrics).map(([name, value]) => [name, value ?? NaN]))
        const { code, files, skipped } = entry
        const milliseconds = performance.now() - started
        yield* commit({
          ...{ node, claim: claimed.claim, parts, sealed, sidecar, skipped, metrics, milliseconds },
          fetched: { from: run.options.shared?.folder ?? "", code, files }
        }).pipe(
          Effect.ensuring(store.remove(sealed.directory)),
          Effect.ensuring(sidecar === undefined ? Effect.void : store.remove(sidecar.directory))
        )
        yield* store.remove(checkpointFolder(run, key))
        const found = traceOf(node, key, sealed, sidecar, metrics, skipped)
        const drift = yield* driftOf(node, run.facts, found, journal)
        if (drift.length > 0) emit({ type: "note", node: node.id, message: driftMessage(node, drift) })
        known.set(node.id, { ...found, path: store.path(found.digest) })
        verified.add(found.digest)
        recorder.report(node, {
          ...{ status: "fetched", milliseconds, key, digest: found.digest, metrics, error: null },
          ...skippedReport(store, found)
        })
        return true
      }).pipe(
        // Ignored: if committing fails here, it also fails for the result computed next, and is reported then.
        Effect.catch(() => Effect.succeed(false)),
        Effect.ensuring(Effect.sync(() => Queue.offerUnsafe(done, claimed.claim)))
      )
    })

    return Effect.fnUntraced(function* (node, key, parts, suspect) {
      if (yield* takeShared(node, key, parts, suspect)) return true
      const missing = yield* fetchInputs(node)
      if (missing !== undefined) {
        known.delete(node.id)
        recorder.recordSoon(recorder.executionOf(node, key, parts, { status: "failed", error: missing }))
        recorder.report(node, { status: "failed", milliseconds: 0, key, digest: null, metrics: {}, error: missing })
        return false
      }
      const permits = isJob(run.options, node) ? jobs : node.stage.resources.tensors === true ? tensors : data
      let reported = ""
      for (;;) {
        const result = yield* permits.withPermitUntil((releasePermit) => claimAndMake(node, key, parts, suspect, releasePermit))
        if (typeof result === "boolean") return result
        if (reported !== result) emit({ type: "node-waiting", node: node.id, by: result })
        reported = result
        yield* Effect.sleep(waitInterval)
      }
    })
  })

/** The journal's entry for a result. */
const traceOf = (
  node: StageNode,
  key: string,
  { contentDigest, digest }: SealedObject,
  sidecar: SealedObject | undefined,
  metrics: Readonly<Record<string, number>>,
  skipped: ReadonlyArray<SkippedCount>
): Trace => ({ key, digest, contentDigest, type: node.type.name, metrics, sidecar: sidecar?.digest, skipped })
