/**
 * Shared results in a run: others' results are copied from the shared folder, and new results are sent there, in the background. If the folder fails
 * (missing, slow, full), the run continues without it and reports that once; invalid shared results are reported and recomputed here.
 */
import { rm } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { StageNode } from "../define/graph.ts"
import { messageOf, type StoreError } from "../errors.ts"
import type { Entry } from "../shared/entry.ts"
import { SharedError, type SharedFiles } from "../shared/files.ts"
import { entryOf, fetchObject, sendResult } from "../shared/results.ts"
import type { SealedObject } from "../store/objects.ts"
import { Sidecar } from "../store/sidecar.ts"
import type { Trace } from "../store/traces.ts"
import { codeParts } from "./changes.ts"
import type { RunContext } from "./context.ts"
import { fairSemaphore } from "./fair-semaphore.ts"

/** Maximum number of results copied concurrently, and sent concurrently. */
const concurrency = 8

export interface Fetched {
  readonly entry: Entry
  readonly sealed: SealedObject
  readonly sidecar: SealedObject | undefined
}

export interface Sharing {
  /** The shared entry of a key; undefined if there is none or it is unusable. */
  readonly look: (node: StageNode, key: string) => Effect.Effect<Entry | undefined>
  /** Copies its files into folders of the store's `tmp/`, verifying every byte; undefined if that fails. */
  readonly fetch: (node: StageNode, entry: Entry) => Effect.Effect<Fetched | undefined, StoreError>
  /** Sends a result of the store in the background. */
  readonly share: (node: StageNode, trace: Trace) => Effect.Effect<void, StoreError>
  /** Waits until everything has been sent or has failed. */
  readonly finished: Effect.Effect<void>
}

const noSharing: Sharing = {
  look: () => Effect.succeed(undefined),
  fetch: () => Effect.succeed(undefined),
  share: () => Effect.void,
  finished: Effect.void
}

export const makeSharing = (run: RunContext, shared: SharedFiles | undefined): Effect.Effect<Sharing, never, Scope.Scope> => {
  if (shared === undefined) return Effect.succeed(noSharing)
  const { emit, facts, journal, store } = run
  const works = { reading: true, writing: !shared.isReadOnly }
  let begun: Promise<void> | undefined
  const begin = () => (begun ??= shared.begin())
  const note = (node: StageNode, message: string) => emit({ type: "note", node: node.id, message })

  const failed = (node: StageNode, doing: "reading" | "writing", cause: unknown): void => {
    const trouble = cause instanceof SharedError ? cause.trouble : "refused"
    if (!works[doing]) return
    const [all, why] = [trouble !== "full" && trouble !== "refused", `${trouble}: ${messageOf(cause)}`]
    works[doing] = false
    if (all) works.reading = works.writing = false
    const without = all || doing === "reading" ? "the run continues without it" : "nothing more is sent there in this run"
    note(node, `the shared results in ${shared.where} can't be ${doing === "reading" ? "read" : "written to"} (${why}); ${without}`)
  }
  const rejectEntry = (node: StageNode, message: string) =>
    note(node, `its shared result in ${shared.where} can't be used (${message}): it is computed here`)

  /** undefined on failure, which is reported. */
  const attempt = <A>(node: StageNode, body: () => Promise<A>): Effect.Effect<A | undefined> =>
    Effect.promise(async () => {
      if (!works.reading) return undefined
      try {
        await begin()
        return await body()
      } catch (cause) {
        if (cause instanceof SharedError && cause.trouble === "lying") rejectEntry(node, messageOf(cause))
        else failed(node, "reading", cause)
        return undefined
      }
    })

  const fetchTo = Effect.fnUntraced(function* (node: StageNode, digest: string, type: typeof node.type, directory: string) {
    const isWhole = yield* attempt(node, () => fetchObject(shared, digest, directory))
    if (isWhole !== true) return undefined
    const sealed = yield* Effect.catchTag(store.seal(directory, type), "ArtifactError", ({ message }) =>
      Effect.sync(() => {
        rejectEntry(node, message)
        return undefined
      })
    )
    if (sealed === undefined || sealed.digest === digest) return sealed
    rejectEntry(node, `its digest is ${sealed.digest}, expected ${digest}`)
    return undefined
  })

  const send = Effect.fnUntraced(function* ({ node, trace }: { readonly node: StageNode; readonly trace: Trace }) {
    if (!works.writing) return
    const code = facts.code.get(node.id)!
    const accepted = node.stage.pinned === undefined ? undefined : yield* journal.acceptedCode(trace.key, trace.digest, code.digest)
    const made = accepted ?? { code: code.digest, files: codeParts(code) }
    const { contentDigest, digest, key, metrics, sidecar = null, skipped = [], type } = trace
    const entry: Entry = { format: 1, key, digest, contentDigest, type, metrics, sidecar, skipped, ...made }
    yield* Effect.promise(async () => {
      try {
        await begin()
        if (works.writing) await sendResult(shared, entry, store.path)
      } catch (cause) {
        failed(node, "writing", cause)
      }
    })
  })

  return Effect.gen(function* () {
    yield* Effect.addFinalizer(() => Effect.sync(() => shared.close()))
    const fetching = fairSemaphore(concurrency)
    const toSend = yield* Queue.unbounded<{ readonly node: StageNode; readonly trace: Trace }>()
    const waiting = { count: 0 }
    for (let i = 0; i < concurrency; i++)
      yield* Effect.forkScoped(
        Effect.forever(
          Effect.flatMap(Queue.take(toSend), (item) =>
            Effect.ensuring(
              Effect.ignore(send(item)),
              Effect.sync(() => waiting.count--)
            )
          )
        )
      )
    return {
      look: (node, key) => fetching.withPermit(attempt(node, () => entryOf(shared, key))),
      fetch: (node, entry) =>
        fetching.withPermit(
          Effect.gen(function* () {
            if (entry.type !== node.type.name) {
              rejectEntry(node, `it is a ${entry.type}, expected a ${node.type.name}`)
              return undefined
            }
            const directory = yield* store.temporary
            const beside = yield* store.temporary
            const remove = Effect.promise(() =>
              Promise.all([directory, beside].map((folder) => rm(folder, { recursive: true, force: true }))).catch(() => undefined)
            )
            const sealed = yield* fetchTo(node, entry.digest, node.type, directory).pipe(Effect.onError(() => remove))
            if (sealed === undefined || sealed.contentDigest !== entry.contentDigest) {
              if (sealed !== undefined) rejectEntry(node, `its content digest is ${sealed.contentDigest}, expected ${entry.contentDigest}`)
              yield* remove
              return undefined
            }
            const sidecar =
              entry.sidecar === null
                ? undefined
                : yield* fetchTo(node, entry.sidecar, Sidecar, beside).pipe(Effect.catchTag("StoreError", () => Effect.succeed(undefined)))
            if (sidecar === undefined) yield* store.remove(beside)
            return { entry, sealed, sidecar }
          })
        ),
      share: (node, trace) =>
        Effect.sync(() => {
          if (!works.writing) return
          waiting.count++
          Queue.offerUnsafe(toSend, { node, trace })
        }),
      finished: Effect.gen(function* () {
        while (waiting.count > 0) yield* Effect.sleep("20 millis")
      })
    }
  })
}
