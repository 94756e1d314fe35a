/** Where a node's stage runs, and on how much hardware. No part of any key. */
export interface Placement {
  /** "local": on the machine of the run, also in a run with `--on slurm`; "slurm": as a job of its own, also in a run without. */
  readonly executor?: "local" | "slurm"
  /** The profile of caravan.json that a job takes what is not given here from. */
  readonly profile?: string
  /** GPUs on each node. */
  readonly gpus?: number
  /** Machines. */
  readonly nodes?: number
  /** Processor cores on each node. */
  readonly cpus?: number
  /** Jobs that the shards of a mapped stage are dealt out to. */
  readonly workers?: number
}

const whole = (value: unknown) => (Number.isSafeInteger(value) && (value as number) >= 1 ? undefined : "a whole number from 1")
/** What is expected instead of a value that is none; undefined for one that can be had. */
export const placementBounds: Readonly<Record<string, (value: unknown) => string | undefined>> = {
  executor: (value) => (value === "local" || value === "slurm" ? undefined : '"local" or "slurm"'),
  profile: (value) => (typeof value === "string" && value !== "" ? undefined : "the name of a profile"),
  gpus: whole,
  nodes: whole,
  cpus: whole,
  workers: whole
}

/** Equal nodes are one, which gets the most that any of them asks for. Where it runs, the first says. */
export const larger = (one: Placement, other: Placement): Placement => ({
  ...other,
  ...one,
  ...Object.fromEntries(
    (["gpus", "nodes", "cpus", "workers"] as const).flatMap((name) => {
      const given = [one[name], other[name]].filter((value) => value !== undefined)
      return given.length === 0 ? [] : [[name, Math.max(...given)]]
    })
  )
})
