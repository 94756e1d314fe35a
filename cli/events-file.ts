/** --events: writes a run's events to a file, one JSON object per line. */
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

/** An event with its time as a line of JSON. Numbers that JSON lacks (a NaN loss) become strings. */
export const eventLine = (event: RunEvent, time: Date): string =>
  `${visibleJson({ time: time.toISOString(), ...event }, undefined, (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value))}\n`

/** Opens the file of --events; does nothing without the flag. */
export const openEvents = (given: Given): EventFile => {
  const path = given.flag("events")
  if (path === undefined) return { onEvent: () => undefined, close: () => undefined }
  if (path === "-") {
    if (given.has("json")) throw new UsageError("--events - and --json both write to stdout. Use a file for --events.")
    return { onEvent: (event) => write(eventLine(event, new Date())), close: () => undefined }
  }
  let file: number
  try {
    file = openSync(path, "w")
  } catch (cause) {
    throw new UsageError(`--events ${path}: ${messageOf(cause)}. Choose a writable file.`)
  }
  let broken = false
  return {
    onEvent: (event) => {
      if (broken) return
      try {
        writeSync(file, eventLine(event, new Date()))
      } catch (cause) {
        // The run matters more than its event log.
        broken = true
        tell(`Writing the events to ${path}: ${messageOf(cause)}. The run continues without them.\n`)
      }
    },
    close: () => closeSync(file)
  }
}
