/** Publishes node results: to subscribers immediately, to the journal in batches. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { StageNode } from "../define/graph.ts"
import type { StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import type { Execution } from "../store/executions.ts"
import type { SkippedReport } from "../store/sidecar.ts"
import { codeParts } from "./changes.ts"
import type { RunContext } from "./context.ts"
import type { NodeResult } from "./events.ts"

/** Maximum delay before reused results are recorded: gc relies on these records, and a run killed with -9 can't write them at its end. */
const recordInterval = "1 second"

export interface Recorder {
  /** Reported results, by node. */
  readonly results: ReadonlyMap<string, NodeResult>
  readonly report: (
    node: StageNode,
    result: Omit<NodeResult, "id" | "stage" | keyof SkippedReport> & Partial<Pick<NodeResult, keyof SkippedReport>>
  ) => void
  readonly executionOf: (
    node: StageNode,
    key: string,
    parts: KeyParts,
    outcome: Pick<Execution, "status"> & Partial<Pick<Execution, "milliseconds" | "digest" | "error">>
  ) => Execution
  /** Records in a batch, within a second. */
  readonly recordSoon: (execution: Execution) => void
  /** Records everything pending. */
  readonly flush: Effect.Effect<void, StoreError>
}

export const makeRecorder = ({
  emit,
  facts,
  graph,
  id,
  journal
}: Pick<RunContext, "emit" | "facts" | "graph" | "id" | "journal">): Effect.Effect<Recorder, never, Scope.Scope> =>
  Effect.gen(function* () {
    const results = new Map<string, NodeResult>()
    let waiting: Array<Execution> = []
    const flush = Effect.suspend(() => {
      const executions = waiting
      if (executions.length === 0) return Effect.void
      waiting = []
      return journal
        .transaction((tables) => tables.recordExecutions(executions))
        .pipe(
          Effect.tapError(() =>
            // They are retried with the next batch; at the run's end the error counts.
            Effect.sync(() => (waiting = [...executions, ...waiting]))
          )
        )
    })
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(recordInterval), Effect.ignore(flush))))
    return {
      results,
      report: (node, result) => {
        const full = { id: node.id, stage: node.stage.name, skipped: [], skippedRows: null, ...result }
        results.set(node.id, full)
        emit({ type: "node-finished", node: full })
      },
      executionOf: (node, key, parts, outcome) => ({
        run: id,
        pipeline: graph.pipeline,
        node: node.id,
        stage: node.stage.name,
        key,
        parts,
        files: codeParts(facts.code.get(node.id)!),
        milliseconds: 0,
        digest: null,
        error: null,
        ...outcome
      }),
      recordSoon: (execution) => void waiting.push(execution),
      flush
    }
  })
