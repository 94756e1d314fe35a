/** What is the same for every node of a run, and the keys that follow from it. */
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

/** What is the same for every node of a run: code, numerics. */
export interface Facts {
  readonly code: ReadonlyMap<string, CodeIdentity>
  readonly numerics: Readonly<Record<string, string>> | null
  /** The same of stages that run as several ranks, where there are several. */
  readonly spreadNumerics: Facts["numerics"]
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
    const { ranks, sharding } = machine
    const spread = ranks === undefined || numerics === null ? numerics : remember({ ...numerics, ranks: `${ranks}, sharding ${sharding}` })
    return { code, numerics, spreadNumerics: spread }
  })

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
  numerics: node.stage.resources.tensors !== true ? null : node.stage.resources.ranks === true ? facts.spreadNumerics : facts.numerics
})
