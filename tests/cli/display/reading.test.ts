/** How far a long reading is: on a terminal, and piped. */
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { showReading } from "../../../cli/display/reading.ts"

beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }))
afterEach(() => void vi.useRealTimers())

/** What is written while a megabyte is read each half second, ten times. */
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

it("a reading that takes longer than a second is told of in one line of the terminal, which is gone at the end", () => {
  const lines = written(true)
  expect(lines[0]).toBe("Reading the store: 2.0 MB of 10 MB, 20%")
  expect(lines.slice(-3)).toEqual(["\r\u001b[0K", "Reading the store: 10 MB of 10 MB, 100%", "\r\u001b[0K"])
})

it("piped, it is a line every ten seconds", () => {
  expect(written(false)).toEqual(["Reading the store: 2.0 MB of 10 MB, 20%\n"])
})
