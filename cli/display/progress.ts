/**
 * A run's progress on stderr: on a terminal the live view (live-view.ts), redrawn in place below the permanent lines; when piped, plain lines from
 * time to time.
 */
import type { RunEvent } from "../../runtime/run/events.ts"
import { colours, frame, noColours } from "./live-view.ts"
import { duration, number } from "./numbers.ts"
import { downloadingOf, readingOf, type RunningNode, RunState, throughput, timeLeft } from "./run-state.ts"
import { skippedLines } from "./skipped.ts"
import { visible } from "../../schemas/visible.ts"
import { plain, widthOf } from "./width.ts"

export { duration } from "./numbers.ts"

/** Minimum interval between progress lines per node when piped, in milliseconds. */
const pipedInterval = 10_000
/** Minimum interval between redraws on a terminal, in milliseconds. */
const drawInterval = 100
/** Maximum interval between redraws, because elapsed times change. */
const tickInterval = 1000

const [hideCursor, showCursor, clearBelow] = ["\u001b[?25l", "\u001b[?25h", "\u001b[0J"]

export interface Shown {
  readonly onEvent: (event: RunEvent) => void
  /** Prints a permanent line. */
  readonly say: (text: string) => void
  /** Clears the redrawn lines and restores the cursor. */
  readonly close: () => void
}

/** A running node as a line of piped output. */
const describe = (node: RunningNode, now: number): string => {
  const { step, total, loss, message } = node.progress
  const parts = [node.id]
  if (step !== undefined) parts.push(total === undefined ? `${step}` : `${step}/${total}`)
  if (loss !== undefined) parts.push(`loss ${number(loss)}`)
  const speed = throughput(node)
  if (speed !== undefined) parts.push(`${number(speed)} tokens/s`)
  const left = timeLeft(node, now)
  if (left !== undefined) parts.push(`${duration(left)} left`)
  if (message !== undefined) parts.push(message)
  return parts.join("  ")
}

/** The permanent line for an event; undefined if it has none. */
const lineOf = (event: RunEvent, state: RunState): string | undefined => {
  switch (event.type) {
    // A stage's output goes to its log (caravan log).
    case "output":
    case "run-started":
    case "progress":
    case "reading":
    case "downloading":
      return undefined
    case "node-started":
      return `${event.node}: running (${event.why.join("; ")})`
    case "node-waiting":
      return `${event.node}: waiting for ${event.by}, which is computing it`
    case "note":
      return `${event.node}: ${event.message}`
    case "node-finished": {
      const { id, status, milliseconds, metrics, error } = event.node
      if (status === "failed") return `${id}: FAILED after ${duration(milliseconds)}. ${error}`
      if (status === "skipped") return `${id}: skipped`
      // The rows that a reused result skipped were reported when it was made; `show` lists them.
      if (status !== "ran") return undefined
      const skipped = skippedLines(event.node).map((text) => `${id}: ${text}`)
      return [`${id}: done in ${duration(milliseconds)}${metricsOf(metrics)}`, ...skipped].join("\n")
    }
    case "run-finished": {
      const { fetched, hit } = state.counts
      const elsewhere = fetched > 0 ? `; ${fetched} copied from shared results` : ""
      return `${event.status === "succeeded" ? "Done" : "Failed"} in ${duration(event.milliseconds)}${hit > 0 ? `; ${hit} found in the store` : ""}${elsewhere}.`
    }
  }
}

/** Listens to a run's events and displays them. Call `close` at the end. */
export const showProgress = (
  stream: NodeJS.WriteStream = process.stderr,
  environment: Readonly<Record<string, string | undefined>> = process.env
): Shown => (stream.isTTY && environment.TERM !== "dumb" ? onTerminal(stream, environment) : inLines(stream))

/** With --quiet: only failures. */
export const showFailures = (): Shown => {
  const say = (text: string) => void process.stderr.write(`${visible(text)}\n`)
  const state = new RunState(performance.now())
  let hasEnded = false
  return {
    say,
    close: () => undefined,
    onEvent: (event) => {
      if (event.type === "run-finished") hasEnded = true
      // After the end, notes are lock file mismatches.
      const isFailure = event.type === "node-finished" ? event.node.status === "failed" : event.type === "note" && hasEnded
      if (isFailure) say(lineOf(event, state)!)
    }
  }
}

/** Plain lines. */
const inLines = (stream: NodeJS.WriteStream): Shown => {
  const state = new RunState(performance.now())
  const shown = new Map<string, number>()
  const say = (text: string) => void stream.write(`${visible(text)}\n`)
  return {
    say,
    close: () => undefined,
    onEvent: (event) => {
      const now = performance.now()
      state.on(event, now)
      const line = lineOf(event, state)
      if (line !== undefined) say(line)
      if (event.type === "node-started") shown.set(event.node, now)
      const running =
        event.type === "progress"
          ? event.node
          : event.type === "reading"
            ? readingOf(event.path)
            : event.type === "downloading"
              ? downloadingOf(event.name)
              : undefined
      const node = running === undefined ? undefined : state.nodes.get(running)
      if (node === undefined || now - (shown.get(node.id) ?? node.started) <= pipedInterval) return
      shown.set(node.id, now)
      say(`${new Date().toISOString().slice(11, 19)} ${describe(node, now)}`)
    }
  }
}

/** The live view. */
const onTerminal = (stream: NodeJS.WriteStream, environment: Readonly<Record<string, string | undefined>>): Shown => {
  const state = new RunState(performance.now())
  // https://no-color.org: set and not empty.
  const paint = (environment.NO_COLOR ?? "") === "" ? colours : noColours
  const columns = () => (stream.columns > 0 ? stream.columns : 80)
  let drawn: ReadonlyArray<string> = []
  let last = -Infinity
  let open = false
  let closed = false
  let pending: NodeJS.Timeout | undefined
  /** Clears up to where the view begins: lines wider than the terminal's current width have wrapped. */
  const wiped = (): string => {
    const rows = drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(widthOf(plain(line)) / columns())), 0)
    drawn = []
    return rows === 0 ? "" : `\u001b[${rows}A\r${clearBelow}`
  }
  const restore = () => {
    if (open) stream.write(`${wiped()}${showCursor}`)
    open = false
  }
  const draw = (above = "") => {
    clearTimeout(pending)
    pending = undefined
    const now = performance.now()
    const before = `${open ? "" : hideCursor}${wiped()}`
    drawn = frame(state, now, { columns: columns(), rows: stream.rows > 0 ? stream.rows : 24 }, paint)
    stream.write(`${before}${above}${drawn.map((line) => `${line}\n`).join("")}`)
    open = true
    last = now
  }
  const redraw = () => {
    if (open) draw()
  }
  const ticking = setInterval(redraw, tickInterval)
  ticking.unref()
  stream.on("resize", redraw)
  // On every exit except kill -9.
  process.on("exit", restore)
  const close = () => {
    closed = true
    clearTimeout(pending)
    clearInterval(ticking)
    stream.off("resize", redraw)
    process.off("exit", restore)
    restore()
  }
  return {
    close,
    say: (text) => (open ? draw(`${visible(text)}\n`) : void stream.write(`${visible(text)}\n`)),
    onEvent: (event) => {
      state.on(event, performance.now())
      const told = lineOf(event, state)
      const line = told === undefined ? undefined : visible(told)
      if (event.type === "run-finished") close()
      // Lock file mismatches are reported after the end.
      if (closed) stream.write(line === undefined ? "" : `${line}\n`)
      else if (line !== undefined) draw(`${event.type === "node-finished" && event.node.status === "failed" ? paint.bad(line) : line}\n`)
      else if (performance.now() - last >= drawInterval) draw()
      else pending ??= setTimeout(() => draw(), drawInterval).unref()
    }
  }
}

const metricsOf = (metrics: Readonly<Record<string, number>>): string => {
  const shown = Object.entries(metrics).slice(0, 6)
  return shown.length === 0 ? "" : ` (${shown.map(([name, value]) => `${name} ${number(value)}`).join(", ")})`
}
