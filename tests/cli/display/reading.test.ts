/** Progress of a long read: on a terminal, and piped. */
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { showReading } from "../../../cli/display/reading.ts"

beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }))
afterEach(() => void vi.useRealTimers())

/** The output while a megabyte is read every half second, ten times. */
const written = (isTTY: boolean): Array<string> => {
  const lines: Array<string> = []
  const stream = { isTTY, write: (text: string) => lines.push(text) > 0 } as unknown as NodeJS.WriteStream
  const reading = showReading("Reading the store", stream)
  reading.start(10e6)
  for (let i = 0; i < 10; i++) {
    vi.advanceTimersByTime(500)
    reading.onBytes(1e6)
  }
  reading.close()
  return lines
}

it("a read that takes longer than a second is shown on one line of the terminal, which is removed at the end", () => {
  const lines = written(true)
  expect(lines[0]).toBe("Reading the store: 2.0 MB of 10 MB, 20%")
  expect(lines.slice(-3)).toEqual(["\r\u001b[0K", "Reading the store: 10 MB of 10 MB, 100%", "\r\u001b[0K"])
})

it("piped, it is one line every ten seconds", () => {
  expect(written(false)).toEqual(["Reading the store: 2.0 MB of 10 MB, 20%\n"])
})
