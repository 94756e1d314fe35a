/** Ctrl-C while jobs run on Slurm: asks on a terminal whether the jobs should continue without the run. */
import { createInterface } from "node:readline"
import type { Interruption } from "../runtime/run/execute.ts"
import type { Given } from "./command.ts"
import { interruption } from "./run-flags.ts"

export interface JobsAtEnd {
  /** For the run's options. */
  readonly onInterruption: () => Interruption
  /** Asks if no flag decided it and stdin and stderr are terminals; passed to `untilInterrupted`. */
  readonly ask: (() => Promise<void>) | undefined
}

/** `hasJobs`: whether there are any jobs to ask about at that moment. */
export const jobsAtEnd = (given: Given, say: (text: string) => void, hasJobs: () => boolean): JobsAtEnd => {
  const said = interruption(given)
  let chosen = said ?? "leave"
  const isTerminal = process.stdin.isTTY && process.stderr.isTTY
  const ask = () =>
    new Promise<void>((resolve) => {
      if (!hasJobs()) return resolve()
      say(
        "Leave this run's Slurm jobs running for the next run to find, or cancel them? [L/c] (Ctrl-C again: leave them and stop immediately)"
      )
      const lines = createInterface({ input: process.stdin })
      // A separate reader: while it is open, Ctrl-C at a terminal may arrive as a character instead of a signal.
      lines.once("line", (line) => {
        if (/^c/i.test(line.trim())) chosen = "cancel"
        lines.close()
        resolve()
      })
      lines.once("close", resolve)
    })
  return { onInterruption: () => chosen, ask: said === undefined && isTerminal ? ask : undefined }
}
