/**
 * The thread of checkpoint-writer.ts: writes files from memory into a checkpoint's folder, seals it, and reports how long that took or what went
 * wrong.
 */
import { closeSync, openSync, writeSync } from "node:fs"
import { parentPort, workerData } from "node:worker_threads"
import type { HeldCheckpoint, Written } from "./checkpoint-writer.ts"
import { seal } from "./seal.ts"

const { files, from, to } = workerData as HeldCheckpoint
const began = performance.now()
const say = (what: Written) => parentPort!.postMessage(what)
try {
  for (const { path, bytes } of files) {
    const file = openSync(path, "w")
    try {
      // One call writes at most 2 GiB.
      for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at, Math.min(bytes.length - at, 1 << 30))
    } finally {
      closeSync(file)
    }
  }
  await seal(from, to)
  say({ milliseconds: performance.now() - began })
} catch (cause) {
  say({ failed: cause instanceof Error ? cause.message : String(cause) })
}
