/** A stage as the runtime sees it: its ports, what it declares, what it is given when it runs. Defining one is stage.ts. */
import type * as Effect from "effect/Effect"
import type { ArtifactRef, ArtifactType, OutputSlot, Written } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import type { Checkpoints } from "./resume-points.ts"
import type { SkippedRows } from "./skipped.ts"

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

type Given<P> =
  P extends Many<infer A>
    ? ReadonlyArray<ArtifactRef<A>>
    : P extends Optional<infer A>
      ? ArtifactRef<A> | undefined
      : P extends ArtifactType<infer A>
        ? ArtifactRef<A>
        : never

/**
 * How far a stage is. Fields beside these are shown as they are. A report with a number other than `step` and `total` is a row of the curve that is kept beside the
 * result (run/curve.ts); no key and no digest depends on it.
 */
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
  /**
   * The metrics of the result that is to be made again bit for bit (`caravan verify`); undefined in a run. What a run does when the machine fails it (another program
   * fills the GPU) is in its metrics, so that it can be repeated.
   */
  readonly recorded?: Readonly<Record<string, number>> | undefined
  /** For rows that the stage can't use: none is left out without a word. */
  readonly skipped: SkippedRows
}

export interface Resources {
  /** Computes with tensors: runs one at a time, and the machine's numerics enter the key. */
  readonly tensors?: boolean
  /**
   * May run as several ranks of one group (`--ranks`): processes that are given the same and deal the rows out among themselves. Results are equal but for the order of
   * float sums, so how many there are, if more than one, is part of the key. The first rank's output is the result; the others' are thrown away.
   */
  readonly ranks?: boolean
  /**
   * Runs in the run's own process, not in a child: for thousands of nodes that take a millisecond each. Such a stage must give way to others every 50 ms
   * at least (a loop that does not cannot be stopped, not even by Ctrl-C) and must not end the process. A node with a limit of time or memory, and a
   * stage with tensors, run in a child all the same.
   */
  readonly inProcess?: boolean
}

/** Ports whose artifacts must have the same of something. */
export interface Agreement<PortName extends string = string> {
  /** The name by which stages inherit it. */
  readonly trait: string
  readonly ports: ReadonlyArray<PortName>
  /** Fails unless what lies in both folders agrees; the message says in what it does not. */
  readonly check: (folder: string, other: string) => Effect.Effect<void, { readonly message: string }>
}

/** By port: a first look at what the user gives there, before it is read whole to be identified. Cheap; fails where it can't be what the stage takes. */
export type Looks<PortName extends string = string> = Partial<
  Readonly<Record<PortName, (path: string) => Effect.Effect<void, { readonly message: string }>>>
>

/** How a mapped stage is cut (map.ts). */
export interface Sharding {
  /** The port whose dataset is cut. */
  readonly over: string
  /** Rows of a shard; the last may have fewer. */
  readonly rows: number
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
  readonly looks: Looks
  /** URL of the module that exports it. */
  readonly module: string
  /** When this process loaded it, in milliseconds since 1970. */
  readonly loaded: number
  /** Of a mapped stage: how its input is cut. */
  readonly sharding?: Sharding
  /** Of a pinned stage: the version that stands for its code. */
  readonly pinned?: string
  /** Of a mapped or a pinned stage: the stage that it is made from. */
  readonly variantOf?: StageInfo
  /** On the whole of its inputs; of a mapped stage: on one shard. */
  readonly run: (context: Context) => Effect.Effect<Written<any>, { readonly message: string }>
}

/** Whatever has a stage: one that can be applied, whatever it takes and gives. */
export interface AnyStage {
  readonly stage: StageInfo
}
