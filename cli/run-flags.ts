/** The flags of a run, shared by `run` and `sweep`; `verify` takes some. */
import { resolve } from "node:path"
import type { NodeLimits } from "../runtime/define/node.ts"
import type { RunOptions } from "../runtime/run/options.ts"
import type { SlurmConfig } from "../runtime/cluster/config.ts"
import type { Interruption } from "../runtime/run/execute.ts"
import type { SharedPlace } from "../runtime/shared/open.ts"
import { type Config, readConfig } from "./config-file.ts"
import type { CommandLine } from "../runtime/store/asked.ts"
import { tell } from "./output.ts"
import { type Shown, showProblems, showProgress } from "./display/progress.ts"
import { type Flags, type Given, numberFlag, UsageError, wholeNumber } from "./command.ts"

export const runFlags: Flags = {
  jobs: { value: "n", help: "how many stages without tensors may run at once (default: 1)" },
  timeout: { value: "seconds", help: "stop a node, and fail it, after this long" },
  memory: { value: "MiB", help: "stop a node, and fail it, when the process of its stage uses more memory than this" },
  retries: { value: "n", help: "how often to retry a node that crashed, timed out or failed for a transient reason (default: 0)" },
  "max-skipped": {
    value: "share",
    help: "fail a stage that can't use more than this share of its rows, 0 to 1 (default: 0.2; of answers that a model gave: 1)"
  },
  "checkpoint-steps": {
    value: "n",
    help: "save a checkpoint of a stage every n steps, or after --checkpoint-seconds, whichever comes first"
  },
  "checkpoint-seconds": { value: "n", help: "save a checkpoint of a stage at most every n seconds (default: 60; 0: after every step)" },
  shared: {
    value: "folder",
    help: "take results from this folder that others have made, and put there what is made here (default: `shared` of caravan.json)"
  },
  "shared-read-only": { help: "take shared results and put none there" },
  "no-shared": { help: "do without shared results, whatever caravan.json says" },
  on: {
    value: "slurm|local",
    help: "where stages run: as Slurm jobs, with the profiles of caravan.json, or in processes of this machine (default: local)"
  },
  "on-interrupt": {
    value: "leave|cancel",
    help: "with --on slurm: what becomes of jobs when the run is interrupted (default: a terminal asks; else leave: the next run finds them)"
  },
  "rank-seconds": {
    value: "n",
    help: "with --ranks: how long a rank waits for the others before the stage fails and says where each was (default: 600)"
  },
  quiet: { help: "show no progress, only warnings and what fails; the results go to stdout as without it" },
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

/** For the layer: what the config file says of Slurm, if it does or the run is to be there; and who hears what is waited for. */
export const slurmOptions = ({ on }: Pick<RunOptions, "on"> = {}): {
  readonly slurm?: SlurmConfig
  readonly say: (message: string) => void
} => {
  const slurm = readConfig(process.cwd()).slurm ?? (on === "slurm" ? {} : undefined)
  return { ...(slurm === undefined ? {} : { slurm }), say: (message) => tell(`${message}\n`) }
}

/** What becomes of jobs when the run is interrupted: as the flag says; without it a terminal is asked. */
export const interruption = (given: Given): Interruption | undefined => oneOf(given, "on-interrupt", ["leave", "cancel"])

/** Where results are shared: by flag, or as the config file says. */
const sharedPlace = (given: Given, config: Config): SharedPlace | undefined => {
  const named = given.flag("shared")
  const isReadOnly = given.has("shared-read-only")
  if (given.has("no-shared")) {
    if (named !== undefined || isReadOnly)
      throw new UsageError("--no-shared goes with neither --shared nor --shared-read-only: leave one of them out.")
    return undefined
  }
  if (named === "") throw new UsageError("--shared takes the path of a folder, got an empty one.")
  const place = named === undefined ? config.shared : { folder: resolve(named) }
  if (place === undefined && isReadOnly)
    throw new UsageError("--shared-read-only has no effect without shared results: name their folder with --shared, or in caravan.json.")
  return place === undefined ? undefined : { ...place, ...(isReadOnly ? { isReadOnly } : {}) }
}

/** Flags that say what is shown of a run, or what is made anew: nothing that its continuation wants. */
const ofOneRun = ["json", "quiet", "events", "force", "over", "metric", "help"]

/** The command line that asks for the same again, as the journal keeps it. */
export const commandAgain = (given: Given, flags: Flags): CommandLine => ({
  folder: process.cwd(),
  words: [
    "run",
    ...Object.keys(flags).flatMap((name) => {
      if (ofOneRun.includes(name)) return []
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

/** What a run shows on stderr. */
export const progressOf = (given: Given): Shown => (given.has("quiet") ? showProblems() : showProgress())

/** A year of seconds and a PiB of memory are less. */
const most = 2 ** 30

/** What each node may take. */
export const limitsOf = (given: Given): Pick<NodeLimits, "seconds" | "memory"> =>
  withValue({
    seconds: numberFlag(given, "timeout", { above: 0, max: most }, "seconds"),
    memory: numberFlag(given, "memory", { above: 0, max: most }, "MiB")
  })

const withValue = <A extends object>(fields: A): { [Name in keyof A]?: Exclude<A[Name], undefined> } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof A]?: Exclude<A[Name], undefined>
  }
