/** Facts shared by all nodes of a run, and the keys derived from them. */
import * as Effect from "effect/Effect"
import { configForKey, type Graph, type StageNode } from "../define/graph.ts"
import { remember } from "../encoding.ts"
import type { PipelineError, StoreError } from "../errors.ts"
import type { KeyParts } from "../key/cache-key.ts"
import { type CodeIdentity, codeIdentity, FileDigests } from "../key/code-identity.ts"
import { Numerics } from "../key/numerics.ts"
import { Journal } from "../store/journal.ts"
import { mappingVersion } from "./mapped.ts"
import type { Machine } from "./options.ts"
import { ranksOf } from "./ranks.ts"

/** Facts shared by all nodes of a run: code, numerics. */
export interface Facts {
  readonly code: ReadonlyMap<string, CodeIdentity>
  readonly numerics: Readonly<Record<string, string>> | null
  /** The run's hardware, which determines the number of ranks of each stage. */
  readonly machine: Machine
}

export const gatherFacts = (graph: Graph, machine: Machine): Effect.Effect<Facts, PipelineError | StoreError, Journal | Numerics> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const digests = new FileDigests()
    const byStage = new Map<unknown, CodeIdentity>()
    const code = new Map<string, CodeIdentity>()
    let tensors = false
    for (const node of graph.nodes.values()) {
      if (node.kind === "file") continue
      tensors ||= node.stage.resources.tensors === true
      let identity = byStage.get(node.stage)
      if (identity === undefined) {
        identity = yield* codeIdentity(node.stage, journal, digests)
        byStage.set(node.stage, identity)
      }
      code.set(node.id, identity)
    }
    const numerics = tensors ? remember(yield* (yield* Numerics).describe(machine.device, machine.threads)) : null
    return { code, numerics, machine }
  })

/** The numerics of a stage with several ranks: its sums have their own order. */
const spreadNumerics = (numerics: NonNullable<Facts["numerics"]>, ranks: number, { sharding = "weights" }: Machine) => {
  const known = ofRanks.get(numerics) ?? new Map<string, Readonly<Record<string, string>>>()
  ofRanks.set(numerics, known)
  const described = `${ranks}, sharding ${sharding}`
  if (!known.has(described)) known.set(described, remember({ ...numerics, ranks: described }))
  return known.get(described)!
}
const ofRanks = new WeakMap<object, Map<string, Readonly<Record<string, string>>>>()

const numericsOf = (node: StageNode, { machine, numerics }: Facts): KeyParts["numerics"] => {
  const { ranks: spreads, tensors } = node.stage.resources
  if (tensors !== true || numerics === null) return null
  if (spreads !== true) return numerics
  const ranks = ranksOf(node, machine)
  return ranks === 1 ? numerics : spreadNumerics(numerics, ranks, machine)
}

/** The parts of a node's key, given the content digests of its inputs. */
export const keyParts = (node: StageNode, facts: Facts, contentOf: (id: string) => string): KeyParts => ({
  stage: node.stage.name,
  code: facts.code.get(node.id)!.digest,
  ...(node.stage.pinned === undefined ? {} : { pinned: node.stage.pinned }),
  ...(node.stage.sharding === undefined ? {} : { mapping: mappingVersion }),
  config: configForKey(node),
  seed: node.stage.seeded ? node.seed : null,
  inputs: Object.fromEntries(
    Object.entries(node.inputs).map(([port, ids]) => [
      port,
      ids === null ? null : typeof ids === "string" ? contentOf(ids) : ids.map(contentOf)
    ])
  ),
  numerics: numericsOf(node, facts)
})
