/** The differences between two past runs, from the journal. */
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import type { StoreError } from "../errors.ts"
import { type Asked, askedOf } from "../store/asked.ts"
import type { PastExecution, PastRun } from "../store/executions.ts"
import { Journal, type JournalTables } from "../store/journal.ts"

export interface Change {
  readonly what: string
  readonly before: unknown
  readonly after: unknown
}
export interface NodeDifference {
  readonly node: string
  /** The run that is the only one with this node, if any. */
  readonly only: "before" | "after" | null
  readonly stage: Change | null
  readonly config: ReadonlyArray<Change>
  readonly seed: Change | null
  /** Files and packages. */
  readonly code: ReadonlyArray<Change>
  readonly numerics: ReadonlyArray<Change>
  /** Content digests by port. */
  readonly inputs: ReadonlyArray<Change>
  readonly status: Change | null
  readonly metrics: ReadonlyArray<Change>
  readonly output: Change | null
}
export interface RunDifference {
  readonly before: string
  readonly after: string
  readonly pipeline: Change | null
  readonly asked: ReadonlyArray<Change>
  /** Nodes with differences. */
  readonly nodes: ReadonlyArray<NodeDifference>
  readonly same: number
}

const show = (value: unknown): string => JSON.stringify(value) ?? ""

const change = (what: string, before: unknown, after: unknown): Change | null =>
  show(before) === show(after) ? null : { what, before: before ?? null, after: after ?? null }

/** The fields in which two objects differ. */
export const changesOf = (before: object | null | undefined, after: object | null | undefined): Array<Change> => {
  const [a, b] = [(before ?? {}) as Record<string, unknown>, (after ?? {}) as Record<string, unknown>]
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].flatMap((name) => change(name, own(a, name), own(b, name)) ?? [])
}

/** The differing files and packages. Only used if the code differs: a file with only comment changes has another digest too. */
const codeChanges = (before: PastExecution, after: PastExecution): Array<Change> => {
  const files = changesOf(before.files, after.files)
  return files.length > 0 ? files : [{ what: "the bundling method", before: before.parts.code, after: after.parts.code }]
}

/** A run's options as one object. */
export const flatAsked = (asked: Asked | undefined): Readonly<Record<string, unknown>> =>
  asked === undefined
    ? {}
    : {
        ...asked.params,
        ...asked.settings,
        seed: asked.seed,
        device: asked.device,
        threads: asked.threads,
        ranks: asked.ranks ?? 1,
        ...(asked.sharding === undefined ? {} : { sharding: asked.sharding }),
        node: asked.process.node
      }

/** The last execution of each node in a run. */
const lastByNode = (executions: ReadonlyArray<PastExecution>): Map<string, PastExecution> =>
  new Map(executions.map((execution) => [execution.node, execution]))

/** One node of each run, possibly with different names. */
export interface NodePair {
  readonly before: string
  readonly after: string
}

/**
 * The differences between two runs: their options, and for each node its config, seed, code, numerics, inputs, metrics and output. With `only`, for
 * one node of each.
 */
export const compareRuns = (before: PastRun, after: PastRun, only?: NodePair): Effect.Effect<RunDifference, StoreError, Journal> =>
  Journal.use((journal) => journal.read((tables) => comparison(before, after, tables, only)))

const comparison = (before: PastRun, after: PastRun, journal: JournalTables, only: NodePair | undefined): RunDifference => {
  const nodesOf = (run: PastRun, node: string | undefined) => {
    const all = lastByNode(journal.executionsOf(run.id))
    const execution = node === undefined ? undefined : all.get(node)
    if (only === undefined) return all
    return new Map(
      execution === undefined ? [] : [[only.before === only.after ? only.before : `${only.before} -> ${only.after}`, execution]]
    )
  }
  const [old, young] = [nodesOf(before, only?.before), nodesOf(after, only?.after)]
  const metricsOf = ({ digest }: PastExecution) => (digest === null ? {} : journal.artifact(digest)?.metrics)
  const made = (execution: PastExecution) => (execution.status === "hit" || execution.status === "fetched" ? "ran" : execution.status)
  const all = [...new Set([...old.keys(), ...young.keys()])].map((node): NodeDifference => {
    const [a, b] = [old.get(node), young.get(node)]
    if (a === undefined || b === undefined) {
      const only = a === undefined ? "after" : "before"
      const none = { stage: null, config: [], seed: null, code: [], numerics: [], inputs: [], status: null, metrics: [], output: null }
      return { node, only, ...none }
    }
    // The inputs of a node that was skipped, or whose input could not be read, are unknown.
    const open = [a, b].some(({ key, status }) => key === "" || status === "skipped")
    return {
      node,
      only: null,
      stage: change("stage", a.stage, b.stage),
      config: changesOf(a.parts.config, b.parts.config),
      seed: change("seed", a.parts.seed, b.parts.seed),
      code: a.parts.code === b.parts.code ? [] : codeChanges(a, b),
      numerics: changesOf(a.parts.numerics, b.parts.numerics),
      inputs: open ? [] : changesOf(a.parts.inputs, b.parts.inputs),
      status: change("status", made(a), made(b)),
      metrics: changesOf(metricsOf(a), metricsOf(b)),
      output: change("output", a.digest, b.digest)
    }
  })
  const differs = (node: NodeDifference) =>
    Object.values(node).some((value) => (Array.isArray(value) ? value.length > 0 : typeof value !== "string" && value !== null)) ||
    node.only !== null
  const nodes = all.filter(differs)
  const [was, is] = [askedOf(before), askedOf(after)]
  return {
    before: before.id,
    after: after.id,
    pipeline: change("pipeline", before.pipeline, after.pipeline),
    asked: changesOf(flatAsked(was), flatAsked(is)),
    nodes,
    same: all.length - nodes.length
  }
}
