/** Making a node's result: once there is room for it and nobody else makes the same, tried again where that may help, committed and told of. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { StageNode } from "../define/graph.ts"
import { messageOf, type StageError, type StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import type { Claim } from "../store/in-flight.ts"
import { makeCommit } from "./commit.ts"
import { isForced, type RunContext } from "./context.ts"
import { fairSemaphore } from "./fair-semaphore.ts"
import type { Finder } from "./find.ts"
import { checkpointFolder, limitsOf, produce } from "./produce.ts"
import type { Recorder } from "./recorder.ts"

/** Nodes that run or wait for their results to be on the disk, at most: those of one kind that wait for room are no part of it. */
const unrecorded = 128

/** How often a node that another run makes is looked for. */
const waitInterval = "100 millis"

/** What is the same every time: trying again would only take longer. */
const lasting: ReadonlyArray<string> = [
  "BadOutput",
  "CodeChanged",
  "ConfigError",
  "Defect",
  "DivergedError",
  "InputChanged",
  "Load",
  "Memory",
  "NothingWritten",
  "Overtaken"
]
const mayPass = (error: StageError | StoreError): boolean => error._tag === "StageError" && !lasting.includes(error.reason)

/**
 * Makes a node once there is room for it and nobody else makes the same, or takes what somebody else has made meanwhile; whether there is a
 * result. While it waits for others it takes no room, nor while what it wrote is brought to the disk. `suspect`: the digest of a result of it whose
 * bytes were found damaged.
 */
export type Make = (node: StageNode, key: string, parts: KeyParts, suspect?: string) => Effect.Effect<boolean, StoreError>

export const makeMaker = (run: RunContext, recorder: Recorder, finder: Finder): Effect.Effect<Make, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { emit, journal, known, store, verified } = run
    const commit = yield* makeCommit(run, recorder)
    const data = fairSemaphore(Math.max(1, run.options.jobs ?? 1))
    const tensors = fairSemaphore(1)
    const recording = fairSemaphore(unrecorded)

    /** Claims are given up a few at a time. Who waits for a key looks again and again, and those of a run that has ended do not count. */
    const done = yield* Queue.unbounded<Claim>()
    yield* Effect.forkScoped(Effect.forever(Effect.flatMap(Queue.takeAll(done), (claims) => Effect.ignore(store.release(claims)))))

    /** Tries again what failed by chance, as often as the node's limits allow, after 1, 2, 4 .. seconds. From its checkpoint where it keeps any. */
    const persist = <A>(node: StageNode, once: Effect.Effect<A, StageError | StoreError>): Effect.Effect<A, StageError | StoreError> => {
      const times = limitsOf(run, node).retries ?? 0
      if (times === 0) return once
      let tried = 0
      return once.pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            if (mayPass(error) && tried++ < times)
              emit({ type: "note", node: node.id, message: `failed, and is tried again (${tried} of ${times}): ${error.message}` })
          })
        ),
        Effect.retry({ times, schedule: Schedule.exponential("1 second"), while: mayPass })
      )
    }

    /** Runs the stage, and has what it wrote committed and recorded. It gives its permit back in between. */
    const make = Effect.fnUntraced(function* (node: StageNode, claim: Claim, parts: KeyParts, giveBack: Effect.Effect<void>) {
      const started = performance.now()
      const { metrics, sealed } = yield* persist(node, produce(run, node, claim.key, parts))
      const { contentDigest, digest } = sealed
      return yield* Effect.gen(function* () {
        yield* giveBack
        const before = yield* commit({ node, claim, parts, sealed, metrics, milliseconds: performance.now() - started })
        if (before !== undefined && before.contentDigest !== contentDigest)
          emit({
            type: "note",
            node: node.id,
            message: `made again it differs from what it was (${before.digest.slice(0, 12)}, kept as an older generation): caravan verify names where`
          })
        known.set(node.id, { digest, contentDigest, path: store.path(digest), type: node.type.name })
        verified.add(digest)
        yield* store.remove(checkpointFolder(run, claim.key))
        return { digest, metrics }
      }).pipe(Effect.ensuring(store.remove(sealed.directory)))
    })

    /** Makes a node that is ours to make, and reports how it went; whether it succeeded. */
    const attempt = Effect.fnUntraced(function* (node: StageNode, claim: Claim, parts: KeyParts, giveBack: Effect.Effect<void>) {
      const { key } = claim
      const started = performance.now()
      const exit = yield* Effect.exit(make(node, claim, parts, giveBack))
      const milliseconds = performance.now() - started
      if (Exit.isSuccess(exit)) {
        recorder.report(node, { status: "ran", milliseconds, key, digest: exit.value.digest, metrics: exit.value.metrics, error: null })
        return true
      }
      // Of a run that is interrupted nothing comes here: an interruption in the cause is the stage's own.
      const error = messageOf(Cause.squash(exit.cause))
      known.delete(node.id)
      yield* journal.recordExecution(recorder.executionOf(node, key, parts, { status: "failed", milliseconds, error }))
      recorder.report(node, { status: "failed", milliseconds, key, digest: null, metrics: {}, error })
      return false
    })

    /** Claims the key and makes its result; whether there is one, or who makes it. */
    const claimAndMake = Effect.fnUntraced(function* (
      node: StageNode,
      key: string,
      parts: KeyParts,
      suspect: string | undefined,
      giveBack: Effect.Effect<void>
    ) {
      const claimed = yield* store.claim(key)
      if (!claimed.mine) return claimed.by
      if (claimed.tookOver) emit({ type: "note", node: node.id, message: "whoever made it is gone: taking over" })
      return yield* Effect.gen(function* () {
        // Made while this waited. What is forced is made by this run whatever there is.
        const trace = isForced(run, node.id) ? undefined : yield* finder.lookOrSetAside(node.id, key, suspect)
        if (trace === undefined) return yield* recording.withPermit(attempt(node, claimed.claim, parts, giveBack))
        return trace.digest === suspect || (yield* finder.take(node, key, parts, trace))
      }).pipe(Effect.ensuring(Effect.sync(() => Queue.offerUnsafe(done, claimed.claim))))
    })

    return Effect.fnUntraced(function* (node, key, parts, suspect) {
      const permits = node.stage.resources.tensors === true ? tensors : data
      let told = ""
      for (;;) {
        const result = yield* permits.withPermitUntil((giveBack) => claimAndMake(node, key, parts, suspect, giveBack))
        if (typeof result === "boolean") return result
        if (told !== result) emit({ type: "node-waiting", node: node.id, by: result })
        told = result
        yield* Effect.sleep(waitInterval)
      }
    })
  })
