/**
 * Checks, before anything runs, that a stage's inputs agree. A stage declares which properties its output keeps from an input (`inherits`: a
 * fine-tuned model keeps its initial model's tokenizer), and which inputs must agree on a property (`agrees`: policy and reward model). From there
 * each port is traced back to where its property originates: a user's folder, or a stage that created it.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { messageOf, PipelineError } from "../errors.ts"
import type { Graph, StageNode } from "../define/graph.ts"

/** The nodes where a property of this node's output originates. */
const origins = (graph: Graph, id: string, trait: string): Set<string> => {
  const found = new Set<string>()
  const seen = new Set<string>()
  const open = [id]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (seen.has(next)) continue
    seen.add(next)
    const node = graph.nodes.get(next)!
    const port = node.kind === "stage" ? own(node.stage.inherits, trait) : undefined
    const from = port === undefined ? null : ((node as StageNode).inputs[port] ?? null)
    if (from === null) found.add(next)
    else open.push(...[from].flat())
  }
  return found
}

/**
 * Checks every agreement between artifacts already on disk; `where` returns a node's folder if it exists. For other artifacts the stage itself checks
 * when it starts.
 */
export const checkAgreements = (graph: Graph, where: (id: string) => string | undefined): Effect.Effect<void, PipelineError> =>
  Effect.gen(function* () {
    /** Pairs already known to agree: the same two models may be inputs of many nodes. */
    const agreed = new Set<string>()
    for (const node of graph.nodes.values()) {
      if (node.kind === "file") continue
      for (const { check, ports, trait } of node.stage.agrees) {
        const ends = ports.flatMap((port) =>
          [node.inputs[port] ?? []].flat().flatMap((id) => [...origins(graph, id, trait)].map((origin) => ({ port, id, origin })))
        )
        const [first, ...others] = ends
        if (first === undefined) continue
        const folder = where(first.origin)
        for (const other of others) {
          const name = `${trait} ${first.origin} ${other.origin}`
          const otherFolder = other.origin === first.origin || agreed.has(name) ? undefined : where(other.origin)
          if (folder === undefined || otherFolder === undefined) continue
          yield* check(folder, otherFolder).pipe(
            Effect.mapError(
              (cause) =>
                new PipelineError({
                  message: `Node "${node.id}" (stage ${node.stage.name}): its inputs ${first.port} (${first.id}) and ${other.port} (${other.id}) must have the same ${trait}, but differ: ${messageOf(cause)} Folders: ${folder} and ${otherFolder}.`
                })
            )
          )
          agreed.add(name)
        }
      }
    }
  })

/** The user's own files and folders that exist. */
export const userFolders =
  (graph: Graph) =>
  (id: string): string | undefined => {
    const node = graph.nodes.get(id)!
    return node.kind === "file" && existsSync(node.path) ? node.path : undefined
  }

/** Quick checks of the user's inputs of stages that will run, before any input is read completely; missing inputs are reported when they are needed. */
export const lookAtInputs = (graph: Graph, selected: ReadonlySet<string> | undefined): Effect.Effect<void, PipelineError> =>
  Effect.gen(function* () {
    const users = userFolders(graph)
    for (const node of graph.nodes.values()) {
      if (node.kind === "file" || selected?.has(node.id) === false) continue
      for (const [port, look] of Object.entries(node.stage.looks))
        for (const id of [node.inputs[port] ?? []].flat()) {
          const path = users(id)
          if (path === undefined) continue
          yield* look!(path).pipe(
            Effect.mapError((cause) => new PipelineError({ message: `Node "${node.id}" (stage ${node.stage.name}): ${messageOf(cause)}` }))
          )
        }
    }
  })
