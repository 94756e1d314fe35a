/**
 * A run's graph as stored in the journal, once for all runs with the same graph. It shows which nodes are still to come and which config fields are
 * not defaults.
 */
import { describeConfig } from "../../schemas/hyper.ts"
import { own } from "../../schemas/own.ts"
import type { Graph } from "./graph.ts"

export interface RecordedNode {
  readonly id: string
  /** null for a user's file. */
  readonly stage: string | null
  /** The name of the artifact type. */
  readonly type: string
  /** Ids by port: one, several, or null for an unconnected port. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
  /** For a file: its path; for a name on the Hub: the name with the commit. */
  readonly path?: string
  /** Config fields that differ from the default, including those that are not in any key (paths, concurrency). */
  readonly config?: Readonly<Record<string, unknown>>
}
export interface RecordedField {
  /** Absent if the field has no default and must be set. */
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
