import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { duration, showProgress } from "../../cli/progress.ts"
import type { NodeResult, RunEvent } from "../../runtime/run.ts"

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

/** What is written to a stream, after these events a second apart. */
const written = (terminal: boolean, columns: number, events: ReadonlyArray<RunEvent>): string => {
  let text = ""
  const stream = { isTTY: terminal, columns, write: (chunk: string) => (text += chunk) } as unknown as NodeJS.WriteStream
  const { onEvent, close } = showProgress(stream)
  for (const event of events) {
    vi.advanceTimersByTime(1000)
    onEvent(event)
  }
  close()
  return text
}
const started: RunEvent = { type: "node-started", node: "sft", stage: "sft", why: ["config epochs: 1 -> 2"] }
const steps = (from: number, to: number, more: object = {}): Array<RunEvent> =>
  Array.from({ length: to - from + 1 }, (_, i) => ({
    type: "progress",
    node: "sft",
    progress: { step: from + i, total: 100, tokens: 2000, loss: 2.5, ...more }
  }))
const finished: RunEvent = {
  type: "node-finished",
  node: {
    id: "sft",
    stage: "sft",
    status: "ran",
    milliseconds: 61_000,
    key: "",
    digest: "",
    metrics: { loss: 1.23456 },
    error: null
  } satisfies NodeResult
}

/** One line up; all below wiped. */
const [up, wipe] = ["\u001b[1A", "\u001b[0J"]

describe("progress", () => {
  it("when piped is a plain line now and then, with step, loss, throughput and what is left", () => {
    const text = written(false, 0, [started, ...steps(1, 25), finished])
    const lines = text.trimEnd().split("\n")
    expect(lines[0]).toBe("sft: running (config epochs: 1 -> 2)")
    // Every ten seconds or so, not every step: 2,000 tokens a second, a second a step.
    expect(lines.slice(1, -1).map((line) => line.replace(/^\d\d:\d\d:\d\d /, ""))).toEqual([
      "sft  11/100  loss 2.500  2,000 tokens/s  1 min 29 s left",
      "sft  22/100  loss 2.500  2,000 tokens/s  1 min 18 s left"
    ])
    expect(lines.at(-1)).toBe("sft: done in 1 min 1 s (loss 1.235)")
    expect(text).not.toContain("\u001b")
  })

  it("on a terminal is one line a node, redrawn, never wider than the terminal", () => {
    const text = written(true, 30, [started, ...steps(1, 3, { message: "a long message that does not fit" }), finished])
    const drawn = text.split("\n").filter((line) => line.includes("/100"))
    expect(drawn.length).toBe(3)
    for (const line of drawn) expect(line.replaceAll(up, "").replaceAll(wipe, "").length).toBeLessThan(30)
    // What is drawn is wiped before the last word.
    expect(text).toContain(`${up}${wipe}sft: done`)
  })

  it("takes a terminal without columns for one of 80, and shows a loss that is no number", () => {
    expect(written(true, 0, [started, ...steps(1, 2, { loss: Number.NaN })])).toContain("loss NaN")
  })
})

describe("a duration", () => {
  it("is told in the unit that fits", () => {
    expect([0.4, 999, 1000, 59_940, 60_000, 3_599_000, 3_600_000, 90_000_000].map(duration)).toEqual([
      "0 ms",
      "999 ms",
      "1.0 s",
      "59.9 s",
      "1 min 0 s",
      "59 min 59 s",
      "1 h 0 min",
      "25 h 0 min"
    ])
    // Rounded up, not over: never "60.0 s" or "60 s" after minutes.
    expect([59_960, 119_700].map(duration)).toEqual(["1 min 0 s", "2 min 0 s"])
  })
})
