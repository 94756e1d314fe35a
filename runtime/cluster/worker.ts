/**
 * A job on its node, started by the script that slurm.ts submits: `node worker.ts <jobs/key>`. It runs the stage in a child, as a run does (process-pool.ts), writes what happens and what
 * came of it into its folder, and has the stage save when Slurm is about to end it.
 */
import { appendFileSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { hostname } from "node:os"
import { join, relative } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { Progress, StageInfo } from "../define/stage-info.ts"
import { messageOf, StageError, stageErrorOf } from "../errors.ts"
import type { KeyCache } from "../key/key-cache.ts"
import { processPool } from "../run/process-pool.ts"
import type { Job } from "../run/run-stage.ts"
import { withoutSecrets } from "../run/secrets.ts"
import {
  type JobEnd,
  type JobEvent,
  type JobFile,
  jobFormat,
  makeAttempt,
  readJsonFile,
  readWhole,
  type Started,
  writeJson,
  writeWhole
} from "./job-files.ts"

const folder = process.argv[2]!
const { SLURM_JOB_ID = "0", SLURM_RESTART_COUNT = "0", SLURMD_NODENAME } = process.env
const host = SLURMD_NODENAME ?? hostname()
const attempt = `${SLURM_JOB_ID}-${SLURM_RESTART_COUNT === "" ? "0" : SLURM_RESTART_COUNT}`
/** How often it looks whether it is still the newest attempt, in milliseconds. */
const lookInterval = 5000
/** Progress is told at most this often, in milliseconds: it is for eyes. Curves are kept by the stage itself. */
const tellInterval = 250

const own = makeAttempt(folder, attempt)
const end = (outcome: JobEnd): void => writeJson(join(own, "outcome.json"), { ...outcome, host })
const fail = (reason: string, message: string): JobEnd => ({ type: "failed", error: { reason, message, isRetryable: false } })

/** The node's clock against that of the file system. */
const ahead = (): number => {
  const path = join(own, "clock")
  writeFileSync(path, "")
  return Date.now() - statSync(path).mtimeMs
}

const file = readJsonFile(join(folder, "job.json")) as JobFile | undefined
if (file === undefined || file.format !== jobFormat) {
  const found = file === undefined ? "no job.json" : `a job of format ${file.format}`
  end(
    fail(
      "Version",
      `there is ${found} in ${folder}, expected format ${jobFormat}: the node has another version of caravan than the driver. Let both see the same project folder.`
    )
  )
  process.exit(1)
}
writeJson(join(own, "started.json"), { attempt, host, at: Date.now(), ahead: ahead() } satisfies Started)
writeWhole(join(folder, "current"), attempt)

let told = 0
let later: { readonly progress: Progress; readonly timer: NodeJS.Timeout } | undefined
const append = (event: JobEvent) => {
  try {
    appendFileSync(join(own, "events.ndjson"), `${JSON.stringify(event)}\n`)
  } catch {
    // A full disk: what is told is lost, what is computed is not.
  }
}
const onProgress = (progress: Progress) => {
  if (progress.note !== undefined) return append({ progress })
  clearTimeout(later?.timer)
  const wait = told + tellInterval - performance.now()
  const tell = () => {
    told = performance.now()
    append({ progress })
  }
  if (wait <= 0) tell()
  else later = { progress, timer: setTimeout(tell, wait) }
}

/** Nothing is kept from job to job. */
const noCache: KeyCache = {
  code: () => Effect.succeed(undefined),
  recordCode: () => Effect.void,
  fileDigest: () => Effect.succeed(undefined),
  recordFile: () => Effect.void
}

/** What of the node changes bits, where it is not as the key says. */
const differentNumerics = async ({ describe, job, numerics, numericsFolder }: JobFile): Promise<string | undefined> => {
  if (numerics === null || describe === null) return undefined
  type Describing = { readonly numericsOf: (device: string, threads: number, folder: string) => Promise<Record<string, string>> }
  const here = await ((await import(describe)) as Describing).numericsOf(job.device, job.threads, numericsFolder)
  const names = Object.keys(here).filter((name) => numerics[name] !== here[name])
  if (names.length === 0) return undefined
  const list = names.map((name) => `${name} is ${here[name]}, expected ${numerics[name] ?? "none"}`)
  return `it would compute other bits than the key says: ${list.join("; ")}. Choose nodes that are alike (a partition, or "sbatch": ["--constraint=..."] of the profile), and let all see the same libtorch (LIBTORCH)`
}

const sizes = (below: string) =>
  readdirSync(below, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => {
      const path = join(entry.parentPath, entry.name)
      return { path: relative(below, path), size: statSync(path).size }
    })

const work = ({ code, job: given, limits, prepare, stage: name }: JobFile) =>
  Effect.gen(function* () {
    const wrong = yield* Effect.tryPromise({
      try: () => differentNumerics(file),
      catch: (cause) => new StageError({ reason: "Node", message: `looking at its tensor engine: ${messageOf(cause)}`, isRetryable: false })
    })
    if (wrong !== undefined) return yield* new StageError({ reason: "Node", message: wrong, isRetryable: false })
    const stage = yield* Effect.tryPromise({
      try: async () => ((await import(given.module)) as Record<string, { readonly stage: StageInfo }>)[given.exportName]!.stage,
      catch: (cause) =>
        new StageError({
          reason: "Node",
          message: `loading stage ${name} from ${given.module}: ${messageOf(cause)}. The node must see the project folder under the same path as the driver`,
          isRetryable: false
        })
    })
    const job: Job = { ...given, output: join(own, "output"), sidecar: join(own, "sidecar") }
    mkdirSync(job.output, { recursive: true })
    const run = withoutSecrets(yield* processPool(prepare ?? undefined))
    return yield* run({ stage, job, code, cache: noCache, limits, onProgress, onOutput: (output) => append({ output }) })
  }).pipe(Effect.scoped)

let stopped: string | undefined
const fiber = Effect.runFork(work(file))
const stop = (signal: string) => {
  if (stopped !== undefined) return
  stopped = signal
  Effect.runFork(Fiber.interrupt(fiber))
}
for (const signal of ["SIGTERM", "SIGUSR1", "SIGINT"] as const) process.on(signal, () => stop(signal))
process.on("SIGHUP", () => {})
// A node that was thought dead may still run this while another attempt has begun elsewhere.
const looking = setInterval(() => {
  if (readWhole(join(folder, "current")) !== attempt) stop("overtaken")
}, lookInterval)

const exit = await Effect.runPromise(Fiber.await(fiber))
clearInterval(looking)
clearTimeout(later?.timer)
if (later !== undefined) append({ progress: later.progress })
if (Exit.isSuccess(exit)) {
  const files = sizes(join(own, "output"))
  // What is in the folder is seen by others once its time has changed.
  utimesSync(join(own, "output"), new Date(), new Date())
  end({ type: "done", outcome: exit.value, files })
} else if (stopped !== undefined && Cause.hasInterruptsOnly(exit.cause)) {
  if (stopped !== "overtaken") end({ type: "stopped", signal: stopped })
} else {
  const { isRetryable, message, reason } = stageErrorOf(exit.cause)
  end({ type: "failed", error: { reason, message, isRetryable } })
}
process.exit(0)
