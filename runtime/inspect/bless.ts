/**
 * Blessing: a user asserts that a code change did not affect a node's result. The result made with the old code is then valid for the new code, and
 * the blessing is recorded. Only code may differ: any other difference in the key is reported and refused.
 */
import * as Effect from "effect/Effect"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { cacheKey } from "../key/cache-key.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import { nearestNode, nodeNamed, type StageNode } from "../define/graph.ts"
import type { Numerics } from "../key/numerics.ts"
import type { Pipeline } from "../define/pipeline.ts"
import { changes, codeChanges, codeParts, recordRemoved } from "../run/changes.ts"
import { graphOf } from "../run/inputs.ts"
import { machineOf, type RunOptions } from "../run/options.ts"
import { type Plan, planGraph } from "../run/plan.ts"
import { Journal, type JournalOperations } from "../store/journal.ts"
import { type HeldStore, Store } from "../store/store.ts"
import type { Trace } from "../store/traces.ts"

export interface BlessOptions extends RunOptions {
  /** Whether to record it; otherwise only reports what would be recorded. */
  readonly record: boolean
}

export interface Blessed {
  readonly node: string
  readonly stage: string
  readonly pinned: string | null
  /** "blessed": recorded, or with `record: false` what would be. "settled": the result exists and was made with this code. "refused": see `why`. */
  readonly verdict: "blessed" | "settled" | "refused"
  /** The key under which the result is now valid, and the one under which it was made: equal for a pinned stage with drifted code. */
  readonly key: string | null
  readonly from: string | null
  readonly digest: string | null
  /** Files and packages that changed. */
  readonly changes: ReadonlyArray<string>
  /** Why it is refused: differences other than code, or what is missing. */
  readonly why: ReadonlyArray<string>
}

/** Maximum number of a node's results to check, latest first. */
const maxChecked = 1000

/** Makes a node's last result that differs only in code valid for the current code. */
export const bless = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  name: string,
  options: BlessOptions
): Effect.Effect<Blessed, PipelineError | ConfigError | StoreError, Store | Journal | Numerics> =>
  Effect.gen(function* () {
    const graph = yield* graphOf(pipeline, params, options)
    const id = nodeNamed(graph, name)
    const node = id === undefined ? undefined : graph.nodes.get(id)
    if (node === undefined || node.kind === "file") {
      const ids = [...graph.nodes.values()].flatMap((each) => (each.kind === "stage" ? [each.id] : []))
      const what = node === undefined ? `pipeline "${graph.pipeline}" has no such node or output` : "it is a file and has no code"
      return yield* new PipelineError({
        message: `Blessing "${name}": ${what}.${nearestNode(name, [...ids, ...Object.keys(graph.outputs)])}`
      })
    }
    // Objects found here are protected from gc until recorded.
    const store = yield* (yield* Store).hold("caravan bless")
    const plan = yield* planGraph(graph, machineOf(options), new Set(), "await").pipe(Effect.provideService(Store, store))
    return yield* settle(node, plan, yield* Journal, store, options.record)
  }).pipe(Effect.scoped)

const settle = Effect.fnUntraced(function* (
  node: StageNode,
  plan: Plan,
  journal: JournalOperations,
  store: HeldStore,
  record: boolean
): Effect.fn.Return<Blessed, StoreError> {
  const base = { node: node.id, stage: node.stage.name, pinned: node.stage.pinned ?? null }
  const none = { key: null, from: null, digest: null, changes: [], why: [] }
  const planned = plan.nodes.get(node.id)!
  const code = plan.facts.code.get(node.id)!
  const files = codeParts(code)
  if (planned.kind === "hit") {
    const { drift, key, trace } = planned
    const found = { ...base, ...none, key, from: key, digest: trace.digest }
    if (drift.length === 0) return { ...found, verdict: "settled" }
    if (record) yield* journal.recordBlessing({ key, from: key, digest: trace.digest, code: code.digest, files, changes: drift })
    return { ...found, verdict: "blessed", changes: drift }
  }
  if (planned.kind !== "run") {
    const until = planned.kind === "unknown" ? planned.until : []
    return {
      ...base,
      ...none,
      verdict: "refused",
      why: [`its inputs are not up to date: ${until.join(", ")} would run. Bless or run ${until.length === 1 ? "that" : "those"} first.`]
    }
  }
  const { key, parts } = planned
  const refused = (...why: ReadonlyArray<string>): Blessed => ({ ...base, ...none, key, verdict: "refused", why })
  const results = yield* journal.resultsOfNode(plan.graph.pipeline, node.id, maxChecked)
  if (results.length === 0) return refused("no node of this name has run here: there is no result to bless")
  const { pinned: _, ...unpinned } = parts
  for (const result of results) {
    const { code: before, pinned } = result.parts
    // The same key except for the code: nothing else differs.
    const same = cacheKey({ ...unpinned, code: before, ...(pinned === undefined ? {} : { pinned }) })
    if (same !== result.key || same === key) continue
    const trace = yield* journal.trace(same)
    if (trace === undefined || !(yield* store.present(trace.digest))) continue
    if (trace.type !== node.type.name) return refused(`its output is another type: ${trace.type} -> ${node.type.name}`)
    // A pinned result may have been reused by code other than the code that made it.
    const made =
      pinned === undefined
        ? { code: before, files: result.files }
        : ((yield* journal.acceptedCode(same, trace.digest, code.digest)) ?? { code: before, files: result.files })
    const changed = [
      ...(pinned === parts.pinned ? [] : [`pinned: ${pinned ?? "not"} -> ${parts.pinned ?? "not"}`]),
      ...(made.code === code.digest ? [] : codeChanges(made.files, files))
    ]
    if (record && !(yield* recordUnder(key, trace, node, journal, store, { code: code.digest, files, changes: changed })))
      return { ...base, ...none, key, verdict: "settled" }
    return { ...base, ...none, key, from: same, digest: trace.digest, changes: changed, verdict: "blessed" }
  }
  const { all } = yield* changes(node, { facts: plan.facts, journal, pipeline: plan.graph.pipeline }, parts)
  const others = all.filter((line) => !/^(code|pinned): /.test(line))
  return others.length > 0 && !others.includes(recordRemoved)
    ? refused(...others)
    : refused("its earlier result is no longer in the store: run the pipeline to recompute it")
})

/** Records the result under its new key; false if another run recorded one there in the meantime. */
const recordUnder = Effect.fnUntraced(function* (
  key: string,
  trace: Trace,
  node: StageNode,
  journal: JournalOperations,
  store: HeldStore,
  now: { readonly code: string; readonly files: Readonly<Record<string, string>>; readonly changes: ReadonlyArray<string> }
) {
  const before = yield* journal.trace(key)
  // A record without an object (gc keeps records) does not count.
  const gone = before !== undefined && !(yield* store.present(before.digest)) ? before.digest : undefined
  return yield* journal.transaction((tables) => {
    const there = tables.trace(key)
    if (there !== undefined && there.digest === gone) tables.forgetTrace(key)
    else if (there !== undefined && there.digest !== trace.digest) return false
    const { paths, run } = tables.provenance(trace.key) ?? {}
    tables.recordTrace(
      { ...trace, key },
      { run, node: node.id, inputs: node.inputs, paths, node_version: process.version, blessed: { from: trace.key } }
    )
    tables.recordBlessing({ key, from: trace.key, digest: trace.digest, ...now })
    return true
  })
})
