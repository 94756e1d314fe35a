/**
 * Live state of runs. A run is checked on request, at most ten times per second for all clients together: the journal's change counter, the folder of
 * its logs, and new reports of its running nodes. Each client receives the nodes that changed since its last update; a slow client receives fewer
 * updates.
 */
import { statSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { logPath, loggedNodes, stepsPath } from "../../runtime/run/node-log.ts"
import { statusOf } from "../../runtime/store/asked.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import type { NodeState, RunState } from "./api.ts"
import { NotFound } from "./api.ts"
import { graphOf, wires } from "./runs.ts"
import { linesFrom } from "./tail.ts"

/** Milliseconds between two checks, and between two checks that the run's process still exists. */
const lookInterval = 90
const aliveInterval = 2000
/** Throughput is averaged over this many milliseconds before the last report. */
const window = 30_000

interface Watched {
  state: NodeState
  /** Increases with each change of the run; newer changes have not been sent yet. */
  revision: number
  offset: number
  first: { readonly step: number; readonly at: number } | undefined
  tokens: Array<readonly [at: number, tokens: number]>
}

const waiting = (id: string): NodeState => ({
  id,
  state: "waiting",
  milliseconds: null,
  started: null,
  progress: null,
  left: null,
  error: null
})

/** When a node started, from the first line of its log. */
const beganAt = (path: string): number | null => {
  try {
    // Only its beginning: a log may be large.
    const at = Date.parse(linesFrom(path, 0, 64).lines[0]!.slice(0, 24))
    return Number.isNaN(at) ? null : at
  } catch {
    return null
  }
}

export class RunWatch {
  readonly #id: string
  readonly #home: string
  readonly #nodes = new Map<string, Watched>()
  readonly #running = new Set<string>()
  #durations: ReadonlyMap<string, number> = new Map()
  #asked: unknown = null
  #status = "running"
  #finished: number | null = null
  #revision = 0
  #lastExecution = 0
  #version = -1
  #logsStamp = ""
  #looked = -Infinity
  #alive = -Infinity

  constructor(id: string, home: string) {
    this.#id = id
    this.#home = home
  }

  get isOver(): boolean {
    return this.#status !== "running"
  }

  /** Changes after this revision, with the current revision; undefined if nothing changed. 0 returns everything. */
  since(revision: number): { readonly state: RunState; readonly revision: number } | undefined {
    if (revision >= this.#revision) return undefined
    const nodes = [...this.#nodes.values()].flatMap((node) => (node.revision > revision ? [node.state] : []))
    return { revision: this.#revision, state: { status: this.#status, finished: this.#finished, left: this.#left(), nodes } }
  }

  stateOf(node: string): NodeState {
    return this.#nodes.get(node)?.state ?? waiting(node)
  }

  look(): Effect.Effect<void, import("../../runtime/errors.ts").StoreError | NotFound, Journal | Store> {
    const now = performance.now()
    if (now - this.#looked < lookInterval) return Effect.void
    this.#looked = now
    return this.#look(now)
  }

  readonly #look = Effect.fnUntraced(function* (this: RunWatch, now: number) {
    const journal = yield* Journal
    const isFirst = this.#revision === 0
    const version = yield* journal.version()
    const isAliveDue = !this.isOver && now - this.#alive > aliveInterval
    let changed = isFirst
    if (isFirst) {
      const run = yield* journal.runOf(this.#id)
      if (run === undefined) return yield* new NotFound({ message: `The journal has no run ${this.#id}.` })
      const { graph } = yield* journal.read((tables) => graphOf(run, tables))
      for (const { id, stage } of graph) if (stage !== null) this.#set(waiting(id))
      this.#asked = run.asked
      this.#durations = yield* journal.lastDurations(run.pipeline)
    }
    const hasNews = version !== this.#version
    if (hasNews || isFirst) {
      this.#version = version
      for (const outcome of yield* journal.outcomesOf(this.#id, this.#lastExecution)) {
        this.#lastExecution = outcome.id
        const { node, status, milliseconds, at, error } = outcome
        const before = this.#nodes.get(node)?.state.started ?? null
        const progress = this.#nodes.get(node)?.state.progress ?? null
        this.#running.delete(node)
        this.#set({ id: node, state: status, milliseconds, started: before ?? at - milliseconds, progress, left: null, error })
        changed = true
      }
    }
    if (this.#findBegun()) changed = true
    for (const node of this.#running) if (this.#readSteps(node)) changed = true
    if (isAliveDue || isFirst || hasNews) {
      this.#alive = now
      const end = yield* journal.endOf(this.#id)
      const status = end === undefined ? "running" : yield* statusOf({ ...end, asked: this.#asked })
      if (status !== this.#status || (end?.finished ?? null) !== this.#finished || isFirst) {
        this.#status = status
        this.#finished = end?.finished ?? null
        changed = true
      }
      if (this.isOver)
        for (const node of this.#running) {
          this.#running.delete(node)
          this.#set({ ...this.#nodes.get(node)!.state, state: "stopped", left: null })
          changed = true
        }
    }
    if (changed) this.#revision++
  }).bind(this)

  /** Changes belong to the next revision. */
  #set(state: NodeState): void {
    const node = this.#nodes.get(state.id)
    if (node === undefined) this.#nodes.set(state.id, { state, revision: this.#revision + 1, offset: 0, first: undefined, tokens: [] })
    else {
      node.state = state
      node.revision = this.#revision + 1
    }
  }

  /** Nodes with a log but no recorded end are running. */
  #findBegun(): boolean {
    if (this.isOver && this.#revision > 0) return false
    let stamp = ""
    try {
      stamp = String(statSync(join(this.#home, "logs", this.#id)).mtimeMs)
    } catch {
      return false
    }
    if (stamp === this.#logsStamp) return false
    this.#logsStamp = stamp
    let changed = false
    for (const id of loggedNodes(this.#home, this.#id)) {
      const known = this.#nodes.get(id)?.state
      if (known !== undefined && known.state !== "waiting") continue
      this.#running.add(id)
      this.#set({ ...waiting(id), state: "running", started: beganAt(logPath(this.#home, this.#id, id)) })
      changed = true
    }
    return changed
  }

  /** Reads new reports of a running node. */
  #readSteps(id: string): boolean {
    const node = this.#nodes.get(id)!
    const path = stepsPath(this.#home, this.#id, id)
    if (statSync(path, { throwIfNoEntry: false })?.size === node.offset) return false
    const { lines, next } = linesFrom(path, node.offset)
    node.offset = next
    if (lines.length === 0) return false
    let progress: Record<string, number | string> = { ...node.state.progress }
    let at = Date.now()
    for (const line of lines) {
      const report = reportOf(line)
      if (report === undefined) continue
      const { at: when, ...fields } = report
      at = when
      progress = { ...progress, ...wires(fields) }
      const { step, tokens } = fields as Record<string, unknown>
      if (typeof step === "number" && (node.first === undefined || step < node.first.step)) node.first = { step, at }
      if (typeof tokens === "number") node.tokens.push([at, tokens])
    }
    while (node.tokens.length > 2 && at - node.tokens[0]![0] > window) node.tokens.shift()
    const since = node.tokens[0]?.[0]
    if (since !== undefined && at > since)
      progress.tokensPerSecond = (node.tokens.slice(1).reduce((sum, [, tokens]) => sum + tokens, 0) / (at - since)) * 1000
    const { step, total } = progress
    const left =
      typeof step === "number" && typeof total === "number" && node.first !== undefined && step > node.first.step
        ? Math.max(0, ((at - node.first.at) / (step - node.first.step)) * (total - step))
        : null
    this.#set({ ...node.state, progress, left })
    return true
  }

  /**
   * Estimated from each remaining node's earlier duration; nodes that never ran are assumed to take as long as the others. null if most have never
   * run.
   */
  #left(): number | null {
    if (this.isOver) return null
    let [known, unknown, sum] = [0, 0, 0]
    for (const { state } of this.#nodes.values()) {
      if (state.state !== "waiting" && state.state !== "running") continue
      const before = this.#durations.get(state.id)
      const elapsed = state.started === null ? 0 : Date.now() - state.started
      const left = state.left ?? (before === undefined ? undefined : Math.max(0, before - elapsed))
      if (left === undefined) unknown++
      else {
        known++
        sum += left
      }
    }
    return known === 0 || unknown > known ? null : sum * (1 + unknown / known)
  }
}

const reportOf = (line: string): { readonly at: number } | undefined => {
  try {
    const report = JSON.parse(line) as { readonly at?: unknown } | null
    return typeof report === "object" && report !== null && typeof report.at === "number" ? (report as { readonly at: number }) : undefined
  } catch {
    // Truncated by a kill.
    return undefined
  }
}
