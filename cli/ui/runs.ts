/** The list of runs, and the parts of a run that do not change while it runs. */
import * as Effect from "effect/Effect"
import { changesOf, flatAsked } from "../../runtime/inspect/history.ts"
import type { RecordedGraph } from "../../runtime/define/recorded-graph.ts"
import { askedOf, statusOf } from "../../runtime/store/asked.ts"
import type { PastRun } from "../../runtime/store/executions.ts"
import { Journal, type JournalTables } from "../../runtime/store/journal.ts"
import type { GraphNode, RunLine } from "./api.ts"
import { NotFound } from "./api.ts"

/** JSON has no NaN or infinity. */
export const wire = (value: number): number | string => (Number.isFinite(value) ? value : String(value))
export const wires = (values: Readonly<Record<string, unknown>>): Record<string, number | string> =>
  Object.fromEntries(
    Object.entries(values).flatMap(([name, value]): Array<[string, number | string]> =>
      typeof value === "number" ? [[name, wire(value)]] : typeof value === "string" ? [[name, value]] : []
    )
  )

/** Graphs by listing name: most runs of a pipeline share one. */
const graphs = new Map<string, RecordedGraph>()
const maxGraphs = 64

/** A run's recorded graph; undefined for runs of older versions. */
export const recordedOf = (run: PastRun, tables: JournalTables): RecordedGraph | undefined => {
  const name = askedOf(run)?.graph
  if (name === undefined) return undefined
  let found = graphs.get(name)
  if (found === undefined) {
    const kept = tables.listing(name) as RecordedGraph | null
    if (kept === null || !Array.isArray(kept.nodes)) return undefined
    if (graphs.size >= maxGraphs) graphs.delete(graphs.keys().next().value!)
    graphs.set(name, (found = kept))
  }
  return found
}

/** A graph reconstructed from executions: an input is the first node whose result has its content. */
const executedGraph = (run: PastRun, tables: JournalTables): Array<GraphNode> => {
  const last = new Map(tables.executionsOf(run.id).map((execution) => [execution.node, execution]))
  const makers = new Map<string, string>()
  const types = new Map<string, string>()
  for (const { node, digest } of last.values()) {
    const artifact = digest === null ? undefined : tables.artifact(digest)
    if (artifact === undefined) continue
    if (!makers.has(artifact.contentDigest)) makers.set(artifact.contentDigest, node)
    types.set(node, artifact.type)
  }
  return [...last.values()].map(({ key, node, stage, parts }) => {
    // The trace, if it still exists, has the names: several nodes may have made the same content.
    const named = Object.values((tables.provenance(key)?.inputs ?? {}) as Readonly<Record<string, string | ReadonlyArray<string> | null>>)
    const wires = named.flatMap((wire) => wire ?? []).filter((wire) => last.has(wire))
    const told = Object.values(parts.inputs).flatMap((contents) => [contents ?? []].flat().flatMap((content) => makers.get(content) ?? []))
    return {
      id: node,
      stage,
      type: types.get(node) ?? "",
      inputs: [...new Set(wires.length > 0 ? wires : told)].filter((input) => input !== node)
    }
  })
}

export const graphOf = (run: PastRun, tables: JournalTables): { readonly isWhole: boolean; readonly graph: ReadonlyArray<GraphNode> } => {
  const recorded = recordedOf(run, tables)
  if (recorded === undefined) return { isWhole: false, graph: executedGraph(run, tables) }
  return {
    isWhole: true,
    graph: recorded.nodes.map(({ id, inputs, stage, type }) => ({
      id,
      stage,
      type,
      inputs: [...new Set(Object.values(inputs).flatMap((wire) => wire ?? []))]
    }))
  }
}

/** A run's line in the list. */
const lineOf = (run: PastRun, tables: JournalTables, before: string | undefined): RunLine => {
  const [is, was] = [askedOf(run), before === undefined ? undefined : askedOf({ asked: tables.askedFor(before) })]
  const recorded = recordedOf(run, tables)
  return {
    id: run.id,
    pipeline: run.pipeline,
    status: run.status,
    started: run.started,
    finished: run.finished,
    counts: run.nodes as Record<string, number>,
    total: recorded === undefined ? null : recorded.nodes.filter(({ stage }) => stage !== null).length,
    changes: is === undefined || was === undefined ? null : changesOf(flatAsked(was), flatAsked(is)),
    ...tables.noteOf(run.id)
  }
}

export const runLines = Effect.fnUntraced(function* (search: string, limit: number, from: number) {
  const journal = yield* Journal
  const { lines, runs, total } = yield* journal.read((tables) => {
    const { runs, total } = tables.findRuns(search, limit, from)
    const before = tables.runsBefore()
    return { runs, total, lines: runs.map((run) => lineOf(run, tables, before.get(run.id))) }
  })
  const listed = yield* Effect.forEach(runs, (run, i) => Effect.map(statusOf(run), (status) => ({ ...lines[i]!, status })))
  return { runs: listed, total }
})

export const runWithLine = Effect.fnUntraced(function* (id: string) {
  const journal = yield* Journal
  const found = yield* journal.read((tables) => {
    const run = tables.runOf(id)
    if (run === undefined) return undefined
    const before = tables.runsBefore().get(id)
    return { run, line: lineOf(run, tables, before), previous: before ?? null, ...graphOf(run, tables) }
  })
  if (found === undefined) return yield* new NotFound({ message: `The journal has no run ${id}. Choose one from the list of runs.` })
  return { ...found, line: { ...found.line, status: yield* statusOf(found.run) } }
})
