/**
 * Writes a checkpoint while the stage continues. A stage yields to the event loop only once per step, which is too little for large writes: a
 * separate thread writes and hashes everything (checkpoint-thread.ts).
 */
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import { messageOf } from "../../schemas/explained-error.ts"
import type { HeldFile } from "../define/resume-points.ts"

/** What to write: files into the folder `from`, which is then sealed and renamed to `to`. */
export interface HeldCheckpoint {
  readonly files: ReadonlyArray<HeldFile>
  readonly from: string
  readonly to: string
}
export type Written = { readonly milliseconds: number } | { readonly failed: string }

export const writeHeld = (checkpoint: HeldCheckpoint): Promise<Written> =>
  new Promise((resolve) => {
    const entry = fileURLToPath(import.meta.resolve(import.meta.url.endsWith(".ts") ? "./checkpoint-thread.ts" : "./checkpoint-thread.js"))
    const thread = new Worker(entry, { workerData: checkpoint, execArgv: [] })
    thread.once("message", resolve)
    thread.once("error", (cause) => resolve({ failed: messageOf(cause) }))
    // Has no effect after either of the other events.
    thread.once("exit", () => resolve({ failed: "its thread ended" }))
  })
