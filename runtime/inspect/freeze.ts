/** Freezing: creates the lock file of a pipeline's current state, for `run --locked` to check. */
import { lockFileOf } from "../run/check-lock.ts"
import type { LockFile } from "../run/lock-file.ts"
import type { RunOptions } from "../run/options.ts"
import type { Plan } from "../run/plan.ts"

/** The lock file of a plan, for this folder. */
export const freeze = (plan: Plan, options: Pick<RunOptions, "settings" | "seed" | "device" | "threads">, folder: string): LockFile => {
  const digests = new Map<string, string>()
  const results = new Map<string, string>()
  for (const node of plan.nodes.values()) {
    if (node.kind === "file") digests.set(node.id, node.digest)
    if (node.kind === "hit") results.set(node.id, node.trace.digest)
  }
  return lockFileOf(plan.graph, plan.facts, options, folder, digests, results)
}
