/** Handles Ctrl-C and other signals that end a run. */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { exitCodes } from "./command.ts"
import type { Shown } from "./display/progress.ts"

/**
 * Runs to completion; returns undefined if Ctrl-C, SIGTERM or a closed terminal interrupted it. Finished results are kept; a second Ctrl-C does not
 * wait. A second SIGTERM is ignored, because killing a process group can reach this process twice.
 */
export const untilInterrupted = async <A, E>(
  work: Effect.Effect<A, E>,
  { say, close }: Shown,
  /** Called before Ctrl-C stops the work. */
  ask?: () => Promise<void>
): Promise<Exit.Exit<A, E> | undefined> => {
  const fiber = Effect.runFork(work)
  let interrupted = false
  const stop = (signal: NodeJS.Signals) => {
    if (interrupted && signal === "SIGINT") process.exit(exitCodes.interrupted)
    if (interrupted) return
    interrupted = true
    const end = () => {
      say("Stopping. Finished results are kept; press Ctrl-C again to stop immediately.")
      Effect.runFork(Fiber.interrupt(fiber))
    }
    if (signal === "SIGINT" && ask !== undefined) void ask().then(end, end)
    else end()
  }
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const
  for (const signal of signals) process.on(signal, stop)
  try {
    const exit = await Effect.runPromise(Fiber.await(fiber))
    return interrupted ? undefined : exit
  } finally {
    for (const signal of signals) process.off(signal, stop)
    close()
  }
}
