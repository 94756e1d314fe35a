/** What the journal says of past runs: which, how they went, and how two of them differ. */
import * as Effect from "effect/Effect"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { own } from "../../schemas/own.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { type Asked, askedOf } from "../store/asked.ts"
import type { PastExecution, PastRun } from "../store/executions.ts"
import { Journal, type JournalTables } from "../store/journal.ts"

/** The run that a user means: "latest", "latest~2" (two before it), or how its id begins. */
export const resolveRun = (text: string): Effect.Effect<PastRun, PipelineError | StoreError, Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const fail = (what: string) => new PipelineError({ message: `Looking for the run "${text}": ${what}` })
    const latest = /^latest(?:~(\d+))?$/.exec(text)
    if (latest !== null) {
      const back = Number(latest[1] ?? 0)
      const runs = yield* journal.runs({ limit: back + 1 })
      return runs[back] ?? (yield* fail(runs.length === 0 ? "nothing has run here yet." : `there are ${runs.length} runs only.`))
    }
    const found = yield* journal.runsLike(text)
    if (found.length === 1) return found[0]!
    if (found.length > 1)
      return yield* fail(`${found.length} begin so: ${found.map(({ id }) => id.slice(0, 13)).join(", ")}. Give more of it.`)
    const known = (yield* journal.runs({ limit: 20 })).map(({ id }) => id.slice(0, 8))
    return yield* fail(`there is no such run.${didYouMean(text, [...known, "latest"])} \`caravan runs\` lists them.`)
  })

export interface Change {
  readonly what: string
  readonly before: unknown
  readonly after: unknown
}
export interface NodeDifference {
  readonly node: string
  /** The run that alone has it, if one does. */
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
  /** Nodes in which something differs. */
  readonly nodes: ReadonlyArray<NodeDifference>
  readonly same: number
}

const show = (value: unknown): string => JSON.stringify(value) ?? ""

const change = (what: string, before: unknown, after: unknown): Change | null =>
  show(before) === show(after) ? null : { what, before: before ?? null, after: after ?? null }

/** The fields in which two objects differ. */
const changesOf = (before: object | null | undefined, after: object | null | undefined): Array<Change> => {
  const [a, b] = [(before ?? {}) as Record<string, unknown>, (after ?? {}) as Record<string, unknown>]
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].flatMap((name) => change(name, own(a, name), own(b, name)) ?? [])
}

/** The files and packages that differ. Asked for where the code does: a file that changed in comments alone has another digest too. */
const codeChanges = (before: PastExecution, after: PastExecution): Array<Change> => {
  const files = changesOf(before.files, after.files)
  return files.length > 0 ? files : [{ what: "the way of bundling", before: before.parts.code, after: after.parts.code }]
}

/** A run's last word on each node. */
const lastByNode = (executions: ReadonlyArray<PastExecution>): Map<string, PastExecution> =>
  new Map(executions.map((execution) => [execution.node, execution]))

/** How a run differs from another: what it was asked for, and for each node its config, seed, code, numerics, inputs, metrics and output. */
export const compareRuns = (before: PastRun, after: PastRun): Effect.Effect<RunDifference, StoreError, Journal> =>
  Journal.use((journal) => journal.read((tables) => comparison(before, after, tables)))

const comparison = (before: PastRun, after: PastRun, journal: JournalTables): RunDifference => {
  const [old, young] = [lastByNode(journal.executionsOf(before.id)), lastByNode(journal.executionsOf(after.id))]
  const metricsOf = ({ digest }: PastExecution) => (digest === null ? {} : journal.artifact(digest)?.metrics)
  const made = (execution: PastExecution) => (execution.status === "hit" ? "ran" : execution.status)
  const all = [...new Set([...old.keys(), ...young.keys()])].map((node): NodeDifference => {
    const [a, b] = [old.get(node), young.get(node)]
    if (a === undefined || b === undefined) {
      const only = a === undefined ? "after" : "before"
      const none = { stage: null, config: [], seed: null, code: [], numerics: [], inputs: [], status: null, metrics: [], output: null }
      return { node, only, ...none }
    }
    // Of a node that was skipped, or whose input could not be read, it is not known what it would have taken.
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
  const flat = (asked: Asked | undefined) =>
    asked === undefined
      ? {}
      : {
          ...asked.params,
          ...asked.settings,
          seed: asked.seed,
          device: asked.device,
          threads: asked.threads,
          node: asked.process.node
        }
  return {
    before: before.id,
    after: after.id,
    pipeline: change("pipeline", before.pipeline, after.pipeline),
    asked: changesOf(flat(was), flat(is)),
    nodes,
    same: all.length - nodes.length
  }
}
