/** The flags of a run, shared by `run` and `sweep`; `verify` uses some of them. */
import { resolve } from "node:path"
import type { NodeLimits } from "../runtime/define/node.ts"
import type { RunOptions } from "../runtime/run/options.ts"
import type { SlurmConfig } from "../runtime/cluster/config.ts"
import type { Interruption } from "../runtime/run/execute.ts"
import type { SharedPlace } from "../runtime/shared/open.ts"
import { type Config, readConfig } from "./config-file.ts"
import type { CommandLine } from "../runtime/store/asked.ts"
import { tell } from "./output.ts"
import { type Shown, showFailures, showProgress } from "./display/progress.ts"
import { type Flags, type Given, numberFlag, UsageError, wholeNumber } from "./command.ts"

export const runFlags: Flags = {
  jobs: { value: "n", help: "maximum number of stages without tensors that run concurrently (default: 1)" },
  timeout: { value: "seconds", help: "stop and fail a node after this time" },
  memory: { value: "MiB", help: "stop and fail a node when its stage's process uses more memory than this" },
  retries: { value: "n", help: "maximum retries of a node that crashed, timed out or failed for a transient reason (default: 0)" },
  "max-skipped": {
    value: "share",
    help: "fail a stage that skips more than this share of its rows, 0 to 1 (default: 0.2; for model answers: 1)"
  },
  "checkpoint-steps": {
    value: "n",
    help: "save a resume checkpoint every n steps, or after --checkpoint-seconds, whichever comes first"
  },
  "checkpoint-seconds": { value: "n", help: "save a resume checkpoint at most every n seconds (default: 60; 0: after every step)" },
  shared: {
    value: "folder",
    help: "reuse results that others put in this folder, and share new results there (default: `shared` in caravan.json)"
  },
  "shared-read-only": { help: "reuse shared results, but do not add any" },
  "no-shared": { help: "do not use shared results, even if caravan.json sets them" },
  on: {
    value: "slurm|local",
    help: "where stages run: as Slurm jobs with the profiles in caravan.json, or as processes on this machine (default: local)"
  },
  "on-interrupt": {
    value: "leave|cancel",
    help: "with --on slurm: leave or cancel jobs when the run is interrupted (default: ask on a terminal, otherwise leave them for the next run to find)"
  },
  "rank-seconds": {
    value: "n",
    help: "with --ranks: how long a rank waits for the others before the stage fails and reports where each one was (default: 600)"
  },
  quiet: { help: "show only failures on stderr, no progress or warnings; stdout is unchanged" },
  events: {
    value: "file",
    help: "write events to this file as they happen, one JSON object per line; - writes them to stdout instead of the other output"
  }
}

export const runOptions = (
  given: Given
): Pick<RunOptions, "jobs" | "limits" | "checkpointSeconds" | "checkpointSteps" | "rankSeconds" | "shared" | "on" | "slurmJobs"> => {
  const limits: NodeLimits = withValue({
    ...limitsOf(given),
    retries: wholeNumber(given, "retries", 0),
    skipped: numberFlag(given, "max-skipped", { min: 0, max: 1 })
  })
  const checkpoints = withValue({
    checkpointSeconds: wholeNumber(given, "checkpoint-seconds", 0),
    checkpointSteps: wholeNumber(given, "checkpoint-steps", 1),
    rankSeconds: wholeNumber(given, "rank-seconds", 1)
  })
  const config = readConfig(process.cwd())
  return {
    jobs: wholeNumber(given, "jobs", 1) ?? 1,
    limits,
    ...checkpoints,
    ...withValue({ shared: sharedPlace(given, config), on: oneOf(given, "on", ["local", "slurm"]), slurmJobs: config.slurm?.jobs })
  }
}

const oneOf = <A extends string>(given: Given, name: string, words: ReadonlyArray<A>): A | undefined => {
  const text = given.flag(name)
  const word = words.find((one) => one === text)
  if (text !== undefined && word === undefined) throw new UsageError(`--${name} must be ${words.join(" or ")}, got "${text}".`)
  return word
}

/** Layer options: the Slurm settings of the config file, or defaults if the run uses Slurm; and the output of messages while waiting. */
export const slurmOptions = ({ on }: Pick<RunOptions, "on"> = {}): {
  readonly slurm?: SlurmConfig
  readonly say: (message: string) => void
} => {
  const slurm = readConfig(process.cwd()).slurm ?? (on === "slurm" ? {} : undefined)
  return { ...(slurm === undefined ? {} : { slurm }), say: (message) => tell(`${message}\n`) }
}

/** What happens to jobs when the run is interrupted; undefined without the flag: the user is asked if there is a terminal. */
export const interruption = (given: Given): Interruption | undefined => oneOf(given, "on-interrupt", ["leave", "cancel"])

/** The shared results, from the flag or the config file. */
const sharedPlace = (given: Given, config: Config): SharedPlace | undefined => {
  const named = given.flag("shared")
  const isReadOnly = given.has("shared-read-only")
  if (given.has("no-shared")) {
    if (named !== undefined || isReadOnly)
      throw new UsageError("--no-shared can't be combined with --shared or --shared-read-only: remove one of them.")
    return undefined
  }
  if (named === "") throw new UsageError("--shared must be the path of a folder, got an empty string.")
  const place = named === undefined ? config.shared : { folder: resolve(named) }
  if (place === undefined && isReadOnly)
    throw new UsageError("--shared-read-only has no effect without shared results: set their folder with --shared or in caravan.json.")
  return place === undefined ? undefined : { ...place, ...(isReadOnly ? { isReadOnly } : {}) }
}

/** Flags that a continued run does not repeat: those for display, for forcing reruns, and for sweeps. */
const notRepeated = ["json", "quiet", "events", "force", "over", "metric", "help"]

/** The command line that continues this run, as stored in the journal. */
export const commandAgain = (given: Given, flags: Flags): CommandLine => ({
  folder: process.cwd(),
  words: [
    "run",
    ...Object.keys(flags).flatMap((name) => {
      if (notRepeated.includes(name)) return []
      return flags[name]!.value === undefined
        ? given.has(name)
          ? [`--${name}`]
          : []
        : given.flags(name).flatMap((value) => [`--${name}`, value])
    }),
    "--",
    ...given.positionals
  ]
})

/** The progress display of a run on stderr. */
export const progressOf = (given: Given): Shown => (given.has("quiet") ? showFailures() : showProgress())

/** Maximum of a limit: more than 30 years in seconds, and a PiB in MiB. */
const maxLimit = 2 ** 30

/** Per-node limits. */
export const limitsOf = (given: Given): Pick<NodeLimits, "seconds" | "memory"> =>
  withValue({
    seconds: numberFlag(given, "timeout", { above: 0, max: maxLimit }, "a number of seconds"),
    memory: numberFlag(given, "memory", { above: 0, max: maxLimit }, "a number of MiB")
  })

const withValue = <A extends object>(fields: A): { [Name in keyof A]?: Exclude<A[Name], undefined> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof A]?: Exclude<A[Name], undefined>
  }
