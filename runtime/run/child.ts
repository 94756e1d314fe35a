/**
 * The process in which a stage runs. process-pool.ts starts it; it receives jobs over the IPC channel and sends back progress and results. It ends with
 * its parent, even if the parent is killed while native code runs here: a separate thread watches the parent.
 */
import { flushCompileCache } from "node:module"
import { Worker } from "node:worker_threads"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { isTransient } from "../../schemas/explained-error.ts"
import type { StopRequest } from "../store/resume-points.ts"
import { messageOf, placeOf, StageError, stageErrorOf } from "../errors.ts"
import { rankPlace, type RankPlace } from "./ranks.ts"
import { type Job, type Outcome, runStage } from "./run-stage.ts"
import type { Progress, StageInfo } from "../define/stage-info.ts"

export type ToChild =
  /**
   * `prepare`: a module whose `prepare(device, threads, place)` is called before the first job and whenever a job's device or threads change; `place`
   * is this process's rank in a stage with several ranks, in torchrun's variables (a process joins at most one group). Its `measure()` is called
   * before the stage and returns a function to call afterwards, for metrics; its `release()` is called last, whatever the outcome, and frees the
   * stage's memory.
   */
  | { readonly job: Job; readonly prepare: string | undefined }
  /** Save the state, and end. */
  | { readonly stop: true }
export type FromChild =
  | { readonly type: "ready" }
  /** The stage's module was loaded in this process for the first time. */
  | { readonly type: "loaded" }
  | { readonly type: "progress"; readonly progress: Progress }
  /** The stage saves checkpoints: if asked to stop, it saves one first. */
  | { readonly type: "saves-checkpoints" }
  | { readonly type: "done"; readonly outcome: Outcome }
  | { readonly type: "failed"; readonly error: Failure }
  /** An uncaught error: neither the computation nor the process can be used any more. */
  | { readonly type: "broken"; readonly error: Failure }
/** A StageError's fields. */
type Failure = Pick<StageError, "reason" | "message" | "isRetryable">

const watch = `
  const parent = ${Number(process.argv[2])}
  setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, "SIGKILL") }, 250)
`
new Worker(watch, { eval: true }).unref()

// Ctrl-C, a closed terminal, and signals that stop a service or a batch job reach the whole process group; the parent decides what happens to a
// running stage, which may be asked to save first. If the parent dies of the signal, so does this process (see above).
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => {})
process.on("disconnect", () => process.exit(0))

const send = (message: FromChild) => process.send?.(message)

let isWorking = false
let savesCheckpoints = false
const stop: StopRequest = {
  requested: false,
  listens: () => {
    if (!savesCheckpoints) send({ type: "saves-checkpoints" })
    savesCheckpoints = true
  },
  saved: () => process.exit(0)
}

interface Preparation {
  readonly prepare: (device: string, threads: number, place?: RankPlace) => void
  readonly measure?: () => () => Readonly<Record<string, number>>
  readonly release?: () => void
}

/** The tensor engine's error for ranks that could not connect. */
const isRankError = (cause: unknown): cause is { readonly _tag: "RankError"; readonly message: string } =>
  typeof cause === "object" && cause !== null && (cause as { readonly _tag?: unknown })._tag === "RankError"

/** The device and threads that the process is prepared for. */
let prepared: string | undefined
const loaded = new Set<string>()
const work = async ({ job, prepare }: Extract<ToChild, { readonly job: Job }>): Promise<void> => {
  savesCheckpoints = false
  isWorking = true
  let isFresh = false
  let release = (): void => {}
  let measured = (): Readonly<Record<string, number>> => ({})
  const result = await Effect.runPromiseExit(
    Effect.gen(function* () {
      const stage = yield* Effect.tryPromise({
        try: async () => {
          if (prepare !== undefined) {
            const module = (await import(prepare)) as Preparation
            const wanted = `${job.device}/${job.threads}`
            const place = job.ranks === undefined ? undefined : rankPlace(job.ranks, process.env)
            if (prepared !== wanted) module.prepare(job.device, job.threads, place)
            prepared = wanted
            measured = module.measure?.() ?? measured
            release = module.release ?? release
          }
          const module = (await import(job.module)) as Record<string, { readonly stage: StageInfo }>
          isFresh = !loaded.has(job.module)
          if (isFresh) send({ type: "loaded" })
          loaded.add(job.module)
          return module[job.exportName]!.stage
        },
        catch: (cause) =>
          // The process itself is intact; it only failed to reach the other ranks.
          isRankError(cause)
            ? new StageError({ reason: cause._tag, message: cause.message, isRetryable: true })
            : new StageError({
                reason: "Load",
                message: `Loading the stage from ${job.module}: ${messageOf(cause)}. A stage runs in a separate process that imports its module: the module must load without the rest of the program.`,
                isRetryable: isTransient(cause)
              })
      })
      const outcome = yield* runStage(stage, job, (progress) => send({ type: "progress", progress }), stop)
      return { ...outcome, metrics: { ...outcome.metrics, ...measured() } }
    })
  )
  release()
  isWorking = false
  if (Exit.isSuccess(result)) send({ type: "done", outcome: result.value })
  else {
    const { isRetryable, message, reason } = stageErrorOf(result.cause)
    send({ type: "failed", error: { reason, message, isRetryable } })
  }
  // The parent kills this process at the end, which would lose the compile cache.
  if (isFresh) flushCompileCache()
}

process.on("uncaughtException", (cause: unknown, origin) => {
  const what = origin === "unhandledRejection" ? "Unhandled promise rejection" : "Uncaught error"
  const message = `${what}: ${messageOf(cause)}${placeOf(cause)}`
  if (!isWorking) process.exit(1)
  send({ type: "broken", error: { reason: "Defect", message, isRetryable: isTransient(cause) } })
})
process.on("message", (message: ToChild) => {
  if ("job" in message) return void work(message)
  stop.requested = true
})
send({ type: "ready" })
