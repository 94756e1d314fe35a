/**
 * Running a graph: each node, once all it depends on is settled, is found under its key or made, committed to the store and recorded. A node that
 * fails stops what depends on it and nothing else. Interrupted, it kills its children and leaves a store that the next run goes on from.
 */
import { randomUUID } from "node:crypto"
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import { changedSince, changedSinceLoaded } from "../key/code-identity.ts"
import { messageOf, PipelineError, StageError, type StoreError } from "../errors.ts"
import { inProcess, processPool } from "./executor.ts"
import { digestFile, stampOf } from "../key/file-source.ts"
import { type Claimed, Flights } from "../store/flights.ts"
import { ancestors, dependencies, type Graph, type StageNode } from "../define/graph.ts"
import { GroupCommit } from "../store/group-commit.ts"
import type { Journal, NodeStatus, Trace } from "../store/journal.ts"
import type { NodeLimits } from "../define/node.ts"
import { changes, codeParts, drifted, driftOf, type Facts, keyParts } from "./plan.ts"
import type { NodeResult, RunEvent, RunOptions, RunResult, StoredOutput } from "./run.ts"
import { Room } from "./room.ts"
import type { Job } from "./run-stage.ts"
import type { SealedObject, Store } from "../store/store.ts"

/** A node's result while the run goes on. */
interface Made {
  readonly digest: string
  readonly contentDigest: string
  readonly path: string
  readonly type: string
  /** For files of the user's: what they looked like when hashed. */
  readonly stamp?: string
}

/** What a stage has written, before it is in the store. */
interface Finished extends Claimed {
  readonly node: StageNode
  readonly parts: KeyParts
  readonly sealed: SealedObject
  readonly metrics: Readonly<Record<string, number>>
  readonly milliseconds: number
}

/** Nodes that run or wait for their results to be on the disk, at most: those of one kind that wait for room are no part of it. */
const unrecorded = 128
/** Results whose bytes are read at once, at most. */
const readAtOnce = 16

/** What was found is recorded at least so often, in milliseconds: gc goes by it, and a run that ends by kill -9 has no end to do it at. */
const recordInterval = 1000

/** How often a node that another run makes is looked for. */
const waitInterval = "100 millis"

/** Seconds between two checkpoints of a stage, unless the run says otherwise. */
const usualCheckpointSeconds = 60

type MakeError = StageError | StoreError | PipelineError

/** What is the same every time: trying again would only take longer. */
const lasting: ReadonlyArray<string> = [
  "BadOutput",
  "CodeChanged",
  "ConfigError",
  "Defect",
  "DivergedError",
  "InputChanged",
  "Load",
  "Memory",
  "NothingWritten",
  "Overtaken"
]
const mayPass = (error: MakeError): boolean => error._tag === "StageError" && !lasting.includes(error.reason)

const attempt = <A>(body: () => A): Effect.Effect<A, StoreError> => Effect.try({ try: body, catch: (cause) => cause as StoreError })

/** One run of one graph. */
export class Scheduler {
  readonly #graph: Graph
  readonly #selected: ReadonlySet<string> | undefined
  /** What the selected nodes depend on, and they themselves; undefined: everything. */
  readonly #needed: ReadonlySet<string> | undefined
  readonly #facts: Facts
  readonly #journal: Journal
  readonly #store: Store
  readonly #flights: Flights
  readonly #options: RunOptions
  readonly #id = randomUUID()
  readonly #made = new Map<string, Made>()
  readonly #results = new Map<string, NodeResult>()
  /** Digests of objects whose bytes were read in this run, or written by it. */
  readonly #verified = new Set<string>()
  readonly #checking = new Map<string, Semaphore.Semaphore>()
  /** Files of the user's that can't be read, with the reason. */
  readonly #unreadable = new Map<string, string>()
  /** Records of what was found or skipped: written together. */
  #records: Array<() => void> = []
  #recording: NodeJS.Timeout | undefined
  readonly #landing: Array<Claimed> = []
  readonly #processes = processPool()
  readonly #commits = new GroupCommit((finished: ReadonlyArray<Finished>) => this.#commit(finished))
  readonly #data: Room
  readonly #tensors = new Room(1)
  readonly #unrecorded = new Room(unrecorded)
  readonly #reading = new Room(readAtOnce)

  constructor(
    graph: Graph,
    selected: ReadonlySet<string> | undefined,
    facts: Facts,
    journal: Journal,
    store: Store,
    options: RunOptions,
    holder: string
  ) {
    this.#flights = new Flights(store.leases(), holder)
    this.#graph = graph
    this.#selected = selected
    this.#needed = selected === undefined ? undefined : ancestors(graph, selected)
    this.#facts = facts
    this.#journal = journal
    this.#store = store
    this.#options = options
    this.#data = new Room(Math.max(1, options.jobs ?? 1))
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
      self.#recordAll()
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
            type: made.type,
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
          self.#landAll()
          clearTimeout(self.#recording)
          if (Exit.isSuccess(exit)) return
          try {
            self.#recordAll()
            self.#journal.finishRun(self.#id, Cause.hasInterrupts(exit.cause) ? "interrupted" : "failed")
          } catch {
            // What the run fails by may be the journal itself, and says so. Its process gone, the run is taken for killed.
          }
        })
      )
    )
  }

  /**
   * A fiber a node, begun once all it depends on is settled. None of them holds what others need while it waits: what runs is bounded by the room
   * there is (--jobs, one stage with tensors), so however many wait for one kind of room, others are found or run beside them.
   */
  #schedule(): Effect.Effect<void, PipelineError | StoreError> {
    const self = this
    return Effect.gen(function* () {
      const waiting = new Map<string, number>()
      const dependents = new Map<string, Array<string>>()
      const ready: Array<string> = []
      for (const node of self.#graph.nodes.values()) {
        const needs = new Set(dependencies(node))
        waiting.set(node.id, needs.size)
        for (const need of needs) {
          const list = dependents.get(need)
          if (list === undefined) dependents.set(need, [node.id])
          else list.push(node.id)
        }
        if (needs.size === 0) ready.push(node.id)
      }
      let left = self.#graph.nodes.size
      if (left === 0) return
      const fibers = yield* FiberSet.make<void, PipelineError | StoreError>()
      const done = yield* Deferred.make<void>()
      const begin = (id: string): Effect.Effect<unknown> =>
        FiberSet.run(
          fibers,
          Effect.gen(function* () {
            yield* self.#settle(id)
            for (const dependent of dependents.get(id) ?? []) {
              const count = waiting.get(dependent)! - 1
              waiting.set(dependent, count)
              if (count === 0) yield* begin(dependent)
            }
            if (--left === 0) yield* Deferred.succeed(done, undefined)
          }),
          // Else a chain of nodes would be as deep a stack; and one that ends by an interruption would be waited for.
          { startImmediately: false, propagateInterruption: true }
        )
      for (const id of ready) yield* begin(id)
      yield* Effect.raceFirst(Deferred.await(done), FiberSet.join(fibers))
    }).pipe(Effect.scoped)
  }

  /** Finds or makes one node's result, or says why there is none. */
  #settle(id: string): Effect.Effect<void, PipelineError | StoreError> {
    const self = this
    return Effect.gen(function* () {
      const node = self.#graph.nodes.get(id)!
      if (node.kind === "file") {
        const read = yield* Effect.result(digestFile(node.path, self.#journal))
        if (read._tag === "Success") {
          const { digest, stamp } = read.success
          self.#made.set(id, { digest, contentDigest: digest, path: node.path, type: node.type.name, stamp })
        } else if (existsSync(node.path)) self.#unreadable.set(id, read.failure.message)
        // A wrong path, most likely: nothing is to run for hours before that is said. What none of the chosen nodes needs may come later.
        else if (self.#isNeeded(id)) return yield* read.failure
        return
      }
      const unreadable = dependencies(node).find((dependency) => self.#unreadable.has(dependency))
      if (unreadable !== undefined) return self.#refuse(node, self.#unreadable.get(unreadable)!)
      if (dependencies(node).some((dependency) => !self.#made.has(dependency))) return self.#skip(node, null)
      const parts = keyParts(node, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)
      const key = cacheKey(parts)
      if (!self.#isForced(id)) {
        const trace = yield* self.#look(key)
        if (trace !== undefined) return void self.#found(node, key, parts, trace)
      }
      if (self.#selected !== undefined && !self.#selected.has(id)) {
        if (self.#isNeeded(id))
          return yield* new PipelineError({
            message: `Node "${id}" is needed but not selected, and its result is not in the store. Run it first (--until ${id}), or leave the selection out.`
          })
        return self.#skip(node, key)
      }
      for (const dependency of new Set(dependencies(node))) if (!(yield* self.#sound(dependency))) return self.#skip(node, key)
      // An input that had to be made again may have come out different.
      if (cacheKey(keyParts(node, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)) !== key)
        return yield* self.#settle(id)
      yield* self.#obtain(node, key, parts)
    })
  }

  /** Claims are given up a few at a time. Who waits for a key looks again and again, and those of a run that has ended do not count. */
  #land(claim: Claimed): void {
    if (this.#landing.push(claim) === 1) setImmediate(() => this.#landAll())
  }
  #landAll(): void {
    const claims = this.#landing.splice(0)
    try {
      if (claims.length > 0) this.#flights.land(claims)
    } catch {
      // They go when the run does.
    }
  }

  #isNeeded(id: string): boolean {
    return this.#needed === undefined || this.#needed.has(id)
  }

  #isForced(id: string): boolean {
    return this.#options.force?.includes(id) === true
  }

  /** The result under a key, if all its files are there. */
  #look(key: string): Effect.Effect<Trace | undefined, StoreError> {
    return attempt(() => {
      const trace = this.#journal.trace(key)
      return trace !== undefined && this.#store.present(trace.digest) ? trace : undefined
    })
  }

  /**
   * As #look, of a key that is claimed. What is left of a result that is not whole, or that `suspect` still names rightly as damaged, is set aside:
   * whoever had the claim before may have made it again, and that must stay.
   */
  #lookOrSetAside(id: string, key: string, suspect: string | undefined): Effect.Effect<Trace | undefined, StoreError> {
    const self = this
    return Effect.gen(function* () {
      const trace = yield* attempt(() => self.#journal.trace(key))
      if (trace === undefined) return undefined
      let wrong = "damaged or gone from the store"
      if (yield* attempt(() => self.#store.present(trace.digest))) {
        if (trace.digest !== suspect) return trace
        const damage = yield* self.#damage(trace.digest)
        if (damage === undefined) return trace
        wrong = `damaged (${damage})`
      }
      self.#emit({ type: "note", node: id, message: `its result is ${wrong}: making it again` })
      yield* self.#store.quarantine(trace.digest)
      yield* attempt(() => self.#journal.forgetTrace(key))
      return undefined
    })
  }

  /** What is wrong with the bytes of a result. One that is sound is not read again in this run. */
  #damage(digest: string): Effect.Effect<string | undefined, StoreError> {
    return Effect.suspend(() => {
      if (this.#verified.has(digest)) return Effect.succeed(undefined)
      return Effect.tryPromise({ try: () => this.#store.damage(digest), catch: (cause) => cause as StoreError }).pipe(
        Effect.tap((damage) => Effect.sync(() => damage === undefined && this.#verified.add(digest))),
        (reading) => this.#reading.within(reading)
      )
    })
  }

  /** Takes a result that is there; whether it does: a lock file holds to the code too, and that of a pinned stage may have drifted. */
  #found(node: StageNode, key: string, parts: KeyParts, trace: Trace): boolean {
    const drift = driftOf(node, this.#facts, this.#journal, trace)
    if (drift.length > 0) {
      const message = drifted(node, drift)
      if (this.#options.locked !== undefined) {
        this.#recordSoon(() => this.#record(node, key, parts, "failed", 0, null, message))
        this.#report(node, { status: "failed", milliseconds: 0, key, digest: null, metrics: {}, error: message })
        return false
      }
      this.#emit({ type: "note", node: node.id, message })
    }
    this.#made.set(node.id, { ...trace, path: this.#store.path(trace.digest) })
    this.#recordSoon(() => this.#record(node, key, parts, "hit", 0, trace.digest, null))
    this.#report(node, { status: "hit", milliseconds: 0, key, digest: trace.digest, metrics: trace.metrics, error: null })
    return true
  }

  #recordSoon(record: () => void): void {
    this.#records.push(record)
    this.#recording ??= setTimeout(() => {
      this.#recording = undefined
      try {
        this.#recordAll()
      } catch {
        // They stay, and are tried again with the next ones; at the run's end the error counts.
      }
    }, recordInterval)
  }
  #recordAll(): void {
    if (this.#records.length > 0) this.#journal.transaction(() => this.#records.forEach((record) => record()))
    this.#records = []
  }

  /**
   * Makes a node once there is room for it and nobody else makes the same, or takes what somebody else has made meanwhile; whether there is a
   * result. While it waits for others it takes no room, nor while what it wrote is brought to the disk. `suspect`: the digest of a result of it whose
   * bytes were found damaged.
   */
  #obtain(node: StageNode, key: string, parts: KeyParts, suspect?: string): Effect.Effect<boolean, StoreError> {
    const self = this
    const room = node.stage.resources.tensors === true ? this.#tensors : this.#data
    const turn = (leave: Effect.Effect<void>) =>
      Effect.gen(function* () {
        const claim = yield* attempt(() => self.#flights.claim(key))
        if (!claim.mine) return claim.by
        if (claim.tookOver) self.#emit({ type: "note", node: node.id, message: "whoever made it is gone: taking over" })
        return yield* Effect.gen(function* () {
          // Made while this waited. What is forced is made by this run whatever there is.
          const trace = self.#isForced(node.id) ? undefined : yield* self.#lookOrSetAside(node.id, key, suspect)
          if (trace === undefined) return yield* self.#unrecorded.within(self.#attempt(node, key, parts, claim.token, leave))
          return trace.digest === suspect || self.#found(node, key, parts, trace)
        }).pipe(Effect.ensuring(Effect.sync(() => self.#land({ key, token: claim.token }))))
      })
    const inRoom = Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        yield* restore(room.take)
        let inside = true
        const leave = Effect.sync(() => {
          if (inside) room.release()
          inside = false
        })
        return yield* restore(turn(leave)).pipe(Effect.ensuring(leave))
      })
    )
    return Effect.gen(function* () {
      let told = ""
      for (;;) {
        const result = yield* inRoom
        if (typeof result === "boolean") return result
        if (told !== result) self.#emit({ type: "node-waiting", node: node.id, by: result })
        told = result
        yield* Effect.sleep(waitInterval)
      }
    })
  }

  /** Makes a node that is ours to make, and reports how it went; whether it succeeded. It leaves the room once its stage is done. */
  #attempt(node: StageNode, key: string, parts: KeyParts, token: string, leave: Effect.Effect<void>): Effect.Effect<boolean> {
    const self = this
    return Effect.gen(function* () {
      const started = performance.now()
      const exit = yield* Effect.exit(self.#make(node, key, parts, token, leave))
      const milliseconds = performance.now() - started
      if (Exit.isSuccess(exit)) {
        self.#report(node, { status: "ran", milliseconds, key, digest: exit.value.digest, metrics: exit.value.metrics, error: null })
        return true
      }
      // Of a run that is interrupted nothing comes here: an interruption in the cause is the stage's own.
      const error = messageOf(Cause.squash(exit.cause))
      self.#made.delete(node.id)
      self.#record(node, key, parts, "failed", milliseconds, null, error)
      self.#report(node, { status: "failed", milliseconds, key, digest: null, metrics: {}, error })
      return false
    })
  }

  #limits(node: StageNode): NodeLimits {
    return { ...this.#options.limits, ...node.limits }
  }

  /** Tries again what failed by chance, as often as the node's limits allow, after 1, 2, 4 .. seconds. From its checkpoint where it keeps any. */
  #persist<A>(node: StageNode, once: Effect.Effect<A, MakeError>): Effect.Effect<A, MakeError> {
    const times = this.#limits(node).retries ?? 0
    if (times === 0) return once
    let tried = 0
    return once.pipe(
      Effect.tapError((error) =>
        Effect.sync(() => {
          if (mayPass(error) && tried++ < times)
            this.#emit({ type: "note", node: node.id, message: `failed, and is tried again (${tried} of ${times}): ${error.message}` })
        })
      ),
      Effect.retry({ times, schedule: Schedule.exponential("1 second"), while: mayPass })
    )
  }

  /**
   * Reads the bytes of a result against its manifest, once a run, before a stage uses it. A damaged one is set aside and made again, unless another
   * run has done that meanwhile; false when that fails. Nodes that share an input wait for each other here.
   */
  #sound(id: string): Effect.Effect<boolean, StoreError> {
    const self = this
    const input = this.#graph.nodes.get(id)!
    if (input.kind === "file") return Effect.succeed(true)
    let lock = this.#checking.get(id)
    if (lock === undefined) this.#checking.set(id, (lock = Semaphore.makeUnsafe(1)))
    return Effect.gen(function* () {
      for (;;) {
        const made = self.#made.get(id)
        if (made === undefined) return false
        if ((yield* self.#damage(made.digest)) === undefined) return true
        for (const dependency of new Set(dependencies(input))) {
          if (yield* self.#sound(dependency)) continue
          self.#made.delete(id)
          return false
        }
        const parts = keyParts(input, self.#facts, (dependency) => self.#made.get(dependency)!.contentDigest)
        // Made here it is sound; what another run made of it meanwhile is read first.
        if (!(yield* self.#obtain(input, cacheKey(parts), parts, made.digest))) return false
      }
    }).pipe(lock.withPermits(1))
  }

  /** Runs the stage, and has what it wrote committed and recorded. */
  #make(
    node: StageNode,
    key: string,
    parts: KeyParts,
    token: string,
    leave: Effect.Effect<void>
  ): Effect.Effect<{ readonly digest: string; readonly metrics: Readonly<Record<string, number>> }, MakeError> {
    const self = this
    const started = performance.now()
    return Effect.gen(function* () {
      const { metrics, sealed } = yield* self.#persist(node, self.#produce(node, key, parts))
      const { contentDigest, digest } = sealed
      return yield* Effect.gen(function* () {
        yield* leave
        const before = yield* self.#commits.add({ node, key, parts, token, sealed, metrics, milliseconds: performance.now() - started })
        if (before !== undefined && before.contentDigest !== contentDigest)
          self.#emit({
            type: "note",
            node: node.id,
            message: `made again it differs from what it was (${before.digest.slice(0, 12)}, kept as an older generation): caravan verify names where`
          })
        self.#made.set(node.id, { digest, contentDigest, path: self.#store.path(digest), type: node.type.name })
        self.#verified.add(digest)
        yield* self.#store.remove(self.#checkpoints(key))
        return { digest, metrics }
      }).pipe(Effect.ensuring(self.#store.remove(sealed.directory)))
    })
  }

  /** Runs the stage; what it wrote is in a folder of its own, which stays when this succeeds. */
  #produce(
    node: StageNode,
    key: string,
    parts: KeyParts
  ): Effect.Effect<{ readonly sealed: SealedObject; readonly metrics: Readonly<Record<string, number>> }, MakeError> {
    const self = this
    const tensors = node.stage.resources.tensors === true
    const code = this.#facts.code.get(node.id)!
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
          self.#job(node, key, parts, directory),
          ({ note, ...progress }) => {
            if (note !== undefined) self.#emit({ type: "note", node: node.id, message: note })
            else self.#emit({ type: "progress", node: node.id, progress })
          },
          tensors ? changedSince(code, node.stage, self.#journal) : Effect.sync(() => changedSinceLoaded(code, node.stage)),
          (text) => self.#emit({ type: "output", node: node.id, text }),
          self.#limits(node)
        )
        yield* self.#checkFiles(node)
        const sealed = yield* self.#store.seal(directory, node.type).pipe(
          Effect.mapError((error) =>
            error._tag === "ArtifactError"
              ? new StageError({
                  reason: "BadOutput",
                  message: `Stage ${node.stage.name} wrote something else than a ${node.type.name}. ${error.message}`
                })
              : error
          )
        )
        return { metrics, sealed }
      }).pipe(Effect.onError(() => self.#store.remove(directory)))
    })
  }

  /**
   * Makes what several nodes wrote last, and then records it: a record never names what a loss of power could take. Gives for each the trace that
   * it replaces, if any (--force).
   */
  async #commit(finished: ReadonlyArray<Finished>): Promise<Array<Effect.Effect<Trace | undefined, MakeError>>> {
    const errors: Array<MakeError | undefined> = await this.#store.keep(finished.map(({ sealed }) => sealed))
    const before: Array<Trace | undefined> = []
    try {
      const standing = this.#flights.standing(finished)
      this.#journal.transaction(() =>
        finished.forEach((item, i) => {
          if (errors[i] !== undefined) return
          // Nobody can have taken over from a process that lives; a result that was made beside another's is not recorded over it.
          if (standing.has(item.key)) before[i] = this.#recordMade(item)
          else
            errors[i] = new StageError({
              reason: "Overtaken",
              message: `Another run took over node "${item.node.id}" while this one made it (was leases.db deleted?). Run again: the other's result is found.`
            })
        })
      )
    } catch (cause) {
      finished.forEach((_, i) => (errors[i] ??= cause as StoreError))
    }
    return errors.map((error, i) => (error === undefined ? Effect.succeed(before[i]) : Effect.fail(error)))
  }

  #recordMade({ node, key, parts, sealed, metrics, milliseconds }: Finished): Trace | undefined {
    const { contentDigest, digest } = sealed
    const before = this.#isForced(node.id) ? this.#journal.trace(key) : undefined
    if (before !== undefined) this.#journal.retireTrace(key)
    this.#journal.recordTrace(
      { key, digest, contentDigest, type: node.type.name, metrics },
      // Run and node name the execution that is recorded beside it: key, parts and code are there.
      { run: this.#id, node: node.id, inputs: node.inputs, node_version: process.version }
    )
    this.#record(node, key, parts, "ran", milliseconds, digest, null)
    return before
  }

  #checkpoints(key: string): string {
    return join(this.#options.home, "checkpoints", key)
  }

  /** All that shards depend on, except the dataset that is cut, has one file. */
  #shards({ stage: { sharding } }: StageNode, parts: KeyParts): string | null {
    if (sharding === undefined) return null
    const base = cacheKey({ ...parts, inputs: { ...parts.inputs, [sharding.over]: null } })
    return join(this.#options.home, "shards", `${base}.db`)
  }

  #job(node: StageNode, key: string, parts: KeyParts, output: string): Job {
    const ref = (id: string): ArtifactRef<any> => {
      const { path, type, digest, contentDigest } = this.#made.get(id)!
      return { path, type, digest, contentDigest }
    }
    const { checkpointSeconds, checkpointSteps: steps } = this.#options
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
      checkpoints: {
        folder: this.#checkpoints(key),
        seconds: checkpointSeconds ?? (steps === undefined ? usualCheckpointSeconds : Infinity),
        steps
      },
      shards: this.#shards(node, parts),
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

  /** The parts of a key as far as they are known. */
  #knownParts(node: StageNode): KeyParts {
    return keyParts(node, this.#facts, (dependency) => this.#made.get(dependency)?.contentDigest ?? "")
  }

  /** A node whose input can't be read. */
  #refuse(node: StageNode, error: string): void {
    const parts = this.#knownParts(node)
    this.#recordSoon(() => this.#record(node, "", parts, "failed", 0, null, error))
    this.#report(node, { status: "failed", milliseconds: 0, key: null, digest: null, metrics: {}, error })
  }

  #skip(node: StageNode, key: string | null): void {
    const parts = this.#knownParts(node)
    this.#recordSoon(() => this.#record(node, key ?? "", parts, "skipped", 0, null, null))
    this.#report(node, { status: "skipped", milliseconds: 0, key, digest: null, metrics: {}, error: null })
  }

  #report(node: StageNode, result: Omit<NodeResult, "id" | "stage">): void {
    const full = { id: node.id, stage: node.stage.name, ...result }
    this.#results.set(node.id, full)
    this.#emit({ type: "node-finished", node: full })
  }
}
