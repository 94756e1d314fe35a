/** --events: a run's events in a file, a line of JSON each. */
import { closeSync, openSync, writeSync } from "node:fs"
import { messageOf } from "../runtime/errors.ts"
import type { RunEvent } from "../runtime/run/events.ts"
import { visibleJson } from "../schemas/visible.ts"
import { type Given, UsageError } from "./command.ts"
import { tell, write } from "./output.ts"

export interface EventFile {
  readonly onEvent: (event: RunEvent) => void
  readonly close: () => void
}

/** An event as a line of JSON, with its time. Numbers that JSON does not know (a loss that is NaN) are texts. */
export const eventLine = (event: RunEvent, time: Date): string =>
  `${visibleJson({ time: time.toISOString(), ...event }, undefined, (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value))}\n`

/** Where --events goes; without it, nowhere. */
export const openEvents = (given: Given): EventFile => {
  const path = given.flag("events")
  if (path === undefined) return { onEvent: () => undefined, close: () => undefined }
  if (path === "-") {
    if (given.has("json")) throw new UsageError("--events - and --json both write to stdout. Give --events a file.")
    return { onEvent: (event) => write(eventLine(event, new Date())), close: () => undefined }
  }
  let file: number
  try {
    file = openSync(path, "w")
  } catch (cause) {
    throw new UsageError(`--events ${path}: ${messageOf(cause)}. Give a file that can be written.`)
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
        tell(`Writing the events to ${path}: ${messageOf(cause)}. The run continues without them.\n`)
      }
    },
    close: () => closeSync(file)
  }
}
