/** The flags of a run, shared by `run` and `sweep`; `verify` takes some. */
import type { NodeLimits } from "../runtime/define/node.ts"
import type { RunOptions } from "../runtime/run/options.ts"
import { type Flags, type Given, UsageError, wholeNumber } from "./command.ts"

export const runFlags: Flags = {
  jobs: { value: "n", help: "how many stages without tensors may run at once (default: 1)" },
  timeout: { value: "seconds", help: "stop a node, and fail it, after this long" },
  memory: { value: "MiB", help: "stop a stage with tensors, and fail it, when its process uses more memory than this" },
  retries: { value: "n", help: "how often to retry a node that crashed, timed out or failed for a transient reason (default: 0)" },
  "max-skipped": {
    value: "share",
    help: "fail a stage that can't use more than this share of its rows, 0 to 1 (default: 0.2)"
  },
  "checkpoint-steps": {
    value: "n",
    help: "save a checkpoint of a stage every n steps, or after --checkpoint-seconds, whichever comes first"
  },
  "checkpoint-seconds": { value: "n", help: "save a checkpoint of a stage at most every n seconds (default: 60; 0: after every step)" },
  events: {
    value: "file",
    help: "write events to this file as they happen, one JSON object per line; - writes them to stdout instead of the other output"
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

/** A number from 0 to 1. */
const share = (given: Given, name: string): number | undefined => {
  const text = given.flag(name)
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value > 1) throw new UsageError(`--${name} takes a share from 0 to 1, got "${text}".`)
  return value
}

export const runOptions = (given: Given): Pick<RunOptions, "jobs" | "limits" | "checkpointSeconds" | "checkpointSteps"> => {
  const limits: NodeLimits = withValue({
    ...limitsOf(given),
    retries: wholeNumber(given, "retries", 0),
    skipped: share(given, "max-skipped")
  })
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
