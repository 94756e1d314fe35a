/** The states of the user's jobs, asked for all jobs of a run together and not more often than the config says. */
import { type JobState, jobStates, SlurmError } from "./commands.ts"

/** "unknown": the controller does not answer; "gone": it does, and knows no such job. */
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

  /** All jobs, as they were at most so many seconds ago. Rejects where there is no Slurm. */
  all(seconds: number): Promise<ReadonlyArray<JobState> | "unknown"> {
    if (performance.now() - this.#asked < seconds * 1000) return this.#answer
    this.#asked = performance.now()
    this.#answer = jobStates().catch((cause: unknown) => {
      if (cause instanceof SlurmError && cause.kind === "down") return "unknown"
      throw cause
    })
    return this.#answer
  }
  /** By its comment: a controller that was killed may give a number twice. */
  async of(token: string, seconds: number): Promise<Known> {
    const all = await this.all(seconds)
    return all === "unknown" ? all : (all.find((job) => job.comment === token) ?? "gone")
  }
}
