/** Ctrl-C and the other signals that end a run. */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { exitCodes } from "./command.ts"
import type { Shown } from "./display/progress.ts"

/**
 * Runs it to its end; undefined when Ctrl-C, SIGTERM or a closing terminal came first. What is finished is kept; a second Ctrl-C does not wait. Another
 * SIGTERM changes nothing: who stops a whole group may well reach this process twice.
 */
export const untilInterrupted = async <A, E>(
  work: Effect.Effect<A, E>,
  { say, close }: Shown,
  /** Asked before the work is stopped by Ctrl-C. */
  ask?: () => Promise<void>
): Promise<Exit.Exit<A, E> | undefined> => {
  const fiber = Effect.runFork(work)
  let interrupted = false
  const stop = (signal: NodeJS.Signals) => {
    if (interrupted && signal === "SIGINT") process.exit(exitCodes.interrupted)
    if (interrupted) return
    interrupted = true
    const end = () => {
      say("Stopping. Finished results are kept; press Ctrl-C again to stop at once.")
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
