/** Progress of a long read on stderr: one redrawn line on a terminal, an occasional line when piped. Silent in the first second. */
import type { RunEvent } from "../../runtime/run/events.ts"
import { size } from "./units.ts"
import { plain } from "./width.ts"

const silentFor = 1000
const [drawInterval, pipedInterval] = [100, 10_000]

export interface Reading {
  /** Sets the total number of bytes. */
  readonly start: (total: number) => void
  /** Bytes read since the last call. */
  readonly onBytes: (count: number) => void
  /** Clears the redrawn line. */
  readonly close: () => void
}

/** `what` starts the line: "Reading the store". */
export const showReading = (what: string, stream: NodeJS.WriteStream = process.stderr): Reading => {
  const isTerminal = stream.isTTY && process.env.TERM !== "dumb"
  let [total, done, isDrawn] = [0, 0, false]
  let next = performance.now() + silentFor
  const wipe = () => {
    if (isDrawn) stream.write("\r\u001b[0K")
    isDrawn = false
  }
  return {
    start: (bytes) => {
      total = bytes
    },
    onBytes: (count) => {
      done += count
      const now = performance.now()
      if (now < next) return
      next = now + (isTerminal ? drawInterval : pipedInterval)
      const share = total === 0 ? 100 : Math.min(100, Math.floor((100 * done) / total))
      const line = plain(`${what}: ${size(done)} of ${size(total)}, ${share}%`)
      wipe()
      stream.write(isTerminal ? line : `${line}\n`)
      isDrawn = isTerminal
    },
    close: wipe
  }
}

/** Shows progress while inputs are hashed, one after another. */
export const showInputs = (): { readonly onEvent: (event: RunEvent) => void; readonly close: () => void } => {
  let [path, done] = ["", 0]
  let reading: Reading | undefined
  const close = () => {
    reading?.close()
    reading = undefined
    done = 0
  }
  return {
    close,
    onEvent: (event) => {
      if (event.type !== "reading") return
      if (event.path !== path) close()
      path = event.path
      if (reading === undefined) {
        reading = showReading(`Reading ${path}`)
        reading.start(event.total)
      }
      reading.onBytes(event.done - done)
      done = event.done
      if (event.done === event.total) close()
    }
  }
}
