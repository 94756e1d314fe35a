/** What the config file says of Slurm: profiles, from which jobs take what neither node nor run says. */
import * as Schema from "effect/Schema"
import type { Placement } from "../define/placement.ts"

const Whole = Schema.Number.check(Schema.isInt(), Schema.isGreaterThan(0))
const Name = Schema.String.check(Schema.isMinLength(1))
const optional = Schema.optionalKey

export const Profile = Schema.Struct({
  partition: optional(Name),
  account: optional(Name),
  qos: optional(Name),
  /** GPUs on each node, of stages with tensors in a run with --device cuda. */
  gpus: optional(Whole),
  /** Machines that the ranks of a stage are spread over. */
  nodes: optional(Whole),
  /** Processor cores on each node. */
  cpus: optional(Whole),
  /** MiB on each node. */
  memory: optional(Whole),
  /** The time limit of a job. A stage that keeps checkpoints may take longer: it goes on in another job. */
  minutes: optional(Whole),
  /** How long before the limit a stage is told to save. */
  saveSeconds: optional(Whole),
  /** Further arguments of sbatch: ["--constraint=h100"]. */
  sbatch: optional(Schema.Array(Name)),
  /** Lines of shell that a job begins with: "module load cuda". */
  setup: optional(Schema.String)
})
export type Profile = typeof Profile.Type

export const SlurmConfig = Schema.Struct({
  /** A folder on a file system that all nodes share, for what jobs read and write; the home itself unless given. */
  folder: optional(Name),
  /** The profile of stages with tensors, and of all others unless `light` names one. */
  profile: optional(Name),
  light: optional(Name),
  profiles: optional(Schema.Record(Schema.String, Profile)),
  /** Jobs that are submitted at once, at most. */
  jobs: optional(Whole),
  /** How often Slurm is asked for the states of jobs. Outcomes are files, and are seen within half a second. */
  pollSeconds: optional(Schema.Number.check(Schema.isGreaterThan(0)))
})
export type SlurmConfig = typeof SlurmConfig.Type

export const usualProfile = "default"
export const usualPollSeconds = 10
/** Slurm signals up to a minute early; a 7B checkpoint takes a minute to write. */
export const usualSaveSeconds = 120

/** What a job asks Slurm for. */
export interface Request extends Profile {
  readonly name: string
  /** On each node. */
  readonly gpus: number
  readonly nodes: number
  /** Ranks on each of several nodes, a task each; on one node its worker starts them. */
  readonly tasks?: number
}

/** Profiles that something names and that are not there. */
export const unknownProfile = (config: SlurmConfig, name: string): string | undefined => {
  const names = Object.keys(config.profiles ?? {})
  if (names.includes(name) || (name === usualProfile && !names.includes(name))) return undefined
  return `there is no profile "${name}"${names.length === 0 ? ": `slurm.profiles` of caravan.json has none" : `. caravan.json has ${names.join(", ")}`}`
}

export const profileName = (config: SlurmConfig, placement: Placement, tensors: boolean): string =>
  placement.profile ?? (tensors ? undefined : config.light) ?? config.profile ?? usualProfile

/** What the job of a stage asks for: the node's own words first, then those of the profile. */
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
    // Room for the process that watches the stage's.
    ...(profile.memory === undefined && memory !== undefined ? { memory: Math.ceil(memory) * here + 200 } : {}),
    ...(profile.minutes === undefined && seconds !== undefined ? { minutes: Math.ceil(seconds / 60) + 2 } : {})
  }
}

/** The arguments of sbatch. */
export const sbatchArguments = (request: Request): ReadonlyArray<string> => {
  const { account, cpus, gpus, memory, minutes, nodes, partition, qos, saveSeconds = usualSaveSeconds, sbatch = [], tasks = 1 } = request
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
