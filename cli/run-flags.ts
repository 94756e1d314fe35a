/** What `run` and `sweep` share: flags of how a run goes, its events in a file, and Ctrl-C. */
import { closeSync, openSync, writeSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { messageOf } from "../runtime/errors.ts"
import type { NodeLimits } from "../runtime/define/node.ts"
import type { RunEvent } from "../runtime/run/events.ts"
import type { RunOptions } from "../runtime/run/options.ts"
import { exitCodes, type Flags, type Given, UsageError, wholeNumber } from "./command.ts"
import type { Shown } from "./display/progress.ts"

export const runFlags: Flags = {
  jobs: { value: "n", help: "stages without tensors that run at once; 1 unless given" },
  timeout: { value: "seconds", help: "how long a node may take before it is stopped and fails" },
  memory: { value: "MiB", help: "how much memory the process of a stage with tensors may take before it is stopped and fails" },
  retries: { value: "n", help: "how often a node is tried again that crashed, was too slow or failed by chance; 0 unless given" },
  "checkpoint-steps": { value: "n", help: "steps between two checkpoints of a stage; with --checkpoint-seconds, whichever comes first" },
  "checkpoint-seconds": { value: "n", help: "seconds between two checkpoints of a stage, at least; 60 unless given, 0: after every step" },
  events: {
    value: "file",
    help: "write every event to this file as it happens, a line of JSON each; - for stdout, which then has nothing else"
  }
}

/** A number above zero from a flag, of up to a month of seconds or a PiB of memory. */
const positive = (given: Given, name: string, what: string): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 2 ** 30) throw new UsageError(`--${name} takes ${what} above 0, got "${text}".`)
  return value
}

export const runOptions = (given: Given): Pick<RunOptions, "jobs" | "limits" | "checkpointSeconds" | "checkpointSteps"> => {
  const limits: NodeLimits = withValue({ ...limitsOf(given), retries: wholeNumber(given, "retries", 0) })
  const checkpoints = withValue({
    checkpointSeconds: wholeNumber(given, "checkpoint-seconds", 0),
    checkpointSteps: wholeNumber(given, "checkpoint-steps", 1)
  })
  return { jobs: wholeNumber(given, "jobs", 1) ?? 1, limits, ...checkpoints }
}

/** What each node may take. */
export const limitsOf = (given: Given): Pick<NodeLimits, "seconds" | "memory"> =>
  withValue({ seconds: positive(given, "timeout", "seconds"), memory: positive(given, "memory", "MiB") })

const withValue = <A extends object>(fields: A): { [Name in keyof A]?: Exclude<A[Name], undefined> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof A]?: Exclude<A[Name], undefined>
  }

export interface EventFile {
  readonly onEvent: (event: RunEvent) => void
  readonly close: () => void
}

/** An event as a line of JSON, with its time. Numbers that JSON does not know (a loss that is NaN) are texts. */
export const eventLine = (event: RunEvent, time: Date): string =>
  `${JSON.stringify({ time: time.toISOString(), ...event }, (_, value: unknown) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value))}\n`

/** Where --events goes; without it, nowhere. */
export const openEvents = (given: Given): EventFile => {
  const path = given.flag("events")
  if (path === undefined) return { onEvent: () => undefined, close: () => undefined }
  if (path === "-") {
    if (given.has("json")) throw new UsageError("--events - and --json both want stdout: give --events a file.")
    return { onEvent: (event) => void process.stdout.write(eventLine(event, new Date())), close: () => undefined }
  }
  let file: number
  try {
    file = openSync(path, "w")
  } catch (cause) {
    throw new UsageError(`--events ${path}: ${messageOf(cause)}. Name a file that can be written.`)
  }
  let broken = false
  return {
    onEvent: (event) => {
      if (broken) return
      try {
        writeSync(file, eventLine(event, new Date()))
      } catch (cause) {
        // The run matters more than what is told of it.
        broken = true
        process.stderr.write(`Writing the events to ${path}: ${messageOf(cause)}. The run goes on without.\n`)
      }
    },
    close: () => closeSync(file)
  }
}

/**
 * Runs it to its end; undefined when Ctrl-C, SIGTERM or a closing terminal came first. What is finished is kept; a second Ctrl-C does not wait. Another
 * SIGTERM changes nothing: who stops a whole group may well reach this process twice.
 */
export const untilInterrupted = async <A, E>(work: Effect.Effect<A, E>, { say, close }: Shown): Promise<Exit.Exit<A, E> | undefined> => {
  const fiber = Effect.runFork(work)
  let interrupted = false
  const stop = (signal: NodeJS.Signals) => {
    if (interrupted && signal === "SIGINT") process.exit(exitCodes.interrupted)
    if (interrupted) return
    interrupted = true
    say("Stopping. What is finished is kept; a second Ctrl-C stops at once.")
    Effect.runFork(Fiber.interrupt(fiber))
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
