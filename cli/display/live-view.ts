/** The lines of the live view: one per running node, then the waiting nodes, then the run. Pure: computed from a state, a time and a size. */
import { duration, number } from "./numbers.ts"
import { type RunningNode, type RunState, throughput, timeLeft } from "./run-state.ts"
import { cut, plain, widthOf } from "./width.ts"

export interface Size {
  readonly columns: number
  readonly rows: number
}

/** Applies colours to text; the identity function without colours. */
export interface Paint {
  readonly dim: (text: string) => string
  readonly bar: (text: string) => string
  readonly bad: (text: string) => string
}

const code = (open: number, close: number) => (text: string) => `\u001b[${open}m${text}\u001b[${close}m`
export const colours: Paint = { dim: code(2, 22), bar: code(36, 39), bad: code(31, 39) }
const same = (text: string) => text
export const noColours: Paint = { dim: same, bar: same, bad: same }

const barWidth = 16
const widestName = 28
/** Maximum number of waiting nodes listed. */
const shownWaiting = 3
const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
const blocks = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]

/** A bar of `width` columns, drawn in eighths of a column. */
export const bar = (share: number, width: number): string => {
  const parts = Math.round(Math.min(1, Math.max(0, share)) * width * 8)
  const full = "█".repeat(parts >> 3) + eighths[parts & 7]!
  return full + "░".repeat(width - full.length)
}

/** One character per value, scaled from minimum to maximum; NaN is a gap. */
export const sparkline = (values: ReadonlyArray<number>): string => {
  const finite = values.filter(Number.isFinite)
  const [least, most] = [Math.min(...finite), Math.max(...finite)]
  return values
    .map((value) => {
      if (!Number.isFinite(value)) return " "
      return blocks[most === least ? 3 : Math.round(((value - least) / (most - least)) * 7)]!
    })
    .join("")
}

/** A part of a line and its colour. */
type Part = readonly [text: string, paint?: (text: string) => string]

/** Joins as many parts as fit, two spaces apart; drops the others. The first part is truncated if necessary. */
const lineOf = (parts: ReadonlyArray<Part>, columns: number): string => {
  let [line, width] = ["", 0]
  for (const [index, [text, paint = same]] of parts.entries()) {
    const fitted = index === 0 ? cut(text, columns) : text
    const more = widthOf(fitted) + (index === 0 ? 0 : 2)
    if (width + more > columns) continue
    line += `${index === 0 ? "" : "  "}${paint(fitted)}`
    width += more
  }
  return line
}

const shownElsewhere = ["step", "total", "tokens", "loss", "message", "note"]
/** The stage's other reported numbers, in its order: "kl 0.012". */
const others = (node: RunningNode): Array<Part> =>
  Object.entries(node.progress).flatMap(([name, value]): Array<Part> =>
    value === undefined || shownElsewhere.includes(name) ? [] : [[plain(`${name} ${typeof value === "number" ? number(value) : value}`)]]
  )

const nodeLine = (node: RunningNode, nameWidth: number, now: number, columns: number, paint: Paint): string => {
  const { step, total, loss, message } = node.progress
  const name = cut(plain(node.id), nameWidth)
  const parts: Array<Part> = [[name + " ".repeat(Math.max(0, nameWidth - widthOf(name)))]]
  if (step !== undefined && total !== undefined && total > 0) parts.push([bar(step / total, barWidth), paint.bar])
  if (step !== undefined) parts.push([total === undefined ? String(step) : `${step}/${total}`])
  else parts.push([duration(now - node.started), paint.dim])
  const left = timeLeft(node, now)
  if (left !== undefined) parts.push([`${duration(left)} left`])
  if (loss !== undefined) parts.push([`loss ${number(loss)}`])
  const speed = throughput(node)
  if (speed !== undefined) parts.push([`${number(speed)} tokens/s`])
  if (node.losses.length > 1) parts.push([sparkline(node.losses), paint.bar])
  if (message !== undefined) parts.push([plain(message)])
  return lineOf([...parts, ...others(node)], columns)
}

const summaryLine = (state: RunState, now: number, columns: number, paint: Paint): string => {
  const { ran, hit, fetched, failed, skipped } = state.counts
  const parts: Array<Part> = [[`${ran} done`]]
  if (failed > 0) parts.push([`${failed} failed`, paint.bad])
  if (hit > 0) parts.push([`${hit} found`])
  if (fetched > 0) parts.push([`${fetched} fetched`])
  if (skipped > 0) parts.push([`${skipped} skipped`])
  return lineOf([...parts, [`${state.left} left`], [duration(now - state.started), paint.dim]], columns)
}

/** The view, never wider or higher than the terminal. One column stays free, because some terminals wrap a full line. */
export const frame = (state: RunState, now: number, size: Size, paint: Paint): Array<string> => {
  const columns = Math.max(1, size.columns - 1)
  const running = [...state.nodes.values()]
  const nameWidth = Math.min(widestName, Math.max(0, ...running.map(({ id }) => widthOf(plain(id)))))
  const lines = running.map((node) => nodeLine(node, nameWidth, now, columns, paint))
  const waiting = [...state.waiting]
    .slice(0, shownWaiting)
    .map(([id, by]) => lineOf([[plain(`${id} waiting for ${by}`), paint.dim]], columns))
  if (state.waiting.size > shownWaiting) waiting.push(lineOf([[`${state.waiting.size - shownWaiting} more waiting`, paint.dim]], columns))
  const summary = summaryLine(state, now, columns, paint)
  // The terminal's last line is for the cursor.
  const room = Math.max(1, size.rows - 1)
  const all = [...lines, ...waiting]
  if (all.length + 1 <= room) return [...all, summary]
  const shown = all.slice(0, Math.max(0, room - 2))
  return [...shown, ...(room > 1 ? [lineOf([[`... ${all.length - shown.length} more`, paint.dim]], columns)] : []), summary]
}
