/** What a run would do: for each node, whether its result exists, must be computed, or depends on the result of an input; and why. */
import * as Effect from "effect/Effect"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { dependencies, type Graph } from "../define/graph.ts"
import type { Pipeline } from "../define/pipeline.ts"
import type { PipelineError, StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import type { OnRead } from "../key/file-source.ts"
import type { Numerics } from "../key/numerics.ts"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"
import type { Trace } from "../store/traces.ts"
import { checkAgreements, lookAtInputs, userFolders } from "./agreements.ts"
import { changes, driftOf, type Since } from "./changes.ts"
import { type Facts, gatherFacts } from "./facts.ts"
import { findAll } from "./found.ts"
import { digestInput, graphOf, inputName, inputExists } from "./inputs.ts"
import { chosenNodes, type Machine, machineOf, namedNodes, type RunOptions } from "./options.ts"

export type PlannedNode =
  /** `path`: for a Hub name the name with the commit; its stamp is "" before the download. */
  | { readonly kind: "file"; readonly id: string; readonly path: string; readonly digest: string; readonly stamp: string }
  /** A user's file or folder that does not exist yet. */
  | { readonly kind: "awaited"; readonly id: string; readonly path: string }
  | {
      readonly kind: "hit"
      readonly id: string
      readonly stage: string
      readonly key: string
      readonly parts: KeyParts
      readonly trace: Trace
      /** Files and packages that changed since a pinned stage's result was made or last blessed. */
      readonly drift: ReadonlyArray<string>
      /** Whether one of its files was modified after it was made: a run checks it first, and recomputes it if it is damaged. */
      readonly isModified: boolean
    }
  | {
      readonly kind: "run"
      readonly id: string
      readonly stage: string
      readonly key: string
      readonly parts: KeyParts
      readonly why: ReadonlyArray<string>
      /** The earlier result that `why` compares with, if any. */
      readonly since: Since | null
    }
  /** Its key is unknown until its inputs are computed; its result may then be found (early cutoff). */
  | {
      readonly kind: "unknown"
      readonly id: string
      readonly stage: string
      readonly until: ReadonlyArray<string>
      readonly why: ReadonlyArray<string>
      readonly since: Since | null
    }

/** The kinds of nodes whose content is not known yet. */
const undecided: ReadonlyArray<PlannedNode["kind"]> = ["run", "unknown", "awaited"]

export interface Plan {
  readonly graph: Graph
  readonly facts: Facts
  readonly nodes: ReadonlyMap<string, PlannedNode>
}

export interface PlanOptions extends RunOptions {
  /** Whether a missing input file is an error, as in a run, or planned as awaited. Default: "fail". */
  readonly missing?: "fail" | "await"
}

/** Plans a run with these parameters: reads inputs and looks up results, but runs no stage. Errors as in a run, before its first stage. */
export const plan = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  given: PlanOptions = {}
): Effect.Effect<
  Plan & { readonly selected: ReadonlySet<string> | undefined },
  PipelineError | ConfigError | StoreError,
  Store | Journal | Numerics
> =>
  Effect.gen(function* () {
    const graph = yield* graphOf(pipeline, params, given)
    const options = yield* namedNodes(graph, given)
    const selected = chosenNodes(graph, options)
    const store = yield* Store
    yield* lookAtInputs(graph, selected)
    const planned = yield* planGraph(graph, machineOf(options), new Set(options.force), options.missing, (read) =>
      options.onEvent?.({ type: "reading", ...read })
    )
    const users = userFolders(graph)
    yield* checkAgreements(graph, (id) => {
      const node = planned.nodes.get(id)!
      return node.kind === "hit" ? store.path(node.trace.digest) : users(id)
    })
    return { ...planned, selected }
  })

/** Plans an already built graph. */
export const planGraph = (
  graph: Graph,
  machine: Machine,
  force: ReadonlySet<string>,
  missing: "fail" | "await" = "fail",
  onRead?: OnRead
): Effect.Effect<Plan, PipelineError | StoreError, Store | Journal | Numerics> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const store = yield* Store
    const facts = yield* gatherFacts(graph, machine)
    const files = new Map<string, PlannedNode & { readonly digest?: string }>()
    for (const node of graph.nodes.values()) {
      if (node.kind !== "file") continue
      if (missing === "await" && !inputExists(node)) files.set(node.id, { kind: "awaited", id: node.id, path: node.path })
      else files.set(node.id, { kind: "file", id: node.id, path: inputName(node), ...(yield* digestInput(node, journal, onRead)) })
    }
    const found = yield* findAll(graph, facts, (id) => files.get(id)?.digest, { journal, store }, force)
    const nodes = new Map<string, PlannedNode>()
    for (const node of graph.nodes.values()) {
      if (node.kind === "file") {
        nodes.set(node.id, files.get(node.id)!)
        continue
      }
      const known = found.get(node.id)
      if (known === undefined) {
        const until = dependencies(node).filter((id) => undecided.includes(nodes.get(id)!.kind))
        const { own, since } = yield* changes(node, { facts, journal, pipeline: graph.pipeline }, undefined)
        nodes.set(node.id, {
          kind: "unknown",
          id: node.id,
          stage: node.stage.name,
          until: [...new Set(until)],
          why: own,
          since: own.length > 0 ? since : null
        })
        continue
      }
      const { key, parts, presence, trace } = known
      const exists = presence !== "missing"
      if (trace !== undefined && exists && !force.has(node.id)) {
        const drift = yield* driftOf(node, facts, trace, journal)
        const isModified = presence === "modified"
        nodes.set(node.id, { kind: "hit", id: node.id, stage: node.stage.name, key, parts, trace, drift, isModified })
      } else {
        const { all: why, since } =
          force.has(node.id) && exists
            ? { all: ["forced"], since: null }
            : trace !== undefined
              ? { all: ["its result is no longer in the store"], since: null }
              : yield* changes(node, { facts, journal, pipeline: graph.pipeline }, parts)
        nodes.set(node.id, { kind: "run", id: node.id, stage: node.stage.name, key, parts, why, since })
      }
    }
    return { graph, facts, nodes }
  })
