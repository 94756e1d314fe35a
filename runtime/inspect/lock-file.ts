/**
 * Lock files: everything that decides a pipeline's results, written down by `caravan freeze` and held to by `caravan run --locked`: the content
 * of its inputs, its nodes with their configs, seeds and wires, the code of their stages, the packages that code uses, the machine's numerics,
 * and the results themselves where they are known.
 */
import { readFile, rename, writeFile } from "node:fs/promises"
import { dirname, relative, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { digestOf } from "../encoding.ts"
import { formatVersion } from "../key/cache-key.ts"
import { messageOf, PipelineError } from "../errors.ts"
import { digestFile } from "../key/file-source.ts"
import { configForKey, type Graph } from "../define/graph.ts"
import type { Journal } from "../store/journal.ts"
import type { Facts, Plan } from "../run/plan.ts"
import type { NodeResult, RunOptions, RunResult } from "../run/run.ts"

const Texts = Schema.Record(Schema.String, Schema.String)
const Wires = Schema.Record(Schema.String, Schema.NullOr(Schema.Union([Schema.String, Schema.Array(Schema.String)])))

export const LockFile = Schema.Struct({
  format: Schema.Literal(1),
  /** The format of cache keys: another one makes everything again. */
  keys: Schema.Number,
  pipeline: Schema.String,
  /** What the command line said: `run --locked` says the same again. */
  settings: Texts,
  seed: Schema.Number,
  device: Schema.Literals(["cpu", "cuda"]),
  threads: Schema.Number,
  /** Files and folders of the user's by node. The path is where it was, from the lock file; only the content counts. */
  inputs: Schema.Record(Schema.String, Schema.Struct({ path: Schema.String, digest: Schema.String })),
  nodes: Schema.Record(
    Schema.String,
    Schema.Struct({
      stage: Schema.String,
      /** The digest of its code: an entry of `code`. */
      code: Schema.String,
      /** The version that a pinned stage has in its place in the key; its code is held to nevertheless. */
      pinned: Schema.optionalKey(Schema.String),
      /** Without fields that can't change the result. */
      config: Schema.Record(Schema.String, Schema.Unknown),
      seed: Schema.NullOr(Schema.Number),
      inputs: Wires,
      /** The digest of its artifact; null when there was none yet. */
      result: Schema.NullOr(Schema.String)
    })
  ),
  code: Schema.Record(Schema.String, Schema.Struct({ files: Texts, packages: Schema.Array(Schema.String) })),
  /** What package-lock.json says of every package that the code uses. */
  packages: Texts,
  /** null when nothing computes with tensors. */
  numerics: Schema.NullOr(Texts)
})
export type LockFile = typeof LockFile.Type

/** What of a run is frozen, with its inputs' digests and known results by node. */
const freezing = (
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
        node.kind === "file" ? [[node.id, { path: relative(folder, node.path), digest: digests.get(node.id)! }]] : []
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
    numerics: facts.numerics
  }
}

/** The lock file of a plan, to be written into this folder. */
export const freeze = (plan: Plan, options: Pick<RunOptions, "settings" | "seed" | "device" | "threads">, folder: string): LockFile => {
  const digests = new Map<string, string>()
  const results = new Map<string, string>()
  for (const node of plan.nodes.values()) {
    if (node.kind === "file") digests.set(node.id, node.digest)
    if (node.kind === "hit") results.set(node.id, node.trace.digest)
  }
  return freezing(plan.graph, plan.facts, options, folder, digests, results)
}

/** As JSON would give it back. */
const plain = (value: unknown): unknown => (value === undefined ? null : (JSON.parse(JSON.stringify(value)) as unknown))
const same = (a: unknown, b: unknown): boolean => digestOf(plain(a)) === digestOf(plain(b))
const show = (value: unknown): string => (value === undefined ? "nothing" : JSON.stringify(value))
const short = (digest: string): string => digest.slice(0, 12)

/** The keys of either. */
const union = (a: object, b: object): Array<string> => [...new Set([...Object.keys(a), ...Object.keys(b)])]

/** Everything that decides results and is not as it was frozen, a line each. Settings count by what they do to the nodes. */
export const differences = (frozen: LockFile, now: LockFile): Array<string> => {
  const lines: Array<string> = []
  if (frozen.pipeline !== now.pipeline) lines.push(`pipeline: ${frozen.pipeline} -> ${now.pipeline}`)
  if (frozen.keys !== now.keys) lines.push(`format of cache keys: ${frozen.keys} -> ${now.keys}`)
  for (const id of union(frozen.inputs, now.inputs)) {
    const [before, after] = [frozen.inputs[id], now.inputs[id]]
    if (before === undefined) lines.push(`input ${id} is new`)
    else if (after === undefined) lines.push(`input ${id} (${before.path}) is no longer used`)
    else if (before.digest !== after.digest)
      lines.push(`input ${id}: other content (sha256 ${short(before.digest)} -> ${short(after.digest)}, ${after.path})`)
  }
  for (const id of union(frozen.nodes, now.nodes)) {
    const [before, after] = [frozen.nodes[id], now.nodes[id]]
    if (before === undefined) lines.push(`node ${id} is new`)
    else if (after === undefined) lines.push(`node ${id} is gone`)
    else {
      if (before.stage !== after.stage) lines.push(`node ${id}: stage ${before.stage} -> ${after.stage}`)
      if (before.pinned !== after.pinned) lines.push(`node ${id}: pinned: ${before.pinned ?? "not"} -> ${after.pinned ?? "not"}`)
      for (const field of union(before.config, after.config))
        if (!same(before.config[field], after.config[field]))
          lines.push(`node ${id}: config ${field}: ${show(before.config[field])} -> ${show(after.config[field])}`)
      if (before.seed !== after.seed) lines.push(`node ${id}: seed ${before.seed} -> ${after.seed}`)
      for (const port of union(before.inputs, after.inputs))
        if (!same(before.inputs[port], after.inputs[port]))
          lines.push(`node ${id}: input ${port}: ${show(before.inputs[port])} -> ${show(after.inputs[port])}`)
    }
  }
  // One line a stage, however many nodes it has.
  const code = new Set<string>()
  for (const [id, after] of Object.entries(now.nodes)) {
    const before = frozen.nodes[id]
    if (before === undefined || before.code === after.code) continue
    const [old, young] = [frozen.code[before.code], now.code[after.code]]
    const files = union(old?.files ?? {}, young?.files ?? {}).filter((file) => old?.files[file] !== young?.files[file])
    const pin = after.pinned === undefined ? "" : ` (pinned ${after.pinned}, which drifts)`
    code.add(`code of stage ${after.stage}${pin}: ${files.join(", ") || "its packages"}`)
  }
  lines.push(...code)
  for (const name of union(frozen.packages, now.packages)) {
    const [before, after] = [frozen.packages[name], now.packages[name]]
    const shown = name.slice(name.lastIndexOf("node_modules/") === -1 ? 0 : name.lastIndexOf("node_modules/") + "node_modules/".length)
    const [from, to] = [before, after].map((entry) => entry?.split(" ")[0] ?? "none")
    if (before !== after) lines.push(`package ${shown}: ${from} -> ${to}${from === to ? " (other content)" : ""}`)
  }
  for (const name of union(frozen.numerics ?? {}, now.numerics ?? {})) {
    const [before, after] = [frozen.numerics?.[name], now.numerics?.[name]]
    if (before !== after) lines.push(`numerics ${name}: ${before ?? "nothing"} -> ${after ?? "nothing"}`)
  }
  return lines
}

/** Fails when anything that decides the run's results is not as it was frozen. */
export const holdToLock = (
  lock: LockFile,
  graph: Graph,
  facts: Facts,
  journal: Journal,
  options: RunOptions
): Effect.Effect<void, PipelineError> =>
  Effect.gen(function* () {
    const digests = new Map<string, string>()
    for (const node of graph.nodes.values()) if (node.kind === "file") digests.set(node.id, (yield* digestFile(node.path, journal)).digest)
    const found = differences(lock, freezing(graph, facts, options, process.cwd(), digests, new Map()))
    if (found.length > 0)
      return yield* new PipelineError({
        message: `This run is held to a lock file, and is not what was frozen:\n${found.map((line) => `  ${line}`).join("\n")}\nNothing was run. Undo what changed, or run \`caravan freeze\` again to accept it.`
      })
  })

/** Fails the nodes whose results are not those that were frozen: a stage that does not come out the same twice. */
export const holdResults = (lock: LockFile, result: RunResult): RunResult => {
  const differing = (node: NodeResult): boolean => {
    const frozen = lock.nodes[node.id]?.result ?? null
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
            error: `its result ${short(node.digest!)} is not the frozen one (${short(lock.nodes[node.id]!.result!)}) though everything it is made from is: \`caravan verify\` names what differs`
          }
        : node
    )
  }
}

/** Reads a lock file. */
export const readLock = (path: string): Effect.Effect<LockFile, PipelineError> =>
  Effect.gen(function* () {
    const fail = (what: string) =>
      new PipelineError({
        message: `Reading the lock file ${path}: ${what}. Make it with \`caravan freeze\`, or name another with --lock.`
      })
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => fail((cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no such file" : messageOf(cause))
    })
    const json = yield* Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => fail(`not JSON (${messageOf(cause)})`) })
    const format = (json as { readonly format?: unknown } | null)?.format
    if (typeof format === "number" && format > 1)
      return yield* fail(`it has format ${format}, this version of caravan knows formats up to 1`)
    return yield* Schema.decodeUnknownEffect(LockFile)(json).pipe(Effect.mapError((error) => fail(`not a lock file: ${error.message}`)))
  })

/** Writes a lock file. */
export const writeLock = (path: string, lock: LockFile): Effect.Effect<void, PipelineError> =>
  Effect.tryPromise({
    try: async () => {
      await writeFile(`${path}.new`, `${JSON.stringify(lock, undefined, 2)}\n`)
      await rename(`${path}.new`, path)
    },
    catch: (cause) => new PipelineError({ message: `Writing the lock file ${path}: ${messageOf(cause)}. Name another place with --lock.` })
  })

/** Beside the definition file: pipelines/demo.ts -> pipelines/demo.lock.json. */
export const lockPath = (pipeline: string): string => resolve(pipeline).replace(/\.[mc]?[tj]s$/, "") + ".lock.json"
export const lockFolder = (path: string): string => dirname(resolve(path))
