/**
 * Verifies a pipeline: reruns nodes with stored results in a scratch folder, on the same inputs, and compares the output with the store. Nothing is
 * recorded or replaced; damaged results are set aside (damage.ts).
 */
import { mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { artifactDifferences } from "../../schemas/difference.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import type { ConfigError, ConfigSchema } from "../../schemas/hyper.ts"
import { dependencies, type StageNode } from "../define/graph.ts"
import type { Pipeline } from "../define/pipeline.ts"
import { messageOf, type PipelineError, StageError, type StoreError } from "../errors.ts"
import { checkStamp } from "../key/file-source.ts"
import type { Numerics } from "../key/numerics.ts"
import type { RunEvent } from "../run/events.ts"
import type { Execute } from "../run/execute.ts"
import { Executor } from "../run/executor.ts"
import { fetchInput, graphOf } from "../run/inputs.ts"
import { chosenNodes, machineOf, namedNodes, type RunOptions } from "../run/options.ts"
import { machineFor } from "../run/ranks.ts"
import { type Plan, planGraph } from "../run/plan.ts"
import { inputsOf } from "../run/produce.ts"
import type { Job } from "../run/run-stage.ts"
import { Journal, type JournalOperations } from "../store/journal.ts"
import { Store, type StoreOperations } from "../store/store.ts"
import { describeDamage, findDamage } from "./damage.ts"

export interface VerifiedNode {
  readonly id: string
  readonly stage: string
  /** "same": bit for bit. "same content": the content digest is the same, but the bytes differ. "missing": no result in the store. */
  readonly status: "same" | "same content" | "differs" | "failed" | "missing"
  readonly milliseconds: number
  /** The digest in the store, and the new one. */
  readonly digest: string | null
  readonly again: string | null
  /** Where they differ, by file: the first tensor or row, and how many. */
  readonly differences: ReadonlyArray<string>
  readonly error: string | null
}
export interface Verification {
  readonly pipeline: string
  /** All chosen nodes reproduced the same content. */
  readonly ok: boolean
  readonly nodes: ReadonlyArray<VerifiedNode>
  /** Number of nodes with a result that the sample left out. */
  readonly left: number
}

export interface VerifyOptions extends RunOptions {
  /** Verify this many nodes, chosen by `random`. Default: all. */
  readonly sample?: number
  /** A number in [0, 1). Default: Math.random. */
  readonly random?: () => number
}

/** A random subset of a list, in its order. */
const sampleOf = <A>(list: ReadonlyArray<A>, size: number, random: () => number): Array<A> => {
  const left = list.map((_, i) => i)
  const chosen = new Set<number>()
  while (chosen.size < size && left.length > 0) chosen.add(left.splice(Math.floor(random() * left.length), 1)[0]!)
  return list.filter((_, i) => chosen.has(i))
}

/** Reruns nodes and compares. Emits the events of a run. */
export const verify = <Params extends ConfigSchema>(
  pipeline: Pipeline<Params, any>,
  params: Params["Encoded"],
  given: VerifyOptions = {}
): Effect.Effect<Verification, PipelineError | ConfigError | StoreError, Store | Journal | Executor | Numerics> =>
  Effect.gen(function* () {
    const graph = yield* graphOf(pipeline, params, given)
    const options = yield* namedNodes(graph, given)
    const selected = chosenNodes(graph, options)
    const journal = yield* Journal
    const free = yield* Store
    // Objects of a read-only store can't be protected from gc while they are read.
    const isReadOnly = yield* free.isReadOnly
    const store = isReadOnly ? free : yield* free.hold("caravan verify")
    const temporary = isReadOnly ? Effect.sync(() => mkdtempSync(join(tmpdir(), "caravan-verify-"))) : store.temporary
    const execute = yield* (yield* Executor).open
    const plan = yield* planGraph(graph, machineOf(options), new Set()).pipe(Effect.provideService(Store, store))
    const wanted = [...graph.nodes.values()].filter(
      (node): node is StageNode => node.kind === "stage" && (selected === undefined || selected.has(node.id))
    )
    const there = wanted.filter((node) => plan.nodes.get(node.id)!.kind === "hit")
    const chosen = options.sample === undefined ? wanted : sampleOf(there, options.sample, options.random ?? Math.random)
    const emit = options.onEvent ?? (() => undefined)
    const nodes: Array<VerifiedNode> = []
    for (const node of chosen) nodes.push(yield* verifyNode(node, plan, { journal, store, temporary, execute, options, emit }))
    const ok = nodes.length > 0 && nodes.every(({ status }) => status === "same" || status === "same content")
    return { pipeline: graph.pipeline, ok, nodes, left: there.length - nodes.filter(({ status }) => status !== "missing").length }
  }).pipe(Effect.scoped)

interface Tools {
  readonly journal: JournalOperations
  readonly store: StoreOperations
  /** A new folder to run a node in. */
  readonly temporary: Effect.Effect<string, StoreError>
  readonly execute: Execute
  readonly options: RunOptions
  readonly emit: (event: RunEvent) => void
}

const verifyNode = (node: StageNode, plan: Plan, tools: Tools): Effect.Effect<VerifiedNode, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const base = { id: node.id, stage: node.stage.name, milliseconds: 0, digest: null, again: null, differences: [], error: null }
    const planned = plan.nodes.get(node.id)!
    if (planned.kind !== "hit") return { ...base, status: "missing" as const }
    const { trace, key } = planned
    tools.emit({ type: "node-started", node: node.id, stage: node.stage.name, why: ["verifying"] })
    const started = performance.now()
    const directory = yield* tools.temporary
    return yield* Effect.gen(function* () {
      const exit = yield* Effect.exit(rerun(node, plan, directory, tools))
      const milliseconds = performance.now() - started
      const finish = (status: "ran" | "failed", error: string | null) =>
        tools.emit({
          type: "node-finished",
          node: {
            id: node.id,
            stage: node.stage.name,
            status,
            milliseconds,
            key,
            digest: trace.digest,
            metrics: {},
            skipped: [],
            skippedRows: null,
            error
          }
        })
      if (Exit.isFailure(exit)) {
        if (Cause.hasInterrupts(exit.cause)) return yield* Effect.interrupt
        const error = messageOf(Cause.squash(exit.cause))
        finish("failed", error)
        return { ...base, status: "failed" as const, milliseconds, digest: trace.digest, error }
      }
      const { digest, contentDigest } = exit.value
      const differences =
        digest === trace.digest
          ? []
          : yield* artifactDifferences(tools.store.path(trace.digest), directory, node.type).pipe(
              Effect.catch((error) => Effect.succeed([`they can't be compared: ${error.message}`]))
            )
      const status = digest === trace.digest ? "same" : contentDigest === trace.contentDigest ? "same content" : "differs"
      finish(status === "differs" ? "failed" : "ran", status === "differs" ? `the result differs: ${differences.join("; ")}` : null)
      return { ...base, status: status as VerifiedNode["status"], milliseconds, digest: trace.digest, again: digest, differences }
    }).pipe(Effect.ensuring(tools.store.remove(directory)))
  })

/** Runs a node's stage into a folder, on inputs whose bytes were checked first; returns its output. */
const rerun = (node: StageNode, plan: Plan, directory: string, { journal, store, execute, options, emit }: Tools) =>
  Effect.gen(function* () {
    const refuse = (message: string) => new StageError({ reason: "Verify", message, isRetryable: false })
    const refs = new Map<string, ArtifactRef<any>>()
    const stamps = new Map<string, string>()
    for (const id of new Set([...dependencies(node), node.id])) {
      const found = plan.nodes.get(id)!
      const input = plan.graph.nodes.get(id)!
      if (found.kind === "file" && input.kind === "file") {
        stamps.set(id, input.remote === undefined ? found.stamp : yield* fetchInput(input.remote, emit))
        refs.set(id, { path: input.path, type: "file", digest: found.digest, contentDigest: found.digest })
        continue
      }
      // A stored result's inputs should be stored too.
      if (found.kind !== "hit") return yield* refuse(`The result of "${id}" is not in the store. Run the pipeline first.`)
      const damage = yield* findDamage(found.trace.digest)
      if (damage !== undefined) return yield* refuse(describeDamage(`The result of "${id}" in the store`, damage))
      if (!(yield* store.present(found.trace.digest)))
        return yield* refuse(`The result of "${id}" is no longer in the store: run the pipeline to recompute it.`)
      const { digest, contentDigest, type } = found.trace
      refs.set(id, { path: store.path(digest), type, digest, contentDigest })
    }
    const code = plan.facts.code.get(node.id)!
    const planned = plan.nodes.get(node.id)!
    const { trace } = planned as Extract<typeof planned, { kind: "hit" }>
    const job: Job = {
      module: node.stage.module,
      exportName: code.exportName,
      config: node.config,
      inputs: inputsOf(node, (id) => refs.get(id)!),
      output: directory,
      seed: node.seed,
      ...machineFor(node, options),
      checkpoints: null,
      recorded: trace.metrics,
      // Its skipped rows were accepted when the result was made.
      skippedLimit: 1
    }
    yield* execute({
      stage: node.stage,
      job,
      code,
      cache: journal,
      limits: { ...options.limits, ...node.limits },
      onProgress: (progress) => emit({ type: "progress", node: node.id, progress })
    })
    for (const id of dependencies(node)) {
      const { path } = refs.get(id)!
      if (stamps.has(id))
        yield* checkStamp(path, stamps.get(id)!, () =>
          refuse(`The input ${path} changed while it was being read. Wait until it is completely written, then verify again.`)
        )
    }
    return yield* store.describe(directory, node.type)
  })
