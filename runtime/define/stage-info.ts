/** A stage as the runtime sees it: its ports, its declaration, and its arguments when it runs. stage.ts defines stages. */
import type * as Effect from "effect/Effect"
import type { ArtifactRef, ArtifactType, OutputSlot, Written } from "../../schemas/artifact.ts"
import type { ConfigSchema } from "../../schemas/hyper.ts"
import type { Checkpoints } from "./resume-points.ts"
import type { SkippedRows } from "./skipped.ts"

/** A port for any number of artifacts, in order. */
export interface Many<out A> {
  readonly port: "many"
  readonly type: ArtifactType<A>
}
/** A port that may stay unconnected. */
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
 * A stage's progress report. Additional fields are shown as they are. A report with a number other than `step` and `total` becomes a row of the curve
 * stored next to the result (run/curve.ts); no key or digest depends on it.
 */
export interface Progress {
  readonly step?: number
  readonly total?: number
  /** Tokens processed since the last report, for the throughput. */
  readonly tokens?: number
  readonly loss?: number
  readonly message?: string
  /** A message to show separately from the progress. */
  readonly note?: string
  readonly [field: string]: number | string | undefined
}

/** The arguments of a running stage. */
export interface Context<Config extends ConfigSchema = any, Inputs = any, Output = any> {
  readonly config: Config["Type"]
  readonly inputs: { readonly [K in keyof Inputs]: Given<Inputs[K]> }
  readonly output: OutputSlot<Output>
  /** The source of all random numbers: derive one seed per purpose from it (engine/random.ts). */
  readonly seed: number
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** Call once per step: it reports progress and lets the process handle stop requests. */
  readonly progress: (progress: Progress) => Effect.Effect<void>
  /** For long-running stages: saves the state from which a killed stage continues. */
  readonly checkpoints: Checkpoints
  /**
   * The metrics of the result to reproduce bit for bit (`caravan verify`); undefined in a run. A run records machine-dependent choices (another
   * program fills the GPU) in its metrics, so that they can be repeated.
   */
  readonly recorded?: Readonly<Record<string, number>> | undefined
  /** For rows that the stage can't use; a stage must not drop rows silently. */
  readonly skipped: SkippedRows
}

export interface Resources {
  /** Computes with tensors: runs one at a time, and the machine's numerics are part of the key. */
  readonly tensors?: boolean
  /**
   * May run as several ranks of one group (`--ranks`): processes with the same arguments that split the work among themselves. The first rank's
   * output is the result; the others' outputs are discarded. true: results are equal except for the order of float sums, so the number of ranks, if
   * more than one, is part of the key. "batches": the ranks distribute batches, each of which has the same bits on any rank, so the number of ranks is
   * not part of the key.
   */
  readonly ranks?: boolean | "batches"
  /**
   * Runs in the run's own process instead of a child: for thousands of nodes that take a millisecond each. Such a stage must yield to others at least
   * every 50 ms (a loop that does not can't be stopped, not even by Ctrl-C) and must not exit the process. Nodes with a time or memory limit and
   * stages with tensors run in a child process anyway.
   */
  readonly inProcess?: boolean
}

/** Ports whose artifacts must agree on a property. */
export interface Agreement<PortName extends string = string> {
  /** The property's name, used in `inherits`. */
  readonly trait: string
  readonly ports: ReadonlyArray<PortName>
  /** Fails unless the artifacts in both folders agree; the message says how they differ. */
  readonly check: (folder: string, other: string) => Effect.Effect<void, { readonly message: string }>
}

/** By port: a quick check of the user's input, run before all of it is read for its digest. It fails if the stage can't use the input. */
export type Looks<PortName extends string = string> = Partial<
  Readonly<Record<PortName, (path: string) => Effect.Effect<void, { readonly message: string }>>>
>

/** How a mapped stage's input is split (map.ts). */
export interface Sharding {
  /** The port whose dataset is split. */
  readonly over: string
  /** Rows per shard; the last shard may have fewer. */
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
  /** For a mapped stage: how its input is split. */
  readonly sharding?: Sharding
  /** For a pinned stage: the version that represents its code. */
  readonly pinned?: string
  /** For a mapped or pinned stage: the stage it is made from. */
  readonly variantOf?: StageInfo
  /** Runs on the complete inputs; a mapped stage's `run` gets one shard. */
  readonly run: (context: Context) => Effect.Effect<Written<any>, { readonly message: string }>
}

/** Anything with a stage: an applicable stage of any type. */
export interface AnyStage {
  readonly stage: StageInfo
}
