/** Checks a run against a lock file (lock-file.ts): its results, and everything that determines them, must be as frozen. */
import { relative } from "node:path"
import * as Effect from "effect/Effect"
import { own } from "../../schemas/own.ts"
import { formatVersion } from "../key/cache-key.ts"
import { digestOf } from "../encoding.ts"
import { PipelineError, type StoreError } from "../errors.ts"
import type { KeyCache } from "../key/key-cache.ts"
import { configForKey, type Graph } from "../define/graph.ts"
import type { Facts } from "./facts.ts"
import { digestInput } from "./inputs.ts"
import type { LockFile } from "./lock-file.ts"
import type { NodeResult, RunResult } from "./events.ts"
import type { RunOptions } from "./options.ts"

/** The lock file of a graph for this folder, with its inputs' digests and known results by node. */
export const lockFileOf = (
  graph: Graph,
  facts: Facts,
  options: Pick<RunOptions, "settings" | "seed" | "device" | "threads">,
  folder: string,
  digests: ReadonlyMap<string, string>,
  results: ReadonlyMap<string, string>
): LockFile => {
  const nodes = [...graph.nodes.values()]
  const code = new Map([...facts.code.values()].map((identity) => [identity.digest, identity]))
  return {
    format: 1,
    keys: formatVersion,
    pipeline: graph.pipeline,
    settings: options.settings ?? {},
    seed: options.seed ?? 0,
    device: options.device ?? "cpu",
    threads: options.threads ?? 1,
    inputs: Object.fromEntries(
      nodes.flatMap((node) =>
        node.kind === "file" ? [[node.id, { path: node.remote?.pinned ?? relative(folder, node.path), digest: digests.get(node.id)! }]] : []
      )
    ),
    nodes: Object.fromEntries(
      nodes.flatMap((node) =>
        node.kind === "file"
          ? []
          : [
              [
                node.id,
                {
                  stage: node.stage.name,
                  code: facts.code.get(node.id)!.digest,
                  ...(node.stage.pinned === undefined ? {} : { pinned: node.stage.pinned }),
                  config: configForKey(node),
                  seed: node.stage.seeded ? node.seed : null,
                  inputs: node.inputs,
                  result: results.get(node.id) ?? null
                }
              ]
            ]
      )
    ),
    code: Object.fromEntries([...code].map(([digest, { files, packages }]) => [digest, { files, packages: Object.keys(packages).sort() }])),
    packages: Object.fromEntries(
      [...code.values()].flatMap(({ packages }) => Object.entries(packages)).sort(([a], [b]) => (a < b ? -1 : 1))
    ),
    numerics:
      facts.numerics === null || facts.machine.ranks === undefined
        ? facts.numerics
        : { ...facts.numerics, ranks: `${facts.machine.ranks}, sharding ${facts.machine.sharding}` }
  }
}

/** The value after a round trip through JSON. */
const plain = (value: unknown): unknown => (value === undefined ? null : (JSON.parse(JSON.stringify(value)) as unknown))
const same = (a: unknown, b: unknown): boolean => digestOf(plain(a)) === digestOf(plain(b))
const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value))
const short = (digest: string): string => digest.slice(0, 12)

/** The keys of both objects. */
const union = (a: object, b: object): Array<string> => [...new Set([...Object.keys(a), ...Object.keys(b)])]

/** Everything that determines results and differs from the frozen state, one line each. Settings only count through their effect on nodes. */
export const differences = (frozen: LockFile, now: LockFile): Array<string> => {
  const lines: Array<string> = []
  if (frozen.pipeline !== now.pipeline) lines.push(`pipeline: ${frozen.pipeline} -> ${now.pipeline}`)
  if (frozen.keys !== now.keys) lines.push(`format of cache keys: ${frozen.keys} -> ${now.keys}`)
  for (const id of union(frozen.inputs, now.inputs)) {
    const [before, after] = [own(frozen.inputs, id), own(now.inputs, id)]
    if (before === undefined) lines.push(`input ${id} is new`)
    else if (after === undefined) lines.push(`input ${id} (${before.path}) is no longer used`)
    else if (before.digest !== after.digest)
      lines.push(`input ${id}: content changed (sha256 ${short(before.digest)} -> ${short(after.digest)}, ${after.path})`)
  }
  for (const id of union(frozen.nodes, now.nodes)) {
    const [before, after] = [own(frozen.nodes, id), own(now.nodes, id)]
    if (before === undefined) lines.push(`node ${id} is new`)
    else if (after === undefined) lines.push(`node ${id} was removed`)
    else {
      if (before.stage !== after.stage) lines.push(`node ${id}: stage ${before.stage} -> ${after.stage}`)
      if (before.pinned !== after.pinned) lines.push(`node ${id}: pinned: ${before.pinned ?? "not"} -> ${after.pinned ?? "not"}`)
      for (const field of union(before.config, after.config))
        if (!same(own(before.config, field), own(after.config, field)))
          lines.push(`node ${id}: config ${field}: ${show(own(before.config, field))} -> ${show(own(after.config, field))}`)
      if (before.seed !== after.seed) lines.push(`node ${id}: seed ${before.seed} -> ${after.seed}`)
      for (const port of union(before.inputs, after.inputs))
        if (!same(own(before.inputs, port), own(after.inputs, port)))
          lines.push(`node ${id}: input ${port}: ${show(own(before.inputs, port))} -> ${show(own(after.inputs, port))}`)
    }
  }
  // One line per stage, not per node.
  const code = new Set<string>()
  for (const [id, after] of Object.entries(now.nodes)) {
    const before = own(frozen.nodes, id)
    if (before === undefined || before.code === after.code) continue
    const [codeBefore, codeAfter] = [frozen.code[before.code]?.files ?? {}, now.code[after.code]?.files ?? {}]
    const files = union(codeBefore, codeAfter).filter((file) => codeBefore[file] !== codeAfter[file])
    const pin = after.pinned === undefined ? "" : ` (pinned ${after.pinned}, code drifted)`
    code.add(`code of stage ${after.stage}${pin}: ${files.join(", ") || "its packages"}`)
  }
  lines.push(...code)
  for (const name of union(frozen.packages, now.packages)) {
    const [before, after] = [own(frozen.packages, name), own(now.packages, name)]
    const shown = name.slice(name.lastIndexOf("node_modules/") === -1 ? 0 : name.lastIndexOf("node_modules/") + "node_modules/".length)
    const [from, to] = [before, after].map((entry) => entry?.split(" ")[0] ?? "none")
    if (before !== after) lines.push(`package ${shown}: ${from} -> ${to}${from === to ? " (content changed)" : ""}`)
  }
  for (const name of union(frozen.numerics ?? {}, now.numerics ?? {})) {
    const [before, after] = [own(frozen.numerics ?? {}, name), own(now.numerics ?? {}, name)]
    if (before !== after) lines.push(`numerics ${name}: ${before ?? "nothing"} -> ${after ?? "nothing"}`)
  }
  return lines
}

/** Fails if anything that determines the run's results differs from the frozen state. */
export const checkAgainstLock = (
  lock: LockFile,
  graph: Graph,
  facts: Facts,
  cache: KeyCache,
  options: RunOptions
): Effect.Effect<void, PipelineError | StoreError> =>
  Effect.gen(function* () {
    const digests = new Map<string, string>()
    for (const node of graph.nodes.values())
      if (node.kind === "file")
        digests.set(node.id, (yield* digestInput(node, cache, (read) => options.onEvent?.({ type: "reading", ...read }))).digest)
    const found = differences(lock, lockFileOf(graph, facts, options, process.cwd(), digests, new Map()))
    if (found.length > 0)
      return yield* new PipelineError({
        message: `This run must match its lock file, but does not:\n${found.map((line) => `  ${line}`).join("\n")}\nNothing was run. Undo what changed, or run \`caravan freeze\` again to accept it.`
      })
  })

/** Returns the result with nodes failed whose results differ from the frozen ones: their stages are not deterministic. */
export const checkResults = (lock: LockFile, result: RunResult): RunResult => {
  const differing = (node: NodeResult): boolean => {
    const frozen = own(lock.nodes, node.id)?.result ?? null
    return frozen !== null && node.digest !== null && node.digest !== frozen
  }
  if (!result.nodes.some(differing)) return result
  return {
    ...result,
    status: "failed",
    nodes: result.nodes.map((node) =>
      differing(node)
        ? {
            ...node,
            status: "failed",
            error: `its result ${short(node.digest!)} differs from the frozen one (${short(lock.nodes[node.id]!.result!)}) although all its inputs, code and settings match: \`caravan verify\` shows the differences`
          }
        : node
    )
  }
}
