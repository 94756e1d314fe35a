/** Where a node's stage runs, and on how much hardware. Not part of any key. */
export interface Placement {
  /** "local": on the run's machine, even with `--on slurm`; "slurm": as a separate job, even without it. */
  readonly executor?: "local" | "slurm"
  /** The profile of caravan.json with the job's defaults. */
  readonly profile?: string
  /** GPUs per machine. */
  readonly gpus?: number
  /** Number of machines. */
  readonly nodes?: number
  /** CPU cores per machine. */
  readonly cpus?: number
  /** Number of jobs that share the shards of a mapped stage. */
  readonly workers?: number
}

const whole = (value: unknown) => (Number.isSafeInteger(value) && (value as number) >= 1 ? undefined : "an integer from 1")
/** Per field: what is expected instead of an invalid value, or undefined if the value is valid. */
export const placementBounds: Readonly<Record<string, (value: unknown) => string | undefined>> = {
  executor: (value) => (value === "local" || value === "slurm" ? undefined : '"local" or "slurm"'),
  profile: (value) => (typeof value === "string" && value !== "" ? undefined : "the name of a profile"),
  gpus: whole,
  nodes: whole,
  cpus: whole,
  workers: whole
}

/** Merges the placements of equal nodes: the maximum of each field; the first decides where it runs. */
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
