/** A run's graph as the journal keeps it, once for all runs that have the same: who looks on knows what is to come, and what a config has besides its defaults. */
import { describeConfig } from "../../schemas/hyper.ts"
import { own } from "../../schemas/own.ts"
import type { Graph } from "./graph.ts"

export interface RecordedNode {
  readonly id: string
  /** null: a file of the user's. */
  readonly stage: string | null
  /** The name of the artifact's type. */
  readonly type: string
  /** Ids by port: one, several, or null for an open port. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
  /** Of a file; of what is on the Hub its name, with the commit. */
  readonly path?: string
  /** What of its config is not the default, also what is in no key (paths, concurrency). */
  readonly config?: Readonly<Record<string, unknown>>
}
export interface RecordedField {
  /** Absent: it has none, and had to be given. */
  readonly default?: unknown
  readonly description?: string
}
export interface RecordedStage {
  readonly description: string
  readonly fields: Readonly<Record<string, RecordedField>>
}
export interface RecordedGraph {
  /** In topological order: inputs first. */
  readonly nodes: ReadonlyArray<RecordedNode>
  readonly stages: Readonly<Record<string, RecordedStage>>
}

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

export const recordedGraph = (graph: Graph): RecordedGraph => {
  const stages = new Map<string, RecordedStage>()
  const nodes = [...graph.nodes.values()].map((node): RecordedNode => {
    const type = node.type.name
    if (node.kind === "file") return { id: node.id, stage: null, type, inputs: {}, path: node.remote?.pinned ?? node.path }
    const { config, inputs, stage } = node
    let known = stages.get(stage.name)
    if (known === undefined) {
      const fields = describeConfig(stage.config).map(({ name, description, default: value }): [string, RecordedField] => [
        name,
        { ...(value === undefined ? {} : { default: value }), ...(description === undefined ? {} : { description }) }
      ])
      stages.set(stage.name, (known = { description: stage.description, fields: Object.fromEntries(fields) }))
    }
    const { fields } = known
    const given = Object.entries(config).filter(([name, value]) => !isSame(value, own(fields, name)?.default))
    return { id: node.id, stage: stage.name, type, inputs, ...(given.length === 0 ? {} : { config: Object.fromEntries(given) }) }
  })
  return { nodes, stages: Object.fromEntries(stages) }
}
