/**
 * Running a graph: a ready queue of nodes; each is found under its key or made, committed to the store and recorded. A node that fails
 * stops what depends on it and nothing else. Interrupted, it kills its children and leaves a store that the next run goes on from.
 */
import { randomUUID } from "node:crypto"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Semaphore from "effect/Semaphore"
import type { ArtifactRef } from "../schemas/artifact.ts"
import { cacheKey, type KeyParts } from "./cache-key.ts"
import { changedSince } from "./code-identity.ts"
import { messageOf, PipelineError, StageError, type StoreError } from "./errors.ts"
import { inProcess, processPool } from "./executor.ts"
import { digestFile, stampOf } from "./file-source.ts"
import { ancestors, dependencies, type Graph, type StageNode } from "./graph.ts"
import type { Journal, NodeStatus } from "./journal.ts"
import { changes, codeParts, type Facts, keyParts } from "./plan.ts"
import type { NodeResult, RunEvent, RunOptions, RunResult, StoredOutput } from "./run.ts"
import type { Job } from "./run-stage.ts"
import type { Store } from "./store.ts"

/** A node's result while the run goes on. */
interface Made {
  readonly digest: string
  readonly contentDigest: string
  readonly path: string
  readonly type: string
  /** For files of the user's: what they looked like when hashed. */
  readonly stamp?: string
}

/**
 * Nodes looked at at once. What runs is bounded by the room there is (--jobs, one stage with tensors); those that wait for room must not keep
 * others from being found or from running beside them.
 */
const workers = 32

/** One run of one graph. */
export class Scheduler {
  readonly #graph: Graph
  readonly #selected: ReadonlySet<string> | undefined
  readonly #facts: Facts
  readonly #journal: Journal
  readonly #store: Store
  readonly #options: RunOptions
  readonly #id = randomUUID()
  readonly #made = new Map<string, Made>()
  readonly #results = new Map<string, NodeResult>()
  /** Digests of objects whose bytes were read in this run, or written by it. */
  readonly #verified = new Set<string>()
  readonly #checking = new Map<string, Semaphore.Semaphore>()
  /** Records of what was found: written at the end, together. */
  readonly #hits: Array<() => void> = []
  readonly #processes = processPool()
  readonly #data: Semaphore.Semaphore
  readonly #tensors = Semaphore.makeUnsafe(1)

  constructor(graph: Graph, selected: ReadonlySet<string> | undefined, facts: Facts, journal: Journal, store: Store, options: RunOptions) {
    this.#graph = graph
    this.#selected = selected
    this.#facts = facts
    this.#journal = journal
    this.#store = store
    this.#options = options
    this.#data = Semaphore.makeUnsafe(Math.max(1, options.jobs ?? 1))
  }

  #emit(event: RunEvent): void {
    this.#options.onEvent?.(event)
  }

  execute(params: unknown): Effect.Effect<RunResult, PipelineError | StoreError> {
    const self = this
    return Effect.gen(function* () {
      const started = performance.now()
      self.#journal.startRun(self.#id, self.#graph.pipeline, params)
      self.#emit({
        type: "run-started",
        run: self.#id,
        pipeline: self.#graph.pipeline,
        nodes: [...self.#graph.nodes.values()].filter((node) => node.kind === "stage").map((node) => node.id)
      })
      yield* self.#schedule()
      self.#journal.transaction(() => self.#hits.forEach((record) => record()))
      // In the graph's order, whatever finished first.
      const nodes = [...self.#graph.nodes.keys()].flatMap((id) => self.#results.get(id) ?? [])
      const status = nodes.some((node) => node.status === "failed") ? ("failed" as const) : ("succeeded" as const)
      self.#journal.finishRun(self.#id, status)
      self.#emit({ type: "run-finished", status, milliseconds: performance.now() - started })
      const outputs: Record<string, StoredOutput> = {}
      for (const [name, id] of Object.entries(self.#graph.outputs)) {
        const made = self.#made.get(id)
        if (made !== undefined)
          outputs[name] = {
            kind: self.#graph.nodes.get(id)!.type.kind,
            path: made.path,
            digest: made.digest,
            contentDigest: made.contentDigest
          }
      }
      return { run: self.#id, pipeline: self.#graph.pipeline, status, nodes, outputs }
    }).pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          self.#processes.close()
          if (Exit.isFailure(exit)) self.#journal.finishRun(self.#id, Cause.hasInterrupts(exit.cause) ? "interrupted" : "failed")
        })
      )
    )
  }

  /** A ready queue: a node is in it once all it depends on is settled. */
  #schedule(): Effect.Effect<void, PipelineError | StoreError> {
    const self = this
    return Effect.gen(function* () {
      const waiting = new Map<string, number>()
      const dependents = new Map<string, Array<string>>()
      const queue = yield* Queue.unbounded<string | undefined>()
      for (const node of self.#graph.nodes.values()) {
        const needs = new Set(dependencies(node))
        waiting.set(node.id, needs.size)
        for (const need of needs) {
          const list = dependents.get(need)
          if (list === undefined) dependents.set(need, [node.id])
          else list.push(node.id)
        }
        if (needs.size === 0) yield* Queue.offer(queue, node.id)
      }
      let left = self.#graph.nodes.size
      const stop = Effect.forEach(Array.from({ length: workers }), () => Queue.offer(queue, undefined), { discard: true })
      if (left === 0) yield* stop
      const worker = Effect.gen(function* () {
        for (;;) {
          const id = yield* Queue.take(queue)
          if (id === undefined) return
          yield* self.#settle(id)
          for (const dependent of dependents.get(id) ?? []) {
            const count = waiting.get(dependent)! - 1
            waiting.set(dependent, count)
            if (count === 0) yield* Queue.offer(queue, dependent)
          }
          if (--left === 0) yield* stop
        }
      })
      yield* Effect.forEach(Array.from({ length: workers }), () => worker, { concurrency: "unbounded", discard: true })
    })
  }

  /** Finds or makes one node's result, or says why there is none. */
  #settle(id: string): Effect.Effect<void, PipelineError | StoreError> {
    const self = this
    return Effect.gen(function* () {
      const node = self.#graph.nodes.get(id)!
      if (node.kind === "file") {
        const { digest, stamp } = yield* digestFile(node.path, self.#journal)
        self.#made.set(id, { digest, contentDigest: digest, path: node.path, type: node.type.name, stamp })
        return
      }
      if (dependencies(node).some((dependency) => !self.#made.has(dependency))) return self.#skip(node, null)
      const parts = keyParts(node, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)
      const key = cacheKey(parts)
      const started = performance.now()
      const trace = self.#journal.trace(key)
      if (trace !== undefined && self.#options.force?.includes(id) !== true) {
        if (yield* Effect.promise(() => self.#store.present(trace.digest))) {
          self.#made.set(id, { ...trace, path: self.#store.path(trace.digest) })
          self.#hits.push(() => self.#record(node, key, parts, "hit", 0, trace.digest, null))
          self.#report(node, {
            status: "hit",
            milliseconds: performance.now() - started,
            key,
            digest: trace.digest,
            metrics: trace.metrics,
            error: null
          })
          return
        }
        self.#emit({ type: "note", node: id, message: "its result is damaged or gone from the store: making it again" })
        yield* self.#store.quarantine(trace.digest)
        self.#journal.forgetTrace(key)
      }
      if (self.#selected !== undefined && !self.#selected.has(id)) {
        const needed = [...self.#selected].some((selected) => ancestors(self.#graph, selected).has(id))
        if (needed)
          return yield* new PipelineError({
            message: `Node "${id}" is needed but not selected, and its result is not in the store. Run it first (--until ${id}), or leave the selection out.`
          })
        return self.#skip(node, key)
      }
      for (const dependency of new Set(dependencies(node))) if (!(yield* self.#sound(dependency))) return self.#skip(node, key)
      // An input that had to be made again may have come out different.
      if (cacheKey(keyParts(node, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)) !== key)
        return yield* self.#settle(id)
      yield* self.#attempt(node, key, parts)
    })
  }

  /** Makes a node once there is room for it, and reports how it went; whether it succeeded. */
  #attempt(node: StageNode, key: string, parts: KeyParts): Effect.Effect<boolean> {
    const self = this
    const room = node.stage.resources.tensors === true ? this.#tensors : this.#data
    return Effect.gen(function* () {
      const started = performance.now()
      const exit = yield* Effect.exit(self.#make(node, key, parts))
      const milliseconds = performance.now() - started
      if (Exit.isSuccess(exit)) {
        self.#report(node, { status: "ran", milliseconds, key, digest: exit.value.digest, metrics: exit.value.metrics, error: null })
        return true
      }
      if (Cause.hasInterrupts(exit.cause)) return yield* Effect.interrupt
      const error = messageOf(Cause.squash(exit.cause))
      self.#made.delete(node.id)
      self.#record(node, key, parts, "failed", milliseconds, null, error)
      self.#report(node, { status: "failed", milliseconds, key, digest: null, metrics: {}, error })
      return false
    }).pipe(room.withPermits(1))
  }

  /**
   * Reads the bytes of a result against its manifest, once a run, before a stage uses it. A damaged one is set aside and made again; false when
   * that fails. Nodes that share an input wait for each other here.
   */
  #sound(id: string): Effect.Effect<boolean, StoreError> {
    const self = this
    const input = this.#graph.nodes.get(id)!
    if (input.kind === "file") return Effect.succeed(true)
    let lock = this.#checking.get(id)
    if (lock === undefined) this.#checking.set(id, (lock = Semaphore.makeUnsafe(1)))
    return Effect.gen(function* () {
      const made = self.#made.get(id)
      if (made === undefined) return false
      if (self.#verified.has(made.digest)) return true
      const damage = yield* Effect.promise(() => self.#store.damage(made.digest))
      if (damage === undefined) {
        self.#verified.add(made.digest)
        return true
      }
      self.#emit({ type: "note", node: id, message: `its result is damaged (${damage}): making it again` })
      yield* self.#store.quarantine(made.digest)
      for (const dependency of new Set(dependencies(input))) {
        if (yield* self.#sound(dependency)) continue
        self.#made.delete(id)
        return false
      }
      const parts = keyParts(input, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)
      const key = cacheKey(parts)
      self.#journal.forgetTrace(key)
      return yield* self.#attempt(input, key, parts)
    }).pipe(lock.withPermits(1))
  }

  /** Runs the stage and commits what it wrote. */
  #make(
    node: StageNode,
    key: string,
    parts: KeyParts
  ): Effect.Effect<
    { readonly digest: string; readonly metrics: Readonly<Record<string, number>> },
    StageError | StoreError | PipelineError
  > {
    const self = this
    const tensors = node.stage.resources.tensors === true
    const started = performance.now()
    return Effect.gen(function* () {
      self.#emit({
        type: "node-started",
        node: node.id,
        stage: node.stage.name,
        why: changes(node, self.#facts, self.#journal, self.#graph.pipeline, parts).all
      })
      const directory = yield* self.#store.temporary()
      return yield* Effect.gen(function* () {
        const metrics = yield* (tensors ? self.#processes : inProcess).run(
          node.stage,
          self.#job(node, directory),
          (progress) => self.#emit({ type: "progress", node: node.id, progress }),
          changedSince(self.#facts.code.get(node.id)!, node.stage, self.#journal),
          (text) => self.#emit({ type: "output", node: node.id, text })
        )
        yield* self.#checkFiles(node)
        const stored = yield* self.#store.commit(directory, node.type).pipe(
          Effect.mapError((error) =>
            error._tag === "ArtifactError"
              ? new StageError({
                  reason: "BadOutput",
                  message: `Stage ${node.stage.name} wrote something else than a ${node.type.name}. ${error.message}`
                })
              : error
          )
        )
        self.#journal.transaction(() => {
          if (self.#options.force?.includes(node.id) === true) self.#journal.forgetTrace(key)
          self.#journal.recordTrace(
            { key, ...stored, type: node.type.name, metrics },
            { run: self.#id, node: node.id, parts, code: self.#facts.code.get(node.id), inputs: node.inputs, node_version: process.version }
          )
          self.#record(node, key, parts, "ran", performance.now() - started, stored.digest, null)
        })
        self.#made.set(node.id, { ...stored, path: self.#store.path(stored.digest), type: node.type.name })
        self.#verified.add(stored.digest)
        return { digest: stored.digest, metrics }
      }).pipe(Effect.ensuring(self.#store.remove(directory)))
    })
  }

  #job(node: StageNode, output: string): Job {
    const ref = (id: string): ArtifactRef<any> => {
      const { path, type, digest, contentDigest } = this.#made.get(id)!
      return { path, type, digest, contentDigest }
    }
    return {
      module: node.stage.module,
      exportName: this.#facts.code.get(node.id)!.exportName,
      config: node.config,
      inputs: Object.fromEntries(
        Object.entries(node.inputs).map(([port, ids]) => [port, ids === null ? null : typeof ids === "string" ? ref(ids) : ids.map(ref)])
      ),
      output,
      seed: node.seed,
      device: this.#options.device ?? "cpu",
      threads: this.#options.threads ?? 1,
      prepare: this.#options.prepare
    }
  }

  /** A file of the user's that changed while a stage read it makes the result worthless: it belongs to no content. */
  #checkFiles(node: StageNode): Effect.Effect<void, StageError> {
    const self = this
    return Effect.gen(function* () {
      for (const id of dependencies(node)) {
        const made = self.#made.get(id)!
        if (made.stamp === undefined) continue
        const now = yield* Effect.promise(() => stampOf(made.path).catch(() => ""))
        if (now !== made.stamp)
          return yield* new StageError({
            reason: "InputChanged",
            message: `The input ${made.path} changed while it was read. Nothing was recorded: let whatever writes it finish, then run again.`
          })
      }
    })
  }

  #record(
    node: StageNode,
    key: string,
    parts: KeyParts,
    status: NodeStatus,
    milliseconds: number,
    digest: string | null,
    error: string | null
  ): void {
    const files = codeParts(this.#facts.code.get(node.id)!)
    this.#journal.recordExecution({
      run: this.#id,
      pipeline: this.#graph.pipeline,
      node: node.id,
      stage: node.stage.name,
      key,
      parts,
      files,
      status,
      milliseconds,
      digest,
      error
    })
  }

  #skip(node: StageNode, key: string | null): void {
    this.#report(node, { status: "skipped", milliseconds: 0, key, digest: null, metrics: {}, error: null })
  }

  #report(node: StageNode, result: Omit<NodeResult, "id" | "stage">): void {
    const full = { id: node.id, stage: node.stage.name, ...result }
    this.#results.set(node.id, full)
    this.#emit({ type: "node-finished", node: full })
  }
}
