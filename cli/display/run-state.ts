/** The state of a run, updated from its events: the data behind the live view and the piped lines. */
import { basename } from "node:path"
import type { NodeResult, RunEvent } from "../../runtime/run/events.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import { size } from "./units.ts"

/** Maximum number of losses in a sparkline. */
const keptLosses = 30
/** Throughput is averaged over this many milliseconds: what a stage did an hour ago is irrelevant. */
const throughputWindow = 30_000

export interface RunningNode {
  readonly id: string
  readonly started: number
  progress: Progress
  /** The first reported step and its time: the remaining time follows from the steps since then, not from those before a resume. */
  firstStep: number | undefined
  firstStepAt: number
  /** When the last step was reported. */
  stepAt: number
  losses: Array<number>
  /** [time, tokens since the previous report] */
  tokens: Array<readonly [number, number]>
  tokensFrom: number
}

const begun = (id: string, now: number): RunningNode => ({
  id,
  started: now,
  progress: {},
  firstStep: undefined,
  firstStepAt: now,
  stepAt: now,
  losses: [],
  tokens: [],
  tokensFrom: now
})

/** The label of an input that is being read, among the running nodes. */
export const readingOf = (path: string): string => `reading ${basename(path)}`
/** The label of an input that is being downloaded. */
export const downloadingOf = (name: string): string => `downloading ${name}`
/** "1.2 GB of 4.0 GB, 30%" */
const readingText = ({ done, total }: { readonly done: number; readonly total: number }): string =>
  `${size(done)} of ${size(total)}, ${Math.min(100, Math.floor((100 * done) / Math.max(1, total)))}%`

export class RunState {
  readonly nodes = new Map<string, RunningNode>()
  /** Node -> the process that computes it. */
  readonly waiting = new Map<string, string>()
  readonly counts: Record<NodeResult["status"], number> = { ran: 0, hit: 0, fetched: 0, failed: 0, skipped: 0 }
  total = 0
  started: number

  constructor(now: number) {
    this.started = now
  }

  /** Number of unfinished nodes: running, waiting or not started. */
  get left(): number {
    const { ran, hit, fetched, failed, skipped } = this.counts
    return Math.max(0, this.total - ran - hit - fetched - failed - skipped)
  }

  on(event: RunEvent, now: number): void {
    switch (event.type) {
      case "run-started":
        this.total = event.nodes.length
        this.started = now
        break
      case "node-started":
        this.waiting.delete(event.node)
        this.nodes.set(event.node, begun(event.node, now))
        break
      case "reading":
      case "downloading": {
        const name = event.type === "reading" ? readingOf(event.path) : downloadingOf(event.name)
        if (event.done === event.total) this.nodes.delete(name)
        else {
          const node = this.nodes.get(name) ?? begun(name, now)
          this.nodes.set(name, node)
          node.progress = { message: readingText(event) }
        }
        break
      }
      case "node-waiting":
        this.waiting.set(event.node, event.by)
        break
      case "progress":
        this.#progress(event.node, event.progress, now)
        break
      case "node-finished": {
        const { id, status } = event.node
        this.nodes.delete(id)
        this.waiting.delete(id)
        this.counts[status]++
        break
      }
      case "output":
      case "note":
      case "run-finished":
        break
    }
  }

  #progress(id: string, progress: Progress, now: number): void {
    const node = this.nodes.get(id)
    if (node === undefined) return
    // Fields missing from a report keep their value, except for its message.
    const { message: _, ...before } = node.progress
    node.progress = { ...before, ...progress }
    if (progress.step !== undefined) node.stepAt = now
    if (progress.step !== undefined && (node.firstStep === undefined || progress.step < node.firstStep)) {
      node.firstStep = progress.step
      node.firstStepAt = now
    }
    if (progress.loss !== undefined) node.losses = [...node.losses.slice(1 - keptLosses), progress.loss]
    if (progress.tokens !== undefined && progress.tokens > 0) {
      node.tokens.push([now, progress.tokens])
      while (node.tokens.length > 1 && now - node.tokens[0]![0] > throughputWindow) node.tokensFrom = node.tokens.shift()![0]
    }
  }
}

/** Recent tokens per second, up to the last report. */
export const throughput = ({ tokens, tokensFrom }: RunningNode): number | undefined => {
  const last = tokens.at(-1)
  if (last === undefined || last[0] <= tokensFrom) return undefined
  return (tokens.reduce((sum, [, count]) => sum + count, 0) / (last[0] - tokensFrom)) * 1000
}

/** Milliseconds until the last step, at the average pace so far. */
export const timeLeft = ({ progress, firstStep, firstStepAt, stepAt }: RunningNode, now: number): number | undefined => {
  const { step, total } = progress
  if (step === undefined || total === undefined || firstStep === undefined || step <= firstStep) return undefined
  return Math.max(0, ((stepAt - firstStepAt) / (step - firstStep)) * (total - step) - (now - stepAt))
}
