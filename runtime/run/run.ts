/** The two things to do with a pipeline: plan it and run it. What goes on in between is in scheduler.ts. */
import * as Effect from "effect/Effect"
import { checkAgreements, userFolders } from "./agreements.ts"
import { didYouMean } from "../../schemas/did-you-mean.ts"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { PipelineError, StoreError } from "../errors.ts"
import { ancestors, buildGraph, descendants, type Graph, type Settings } from "../define/graph.ts"
import { Journal, type NodeStatus } from "../store/journal.ts"
import { holdResults, holdToLock, type LockFile } from "../inspect/lock-file.ts"
import type { AnyNode, NodeLimits } from "../define/node.ts"
import { writeNodeLogs } from "../inspect/node-log.ts"
import type { Numerics } from "../key/numerics.ts"
import type { Pipeline } from "../define/pipeline.ts"
import { gatherFacts, makePlan, type Plan } from "./plan.ts"
import { Scheduler } from "./scheduler.ts"
import type { Progress } from "../define/stage-info.ts"
import { Store } from "../store/store.ts"

export interface RunOptions {
  /** Where the store and the journal are (home.ts finds the usual place). */
  readonly home: string
  readonly settings?: Settings
  readonly seed?: number
  readonly device?: "cpu" | "cuda"
  readonly threads?: number
  /** Stages without tensors that run at once; stages with tensors run one at a time. */
  readonly jobs?: number
  readonly only?: string
  readonly from?: string
  readonly until?: string
  readonly force?: ReadonlyArray<string>
  readonly onEvent?: (event: RunEvent) => void
  /** What every node may take; a node's own limits come first. */
  readonly limits?: NodeLimits
  /** Seconds between two checkpoints of a stage, at least; 60 unless given. 0: after every step. */
  readonly checkpointSeconds?: number
  /** Steps between two checkpoints, at most; whichever comes first, if seconds are given too. */
  readonly checkpointSteps?: number
  /** Module that sets the tensor engine up in a child process. */
  readonly prepare?: string
  /** What `freeze` wrote: the run does not start when anything differs from it, and fails when a result does. */
  readonly locked?: LockFile
}

/** What a run was asked for, as the journal keeps it. */
export interface Asked {
  readonly params: Readonly<Record<string, unknown>>
  readonly settings: Settings
  readonly seed: number
  readonly device: "cpu" | "cuda"
  readonly threads: number
  readonly selection: Readonly<Record<string, string | ReadonlyArray<string>>>
  /** The pipeline's outputs: name -> node. */
  readonly outputs: Readonly<Record<string, string>>
  /** Who holds what the run needs while it goes on: whether it still does (leases.ts). */
  readonly holder: string
  readonly process: { readonly pid: number; readonly node: string }
}

export type RunEvent =
  | { readonly type: "run-started"; readonly run: string; readonly pipeline: string; readonly nodes: ReadonlyArray<string> }
  | { readonly type: "node-started"; readonly node: string; readonly stage: string; readonly why: ReadonlyArray<string> }
  /** Another run makes it: this one waits for it. */
  | { readonly type: "node-waiting"; readonly node: string; readonly by: string }
  | { readonly type: "progress"; readonly node: string; readonly progress: Progress }
  /** What a stage's process printed. */
  | { readonly type: "output"; readonly node: string; readonly text: string }
  | { readonly type: "note"; readonly node: string; readonly message: string }
  | { readonly type: "node-finished"; readonly node: NodeResult }
  | { readonly type: "run-finished"; readonly status: RunResult["status"]; readonly milliseconds: number }

export interface NodeResult {
  readonly id: string
  readonly stage: string
  readonly status: NodeStatus
  readonly milliseconds: number
  readonly key: string | null
  readonly digest: string | null
  readonly metrics: Readonly<Record<string, number>>
  readonly error: string | null
}

export interface StoredOutput {
  readonly kind: string
  /** The artifact type's name. */
  readonly type: string
  readonly path: string
  readonly digest: string
  readonly contentDigest: string
}

export interface RunResult<Output extends string = string> {
  readonly run: string
  readonly pipeline: string
  readonly status: "succeeded" | "failed"
  readonly nodes: ReadonlyArray<NodeResult>
  /** By name; an output whose node failed or was skipped is not there. */
  readonly outputs: string extends Output ? Readonly<Record<string, StoredOutput>> : { readonly [Name in Output]?: StoredOutput }
}

/** The nodes that a selection runs; undefined: all. */
export const chosenNodes = (graph: Graph, options: RunOptions): Effect.Effect<ReadonlySet<string> | undefined, PipelineError> =>
  Effect.gen(function* () {
    const ids = [...graph.nodes.values()].filter((node) => node.kind === "stage").map((node) => node.id)
    for (const [flag, id] of [
      ["only", options.only],
      ["from", options.from],
      ["until", options.until],
      ...(options.force ?? []).map((id) => ["force", id])
    ] as const) {
      if (id !== undefined && !ids.includes(id))
        return yield* new PipelineError({ message: `--${flag} ${id}: there is no such node.${didYouMean(id, ids)}` })
    }
    if (options.only !== undefined) return new Set([options.only])
    let selected: Set<string> | undefined
    if (options.from !== undefined) selected = descendants(graph, options.from)
    if (options.until !== undefined) {
      const above = ancestors(graph, [options.until])
      selected = selected === undefined ? above : new Set([...selected].filter((id) => above.has(id)))
    }
    return selected
  })

const open = (options: RunOptions): Effect.Effect<{ readonly journal: Journal; readonly store: Store }, StoreError> =>
  Effect.try({ try: () => ({ journal: new Journal(options.home), store: new Store(options.home) }), catch: (cause) => cause as StoreError })

/** The journal and the leases throw: what they threw anywhere inside is a failure too, not a defect. */
export const storeErrorsFail = <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E | StoreError, R> =>
  Effect.catchDefect(work, (defect) => (defect instanceof StoreError ? Effect.fail(defect) : Effect.die(defect)))

export interface PlanOptions extends RunOptions {
  /** Files that are not there: an error, as for a run, or planned as awaited. */
  readonly missing?: "fail" | "await"
}

/** What a run with these parameters would do. */
export const plan = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  options: PlanOptions
): Effect.Effect<Plan & { readonly selected: ReadonlySet<string> | undefined }, PipelineError | ConfigError | StoreError, Numerics> =>
  Effect.gen(function* () {
    const graph = yield* buildGraph(pipeline, params, { settings: options.settings ?? {}, seed: options.seed ?? 0 })
    const selected = yield* chosenNodes(graph, options)
    const { journal, store } = yield* open(options)
    return yield* makePlan(
      graph,
      journal,
      store,
      { device: options.device ?? "cpu", threads: options.threads ?? 1 },
      new Set(options.force),
      options.missing
    ).pipe(
      Effect.tap(({ nodes }) => {
        const users = userFolders(graph)
        return checkAgreements(graph, (id) => {
          const node = nodes.get(id)!
          return node.kind === "hit" ? store.path(node.trace.digest) : users(id)
        })
      }),
      Effect.map((made) => ({ ...made, selected })),
      Effect.ensuring(Effect.sync(() => journal.close()))
    )
  }).pipe(storeErrorsFail)

const asked = (graph: Graph, params: Readonly<Record<string, unknown>>, options: RunOptions, holder: string): Asked => ({
  params,
  settings: options.settings ?? {},
  seed: options.seed ?? 0,
  device: options.device ?? "cpu",
  threads: options.threads ?? 1,
  selection: Object.fromEntries(
    (["only", "from", "until", "force"] as const).flatMap((name) => {
      const value = options[name]
      return value === undefined || value.length === 0 ? [] : [[name, value]]
    })
  ),
  outputs: graph.outputs,
  holder,
  process: { pid: process.pid, node: process.version }
})

/** Runs the pipeline. Fails only when it can't start; a failed stage is part of the result. */
export const run = <Params extends ConfigSchema, Outputs extends Readonly<Record<string, AnyNode>>>(
  pipeline: Pipeline<Params, Outputs>,
  params: Params["Encoded"],
  options: RunOptions
): Effect.Effect<RunResult<keyof Outputs & string>, PipelineError | ConfigError | StoreError, Numerics> =>
  Effect.gen(function* () {
    const graph = yield* buildGraph(pipeline, params, { settings: options.settings ?? {}, seed: options.seed ?? 0 })
    const selected = yield* chosenNodes(graph, options)
    const { journal, store } = yield* open(options)
    const onEvent = options.onEvent ?? (() => undefined)
    const logs = writeNodeLogs(options.home, (node, message) => onEvent({ type: "note", node, message }))
    return yield* Effect.gen(function* () {
      const facts = yield* gatherFacts(graph, journal, { device: options.device ?? "cpu", threads: options.threads ?? 1 })
      yield* checkAgreements(graph, userFolders(graph))
      if (options.locked !== undefined) yield* holdToLock(options.locked, graph, facts, journal, options)
      const holder = yield* Effect.try({ try: () => store.hold("a run"), catch: (cause) => cause as StoreError })
      yield* Effect.promise(() => store.sweep())
      const listening = {
        ...options,
        onEvent: (event: RunEvent) => {
          logs.onEvent(event)
          onEvent(event)
        }
      }
      const result = yield* new Scheduler(graph, selected, facts, journal, store, listening, holder).execute(
        asked(graph, params, options, holder)
      )
      if (options.locked === undefined) return result
      const held = holdResults(options.locked, result)
      held.nodes.forEach((node, i) => {
        if (node !== result.nodes[i]) onEvent({ type: "note", node: node.id, message: node.error! })
      })
      if (held !== result) journal.finishRun(result.run, held.status)
      return held
    }).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          logs.close()
          store.release()
          journal.close()
        })
      )
    )
  }).pipe(storeErrorsFail)
