/** How far a long reading is, on stderr: on a terminal in one line that is redrawn, piped as a line now and then. Nothing in the first second. */
import { size } from "./units.ts"
import { plain } from "./width.ts"

const silentFor = 1000
const [drawInterval, pipedInterval] = [100, 10_000]

export interface Reading {
  /** Bytes there are to read. */
  readonly start: (total: number) => void
  /** Bytes that were read since. */
  readonly onBytes: (count: number) => void
  /** Wipes what is redrawn. */
  readonly close: () => void
}

/** `what` begins the line: "Reading the store". */
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
