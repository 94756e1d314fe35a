/**
 * The API for programs. A layer determines where results are stored and which hardware computes them:
 *
 *     const program = Caravan.run(pipeline, { data: "pairs.jsonl" })
 *     const { outputs } = await Effect.runPromise(program.pipe(Effect.provide(Caravan.layer({ device: "cuda" }))))
 */
import { join } from "node:path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { engineVersion, numericsModule, numericsOf, prepareModule } from "./engine/numerics.ts"
import type { SlurmConfig } from "./runtime/cluster/config.ts"
import { numericsOfNode } from "./runtime/cluster/probe.ts"
import * as Slurm from "./runtime/cluster/slurm.ts"
import type { AnyNode, Node } from "./runtime/define/node.ts"
import type { Pipeline } from "./runtime/define/pipeline.ts"
import { messageOf, PipelineError, type StoreError } from "./runtime/errors.ts"
import * as Bless from "./runtime/inspect/bless.ts"
import * as Freeze from "./runtime/inspect/freeze.ts"
import * as Verify from "./runtime/inspect/verify.ts"
import { Numerics } from "./runtime/key/numerics.ts"
import { runEvents } from "./runtime/run/event-stream.ts"
import type { RunEvent, RunResult as AnyRunResult } from "./runtime/run/events.ts"
import type { Executor } from "./runtime/run/executor.ts"
import * as Runtime from "./runtime/run/layer.ts"
import * as Options from "./runtime/run/options.ts"
import * as Plans from "./runtime/run/plan.ts"
import * as Run from "./runtime/run/run.ts"
import * as Sweep from "./runtime/run/sweep.ts"
import { findHome } from "./runtime/store/home.ts"
import type { Journal } from "./runtime/store/journal.ts"
import type { Store } from "./runtime/store/store.ts"
import type { ArtifactRef } from "./schemas/artifact.ts"
import type { ConfigError, ConfigSchema } from "./schemas/hyper.ts"

/** The hardware that computes results. */
export class Machine extends Context.Service<Machine, Options.Machine>()("caravan/Machine") {}
type Services = Machine | Numerics | Store | Journal | Executor

export interface LayerOptions {
  /** The folder of the store. Default: CARAVAN_HOME, or .caravan/ next to the nearest package.json. */
  readonly home?: string
  /** Job profiles for runs with `on: "slurm"` and for nodes placed on Slurm, as in caravan.json. */
  readonly slurm?: SlurmConfig
  /** Receives messages while the layer waits for something. */
  readonly say?: (message: string) => void
}

/** The services that the functions below need. Defaults: the store in CARAVAN_HOME, or in .caravan/ next to the nearest package.json; the CPU; 1 thread. */
export const layer = (options: Partial<Machine["Service"]> & LayerOptions = {}): Layer.Layer<Services> => {
  const { home = findHome(process.cwd()), device = "cpu", threads = 1, slurm } = options
  const cluster =
    slurm === undefined
      ? undefined
      : { home, config: slurm, engine: { prepare: prepareModule, describe: numericsModule, version: engineVersion } }
  const failed = (cause: unknown) => new PipelineError({ message: `Checking the tensor engine: ${messageOf(cause)}` })
  const describe: Numerics["Service"]["describe"] = (...machine) =>
    Effect.tryPromise({
      try: () =>
        numericsOf(...machine, join(home, "numerics")).catch((cause: unknown) => {
          // A login node has no GPU, but its compute nodes do.
          if (cluster === undefined || machine[0] !== "cuda") throw cause
          return numericsOfNode(cluster, ...machine, options.say ?? (() => undefined))
        }),
      catch: failed
    })
  return Layer.mergeAll(
    Layer.succeed(Machine, Options.machineOf({ ...options, device, threads })),
    Layer.succeed(Numerics, { describe }),
    Runtime.layer({
      home,
      prepare: prepareModule,
      elsewhere: cluster === undefined ? undefined : Slurm.slurm(cluster)
    })
  )
}

export { Numerics } from "./runtime/key/numerics.ts"
export type { Executor } from "./runtime/run/executor.ts"
export type { Journal } from "./runtime/store/journal.ts"
export type { Store } from "./runtime/store/store.ts"
export { type LockFile, readLock, writeLock } from "./runtime/run/lock-file.ts"
export type { Blessed } from "./runtime/inspect/bless.ts"
export type { Verification } from "./runtime/inspect/verify.ts"
export type { Measures } from "./runtime/run/measures.ts"
export type { Plan } from "./runtime/run/plan.ts"
export type { NodeResult, RunEvent } from "./runtime/run/events.ts"
export type { Grid, SweepPoint } from "./runtime/run/sweep.ts"

type Given = keyof Options.Machine
export interface RunOptions extends Omit<Options.RunOptions, Given> {}
export interface PlanOptions extends Omit<Plans.PlanOptions, Given> {}
export interface SweepOptions<Output extends string> extends Omit<Sweep.SweepOptions<Output>, Given> {}
export interface VerifyOptions extends Omit<Verify.VerifyOptions, Given> {}
export interface BlessOptions extends Omit<Bless.BlessOptions, Given> {}

type Outputs = Readonly<Record<string, AnyNode>>
type Failure = PipelineError | ConfigError | StoreError

/** A run's result. Outputs can be read with their stages' types (readRows, readReport); failed outputs are missing. */
export type RunResult<Out extends Outputs> = Omit<AnyRunResult, "outputs"> & {
  readonly outputs: { readonly [Name in keyof Out]?: Out[Name] extends Node<infer A> ? ArtifactRef<A> : never }
}

const withMachine = <Options extends object>(options: Options) =>
  Effect.gen(function* () {
    return { ...options, ...(yield* Machine) }
  })

/** Runs the pipeline; results in the store are reused. Fails only if the run can't start: failed stages are part of the result. */
export const run = <Params extends ConfigSchema, Out extends Outputs>(
  pipeline: Pipeline<Params, Out>,
  params: Params["Encoded"],
  options: RunOptions = {}
): Effect.Effect<RunResult<Out>, Failure, Services> =>
  Effect.flatMap(withMachine(options), (all) => Run.run(pipeline, params, all)) as Effect.Effect<RunResult<Out>, Failure, Services>

/** Runs the pipeline as a stream of events, which ends with run-finished. Ending the stream early stops the run, as Ctrl-C does. */
export const events = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  options: Omit<RunOptions, "onEvent"> = {}
): Stream.Stream<RunEvent, Failure, Services> => Stream.unwrap(Effect.map(withMachine(options), (all) => runEvents(pipeline, params, all)))

/** Plans a run: for each node, whether it would run, and why. Runs nothing; input files may still be missing. */
export const plan = <Params extends ConfigSchema>(pipeline: Pipeline<Params, any>, params: Params["Encoded"], options: PlanOptions = {}) =>
  Effect.flatMap(withMachine(options), (all) => Plans.plan(pipeline, params, all))

/**
 * A lock file for later runs (`locked`): the content of the plan's inputs, its code, packages, numerics and results. Input paths are relative to `folder`.
 */
export const freeze = (plan: Plans.Plan, folder: string, options: Pick<RunOptions, "settings" | "seed"> = {}) =>
  Effect.map(withMachine(options), (all) => Freeze.freeze(plan, all, folder))

/** Runs every combination of the given values, one after another. Nodes that several combinations share run once. */
export const sweep = <Params extends ConfigSchema, Out extends Outputs>(
  pipeline: Pipeline<Params, Out>,
  params: Params["Encoded"],
  grid: Sweep.Grid<Params>,
  options: SweepOptions<keyof Out & string> = {}
) => Effect.flatMap(withMachine(options), (all) => Sweep.sweep(pipeline, params, grid, all))

/** Recomputes results in a temporary folder and compares them with those in the store, bit for bit. A difference is part of the result, not a failure. */
export const verify = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  options: VerifyOptions = {}
) => Effect.flatMap(withMachine(options), (all) => Verify.verify(pipeline, params, all))

/** Keeps a node's result valid after a code change, which you assert does not affect the result. Refused (`status`) if anything else differs. */
export const bless = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  node: string,
  options: BlessOptions
) => Effect.flatMap(withMachine(options), (all) => Bless.bless(pipeline, params, node, all))
