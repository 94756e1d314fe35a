/**
 * Stages: named, typed steps. A stage is an exported value of a module, so that a child process can find it again and its code can be told
 * from the rest of the module's.
 */
import { fileURLToPath, pathToFileURL } from "node:url"
import type * as Effect from "effect/Effect"
import type { Artifact, ArtifactRef, ArtifactType, Dataset, DatasetType, OutputSlot, Written } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import type { Checkpoints } from "../store/checkpoints.ts"
import { mapped, type Sharding } from "./map.ts"
import { makeNode, type Node } from "./node.ts"

/** A port that takes any number of artifacts, in order. */
export interface Many<out A> {
  readonly port: "many"
  readonly type: ArtifactType<A>
}
/** A port that may be left open. */
export interface Optional<out A> {
  readonly port: "optional"
  readonly type: ArtifactType<A>
}
export const many = <A>(type: ArtifactType<A>): Many<A> => ({ port: "many", type })
export const optional = <A>(type: ArtifactType<A>): Optional<A> => ({ port: "optional", type })

export type Port = ArtifactType<any> | Many<any> | Optional<any>
export type Ports = Readonly<Record<string, Port>>

export const portOf = (port: Port): { readonly arity: "one" | "many" | "optional"; readonly type: ArtifactType<any> } =>
  "port" in port ? { arity: port.port, type: port.type } : { arity: "one", type: port }

type Wire<P> =
  P extends Many<infer A>
    ? ReadonlyArray<Node<A>>
    : P extends Optional<infer A>
      ? Node<A> | undefined
      : P extends ArtifactType<infer A>
        ? Node<A>
        : never
type OptionalPorts<I> = { [K in keyof I]: I[K] extends Optional<any> ? K : never }[keyof I]
/** The nodes a stage wants: one for each port. */
export type Wires<I> = { readonly [K in Exclude<keyof I, OptionalPorts<I>>]: Wire<I[K]> } & {
  readonly [K in OptionalPorts<I>]?: Wire<I[K]>
}

type Given<P> =
  P extends Many<infer A>
    ? ReadonlyArray<ArtifactRef<A>>
    : P extends Optional<infer A>
      ? ArtifactRef<A> | undefined
      : P extends ArtifactType<infer A>
        ? ArtifactRef<A>
        : never

/** How far a stage is: shown, never stored. Fields beside these are shown as they are. */
export interface Progress {
  readonly step?: number
  readonly total?: number
  /** Tokens worked on since the last report: for the throughput. */
  readonly tokens?: number
  readonly loss?: number
  readonly message?: string
  /** Something to be told apart from how far it is. */
  readonly note?: string
  readonly [field: string]: number | string | undefined
}

/** What a running stage is given. */
export interface Context<Config extends ConfigSchema = any, Inputs = any, Output = any> {
  readonly config: Config["Type"]
  readonly inputs: { readonly [K in keyof Inputs]: Given<Inputs[K]> }
  readonly output: OutputSlot<Output>
  /** For every random number: derive one seed per purpose from it (engine/random.ts). */
  readonly seed: number
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** Call it once a step: it shows where the stage is and lets the process hear that it should stop. */
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** For stages that take long: what a killed one goes on from. */
  readonly checkpoints: Checkpoints
  /** Where a mapped stage keeps what it made of its shards; none: they are kept no longer than it runs. For map.ts. */
  readonly shards?: string | null
}

export interface Resources {
  /** Computes with tensors: runs in a child process, one at a time, and the machine's numerics enter the key. */
  readonly tensors?: boolean
}

/** Ports whose artifacts must have the same of something. */
export interface Agreement<PortName extends string = string> {
  /** The name by which stages inherit it. */
  readonly trait: string
  readonly ports: ReadonlyArray<PortName>
  /** Fails unless what lies in both folders agrees; the message says in what it does not. */
  readonly check: (folder: string, other: string) => Effect.Effect<void, { readonly message: string }>
}

export interface Definition<Config extends ConfigSchema, Inputs extends Ports, Output> {
  readonly description?: string
  readonly config: Config
  readonly inputs: Inputs
  readonly output: ArtifactType<Output>
  readonly resources?: Resources
  /** Whether it draws random numbers: then the seed is part of the key. True unless said otherwise. */
  readonly seeded?: boolean
  /** What the output takes over unchanged from an input: trait -> port ({ tokenizer: "init" }). */
  readonly inherits?: Readonly<Record<string, keyof Inputs & string>>
  /** What inputs must have in common: checked before anything runs, as far as it is on disk by then (agreements.ts). */
  readonly agrees?: ReadonlyArray<Agreement<keyof Inputs & string>>
  /** The module that exports the stage, when it is not the one that calls make: pass import.meta. */
  readonly module?: { readonly url: string }
  readonly run: (context: Context<Config, Inputs, NoInfer<Output>>) => Effect.Effect<Written<NoInfer<Output>>, { readonly message: string }>
}

type NodeOptions = { readonly seed?: number }
type ConfigArguments<Config extends ConfigSchema> = {} extends Config["Encoded"]
  ? [config?: Config["Encoded"] & NodeOptions]
  : [config: Config["Encoded"] & NodeOptions]

export interface Stage<Config extends ConfigSchema, Inputs extends Ports, Output> {
  /** Applies the stage: a node for each port, then the hyperparameters that differ from their defaults (and a seed, to set it apart). */
  <W extends Wires<Inputs>>(
    inputs: W & { readonly [K in Exclude<keyof W, keyof Inputs>]: never },
    ...config: ConfigArguments<Config>
  ): Node<Output>
  readonly stage: StageInfo
}
/** A stage as the runtime sees it. */
export interface StageInfo {
  readonly name: string
  readonly description: string
  readonly config: ConfigSchema
  readonly inputs: Ports
  readonly output: ArtifactType<any>
  readonly resources: Resources
  readonly seeded: boolean
  readonly inherits: Readonly<Record<string, string>>
  readonly agrees: ReadonlyArray<Agreement>
  /** URL of the module that exports it. */
  readonly module: string
  /** When this process loaded it, in milliseconds since 1970. */
  readonly loaded: number
  /** Of a mapped stage: how its input is cut. */
  readonly sharding?: Sharding
  /** Of a pinned stage: the version that stands for its code. */
  readonly pinned?: string
  readonly run: (context: Context) => Effect.Effect<Written<any>, { readonly message: string }>
}
export type AnyStage = { readonly stage: StageInfo }

/** The file that called make: the first frame of the stack outside this one. */
const callSite = (): string | undefined => {
  const own = fileURLToPath(import.meta.url)
  for (const line of (new Error("where").stack ?? "").split("\n").slice(1)) {
    const match = /(?:\()?((?:file:\/\/|\/)[^():]+?)(?:\?[^():]*)?:\d+:\d+\)?$/.exec(line.trim())
    if (match === null) continue
    const path = match[1]!.startsWith("file://") ? fileURLToPath(match[1]!) : match[1]!
    if (path !== own) return pathToFileURL(path).href
  }
  return undefined
}

/**
 * Defines a stage. It must be exported by the module that makes it.
 *
 *     export const shout = Stage.make("shout", {
 *       config: Schema.Struct({ times: hyperInt(1, "how often") }),
 *       inputs: { texts: Texts },
 *       output: Texts,
 *       run: Effect.fn("shout")(function* ({ config, inputs, output }) {
 *         const rows = yield* readRows(inputs.texts, Texts)
 *         return yield* writeDataset(output, rows.map((row) => ({ text: row.text + "!".repeat(config.times) })))
 *       })
 *     })
 */
export const make = <Config extends ConfigSchema, const Inputs extends Ports, Output extends Artifact>(
  name: string,
  definition: Definition<Config, Inputs, Output>
): Stage<Config, Inputs, Output> => {
  const module = definition.module?.url ?? callSite()
  if (module === undefined)
    throw new Error(`Stage "${name}": can't tell which module makes it. Add \`module: import.meta\` to its definition.`)
  const info: StageInfo = {
    name,
    description: definition.description ?? "",
    config: definition.config,
    inputs: definition.inputs,
    output: definition.output,
    resources: definition.resources ?? {},
    seeded: definition.seeded ?? true,
    inherits: definition.inherits ?? {},
    agrees: definition.agrees ?? [],
    module,
    loaded: Date.now(),
    run: definition.run as StageInfo["run"]
  }
  return applicable(info)
}

const applicable = <Config extends ConfigSchema, Inputs extends Ports, Output>(info: StageInfo): Stage<Config, Inputs, Output> => {
  const stage = ((inputs: Record<string, Node<any>>, config: Record<string, unknown> & NodeOptions = {}) => {
    const { seed, ...fields } = config
    // Lists are copied: a loop over rounds may go on adding to its own, and must not change nodes that are made.
    const wired = Object.fromEntries(Object.entries(inputs).map(([port, given]) => [port, Array.isArray(given) ? [...given] : given]))
    return makeNode<Output>({
      kind: "stage",
      stage: { stage: info },
      inputs: wired,
      config: fields,
      seed,
      name: undefined,
      type: info.output
    })
  }) as unknown as Stage<Config, Inputs, Output>
  return Object.assign(stage, { stage: info })
}

/**
 * The same stage under a version that stands for its code in keys: an edit of its code, or another version of a package, makes nothing again. For
 * what is too costly to be made again for a cosmetic change. What its results were made with is recorded: `plan` and `run` say when the code is no
 * longer that, `run --locked` fails then, `caravan bless` accepts it, and another version makes everything anew. Export it in the stage's place.
 *
 *     export const pretrain = Stage.pinned("v3", Stage.make("pretrain", { ... }))
 */
export const pinned = <Config extends ConfigSchema, Inputs extends Ports, Output>(
  version: string,
  { stage }: Stage<Config, Inputs, Output>
): Stage<Config, Inputs, Output> => {
  if (typeof version !== "string" || version.trim() === "")
    throw new Error(
      `Stage.pinned(${JSON.stringify(version)}, ${stage.name}): the version must be a text that says something, such as "v3".`
    )
  return applicable({ ...stage, pinned: version })
}

type DatasetPorts<Inputs> = { [K in keyof Inputs]: Inputs[K] extends DatasetType<any> ? K : never }[keyof Inputs] & string

/**
 * The same stage over shards of the dataset at one port: one node, applied as the stage itself is. It is cut after every `rows` rows, the stage
 * runs on each shard with a seed of its own, and the outputs follow each other in order. What was made of a shard is kept: a run that was
 * killed goes on with the next, and rows that are appended make only the last shard and the new ones again. Must be exported, as a stage is.
 *
 *     export const shoutInParts = Stage.map(shout, { over: "texts", rows: 1000 })
 */
export const map = <Config extends ConfigSchema, const Inputs extends Ports, Row>(
  inner: Stage<Config, Inputs, Dataset<Row>>,
  options: {
    /** The port whose dataset is cut. */
    readonly over: DatasetPorts<Inputs>
    /** Rows of a shard, at most. Part of the key: a stage may look at rows together. */
    readonly rows: number
    /** The module that exports it, when it is not the one that calls map: pass import.meta. */
    readonly module?: { readonly url: string }
  }
): Stage<Config, Inputs, Dataset<Row>> => {
  const { over, rows } = options
  const { stage } = inner
  const name = `${stage.name}-by-${rows}-${over}`
  const fail = (what: string) => new Error(`Stage.map(${stage.name}, { over: "${over}", rows: ${rows} }): ${what}`)
  const module = options.module?.url ?? callSite()
  if (module === undefined) throw fail("can't tell which module makes it. Add `module: import.meta` to its options.")
  const port = stage.inputs[over]
  if (port === undefined) throw fail(`the stage has no input "${over}", only ${Object.keys(stage.inputs).join(", ")}.`)
  if (portOf(port).arity !== "one" || portOf(port).type.kind !== "dataset") throw fail(`the input "${over}" is not one dataset.`)
  if (stage.output.kind !== "dataset") throw fail(`its output is a ${stage.output.name}; only datasets can be put together.`)
  if (!Number.isInteger(rows) || rows < 1) throw fail("rows must be a whole number, 1 or more.")
  if (stage.sharding !== undefined) throw fail("it is mapped already.")
  const sharding = { over, rows }
  return applicable({ ...stage, name, module, loaded: Date.now(), sharding, run: mapped(stage, sharding) })
}
