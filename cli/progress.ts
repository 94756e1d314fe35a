/** What a run shows while it goes on: one redrawn line a running node on a terminal, plain lines now and then when piped. Always on stderr. */
import type { RunEvent } from "../runtime/run.ts"
import type { Progress } from "../runtime/stage.ts"

/** Piped output says how a node is doing at most this often, in milliseconds. */
const pipedInterval = 10_000
/** A terminal is redrawn at most this often, in milliseconds. */
const drawInterval = 100

interface Running {
  readonly started: number
  readonly progress: Progress
  readonly tokens: number
  readonly firstStep: number
  readonly firstStepAt: number
  shown: number
}

export const duration = (milliseconds: number): string => {
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`
  if (milliseconds < 59_950) return `${(milliseconds / 1000).toFixed(1)} s`
  const seconds = Math.round(milliseconds / 1000)
  const minutes = Math.floor(seconds / 60)
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

const number = (value: number): string =>
  Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number.isInteger(value) ? String(value) : value.toPrecision(4)

const describe = (node: string, running: Running, now: number): string => {
  const { progress } = running
  const parts = [node]
  if (progress.step !== undefined) parts.push(progress.total === undefined ? `${progress.step}` : `${progress.step}/${progress.total}`)
  if (progress.loss !== undefined) parts.push(`loss ${number(progress.loss)}`)
  const elapsed = now - running.started
  if (running.tokens > 0 && elapsed > 0) parts.push(`${number((running.tokens / elapsed) * 1000)} tokens/s`)
  const steps = (progress.step ?? 0) - running.firstStep
  if (progress.total !== undefined && progress.step !== undefined && steps > 0)
    parts.push(`${duration(((now - running.firstStepAt) / steps) * (progress.total - progress.step))} left`)
  if (progress.message !== undefined) parts.push(progress.message)
  return parts.join("  ")
}

/** Listens to a run's events and shows them. Call `close` at the end. */
export const showProgress = (
  stream: NodeJS.WriteStream = process.stderr
): { readonly onEvent: (event: RunEvent) => void; readonly close: () => void } => {
  const running = new Map<string, Running>()
  const terminal = stream.isTTY
  let drawn = 0
  let last = 0
  let hits = 0
  const clear = () => {
    if (drawn > 0) stream.write(`\u001b[${drawn}A\u001b[0J`)
    drawn = 0
  }
  const draw = () => {
    clear()
    const width = stream.columns > 0 ? stream.columns : 80
    const now = performance.now()
    for (const [node, state] of running) {
      stream.write(`${describe(node, state, now).slice(0, width - 1)}\n`)
      drawn++
    }
    last = now
  }
  const line = (text: string) => {
    clear()
    stream.write(`${text}\n`)
    if (terminal) draw()
  }
  return {
    onEvent: (event) => {
      const now = performance.now()
      switch (event.type) {
        case "run-started":
        // What a stage prints is for its log (caravan log).
        case "output":
          break
        case "node-started":
          running.set(event.node, { started: now, progress: {}, tokens: 0, firstStep: 0, firstStepAt: now, shown: now })
          line(`${event.node}: running (${event.why.join("; ")})`)
          break
        case "progress": {
          const state = running.get(event.node)
          if (state === undefined) return
          const first = state.progress.step === undefined && event.progress.step !== undefined
          const next = {
            ...state,
            progress: event.progress,
            tokens: state.tokens + (event.progress.tokens ?? 0),
            ...(first ? { firstStep: event.progress.step, firstStepAt: now } : {})
          }
          running.set(event.node, next)
          if (terminal) {
            if (now - last > drawInterval) draw()
          } else if (now - state.shown > pipedInterval) {
            next.shown = now
            stream.write(`${new Date().toISOString().slice(11, 19)} ${describe(event.node, next, now)}\n`)
          }
          break
        }
        case "node-waiting":
          line(`${event.node}: waits for ${event.by}, which makes it`)
          break
        case "note":
          line(`${event.node}: ${event.message}`)
          break
        case "node-finished": {
          const { node } = event
          running.delete(node.id)
          if (node.status === "hit") hits++
          else if (node.status === "ran") line(`${node.id}: done in ${duration(node.milliseconds)}${metricsOf(node.metrics)}`)
          else if (node.status === "failed") line(`${node.id}: FAILED after ${duration(node.milliseconds)}. ${node.error}`)
          else line(`${node.id}: skipped`)
          break
        }
        case "run-finished":
          clear()
          stream.write(
            `${event.status === "succeeded" ? "Done" : "Failed"} in ${duration(event.milliseconds)}${hits > 0 ? `; ${hits} found in the store` : ""}.\n`
          )
          break
      }
    },
    close: clear
  }
}

const metricsOf = (metrics: Readonly<Record<string, number>>): string => {
  const shown = Object.entries(metrics).slice(0, 6)
  return shown.length === 0 ? "" : ` (${shown.map(([name, value]) => `${name} ${number(value)}`).join(", ")})`
}
