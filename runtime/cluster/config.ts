/** The Slurm settings of the config file: profiles with defaults for jobs, overridden by nodes and runs. */
import * as Schema from "effect/Schema"
import type { Placement } from "../define/placement.ts"

const Whole = Schema.Number.check(Schema.isInt(), Schema.isGreaterThan(0))
const Name = Schema.String.check(Schema.isMinLength(1))
const optional = Schema.optionalKey

export const Profile = Schema.Struct({
  partition: optional(Name),
  account: optional(Name),
  qos: optional(Name),
  /** GPUs per node, for stages with tensors in a run with --device cuda. */
  gpus: optional(Whole),
  /** Machines that the ranks of a stage are spread over. */
  nodes: optional(Whole),
  /** Processor cores on each node. */
  cpus: optional(Whole),
  /** MiB per node. */
  memory: optional(Whole),
  /** The time limit of a job, in minutes. A stage with checkpoints may take longer: it continues in another job. */
  minutes: optional(Whole),
  /** How many seconds before the limit a stage is asked to save. */
  saveSeconds: optional(Whole),
  /** Additional arguments of sbatch: ["--constraint=h100"]. */
  sbatch: optional(Schema.Array(Name)),
  /** Shell commands at the start of a job: "module load cuda". */
  setup: optional(Schema.String)
})
export type Profile = typeof Profile.Type

export const SlurmConfig = Schema.Struct({
  /** A folder on a file system shared by all nodes, for the files of jobs. Default: the home itself. */
  folder: optional(Name),
  /** The profile of stages with tensors, and of all others unless `light` is set. */
  profile: optional(Name),
  light: optional(Name),
  profiles: optional(Schema.Record(Schema.String, Profile)),
  /** Maximum number of concurrently submitted jobs. */
  jobs: optional(Whole),
  /** Interval between queries for job states, in seconds. Outcomes are files and are noticed within half a second. */
  pollSeconds: optional(Schema.Number.check(Schema.isGreaterThan(0)))
})
export type SlurmConfig = typeof SlurmConfig.Type

export const defaultProfile = "default"
export const defaultPollSeconds = 10
/** Slurm signals up to a minute early, and a 7B checkpoint takes a minute to write. */
export const defaultSaveSeconds = 120

/** The resources that a job requests. */
export interface Request extends Profile {
  readonly name: string
  /** On each node. */
  readonly gpus: number
  readonly nodes: number
  /** Ranks on each of several nodes, a task each; on one node its worker starts them. */
  readonly tasks?: number
}

/** The message about a profile that is not defined. */
export const unknownProfile = (config: SlurmConfig, name: string): string | undefined => {
  const names = Object.keys(config.profiles ?? {})
  if (names.includes(name) || (name === defaultProfile && !names.includes(name))) return undefined
  return `there is no profile "${name}"${names.length === 0 ? ": `slurm.profiles` of caravan.json has none" : `. caravan.json has ${names.join(", ")}`}`
}

export const profileName = (config: SlurmConfig, placement: Placement, tensors: boolean): string =>
  placement.profile ?? (tensors ? undefined : config.light) ?? config.profile ?? defaultProfile

/** The resources that a stage's job requests: the node's own placement first, then the profile. */
export const requestOf = (
  config: SlurmConfig,
  placement: Placement,
  {
    tensors,
    device,
    ranks,
    memory,
    seconds
  }: {
    readonly tensors: boolean
    readonly device: "cpu" | "cuda"
    /** Processes that the stage is spread over; undefined for a single process. */
    readonly ranks?: number | undefined
    /** The node's limits: MiB, seconds. */
    readonly memory?: number | undefined
    readonly seconds?: number | undefined
  }
): Request => {
  const name = profileName(config, placement, tensors)
  const profile = config.profiles?.[name] ?? {}
  // A stage that is one process has no use for a second node.
  const nodes = ranks === undefined ? (placement.nodes ?? 1) : (placement.nodes ?? profile.nodes ?? 1)
  const here = Math.ceil((ranks ?? 1) / nodes)
  const gpus = placement.gpus ?? (device === "cuda" && tensors ? (ranks === undefined ? (profile.gpus ?? 1) : here) : 0)
  const cpus = placement.cpus ?? profile.cpus ?? (here > 1 ? here : undefined)
  return {
    ...profile,
    name,
    gpus,
    nodes,
    ...(nodes > 1 ? { tasks: here } : {}),
    ...(cpus === undefined ? {} : { cpus }),
    // Memory for the process that supervises the stage's process.
    ...(profile.memory === undefined && memory !== undefined ? { memory: Math.ceil(memory) * here + 200 } : {}),
    ...(profile.minutes === undefined && seconds !== undefined ? { minutes: Math.ceil(seconds / 60) + 2 } : {})
  }
}

export const sbatchArguments = (request: Request): ReadonlyArray<string> => {
  const { account, cpus, gpus, memory, minutes, nodes, partition, qos, saveSeconds = defaultSaveSeconds, sbatch = [], tasks = 1 } = request
  const given: ReadonlyArray<readonly [string, string | number | undefined]> = [
    ["partition", partition],
    ["account", account],
    ["qos", qos],
    ["nodes", nodes],
    ["ntasks-per-node", tasks],
    ["cpus-per-task", cpus === undefined ? undefined : Math.max(1, Math.floor(cpus / tasks))],
    ["mem", memory === undefined ? undefined : `${memory}M`],
    ["time", minutes],
    ["gres", gpus === 0 ? undefined : `gpu:${gpus}`],
    ["signal", minutes === undefined ? undefined : `B:USR1@${Math.min(saveSeconds, Math.floor(minutes * 30))}`]
  ]
  return [...given.flatMap(([name, value]) => (value === undefined ? [] : [`--${name}=${value}`])), ...sbatch]
}
