/** Turns a pipeline's nodes into a checked graph: names, decoded configs, type-checked wires, topological order. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { ArtifactType } from "../../schemas/artifact.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import { isHubName, parseHubName } from "../../schemas/hub-name.ts"
import { ConfigError, type ConfigSchema, decodeConfig, hyperInfo } from "../../schemas/hyper.ts"
import { own } from "../../schemas/own.ts"
import { encodingOf, remember } from "../encoding.ts"
import { messageOf, PipelineError, placeOf } from "../errors.ts"
import type { Sizes } from "./cost.ts"
import { type AnyNode, isNode, type NodeLimits } from "./node.ts"
import type { AnyPipeline } from "./pipeline.ts"
import { larger, type Placement } from "./placement.ts"
import type { RemoteFiles } from "./remote.ts"
import { portOf, type StageInfo } from "./stage-info.ts"

export interface StageNode {
  readonly kind: "stage"
  readonly id: string
  readonly stage: StageInfo
  readonly config: Readonly<Record<string, unknown>>
  readonly seed: number
  /** Ids by port: one, several, or null for an unconnected port. */
  readonly inputs: Readonly<Record<string, string | ReadonlyArray<string> | null>>
  readonly type: ArtifactType<any>
  /** Sizes declared by the pipeline, for estimates. */
  readonly expected?: Sizes | undefined
  readonly limits?: NodeLimits | undefined
  readonly placement?: Placement | undefined
}
export interface FileNode {
  readonly kind: "file"
  readonly id: string
  /** A local path; for a name on the Hub (schemas/hub-name.ts) the name itself, until a run or a plan resolves it. */
  readonly path: string
  /** The resolved files of a Hub name; `path` is then where they are stored after the download. */
  readonly remote?: RemoteFiles
  readonly type: ArtifactType<any>
  readonly expected?: Sizes | undefined
}
export type GraphNode = StageNode | FileNode

export interface Graph {
  readonly pipeline: string
  /** In topological order: inputs first. */
  readonly nodes: ReadonlyMap<string, GraphNode>
  readonly outputs: Readonly<Record<string, string>>
}

/** The ids that a node depends on directly. */
export const dependencies = (node: GraphNode): ReadonlyArray<string> => {
  const found: Array<string> = []
  if (node.kind === "file") return found
  for (const input of Object.values(node.inputs)) {
    if (typeof input === "string") found.push(input)
    else if (input !== null) found.push(...input)
  }
  return found
}

/** Resolves a name to a node id: the node with that name, otherwise the node of the output with that name. */
export const nodeNamed = ({ nodes, outputs }: Pick<Graph, "nodes" | "outputs">, name: string): string | undefined =>
  nodes.has(name) ? name : own(outputs, name)

/** The hint for an unknown node or output: the nearest name, or all of them if they are few. */
export const nearestNode = (name: string, names: ReadonlyArray<string>): string =>
  didYouMean(name, names, 20) || " `caravan graph` lists the nodes of a pipeline file."

/** The ids of the nodes that depend on a node, directly or indirectly, and the node's own id. */
export const descendants = (graph: Graph, id: string): Set<string> => {
  const found = new Set([id])
  for (const node of graph.nodes.values()) if (dependencies(node).some((dependency) => found.has(dependency))) found.add(node.id)
  return found
}

/** The ids of the nodes that the given nodes depend on, directly or indirectly, and their own ids. */
export const ancestors = (graph: Graph, ids: ReadonlyArray<string> | ReadonlySet<string>): Set<string> => {
  const found = new Set<string>()
  const open = [...ids]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (found.has(next)) continue
    found.add(next)
    open.push(...dependencies(graph.nodes.get(next)!))
  }
  return found
}

/** Settings from the command line: strings by parameter ("samples") or by node and field ("sft.learningRate"). */
export type Settings = Readonly<Record<string, string>>

/** Parses a string as the field's type: JSON if that fits ("3", "true", "[1,2]"), otherwise the string itself. */
export const valueOf = (field: Schema.Top | undefined, text: string): unknown => {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    return text
  }
  if (field === undefined) return parsed
  const fits = (value: unknown): boolean =>
    Schema.decodeUnknownExit(Schema.Struct({ value: field as Schema.Codec<unknown> }))({ value })._tag === "Success"
  // A string field keeps a text that happens to be JSON ("7"); if neither fits, the parsed value is used in the error.
  return !fits(parsed) && fits(text) ? text : parsed
}

/** Maximum number of nodes named in a hint. */
const hintedNodes = 5

/** For a name that is not a parameter: how to set the config field of that name, if nodes have one. */
export const fieldHint = (graph: Graph | undefined, name: string, value = "<value>", flag = "--set"): string => {
  const owners = [...(graph?.nodes.values() ?? [])].flatMap((node) =>
    node.kind === "stage" && Object.hasOwn(node.stage.config.fields as object, name) ? [node.id] : []
  )
  if (owners.length === 0) return ""
  const names = owners.slice(0, hintedNodes).join(", ")
  const more = owners.length > hintedNodes ? ` and ${owners.length - hintedNodes} more` : ""
  const whose = owners.length === 1 ? `Node ${names} has a config field` : `Nodes with a config field`
  return ` ${whose} of this name${owners.length === 1 ? "" : `: ${names}${more}`}. Set it with ${flag} ${owners[0]}.${name}=${value}.`
}

/** Builds the pipeline with these parameters and settings, and checks everything before anything runs. */
export const buildGraph = (
  pipeline: AnyPipeline,
  params: Readonly<Record<string, unknown>>,
  options: {
    readonly settings?: Settings
    readonly seed: number
    /** The flag that gave a setting, for error messages. Default: "--set". */
    readonly flagOf?: (name: string) => string
  }
): Effect.Effect<Graph, PipelineError | ConfigError> =>
  Effect.gen(function* () {
    const fields = pipeline.params.fields as Record<string, Schema.Top>
    const settings = Object.entries(options.settings ?? {})
    // Not by assignment, which would drop "__proto__": it must be reported like any other unknown name.
    const given: Record<string, unknown> = {
      ...params,
      ...Object.fromEntries(settings.flatMap(([name, text]) => (name.includes(".") ? [] : [[name, valueOf(own(fields, name), text)]])))
    }
    const unknown = Object.keys(given).filter((name) => !Object.hasOwn(fields, name))
    if (unknown.length > 0) {
      const known = Object.fromEntries(Object.entries(given).filter(([name]) => !unknown.includes(name)))
      const graph = Option.getOrUndefined(yield* Effect.option(buildGraph(pipeline, known, { seed: options.seed })))
      const lines = unknown.map(
        (name) =>
          `Pipeline "${pipeline.name}" has no parameter "${name}".${fieldHint(graph, name, options.settings?.[name]) || didYouMean(name, Object.keys(fields))}`
      )
      return yield* new ConfigError({ message: lines.join("\n") })
    }
    const decoded = yield* decodeConfig(pipeline.params as ConfigSchema, given, `Pipeline "${pipeline.name}"`, {
      how: (name) => ` Set it with --set ${name}=<value>, or as a parameter in a program.`,
      noun: "parameter"
    })
    const outputs = yield* Effect.try({
      try: () => pipeline.build(decoded) as Record<string, unknown>,
      catch: (cause) =>
        new PipelineError({
          message: `Building the pipeline "${pipeline.name}": ${messageOf(cause)}${cause instanceof PipelineError ? "" : placeOf(cause)}`
        })
    })
    if (typeof outputs !== "object" || outputs === null || isNode(outputs) || Object.keys(outputs).length === 0) {
      return yield* new PipelineError({
        message: `Building the pipeline "${pipeline.name}": its function returned ${shown(outputs)}. Return an object of named outputs: ({ policy: sft(...) }).`
      })
    }
    for (const [name, node] of Object.entries(outputs)) {
      if (!isNode(node))
        return yield* new PipelineError({
          message: `Output "${name}" of pipeline "${pipeline.name}" is ${shown(node)}, not a node. Return the result of applying a stage.`
        })
    }
    return yield* resolve(pipeline.name, outputs as Record<string, AnyNode>, {
      seed: options.seed,
      flagOf: options.flagOf ?? (() => "--set"),
      settings: settings.filter(([name]) => name.includes("."))
    })
  })

const resolve = (
  pipeline: string,
  outputs: Readonly<Record<string, AnyNode>>,
  options: { readonly seed: number; readonly settings: ReadonlyArray<[string, string]>; readonly flagOf: (name: string) => string }
) =>
  Effect.gen(function* () {
    const order = yield* postorder(outputs)
    const ids = yield* nameNodes(order)
    const overrides = new Map<string, Array<[field: string, text: string]>>()
    for (const [name, text] of options.settings) {
      const dot = name.lastIndexOf(".")
      const given = name.slice(0, dot)
      const stageIds = order.filter((node) => node.definition.kind === "stage").map((node) => ids.get(node)!)
      const output = own(outputs, given)
      const id = stageIds.includes(given) || output === undefined ? given : ids.get(output)!
      if (!stageIds.includes(id))
        return yield* new PipelineError({
          message: `${options.flagOf(name)} ${name}: no node or output is named "${given}".${nearestNode(given, [...stageIds, ...Object.keys(outputs)])}`
        })
      overrides.set(id, [...(overrides.get(id) ?? []), [name.slice(dot + 1), text]])
    }
    const nodes = new Map<string, GraphNode>()
    // Two nodes with the same stage, config, seed and inputs are merged.
    const canonical = new Map<string, string>()
    const alias = new Map<AnyNode, string>()
    /** A stage's decoded defaults, for nodes that set no field. */
    const defaults = new Map<StageInfo, Readonly<Record<string, unknown>>>()
    for (const node of order) {
      const { definition } = node
      const id = ids.get(node)!
      let made: GraphNode
      let identity: string
      if (definition.kind === "file") {
        made = { kind: "file", id, path: definition.path, type: definition.type, expected: definition.expected }
        identity = encodingOf(["file", definition.path])
      } else {
        const { stage } = definition
        const stageFields = stage.config.fields as Record<string, Schema.Top>
        const over = overrides.get(id)
        const raw: Readonly<Record<string, unknown>> =
          over === undefined
            ? definition.config
            : { ...definition.config, ...Object.fromEntries(over.map(([field, text]) => [field, valueOf(own(stageFields, field), text)])) }
        const isDefault = Object.keys(raw).length === 0
        const config = (isDefault && defaults.get(stage)) || (yield* decodeConfig(stage.config, raw, `Node "${id}" (stage ${stage.name})`))
        if (isDefault) defaults.set(stage, config)
        const inputs = wire(id, stage, definition.inputs, alias)
        if (inputs instanceof PipelineError) return yield* inputs
        const seed = definition.seed ?? options.seed
        const { expected, limits, placement, type } = definition
        made = { kind: "stage", id, stage, config: config, seed, inputs, type, expected, limits, placement }
        try {
          const { module, name, pinned, seeded } = stage
          identity = encodingOf([
            "stage",
            module,
            name,
            pinned ?? null,
            remember(config),
            seeded ? seed : null,
            inputs,
            definition.name ?? null
          ])
        } catch (cause) {
          return yield* new PipelineError({
            message: `Node "${id}" (stage ${stage.name}): its config can't be used in a cache key: ${messageOf(cause)}`
          })
        }
      }
      const known = canonical.get(identity)
      if (known === undefined) {
        canonical.set(identity, id)
        nodes.set(id, made)
      } else if (made.kind === "stage" && (made.limits ?? made.placement) !== undefined) {
        const first = nodes.get(known) as StageNode
        nodes.set(known, {
          ...first,
          limits: stricter(first.limits ?? {}, made.limits ?? {}),
          placement: larger(first.placement ?? {}, made.placement ?? {})
        })
      }
      alias.set(node, known ?? id)
    }
    return { pipeline, nodes, outputs: Object.fromEntries(Object.entries(outputs).map(([name, node]) => [name, alias.get(node)!])) }
  })

/** Merges the limits of equal nodes: for each limit, the stricter value. */
const stricter = (a: NodeLimits, b: NodeLimits): NodeLimits =>
  Object.fromEntries(
    (["seconds", "memory", "retries", "skipped"] as const).flatMap((name) => {
      const given = [a[name], b[name]].filter((limit) => limit !== undefined)
      return given.length === 0 ? [] : [[name, Math.min(...given)]]
    })
  )

/** Describes an unexpected value in a few words. */
const shown = (value: unknown): string => {
  if (isNode(value)) return "a node"
  if (typeof value === "function") return "stage" in value ? `the stage ${(value.stage as StageInfo).name} itself` : "a function"
  if (typeof value === "object" && value !== null)
    return Array.isArray(value)
      ? "a list"
      : value instanceof Promise
        ? "a promise"
        : Object.keys(value).length === 0
          ? "an empty object"
          : "an object"
  return typeof value === "string" ? JSON.stringify(value) : String(value)
}

const inputNodes = ({ definition }: AnyNode): Array<unknown> => {
  const found: Array<unknown> = []
  if (definition.kind === "file") return found
  for (const input of Object.values<unknown>(definition.inputs)) {
    if (Array.isArray(input)) found.push(...(input as ReadonlyArray<unknown>))
    else if (input !== undefined) found.push(input)
  }
  return found
}

/** All nodes reachable from the outputs, inputs first. Iterative, so that long chains do not overflow the stack. */
const postorder = (outputs: Readonly<Record<string, AnyNode>>): Effect.Effect<Array<AnyNode>, PipelineError> =>
  Effect.gen(function* () {
    const order: Array<AnyNode> = []
    const state = new Map<AnyNode, "open" | "done">()
    const stack: Array<{ readonly node: AnyNode; readonly leave: boolean }> = Object.values(outputs)
      .reverse()
      .map((node) => ({ node, leave: false }))
    for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
      const { node, leave } = next
      if (leave) {
        state.set(node, "done")
        order.push(node)
        continue
      }
      if (state.has(node)) continue
      state.set(node, "open")
      stack.push({ node, leave: true })
      for (const input of inputNodes(node).reverse()) {
        if (!isNode(input)) {
          const name = node.definition.kind === "stage" ? node.definition.stage.name : "file"
          return yield* new PipelineError({
            message: `Stage ${name}: one of its inputs is ${shown(input)}, not a node. Pass the result of applying a stage, or fileAt(path).`
          })
        }
        if (!state.has(input)) stack.push({ node: input, leave: false })
      }
    }
    return order
  })

const defaultName = ({ definition }: AnyNode): string => {
  if (definition.kind === "stage") return definition.stage.name
  const { path } = definition
  const last = (text: string) => text.split("/").at(-1)
  if (!isHubName(path)) return `file:${last(path)}`
  const name = parseHubName(path)
  return `file:${name.path === undefined ? name.name : last(name.path)}`
}

const nameNodes = (order: ReadonlyArray<AnyNode>): Effect.Effect<Map<AnyNode, string>, PipelineError> =>
  Effect.gen(function* () {
    const ids = new Map<AnyNode, string>()
    const taken = new Set<string>()
    for (const node of order) {
      const { name } = node.definition
      if (name === undefined) continue
      if (taken.has(name)) return yield* new PipelineError({ message: `Two nodes are named "${name}". Give each node a unique name.` })
      taken.add(name)
      ids.set(node, name)
    }
    const last = new Map<string, number>()
    for (const node of order) {
      if (ids.has(node)) continue
      const base = defaultName(node)
      let n = last.get(base) ?? 0
      let id: string
      do id = ++n === 1 ? base : `${base}-${n}`
      while (taken.has(id))
      last.set(base, n)
      taken.add(id)
      ids.set(node, id)
    }
    return ids
  })

/** Checks a node's inputs against its stage's ports: the compile-time type checks, for untyped code. */
const wire = (
  id: string,
  stage: StageInfo,
  inputs: Readonly<Record<string, unknown>>,
  alias: ReadonlyMap<AnyNode, string>
): Record<string, string | Array<string> | null> | PipelineError => {
  const fail = (what: string) => new PipelineError({ message: `Node "${id}" (stage ${stage.name}): ${what}` })
  const ports = portsOf(stage)
  for (const name of Object.keys(inputs))
    if (!ports.has(name)) return fail(`it has no input "${name}".${didYouMean(name, [...ports.keys()])}`)
  const out: Array<[port: string, ids: string | Array<string> | null]> = []
  for (const [name, { arity, type }] of ports) {
    const given = own(inputs, name)
    if (given === undefined) {
      if (arity !== "optional")
        return fail(`its input "${name}" (${type.name}) is missing. Pass it: { ${name}: ${arity === "many" ? "[...]" : "..."} }.`)
      out.push([name, null])
      continue
    }
    if (arity === "many" && !Array.isArray(given))
      return fail(`its input "${name}" expects a list of nodes, got one node. Pass a list: [node].`)
    if (arity !== "many" && Array.isArray(given)) return fail(`its input "${name}" expects one node, got a list. Pass one of them.`)
    const list = (Array.isArray(given) ? given : [given]) as ReadonlyArray<AnyNode>
    for (const node of list) {
      if (!type.accepts(node.definition.type.name))
        return fail(
          `its input "${name}" expects a ${type.name}, got a ${node.definition.type.name} from "${alias.get(node)}". Pass the output of a stage that makes this type.`
        )
    }
    out.push([name, arity === "many" ? list.map((node) => alias.get(node)!) : alias.get(list[0]!)!])
  }
  return Object.fromEntries(out)
}

const ports = new WeakMap<StageInfo, ReadonlyMap<string, ReturnType<typeof portOf>>>()
/** A stage's ports by name, cached for thousands of nodes. */
const portsOf = (stage: StageInfo): ReadonlyMap<string, ReturnType<typeof portOf>> => {
  let found = ports.get(stage)
  if (found === undefined) ports.set(stage, (found = new Map(Object.entries(stage.inputs).map(([name, port]) => [name, portOf(port)]))))
  return found
}

const keyed = new WeakMap<object, Readonly<Record<string, unknown>>>()
/** The config as part of the key: without fields marked neutral. */
export const configForKey = ({ config, stage }: StageNode): Readonly<Record<string, unknown>> => {
  let found = keyed.get(config)
  if (found === undefined) {
    const fields = stage.config.fields as Record<string, object>
    const entries = Object.entries(config).filter(
      ([name]) => !Object.hasOwn(fields, name) || hyperInfo(fields[name]!)?.neutral === undefined
    )
    keyed.set(config, (found = remember(Object.fromEntries(entries))))
  }
  return found
}
