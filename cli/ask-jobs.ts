/** Ctrl-C while jobs run on Slurm: a terminal is asked whether they go on without the run. */
import { createInterface } from "node:readline"
import type { Interruption } from "../runtime/run/execute.ts"
import type { Given } from "./command.ts"
import { interruption } from "./run-flags.ts"

export interface JobsAtEnd {
  /** For the run's options. */
  readonly onInterruption: () => Interruption
  /** Asks, if nothing was said by flag and there is somebody to ask; for `untilInterrupted`. */
  readonly ask: (() => Promise<void>) | undefined
}

/** `hasJobs`: whether there is anything to ask about, when it comes to that. */
export const jobsAtEnd = (given: Given, say: (text: string) => void, hasJobs: () => boolean): JobsAtEnd => {
  const said = interruption(given)
  let chosen = said ?? "leave"
  const isTerminal = process.stdin.isTTY && process.stderr.isTTY
  const ask = () =>
    new Promise<void>((resolve) => {
      if (!hasJobs()) return resolve()
      say(
        "Its jobs on Slurm: leave them running, for the next run to find, or cancel them? [L/c] (Ctrl-C again: leave them and stop at once)"
      )
      const lines = createInterface({ input: process.stdin })
      // Of its own: what is typed at a terminal comes as a character here, not as a signal.
      lines.once("line", (line) => {
        if (/^c/i.test(line.trim())) chosen = "cancel"
        lines.close()
        resolve()
      })
      lines.once("close", resolve)
    })
  return { onInterruption: () => chosen, ask: said === undefined && isTerminal ? ask : undefined }
}
