/** Commits results in groups: makes the files of several nodes durable, then records them, so that a power failure can't remove recorded files. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { dependencies, type StageNode } from "../define/graph.ts"
import { StageError, type StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import { groupCommit } from "../store/group-commit.ts"
import type { Claim } from "../store/in-flight.ts"
import type { JournalTables } from "../store/journal.ts"
import type { Trace } from "../store/traces.ts"
import { isForced, type RunContext } from "./context.ts"
import { inputName } from "./inputs.ts"
import type { Produced } from "./produce.ts"
import type { Recorder } from "./recorder.ts"

/** A stage's output before it is in the store. */
interface Finished extends Produced {
  readonly node: StageNode
  readonly claim: Claim
  readonly parts: KeyParts
  readonly milliseconds: number
  /** For a copied shared result: its origin, and the code that made it. */
  readonly fetched?: { readonly from: string; readonly code: string; readonly files: Readonly<Record<string, string>> } | undefined
}

/** Commits a result, in one group with others that finish meanwhile. Returns the trace that it replaces, if any (--force). */
export type Commit = (finished: Finished) => Effect.Effect<Trace | undefined, StageError | StoreError>

export const makeCommit = (run: RunContext, { executionOf }: Recorder): Effect.Effect<Commit, never, Scope.Scope> => {
  /** The user's inputs that a node reads: id -> path, or name on the Hub. Keys only contain their digests, which other files may share. */
  const filesOf = (node: StageNode): Readonly<Record<string, string>> =>
    Object.fromEntries(
      dependencies(node).flatMap((id) => {
        const input = run.graph.nodes.get(id)!
        return input.kind === "file" ? [[id, inputName(input)]] : []
      })
    )

  const record = (
    tables: JournalTables,
    { node, claim: { key }, parts, sealed, sidecar, skipped, metrics, milliseconds, fetched }: Finished
  ): Trace | undefined => {
    const { contentDigest, digest } = sealed
    const before = isForced(run, node.id) ? tables.trace(key) : undefined
    if (before !== undefined) tables.retireTrace(key)
    tables.recordTrace(
      { key, digest, contentDigest, type: node.type.name, metrics, sidecar: sidecar?.digest, skipped },
      // Run and node identify the execution recorded with it, which has the key, parts and code.
      { run: run.id, node: node.id, inputs: node.inputs, paths: filesOf(node), node_version: process.version, fetched: fetched?.from }
    )
    const execution = executionOf(node, key, parts, { status: fetched === undefined ? "ran" : "fetched", milliseconds, digest })
    tables.recordExecution(
      fetched === undefined ? execution : { ...execution, parts: { ...parts, code: fetched.code }, files: fetched.files }
    )
    return before
  }

  const commitAll = (finished: ReadonlyArray<Finished>) =>
    Effect.gen(function* () {
      const sidecars = finished.flatMap(({ sidecar }) => sidecar ?? [])
      const put = yield* run.store.put([...finished.map(({ sealed }) => sealed), ...sidecars])
      const failures = finished.map(
        ({ sidecar }, i) => put[i] ?? (sidecar === undefined ? undefined : put[finished.length + sidecars.indexOf(sidecar)])
      )
      const recorded = yield* run.store.stillHeld(finished.map(({ claim }) => claim)).pipe(
        Effect.flatMap((held) =>
          run.journal.transaction((tables) =>
            finished.map((item, i): Exit.Exit<Trace | undefined, StageError | StoreError> => {
              const failure = failures[i]
              if (failure !== undefined) return Exit.fail(failure)
              // A claim is lost only if leases.db was deleted. Then another run computes the same key: do not overwrite its record.
              return held.has(item.claim.key) ? Exit.succeed(record(tables, item)) : Exit.fail(overtaken(item.node))
            })
          )
        ),
        Effect.result
      )
      return recorded._tag === "Success" ? recorded.success : failures.map((failure) => Exit.fail(failure ?? recorded.failure))
    })
  return groupCommit(commitAll)
}

const overtaken = (node: StageNode): StageError =>
  new StageError({
    reason: "Overtaken",
    message: `Another run took over node "${node.id}" while this one computed it (was leases.db deleted?). Run again to reuse the other run's result.`,
    isRetryable: false
  })
