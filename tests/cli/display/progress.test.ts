import { stripVTControlCharacters } from "node:util"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { bar, frame, noColours, sparkline } from "../../../cli/display/live-view.ts"
import { duration, showProgress } from "../../../cli/display/progress.ts"
import { RunState } from "../../../cli/display/run-state.ts"
import { widthOf } from "../../../cli/display/width.ts"
import type { NodeResult, RunEvent } from "../../../runtime/run/events.ts"
import { Screen } from "./screen.ts"

let listeners = 0
beforeEach(() => {
  vi.useFakeTimers()
  listeners = process.listeners("exit").length
})
afterEach(() => {
  vi.useRealTimers()
  // Anything that a test left open.
  for (const listener of process.listeners("exit").slice(listeners)) process.off("exit", listener)
})

/** The output to a pipe for these events, one second apart. */
const piped = (events: ReadonlyArray<RunEvent>): string => {
  let text = ""
  const stream = { isTTY: false, write: (chunk: string) => (text += chunk) } as unknown as NodeJS.WriteStream
  const { onEvent, close } = showProgress(stream, {})
  for (const event of events) {
    vi.advanceTimersByTime(1000)
    onEvent(event)
  }
  close()
  return text
}
/** A terminal, and a view that shows events on it, one second apart, the first after 0.9 s; inspected 0.1 s after the last, when it has been drawn. */
const live = (columns: number, rows = 24, environment: Record<string, string> = {}) => {
  const screen = new Screen(columns, rows)
  const shown = showProgress(screen.stream, environment)
  const on = (...events: ReadonlyArray<RunEvent>) => {
    for (const event of events) {
      vi.advanceTimersByTime(900)
      shown.onEvent(event)
      vi.advanceTimersByTime(100)
    }
    return screen.text.split("\n")
  }
  return { screen, ...shown, on }
}
type Seen = { readonly text: string; readonly written: string }
const begun: Extract<RunEvent, { type: "run-started" }> = {
  type: "run-started",
  run: "r",
  pipeline: "p",
  nodes: ["a", "sft", "ppo", "score", "report"]
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
    skipped: [],
    skippedRows: null,
    error: null
  } satisfies NodeResult
}

const ended = (id: string, status: NodeResult["status"], error: string | null = null): RunEvent => ({
  type: "node-finished",
  node: { id, stage: id, status, milliseconds: 1000, key: null, digest: null, metrics: {}, skipped: [], skippedRows: null, error }
})
const runs = (node: string): RunEvent => ({ type: "node-started", node, stage: node, why: ["it has never run here"] })

describe("piped progress", () => {
  it("is an occasional plain line, with step, loss, throughput and remaining time", () => {
    const text = piped([started, ...steps(1, 25), finished])
    const lines = text.trimEnd().split("\n")
    expect(lines[0]).toBe("sft: running (config epochs: 1 -> 2)")
    // About every ten seconds, not every step: 2,000 tokens per second, one second per step.
    expect(lines.slice(1, -1).map((line) => line.replace(/^\d\d:\d\d:\d\d /, ""))).toEqual([
      "sft  11/100  loss 2.500  2,000 tokens/s  1 min 29 s left",
      "sft  22/100  loss 2.500  2,000 tokens/s  1 min 18 s left"
    ])
    expect(lines.at(-1)).toBe("sft: done in 1 min 1 s (loss 1.235)")
    expect(text).not.toContain("\u001b")
  })

  it("is the same on a terminal that can't move its cursor", () => {
    const screen = new Screen(80)
    const { onEvent, close } = showProgress(screen.stream, { TERM: "dumb" })
    onEvent(started)
    close()
    expect(screen.written).toBe("sft: running (config epochs: 1 -> 2)\n")
  })
})

describe("on a terminal", () => {
  it("every running node has a line with bar, step, remaining time, loss, throughput and the losses so far; below it the run's line", () => {
    const { on } = live(110)
    const losses = [4, 3.5, 3, 2, 1, 0.5]
    const lines = on(
      begun,
      ended("a", "hit"),
      started,
      ...losses.map((loss, i): RunEvent => ({
        type: "progress",
        node: "sft",
        progress: { step: i + 1, total: 12, tokens: 500, loss, kl: 0.0123 }
      }))
    )
    // 6 of 12 steps of one second each. 8 of 16 columns. Blocks: 0 is 0.5, 7 is 4.
    expect(lines).toEqual([
      "sft: running (config epochs: 1 -> 2)",
      "sft  ████████░░░░░░░░  6/12  5.9 s left  loss 0.5000  500 tokens/s  █▇▆▄▂▁  kl 0.01230",
      "0 done  1 found  4 left  8.1 s"
    ])
  })

  it("time advances without events: the remaining time falls, the elapsed time rises", () => {
    const { on, screen } = live(60)
    on(begun, started, ...steps(1, 4))
    vi.advanceTimersByTime(3000)
    expect(screen.text.split("\n").slice(1)).toEqual(["sft  ▋░░░░░░░░░░░░░░░  4/100  1 min 33 s left  loss 2.500", "0 done  5 left  8.1 s"])
  })

  it("a stage without steps shows how long it has run; several are listed with names in a column", () => {
    const { on } = live(60)
    const lines = on(begun, runs("sft"), runs("report"), {
      type: "progress",
      node: "report",
      progress: { message: "fetching\nrows \u001b[31mred" }
    })
    expect(lines.slice(2)).toEqual(["sft     2.1 s", "report  1.1 s  fetching rows red", "0 done  5 left  3.1 s"])
  })

  it("nodes that other runs make are shown as waiting, until they are found or made here", () => {
    const { on } = live(80)
    const wait: RunEvent = { type: "node-waiting", node: "sft", by: "a run in process 123" }
    expect(on(begun, wait)).toEqual([
      "sft: waiting for a run in process 123, which is computing it",
      "sft waiting for a run in process 123",
      "0 done  5 left  1.1 s"
    ])
    expect(on(ended("sft", "hit")).at(-1)).toBe("0 done  1 found  4 left  2.1 s")
    const many = live(80)
    const five = ["a", "sft", "ppo", "score", "report"].map((node): RunEvent => ({ ...wait, node }))
    expect(many.on(begun, ...five).slice(5)).toEqual([
      "a waiting for a run in process 123",
      "sft waiting for a run in process 123",
      "ppo waiting for a run in process 123",
      "2 more waiting",
      "0 done  5 left  5.1 s"
    ])
  })

  it("skipped rows are reported for nodes that ran, not for reused ones", () => {
    const skipped = [{ what: "pairs", of: 10, skipped: 2, reasons: { "not JSON": 2 } }]
    const event = (status: NodeResult["status"]): RunEvent => {
      const found = ended("sft", status)
      return found.type === "node-finished" ? { ...found, node: { ...found.node, skipped, skippedRows: "/rows" } } : found
    }
    const warning = "sft: WARNING: skipped 2 of 10 pairs (20%): 2 not JSON. They are listed in /rows"
    expect(piped([started, event("ran")])).toContain(warning)
    for (const status of ["hit", "fetched"] as const) expect(piped([started, event(status)])).not.toContain("skipped 2")
  })

  it("past events stay above; at the end the view is removed and the cursor restored", () => {
    const { on, screen } = live(80)
    on(begun, started)
    expect(screen.cursorShown).toBe(false)
    on(
      ...steps(1, 3),
      { type: "note", node: "sft", message: "its checkpoint was passed over" },
      finished,
      ended("ppo", "failed", "no memory"),
      ended("score", "skipped")
    )
    expect(screen.text.split("\n").at(-1)).toBe("1 done  1 failed  1 skipped  2 left  8.1 s")
    on({ type: "run-finished", status: "failed", milliseconds: 9000 })
    expect(screen.text.split("\n")).toEqual([
      "sft: running (config epochs: 1 -> 2)",
      "sft: its checkpoint was passed over",
      "sft: done in 1 min 1 s (loss 1.235)",
      "ppo: FAILED after 1.0 s. no memory",
      "score: skipped",
      "Failed in 9.0 s."
    ])
    expect(screen.cursorShown).toBe(true)
    // Later messages (from a lock file) do not hide it again.
    expect(on({ type: "note", node: "sft", message: "differs from the lock file" }).at(-1)).toBe("sft: differs from the lock file")
    expect([screen.cursorShown, vi.getTimerCount(), screen.listenerCount("resize")]).toEqual([true, 0, 0])
  })

  it("closing, and the end of the process, also restore the cursor, once", () => {
    const { on, screen, say, close } = live(80)
    on(begun, started)
    say("Stopping.")
    expect(screen.text.split("\n")).toEqual(["sft: running (config epochs: 1 -> 2)", "Stopping.", "sft  100 ms", "0 done  5 left  1.1 s"])
    process.listeners("exit").at(-1)!(130)
    expect([screen.cursorShown, screen.text.split("\n").length]).toEqual([true, 2])
    const before = screen.written
    close()
    expect(screen.written).toBe(before)
    expect(process.listeners("exit").length).toBe(listeners)
  })

  it.each([1, 2, 10, 20, 30, 45, 79])("no line exceeds %d columns, whatever is shown", (columns) => {
    const { screen, onEvent } = live(columns)
    onEvent({ ...begun, nodes: ["a long name of a node", "模型の名前は長い模型の名前は長い"] })
    const before = screen.written.length
    for (const node of ["a long name of a node", "模型の名前は長い模型の名前は長い"]) {
      onEvent({ type: "node-started", node, stage: node, why: [] })
      onEvent({
        type: "progress",
        node,
        progress: { step: 1, total: 3, loss: Number.NaN, tokens: 5, message: "x".repeat(200), reward: 1234.5 }
      })
    }
    vi.advanceTimersByTime(2000)
    const lines = stripVTControlCharacters(screen.written.slice(before))
      .split("\n")
      .filter((line) => !line.includes(": running"))
    expect(lines.length).toBeGreaterThan(6)
    for (const line of lines) expect(widthOf(line.replace("\r", ""))).toBeLessThanOrEqual(Math.max(1, columns - 1))
  })

  it("no frame exceeds its height: nodes that do not fit are counted", () => {
    const { on } = live(60, 5)
    const nodes = Array.from({ length: 10 }, (_, i) => `n${i}`)
    const lines = on({ ...begun, nodes }, ...nodes.map(runs))
    expect(lines.slice(10)).toEqual(["n0  9.1 s", "n1  8.1 s", "... 8 more", "0 done  10 left  10.1 s"])
  })

  it("after resizing it is redrawn, and nothing of the wider frame remains", () => {
    const { on, screen } = live(90)
    on(begun, started, ...steps(1, 3))
    screen.resize(31)
    expect(screen.text.split("\n")).toEqual([
      "sft: running (config epochs: 1 ",
      "-> 2)",
      "sft  ▌░░░░░░░░░░░░░░░  3/100",
      "0 done  5 left  4.1 s"
    ])
    screen.resize(60)
    expect(screen.text.split("\n").slice(2)).toEqual(["sft  ▌░░░░░░░░░░░░░░░  3/100  1 min 37 s left  loss 2.500", "0 done  5 left  4.1 s"])
  })

  it("NO_COLOR removes only the colours; without it a failure is red", () => {
    const [coloured, grey] = [{}, { NO_COLOR: "1" }].map((environment) => {
      const { on, screen } = live(80, 24, environment)
      on(begun, started, ...steps(1, 2), ended("ppo", "failed", "no memory"))
      return { text: screen.text, written: screen.written }
    }) as [Seen, Seen]
    expect(grey.text).toBe(coloured.text)
    // oxlint-disable-next-line no-control-regex
    expect(grey.written).not.toMatch(/\u001b\[\d+m/)
    expect(coloured.written).toContain("\u001b[31mppo: FAILED after 1.0 s. no memory")
    expect(live(80, 24, { NO_COLOR: "" }).on(begun, started).length).toBe(3)
  })

  it("a terminal of unknown size is assumed to have 80 columns, and a NaN loss is shown", () => {
    const { on } = live(0, 0)
    expect(on(begun, started, ...steps(1, 2, { loss: Number.NaN })).at(-2)).toContain("loss NaN")
  })

  it("is redrawn at most ten times per second", () => {
    const { onEvent, screen } = live(80)
    onEvent(begun)
    onEvent(started)
    const before = screen.written.length
    for (const event of steps(1, 1000)) onEvent(event)
    expect(screen.written.length).toBe(before)
  })
})

describe("a sparkline", () => {
  it("ranges from the minimum to the maximum; a single value is in the middle, NaN is a gap", () => {
    expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7])).toBe("▁▂▃▄▅▆▇█")
    expect(sparkline([3, 3])).toBe("▄▄")
    expect(sparkline([1, Number.NaN, 2, Infinity])).toBe("▁ █ ")
    expect(sparkline([])).toBe("")
  })
  it("shows the last thirty losses", () => {
    const { on } = live(120)
    const lines = on(begun, started, ...Array.from({ length: 50 }, (_, i) => steps(i, i, { loss: 50 - i })[0]!))
    const drawn = /[▁-█]+$/.exec(lines.at(-2)!)![0]
    expect([drawn.length, drawn[0], drawn.at(-1)]).toEqual([30, "█", "▁"])
  })
})

describe("a bar", () => {
  it("is filled to an eighth of a column, never beyond its ends", () => {
    expect([0, 1 / 32, 0.5, 1, 1.5, -1].map((share) => bar(share, 4))).toEqual(["░░░░", "▏░░░", "██░░", "████", "████", "░░░░"])
  })
})

describe("a duration", () => {
  it("is shown in a suitable unit", () => {
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
    // Rounded up, but not past the unit: never "60.0 s" or "60 s" after minutes.
    expect([59_960, 119_700].map(duration)).toEqual(["1 min 0 s", "2 min 0 s"])
  })
})

describe("an input that is being read", () => {
  const reading = (done: number): RunEvent => ({ type: "reading", path: "/data/hh.jsonl", done: done * 1e9, total: 4e9 })
  it("is listed among the running nodes, by its name and progress, and disappears at its end", () => {
    const state = new RunState(0)
    state.on(reading(1), 0)
    expect(frame(state, 1000, { columns: 80, rows: 10 }, noColours)[0]).toBe("reading hh.jsonl  1.0 s  1.0 GB of 4.0 GB, 25%")
    state.on(reading(4), 2000)
    expect(state.nodes.size).toBe(0)
  })
})
