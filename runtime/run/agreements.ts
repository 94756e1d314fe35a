/**
 * What a stage's inputs must have in common, seen before anything runs. A stage says what its output takes over unchanged from an input
 * (`inherits`: a fine-tuned model has the tokenizer of the one it began with), and which inputs must agree in it (`agrees`: policy and reward
 * model). From there each port leads back to where its trait began: a folder of the user's, or a stage that made it.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { messageOf, PipelineError } from "../errors.ts"
import type { Graph, StageNode } from "../define/graph.ts"

/** The nodes at which a trait of this node's output began. */
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
 * Checks every agreement between what is on disk already; `where` gives the folder of a node that is. What is not there yet is checked by the
 * stage itself when it starts.
 */
export const checkAgreements = (graph: Graph, where: (id: string) => string | undefined): Effect.Effect<void, PipelineError> =>
  Effect.gen(function* () {
    /** Pairs that agree: the same two models meet in many nodes. */
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
                  message: `Node "${node.id}" (stage ${node.stage.name}): its inputs ${first.port} (${first.id}) and ${other.port} (${other.id}) must have the same ${trait}, and do not: ${messageOf(cause)} One comes from ${folder}, the other from ${otherFolder}.`
                })
            )
          )
          agreed.add(name)
        }
      }
    }
  })

/** The user's own files and folders, as far as they are there. */
export const userFolders =
  (graph: Graph) =>
  (id: string): string | undefined => {
    const node = graph.nodes.get(id)!
    return node.kind === "file" && existsSync(node.path) ? node.path : undefined
  }

/** Looks at what the user gives to stages that are to run, before any of it is read whole; what is not there is told of when it is needed. */
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
