/** Reports changes: since a node last had a result, and in a pinned stage's code since its result was made. */
import * as Effect from "effect/Effect"
import { own as entry } from "../../schemas/own.ts"
import type { StageNode } from "../define/graph.ts"
import type { StoreError } from "../errors.ts"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import type { CodeIdentity } from "../key/code-identity.ts"
import type { EarlierResult } from "../store/executions.ts"
import type { JournalOperations } from "../store/journal.ts"
import type { Trace } from "../store/traces.ts"
import { type Facts, keyParts } from "./facts.ts"

const partsOfCode = new WeakMap<CodeIdentity, Readonly<Record<string, string>>>()
/** Files with digests and packages with versions, as stored in the journal. Returns the same object for the same identity. */
export const codeParts = (code: CodeIdentity): Readonly<Record<string, string>> => {
  let parts = partsOfCode.get(code)
  if (parts === undefined) partsOfCode.set(code, (parts = { ...code.files, ...code.packages }))
  return parts
}

/** A file by its name; a package with its versions ("node_modules/effect", "4.1.0 sha512-..."). */
const showCode = (name: string, before: string | undefined, after: string | undefined): string => {
  const [of, to] = [before, after].map((part) => part?.split(" ")[0] ?? "none")
  const at = name.lastIndexOf("node_modules/")
  return at === -1 || /\.[a-z]+$/.test(name) ? name : `${name.slice(at + "node_modules/".length)} ${of} -> ${to}`
}

/** The files and packages that differ between two versions of a stage's code, as text. */
export const codeChanges = (before: Readonly<Record<string, string>>, after: Readonly<Record<string, string>>): ReadonlyArray<string> => {
  const changed = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => entry(before, name) !== entry(after, name))
  return changed.length === 0
    ? ["bundled by another version of caravan"]
    : changed.map((name) => showCode(name, entry(before, name), entry(after, name)))
}

/** Changes in a pinned stage's code since this result was made or last blessed; empty for other stages, whose keys contain the code. */
export const driftOf = (
  node: StageNode,
  facts: Facts,
  trace: Trace,
  journal: JournalOperations
): Effect.Effect<ReadonlyArray<string>, StoreError> => {
  if (node.stage.pinned === undefined) return Effect.succeed([])
  const code = facts.code.get(node.id)!
  return Effect.map(journal.acceptedCode(trace.key, trace.digest, code.digest), (accepted) =>
    accepted === undefined || accepted.code === code.digest ? [] : codeChanges(accepted.files, codeParts(code))
  )
}

/** The message about a reused result of a pinned stage whose code has drifted. */
export const driftMessage = (node: StageNode, drift: ReadonlyArray<string>): string =>
  `its code has drifted since its result was made (pinned ${node.stage.pinned}): ${drift.join(", ")}. \`caravan bless\` accepts the new code; a new pinned version recomputes the result`

const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value))

/** Says that the result of an unchanged node is no longer recorded. */
export const recordRemoved = "its earlier result was damaged or deleted, and its record removed"

export interface Changes {
  /** Without the inputs, which may be unknown. */
  readonly own: ReadonlyArray<string>
  readonly all: ReadonlyArray<string>
  /** The compared result; null: there is none. */
  readonly since: Since | null
}
export interface Since {
  readonly run: string
  readonly at: number
  /** Whether it is the node's latest result. */
  readonly isLatest: boolean
}

/** Number of a node's earlier results, under different keys, that are compared. */
const comparedResults = 20

/**
 * What changed since an earlier result of this node: the one with the fewest changes, and of those the latest. The latest of all may be from a run
 * with another seed or other parameters, and explain nothing. `parts`: undefined while its inputs are unknown.
 */
export const changes = (
  node: StageNode,
  { facts, journal, pipeline }: { readonly facts: Facts; readonly journal: JournalOperations; readonly pipeline: string },
  parts: KeyParts | undefined
): Effect.Effect<Changes, StoreError> =>
  Effect.map(journal.earlierResults(pipeline, node.id, comparedResults), (results) => {
    let least: Changes | undefined
    for (const [i, { at, run, ...earlier }] of results.entries()) {
      const { all, own } = changesSince(node, facts, earlier, parts)
      if (least === undefined || all.length < least.all.length) least = { all, own, since: { run, at, isLatest: i === 0 } }
    }
    const never = ["it has never run here"]
    return least ?? { own: never, all: never, since: null }
  })

const changesSince = (
  node: StageNode,
  facts: Facts,
  last: Pick<EarlierResult, "key" | "parts" | "files">,
  parts: KeyParts | undefined
): Pick<Changes, "own" | "all"> => {
  const now = parts ?? keyParts(node, facts, () => "")
  const own: Array<string> = []
  if (last.parts.stage !== now.stage) own.push(`stage ${last.parts.stage} -> ${now.stage}`)
  for (const field of new Set([...Object.keys(last.parts.config), ...Object.keys(now.config)])) {
    const [before, after] = [show(entry(last.parts.config, field)), show(entry(now.config, field))]
    if (before !== after) own.push(`config ${field}: ${before} -> ${after}`)
  }
  if (last.parts.seed !== now.seed) own.push(`seed ${last.parts.seed} -> ${now.seed}`)
  const [pin, pinNow] = [last.parts.pinned, now.pinned]
  if (pin !== pinNow) own.push(`pinned: ${pin ?? "not"} -> ${pinNow ?? "not"}`)
  if (last.parts.code !== now.code && (pinNow === undefined || pin !== pinNow))
    own.push(`code: ${codeChanges(last.files, codeParts(facts.code.get(node.id)!)).join(", ")}`)
  if (last.parts.mapping !== now.mapping) own.push("mapping of stages: another version of caravan")
  const numerics = new Set([...Object.keys(last.parts.numerics ?? {}), ...Object.keys(now.numerics ?? {})])
  for (const name of numerics) {
    const [before, after] = [entry(last.parts.numerics ?? {}, name), entry(now.numerics ?? {}, name)]
    if (before !== after) own.push(`numerics ${name}: ${before ?? "nothing"} -> ${after ?? "nothing"}`)
  }
  const all = [...own]
  if (parts !== undefined) {
    for (const port of Object.keys(parts.inputs)) {
      if (JSON.stringify(entry(last.parts.inputs, port)) !== JSON.stringify(parts.inputs[port])) {
        const ids = node.inputs[port]
        all.push(`input ${port}: new content${ids === null || ids === undefined ? "" : ` of ${[ids].flat().join(", ")}`}`)
      }
    }
    if (all.length === 0) all.push(last.key === cacheKey(parts) ? recordRemoved : "an older key format")
  }
  return { own, all }
}
