/**
 * A job on its first node, started by the script that slurm.ts submits: `node worker.ts <jobs/key>`. Runs the stage in a child process, as a run does
 * (process-pool.ts), or as ranks on several nodes (ranks.ts). Writes events and the outcome into its folder, and lets the stage save when Slurm is
 * about to end it.
 */
import { readdirSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { stageErrorOf } from "../errors.ts"
import { processPool } from "../run/process-pool.ts"
import type { Job } from "../run/run-stage.ts"
import { type JobFile, makeAttempt, readWhole, type Started, writeJson, writeWhole } from "./job-files.ts"
import { host, jobIn, logIn, runHere } from "./on-node.ts"
import { onNodes } from "./ranks.ts"

const folder = process.argv[2]!
const { SLURM_JOB_ID = "0", SLURM_JOB_NODELIST, SLURM_RESTART_COUNT = "0" } = process.env
const attempt = `${SLURM_JOB_ID}-${SLURM_RESTART_COUNT === "" ? "0" : SLURM_RESTART_COUNT}`
/** Interval between checks whether this is still the newest attempt, in milliseconds. */
const lookInterval = 5000

const own = makeAttempt(folder, attempt)
const log = logIn(own)

/** The node's clock relative to the file system's. */
const ahead = (): number => {
  const path = join(own, "clock")
  writeFileSync(path, "")
  return Date.now() - statSync(path).mtimeMs
}

const file = jobIn(folder)
if ("type" in file) {
  log.end(file)
  process.exit(1)
}
const nodes = file.job.ranks?.nodes ?? 1
writeJson(join(own, "started.json"), {
  attempt,
  host: nodes > 1 ? (SLURM_JOB_NODELIST ?? host) : host,
  at: Date.now(),
  ahead: ahead()
} satisfies Started)
writeWhole(join(folder, "current"), attempt)

const sizes = (below: string) =>
  readdirSync(below, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => {
      const path = join(entry.parentPath, entry.name)
      return { path: relative(below, path), size: statSync(path).size }
    })

let stopped: string | undefined
const stop = (signal: string) => {
  if (stopped !== undefined) return
  stopped = signal
  Effect.runFork(Fiber.interrupt(fiber))
}
const work = (file: JobFile) =>
  Effect.gen(function* () {
    const job: Job = { ...file.job, output: join(own, "output"), sidecar: join(own, "sidecar") }
    // Each rank checks its own node.
    if (nodes > 1) return yield* runHere({ ...file, describe: null }, job, onNodes(folder, own, stop), log)
    return yield* runHere(file, job, yield* processPool(file.prepare ?? undefined), log)
  }).pipe(Effect.scoped)
const fiber = Effect.runFork(work(file))
for (const signal of ["SIGTERM", "SIGUSR1", "SIGINT"] as const) process.on(signal, () => stop(signal))
process.on("SIGHUP", () => {})
// A node that seemed dead may still run this while another attempt has started elsewhere.
const looking = setInterval(() => {
  if (readWhole(join(folder, "current")) !== attempt) stop("overtaken")
}, lookInterval)

const exit = await Effect.runPromise(Fiber.await(fiber))
clearInterval(looking)
if (Exit.isSuccess(exit)) {
  const files = sizes(join(own, "output"))
  // Others see the folder's content once its time has changed.
  utimesSync(join(own, "output"), new Date(), new Date())
  log.end({ type: "done", outcome: exit.value, files })
} else if (stopped !== undefined && Cause.hasInterruptsOnly(exit.cause)) {
  if (stopped !== "overtaken") log.end({ type: "stopped", signal: stopped })
} else {
  const { isRetryable, message, reason } = stageErrorOf(exit.cause)
  log.end({ type: "failed", error: { reason, message, isRetryable } })
}
process.exit(0)
