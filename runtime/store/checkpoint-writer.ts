/**
 * Writing a checkpoint while the stage goes on. Between two of its steps a stage lets one turn of the event loop pass, which would write a piece or two: a
 * thread of its own does it all (checkpoint-thread.ts), the sums too.
 */
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import type { HeldFile } from "../define/resume-points.ts"

/** What is to be written: files into the folder `from`, which is then sealed and named `to`. */
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
    thread.once("error", (cause) => resolve({ failed: cause instanceof Error ? cause.message : String(cause) }))
    // After either of the others this changes nothing.
    thread.once("exit", () => resolve({ failed: "its thread ended" }))
  })
