/** Finds the curves of a run's nodes: the numbers reported at each step. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"
import { curvesPath, loggedNodes } from "../run/node-log.ts"
import type { NodeStatus, PastRun } from "../store/executions.ts"
import { Journal } from "../store/journal.ts"
import { curvesFile } from "../store/sidecar.ts"
import { Store } from "../store/store.ts"

export interface KeptCurve {
  readonly node: string
  /** null for an interrupted node. */
  readonly stage: string | null
  readonly status: NodeStatus | "interrupted"
  /** The Parquet file; null if the stage reported no numbers, or its result has since been recomputed or deleted. */
  readonly path: string | null
}

/** Per node of the run: for a computed or reused result, the curve of its computation; for a failed or interrupted node, the rows until then. */
export const curvesOf = (run: PastRun): Effect.Effect<ReadonlyArray<KeptCurve>, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const [store, journal] = [yield* Store, yield* Journal]
    const last = new Map((yield* journal.executionsOf(run.id)).map((execution) => [execution.node, execution]))
    const settled = yield* Effect.forEach(last.values(), ({ node, stage, status, key, digest }) =>
      Effect.gen(function* () {
        const trace = digest === null ? undefined : yield* journal.trace(key)
        // Recomputed since (--force): the trace belongs to another execution.
        const isOther = status === "ran" && (yield* journal.provenance(key))?.run !== run.id
        const sidecar = trace?.digest === digest && !isOther ? trace?.sidecar : undefined
        const kept = sidecar === undefined ? undefined : join(store.path(sidecar), curvesFile)
        const path = digest === null ? curvesPath(store.home, run.id, node) : kept
        return { node, stage, status, path: path !== undefined && existsSync(path) ? path : null }
      })
    )
    const interrupted = loggedNodes(store.home, run.id)
      .filter((node) => !last.has(node))
      .map((node) => ({ node, path: curvesPath(store.home, run.id, node) }))
      .filter(({ path }) => existsSync(path))
      .map(({ node, path }) => ({ node, stage: null, status: "interrupted" as const, path }))
    return [...settled, ...interrupted]
  })
