/** Collects the content of a run's report: results in graph order, their cost, and the curves of the training nodes. */
import * as Effect from "effect/Effect"
import type { Table } from "apache-arrow"
import { parquetTables } from "../../data/read/parquet-tables.ts"
import type { RecordedGraph } from "../../runtime/define/recorded-graph.ts"
import { messageOf } from "../../runtime/errors.ts"
import { curvesOf } from "../../runtime/inspect/curves.ts"
import { askedOf } from "../../runtime/store/asked.ts"
import type { PastExecution, PastRun } from "../../runtime/store/executions.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import type { NodeCurve } from "../../stages/report/curve-figures.ts"
import { type Result, Results } from "../../stages/report/results.ts"

/** A node's status, and what its result cost where and when it was made. */
export interface Outcome {
  readonly node: string
  readonly stage: string
  readonly status: string
  /** null if not recorded. */
  readonly milliseconds: number | null
  readonly numerics: Readonly<Record<string, string>> | null
  readonly error: string | null
}

export interface Gathered {
  readonly results: Results
  readonly outcomes: ReadonlyArray<Outcome>
  readonly curves: ReadonlyArray<NodeCurve>
  /** The user's files and folders. */
  readonly files: ReadonlyArray<string>
  /** What could not be read, in words. */
  readonly missing: ReadonlyArray<string>
}

/** For runs of older versions, which recorded no graph: finds the input node by content. */
const wiredByContent = (execution: PastExecution, byContent: ReadonlyMap<string, string>): Result["inputs"] =>
  Object.fromEntries(
    Object.entries(execution.parts.inputs).map(([port, contents]) => [
      port,
      contents === null ? null : [contents].flat().flatMap((content) => byContent.get(content) ?? [])
    ])
  )

/** The time and hardware of a result; for a reused result, those of the run that made it. */
const takenBy = Effect.fnUntraced(function* (execution: PastExecution) {
  if (execution.status !== "hit" || execution.digest === null)
    return { milliseconds: execution.milliseconds, numerics: execution.parts.numerics ?? null }
  const made = (yield* (yield* Journal).executionsWith(execution.digest)).at(-1)
  return { milliseconds: made?.milliseconds ?? null, numerics: made?.parts.numerics ?? null }
})

/** Every number that a node reported, with its steps. A row without a step is counted from 1. */
const curveOf = (node: string, stage: string, table: Table): NodeCurve => {
  const columns = new Map(table.schema.fields.map(({ name }) => [name, table.getChild(name)!]))
  const steps = columns.get("step")
  columns.delete("step")
  const series = new Map<string, { readonly steps: Array<number>; readonly values: Array<number> }>()
  for (const [name, column] of columns) {
    const found = { steps: [] as Array<number>, values: [] as Array<number> }
    for (let row = 0; row < table.numRows; row++) {
      const value = column.get(row) as number | null
      if (value === null) continue
      found.steps.push((steps?.get(row) as number | null | undefined) ?? row + 1)
      found.values.push(value)
    }
    if (found.values.length > 0) series.set(name, found)
  }
  return { node, stage, series }
}

/** Stages that report progress but learn nothing: a run has about a hundred of them. */
const samples = /^(sample|score|collect|classif|ghost-sample|ghost-lists|judge|grade|annotate|compare|safety-recall|evaluate|policy-kl)/

export const gather = (run: PastRun) =>
  Effect.gen(function* () {
    const [journal, store] = [yield* Journal, yield* Store]
    const asked = askedOf(run)
    const graph = asked?.graph === undefined ? null : ((yield* journal.listing(asked.graph)) as RecordedGraph | null)
    const executions = [...new Map((yield* journal.executionsOf(run.id)).map((one) => [one.node, one])).values()]
    const place = new Map(graph?.nodes.map(({ id }, i) => [id, i]))
    executions.sort((a, b) => (place.get(a.node) ?? a.id) - (place.get(b.node) ?? b.id))
    const missing: Array<string> = []
    const byContent = new Map<string, string>()
    const found = yield* Effect.forEach(executions, (execution) =>
      Effect.gen(function* () {
        if (execution.digest === null) return []
        const artifact = yield* journal.artifact(execution.digest)
        if (artifact === undefined || !(yield* store.present(execution.digest))) {
          missing.push(execution.node)
          return []
        }
        if (!byContent.has(artifact.contentDigest)) byContent.set(artifact.contentDigest, execution.node)
        return [{ execution, artifact }]
      })
    )
    const inputs = new Map(graph?.nodes.map((node) => [node.id, node.inputs]))
    const results = found.flat().map(({ artifact, execution }): Result => ({
      node: execution.node,
      stage: execution.stage,
      type: artifact.type,
      path: store.path(execution.digest!),
      digest: execution.digest!,
      contentDigest: artifact.contentDigest,
      config: execution.parts.config,
      inputs: inputs.get(execution.node) ?? wiredByContent(execution, byContent)
    }))
    const outcomes = yield* Effect.forEach(executions, (execution) =>
      Effect.map(takenBy(execution), (taken): Outcome => ({
        ...{ node: execution.node, stage: execution.stage, status: execution.status, error: execution.error },
        ...taken
      }))
    )
    const kept = (yield* curvesOf(run)).filter(({ path, stage }) => path !== null && !samples.test(stage ?? ""))
    const unreadable: Array<string> = []
    const curves: Array<NodeCurve> = []
    yield* Effect.promise(async () => {
      let at = 0
      for await (const table of parquetTables(kept.map(({ path }) => path!))) {
        const { node, stage } = kept[at++]!
        if (table instanceof Error) unreadable.push(`The curve of ${node} can't be read: ${messageOf(table)}`)
        else curves.push(curveOf(node, stage ?? "interrupted", table))
      }
    })
    const order = (node: string) => place.get(node) ?? Infinity
    return {
      // The config of an unfinished or failed summary comes from the graph.
      results: new Results(
        results,
        graph?.nodes.flatMap(({ config }) => (Array.isArray(config?.controls) ? config.controls.map(String) : []))
      ),
      outcomes,
      curves: curves.toSorted((a, b) => order(a.node) - order(b.node)),
      files: graph?.nodes.flatMap(({ path }) => path ?? []) ?? [],
      missing: [...(missing.length === 0 ? [] : [`Results that are no longer in the store: ${missing.join(", ")}.`]), ...unreadable]
    } satisfies Gathered
  })
