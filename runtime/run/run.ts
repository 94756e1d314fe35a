/**
 * Runs a pipeline: once a node's inputs are settled, its result is found under its key or computed, committed to the store and recorded. A failed
 * node stops only the nodes that depend on it. An interrupted run kills its children and leaves a store from which the next run continues.
 */
import { randomUUID } from "node:crypto"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { dependencies, type Graph } from "../define/graph.ts"
import { recordedGraph } from "../define/recorded-graph.ts"
import type { AnyNode } from "../define/node.ts"
import type { Pipeline } from "../define/pipeline.ts"
import { messageOf, type PipelineError, StoreError } from "../errors.ts"
import { knownDigest } from "../key/file-source.ts"
import type { Numerics } from "../key/numerics.ts"
import { openShared } from "../shared/open.ts"
import type { Asked } from "../store/asked.ts"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"
import { checkAgreements, lookAtInputs, userFolders } from "./agreements.ts"
import { isForced, type KnownResult, type RunContext } from "./context.ts"
import type { RunEvent, RunResult, StoredOutput } from "./events.ts"
import { Executor } from "./executor.ts"
import { gatherFacts } from "./facts.ts"
import { type Finder, makeFinder } from "./find.ts"
import { findAll } from "./found.ts"
import { writeLiveSteps } from "./live-steps.ts"
import { checkResults, checkAgainstLock } from "./check-lock.ts"
import { graphOf } from "./inputs.ts"
import { requireInputs } from "./missing-inputs.ts"
import { makeMaker } from "./make.ts"
import { writeNodeLogs } from "./node-log.ts"
import { chosenNodes, graphOptions, machineOf, namedNodes, type RunOptions } from "./options.ts"
import { isJob } from "./produce.ts"
import { makeRecorder } from "./recorder.ts"
import { schedule } from "./scheduler.ts"
import { makeSettler } from "./settle.ts"
import { makeSharing, type Sharing } from "./sharing.ts"

/** Runs the pipeline. Fails only if it can't start; a failed stage is part of the result. */
export const run = <Params extends ConfigSchema, Outputs extends Readonly<Record<string, AnyNode>>>(
  pipeline: Pipeline<Params, Outputs>,
  params: Params["Encoded"],
  given: RunOptions = {}
): Effect.Effect<RunResult<keyof Outputs & string>, PipelineError | ConfigError | StoreError, Store | Journal | Executor | Numerics> =>
  Effect.gen(function* () {
    const graph = yield* graphOf(pipeline, params, given)
    const options = yield* namedNodes(graph, given)
    const selected = chosenNodes(graph, options)
    yield* requireInputs(graph, selected)
    yield* lookAtInputs(graph, selected)
    const journal = yield* Journal
    const unheld = yield* Store
    if (yield* unheld.isReadOnly)
      return yield* new StoreError({
        message: `Starting a run in the store ${unheld.home}: the store can't be written to, and a run records what it finds. Make the folder writable, or set CARAVAN_HOME to another folder. Commands that only read work here: plan, show, report, export.`
      })
    const onEvent = options.onEvent ?? (() => undefined)
    const logs = yield* Effect.acquireRelease(
      Effect.sync(() => writeNodeLogs(unheld.home, (node, message) => onEvent({ type: "note", node, message }))),
      ({ close }) => Effect.sync(close)
    )
    const steps = yield* Effect.acquireRelease(
      Effect.sync(() => writeLiveSteps(unheld.home)),
      ({ close }) => Effect.sync(close)
    )
    const facts = yield* gatherFacts(graph, machineOf(options))
    yield* checkAgreements(graph, userFolders(graph))
    if (options.locked !== undefined) yield* checkAgainstLock(options.locked, graph, facts, journal, options)
    const executor = yield* Executor
    if ([...graph.nodes.values()].some((node) => node.kind === "stage" && isJob(options, node))) yield* executor.claim
    const store = yield* unheld.hold("a run")
    yield* store.sweep
    const emit = (event: RunEvent) => {
      logs.onEvent(event)
      steps.onEvent(event)
      onEvent(event)
    }
    const execute = yield* executor.open
    const context: RunContext = {
      id: randomUUID(),
      graph,
      facts,
      options,
      journal,
      store,
      execute,
      emit,
      known: new Map(),
      verified: new Set()
    }
    const result = yield* runGraph(context, selected, asked(graph, params, options, store.holder))
    if (options.locked === undefined) return result
    const checked = checkResults(options.locked, result)
    checked.nodes.forEach((node, i) => {
      if (node !== result.nodes[i]) onEvent({ type: "note", node: node.id, message: node.error! })
    })
    if (checked !== result) yield* journal.finishRun(result.run, checked.status)
    return checked
  }).pipe(Effect.scoped)

const asked = (graph: Graph, params: Readonly<Record<string, unknown>>, options: RunOptions, holder: string): Asked => ({
  params,
  ...graphOptions(options),
  ...machineOf(options),
  selection: Object.fromEntries(
    (["only", "from", "until", "force"] as const).flatMap((name) => {
      const value = options[name]
      return value === undefined || value.length === 0 ? [] : [[name, value]]
    })
  ),
  outputs: graph.outputs,
  holder,
  process: { pid: process.pid, node: process.version },
  ...(options.again === undefined ? {} : { again: options.again })
})

/** Runs a graph with known facts, and records the run, however it ends. */
const runGraph = (
  context: RunContext,
  selected: ReadonlySet<string> | undefined,
  askedFor: Asked
): Effect.Effect<RunResult, PipelineError | StoreError, Scope.Scope> =>
  Effect.gen(function* () {
    const { emit, graph, id, journal, known, options } = context
    const started = performance.now()
    const recorder = yield* makeRecorder(context)
    const finder = makeFinder(context, recorder)
    const sharing = yield* makeSharing(context, options.shared === undefined ? undefined : openShared(options.shared))
    const make = yield* makeMaker(context, recorder, finder, sharing)
    yield* journal.transaction((tables) => {
      tables.startRun(id, graph.pipeline, { ...askedFor, graph: tables.recordListing(recordedGraph(graph)) })
    })
    emit({
      type: "run-started",
      run: id,
      pipeline: graph.pipeline,
      nodes: [...graph.nodes.values()].filter((node) => node.kind === "stage").map((node) => node.id)
    })
    return yield* Effect.gen(function* () {
      const found = yield* takeFound(context, finder)
      yield* shareFound(context, found, sharing)
      yield* schedule(graph, makeSettler(context, selected, recorder, finder, make), found)
      yield* recorder.flush
      yield* sharing.finished
      // In graph order, regardless of which finished first.
      const nodes = [...graph.nodes.keys()].flatMap((node) => recorder.results.get(node) ?? [])
      const status = nodes.some((node) => node.status === "failed") ? ("failed" as const) : ("succeeded" as const)
      yield* journal.finishRun(id, status)
      emit({ type: "run-finished", status, milliseconds: performance.now() - started })
      return { run: id, pipeline: graph.pipeline, status, nodes, outputs: outputsOf(graph, known) }
    }).pipe(
      Effect.onExit((exit) =>
        Exit.isSuccess(exit)
          ? Effect.void
          : recorder.flush.pipe(
              Effect.andThen(
                Cause.hasInterrupts(exit.cause)
                  ? journal.finishRun(id, "interrupted")
                  : journal.finishRun(id, "failed", messageOf(Cause.squash(exit.cause)))
              ),
              // If the journal is what failed, the error is reported anyway, and the run counts as killed once its process has ended.
              Effect.ignore
            )
      )
    )
  })

/** Settles the nodes whose results are found; returns their ids. */
const takeFound = Effect.fnUntraced(function* (context: RunContext, finder: Finder) {
  const { facts, graph, journal, known } = context
  // A file with unknown content is hashed while other nodes run.
  for (const node of graph.nodes.values()) {
    if (node.kind !== "file") continue
    const { path, remote } = node
    const seen = remote ?? (yield* knownDigest(path, journal))
    if (seen === undefined) continue
    const { digest } = seen
    known.set(node.id, { digest, contentDigest: digest, path, type: node.type.name, ...("stamp" in seen && { stamp: seen.stamp }) })
  }
  const settled = new Set(known.keys())
  const found = yield* findAll(graph, facts, (id) => known.get(id)?.contentDigest, context, new Set(context.options.force))
  for (const { key, node, parts, presence, trace } of found.values()) {
    // A modified result is checked when its node is settled, before anything uses it.
    if (presence !== "present" || isForced(context, node.id) || !dependencies(node).every((id) => settled.has(id))) continue
    yield* finder.take(node, key, parts, trace!)
    settled.add(node.id)
  }
  return settled
})

/** Shares the found results: earlier runs may not have shared them. */
const shareFound = Effect.fnUntraced(function* (
  { graph, journal, known, options }: RunContext,
  found: ReadonlySet<string>,
  sharing: Sharing
) {
  if (options.shared === undefined || options.shared.isReadOnly === true) return
  for (const id of found) {
    const node = graph.nodes.get(id)!
    const digest = known.get(id)?.digest
    if (node.kind !== "stage" || digest === undefined) continue
    for (const key of yield* journal.keysOf(digest)) {
      const trace = yield* journal.trace(key)
      if (trace !== undefined) yield* sharing.share(node, trace)
    }
  }
})

const outputsOf = (graph: Graph, known: ReadonlyMap<string, KnownResult>): Record<string, StoredOutput> =>
  Object.fromEntries(
    Object.entries(graph.outputs).flatMap(([name, id]) => {
      const result = known.get(id)
      if (result === undefined) return []
      const { type, path, digest, contentDigest } = result
      return [[name, { kind: graph.nodes.get(id)!.type.kind, type, path, digest, contentDigest }]]
    })
  )
