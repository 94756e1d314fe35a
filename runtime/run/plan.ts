/** What a run would do: for each node whether its result is there, must be made, or depends on what an input turns out to be; and why. */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import { type CodeIdentity, codeIdentity, FileDigests } from "../key/code-identity.ts"
import type { PipelineError, StoreError } from "../errors.ts"
import { digestFile } from "../key/file-source.ts"
import { configForKey, dependencies, type Graph, type StageNode } from "../define/graph.ts"
import type { Journal, Trace } from "../store/journal.ts"
import { Numerics } from "../key/numerics.ts"
import { mappingVersion } from "./mapped.ts"
import type { Store } from "../store/store.ts"

export interface Machine {
  readonly device: "cpu" | "cuda"
  readonly threads: number
}

/** What is the same for every node of a run: code, numerics. */
export interface Facts {
  readonly code: ReadonlyMap<string, CodeIdentity>
  readonly numerics: Readonly<Record<string, string>> | null
}

export const gatherFacts = (graph: Graph, journal: Journal, machine: Machine): Effect.Effect<Facts, PipelineError, Numerics> =>
  Effect.gen(function* () {
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
    const numerics = tensors ? yield* (yield* Numerics).describe(machine.device, machine.threads) : null
    return { code, numerics }
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
  numerics: node.stage.resources.tensors === true ? facts.numerics : null
})

export type PlannedNode =
  | { readonly kind: "file"; readonly id: string; readonly path: string; readonly digest: string; readonly stamp: string }
  /** A file or folder of the user's that is not there yet. */
  | { readonly kind: "awaited"; readonly id: string; readonly path: string }
  | {
      readonly kind: "hit"
      readonly id: string
      readonly stage: string
      readonly key: string
      readonly parts: KeyParts
      readonly trace: Trace
      /** Files and packages that changed since the result of a pinned stage was made, or was last blessed. */
      readonly drift: ReadonlyArray<string>
    }
  | {
      readonly kind: "run"
      readonly id: string
      readonly stage: string
      readonly key: string
      readonly parts: KeyParts
      readonly why: ReadonlyArray<string>
    }
  /** Its key is not known before its inputs are made: it may be found then (early cutoff). */
  | {
      readonly kind: "unknown"
      readonly id: string
      readonly stage: string
      readonly until: ReadonlyArray<string>
      readonly why: ReadonlyArray<string>
    }

/** What has no content yet. */
const open: ReadonlyArray<PlannedNode["kind"]> = ["run", "unknown", "awaited"]

export interface Plan {
  readonly graph: Graph
  readonly facts: Facts
  readonly nodes: ReadonlyMap<string, PlannedNode>
}

export const makePlan = (
  graph: Graph,
  journal: Journal,
  store: Store,
  machine: Machine,
  force: ReadonlySet<string>,
  missing: "fail" | "await" = "fail"
): Effect.Effect<Plan, PipelineError | StoreError, Numerics> =>
  Effect.gen(function* () {
    const facts = yield* gatherFacts(graph, journal, machine)
    const nodes = new Map<string, PlannedNode>()
    const known = journal.someTraces(2 * graph.nodes.size)
    for (const node of graph.nodes.values()) {
      if (node.kind === "file" && missing === "await" && !existsSync(node.path)) {
        nodes.set(node.id, { kind: "awaited", id: node.id, path: node.path })
        continue
      }
      if (node.kind === "file") {
        nodes.set(node.id, { kind: "file", id: node.id, path: node.path, ...(yield* digestFile(node.path, journal)) })
        continue
      }
      const until = dependencies(node).filter((id) => open.includes(nodes.get(id)!.kind))
      if (until.length > 0) {
        const changed = changes(node, facts, journal, graph.pipeline, undefined)
        nodes.set(node.id, { kind: "unknown", id: node.id, stage: node.stage.name, until: [...new Set(until)], why: changed.own })
        continue
      }
      const parts = keyParts(node, facts, (id) => contentOf(nodes.get(id)!))
      const key = cacheKey(parts)
      const trace = known.get(key) ?? journal.trace(key)
      const there =
        trace !== undefined && (yield* Effect.try({ try: () => store.present(trace.digest), catch: (cause) => cause as StoreError }))
      if (there && !force.has(node.id)) {
        const drift = driftOf(node, facts, journal, trace)
        nodes.set(node.id, { kind: "hit", id: node.id, stage: node.stage.name, key, parts, trace, drift })
      } else {
        const why =
          force.has(node.id) && there
            ? ["forced"]
            : trace !== undefined
              ? ["its result is gone from the store"]
              : changes(node, facts, journal, graph.pipeline, parts).all
        nodes.set(node.id, { kind: "run", id: node.id, stage: node.stage.name, key, parts, why })
      }
    }
    return { graph, facts, nodes }
  })

const contentOf = (node: PlannedNode): string => {
  if (node.kind === "file") return node.digest
  if (node.kind === "hit") return node.trace.contentDigest
  throw new Error(`the content of ${node.id} is not known yet`)
}

const partsOfCode = new WeakMap<CodeIdentity, Readonly<Record<string, string>>>()
/** Files with digests and packages with versions, as the journal keeps them. The same object for the same identity. */
export const codeParts = (code: CodeIdentity): Readonly<Record<string, string>> => {
  let parts = partsOfCode.get(code)
  if (parts === undefined) partsOfCode.set(code, (parts = { ...code.files, ...code.packages }))
  return parts
}

/** A file by its name; a package with its versions ("node_modules/effect", "4.1.0 sha512-..."). */
const showCode = (name: string, before: string | undefined, after: string | undefined): string => {
  const [of, to] = [before, after].map((entry) => entry?.split(" ")[0] ?? "none")
  const at = name.lastIndexOf("node_modules/")
  return at === -1 || /\.[a-z]+$/.test(name) ? name : `${name.slice(at + "node_modules/".length)} ${of} -> ${to}`
}

/** The files and packages in which two versions of a stage's code differ, as they are shown. */
export const codeChanges = (before: Readonly<Record<string, string>>, after: Readonly<Record<string, string>>): ReadonlyArray<string> => {
  const changed = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => before[name] !== after[name])
  return changed.length === 0 ? ["bundled by another version of caravan"] : changed.map((name) => showCode(name, before[name], after[name]))
}

/** What changed in the code of a pinned stage since this result was made or last blessed; nothing for others, whose keys have the code. */
export const driftOf = (node: StageNode, facts: Facts, journal: Journal, trace: Trace): ReadonlyArray<string> => {
  if (node.stage.pinned === undefined) return []
  const code = facts.code.get(node.id)!
  const accepted = journal.acceptedCode(trace.key, trace.digest, code.digest)
  return accepted === undefined || accepted.code === code.digest ? [] : codeChanges(accepted.files, codeParts(code))
}

/** What is said of a found result of a pinned stage whose code has drifted. */
export const drifted = (node: StageNode, drift: ReadonlyArray<string>): string =>
  `its code has drifted since its result was made (pinned ${node.stage.pinned}): ${drift.join(", ")}. \`caravan bless\` accepts the code as it is; another version makes the result again`

const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value))

/** What is different from when this node last had a result. `own` leaves the inputs out (they may not be known). */
export const changes = (
  node: StageNode,
  facts: Facts,
  journal: Journal,
  pipeline: string,
  parts: KeyParts | undefined
): { readonly own: Array<string>; readonly all: Array<string> } => {
  const last = journal.lastExecution(pipeline, node.id)
  if (last === undefined) return { own: ["it has never run here"], all: ["it has never run here"] }
  const now = parts ?? keyParts(node, facts, () => "")
  const own: Array<string> = []
  if (last.parts.stage !== now.stage) own.push(`stage ${last.parts.stage} -> ${now.stage}`)
  for (const field of new Set([...Object.keys(last.parts.config), ...Object.keys(now.config)])) {
    const [before, after] = [show(last.parts.config[field]), show(now.config[field])]
    if (before !== after) own.push(`config ${field}: ${before} -> ${after}`)
  }
  if (last.parts.seed !== now.seed) own.push(`seed ${last.parts.seed} -> ${now.seed}`)
  const [pin, pinNow] = [last.parts.pinned, now.pinned]
  if (pin !== pinNow) own.push(`pinned: ${pin ?? "not"} -> ${pinNow ?? "not"}`)
  if (last.parts.code !== now.code && (pinNow === undefined || pin !== pinNow))
    own.push(`code: ${codeChanges(last.files, codeParts(facts.code.get(node.id)!)).join(", ")}`)
  if (last.parts.mapping !== now.mapping) own.push("how stages are mapped: another version of caravan")
  const numerics = new Set([...Object.keys(last.parts.numerics ?? {}), ...Object.keys(now.numerics ?? {})])
  for (const name of numerics) {
    const [before, after] = [last.parts.numerics?.[name], now.numerics?.[name]]
    if (before !== after) own.push(`numerics ${name}: ${before ?? "nothing"} -> ${after ?? "nothing"}`)
  }
  const all = [...own]
  if (parts !== undefined) {
    for (const port of Object.keys(parts.inputs)) {
      if (JSON.stringify(last.parts.inputs[port]) !== JSON.stringify(parts.inputs[port])) {
        const ids = node.inputs[port]
        all.push(`input ${port}: new content${ids === null || ids === undefined ? "" : ` of ${[ids].flat().join(", ")}`}`)
      }
    }
    if (all.length === 0) all.push(last.key === cacheKey(parts) ? "its record is gone" : "an older format of keys")
  }
  return { own, all }
}
