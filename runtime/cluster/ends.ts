/** How jobs end: Slurm's record of a job that no longer runs, and what follows from it. */
import { StageError } from "../errors.ts"
import type { Outcome } from "../run/run-stage.ts"
import { type Attempts, lastWords } from "./attempts.ts"
import { fullness } from "./home.ts"
import type { Known } from "./states.ts"
import type { Submitting } from "./submission.ts"

/** How a job ended, as far as its driver can tell. */
export type End =
  | { readonly type: "done"; readonly outcome: Outcome }
  | { readonly type: "failed"; readonly error: StageError }
  /** It must be submitted again: `why` in words. */
  | { readonly type: "again"; readonly why: string; readonly isTime: boolean }

export const failed = (reason: string, message: string, isRetryable = false): End => ({
  type: "failed",
  error: new StageError({ reason, message, isRetryable })
})

/** How a job that no longer runs ended, if its outcome does not say. */
export const endOf = ({ folder, home, request }: Submitting, id: string, known: Exclude<Known, "unknown">, seen: Attempts): End => {
  const [state, nodes] = known === "gone" ? ["gone", ""] : [known.state, known.nodes]
  const where = `job ${id}${nodes === "" ? "" : ` on ${nodes}`}`
  const signal = seen.outcome?.type === "stopped" ? seen.outcome.signal : undefined
  if (state === "CANCELLED")
    return failed("Cancelled", `Its ${where} was cancelled (scancel, or an administrator). Run again to continue from its last checkpoint.`)
  if (state === "TIMEOUT" || state === "DEADLINE" || signal === "SIGUSR1")
    return { type: "again", why: `${where} reached its time limit`, isTime: true }
  if (state === "OUT_OF_MEMORY")
    return failed(
      "Memory",
      `Its ${where} exceeded its memory limit${request.memory === undefined ? "" : ` (${request.memory} MiB)`}. Increase "memory" in the profile "${request.name}" in caravan.json.`
    )
  if ((state === "FAILED" || state === "COMPLETED") && seen.current === undefined)
    return failed(
      "Cluster",
      `Its ${where} ended (${state}) and wrote nothing to ${folder}. Either that node does not see the folder, or it lacks ${process.execPath}: check with \`srun${nodes === "" ? "" : ` -w ${nodes}`} ls ${folder} ${process.execPath}\`. The store and the project must be on a file system that all nodes share (docs/how-to/cluster.md).${fullness(home)}${lastWords(folder)}`
    )
  const full = fullness(home)
  if (full !== "" && signal === undefined)
    return failed("Cluster", `Its ${where} ended (${state}) without an outcome.${full}${lastWords(folder)}`)
  const why =
    state === "gone"
      ? `${where} disappeared without a result`
      : `${where} ended (${state.toLowerCase()}${signal === undefined ? "" : ", asked to stop"})`
  return { type: "again", why, isTime: false }
}
