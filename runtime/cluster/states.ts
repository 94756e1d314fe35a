/** The states of the user's jobs, queried for all jobs of a run together, at most as often as configured. */
import { type JobState, jobStates, SlurmError } from "./commands.ts"

/** "unknown": the controller does not respond; "gone": it responds and does not know the job. */
export type Known = JobState | "gone" | "unknown"

const alive = [
  "PENDING",
  "RUNNING",
  "COMPLETING",
  "CONFIGURING",
  "SUSPENDED",
  "STOPPED",
  "RESIZING",
  "SIGNALING",
  "STAGE_OUT",
  "REQUEUED",
  "REQUEUE_FED",
  "REQUEUE_HOLD",
  "SPECIAL_EXIT",
  "RESV_DEL_HOLD"
]
export const isAlive = (known: Known): boolean => known === "unknown" || (known !== "gone" && alive.includes(known.state))

export class States {
  #asked = -Infinity
  #answer: Promise<ReadonlyArray<JobState> | "unknown"> = Promise.resolve("unknown")

  /** All jobs, at most this many seconds old. Rejects if Slurm is not installed. */
  all(seconds: number): Promise<ReadonlyArray<JobState> | "unknown"> {
    if (performance.now() - this.#asked < seconds * 1000) return this.#answer
    this.#asked = performance.now()
    this.#answer = jobStates().catch((cause: unknown) => {
      if (cause instanceof SlurmError && cause.kind === "down") return "unknown"
      throw cause
    })
    return this.#answer
  }
  /** By its comment, because a controller that was killed may reuse a job id. */
  async of(token: string, seconds: number): Promise<Known> {
    const all = await this.all(seconds)
    return all === "unknown" ? all : (all.find((job) => job.comment === token) ?? "gone")
  }
}
