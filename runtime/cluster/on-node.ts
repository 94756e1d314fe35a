/**
 * A worker's steps on its node, alone (worker.ts) or as one of several ranks (rank-worker.ts): checks the node, loads the stage, runs it in a child
 * process, records events and outcome.
 */
import { appendFileSync, mkdirSync } from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { Progress, StageInfo } from "../define/stage-info.ts"
import { messageOf, StageError } from "../errors.ts"
import type { KeyCache } from "../key/key-cache.ts"
import type { Execute } from "../run/execute.ts"
import type { Job, Outcome } from "../run/run-stage.ts"
import { withoutSecrets } from "../run/secrets.ts"
import { type JobEnd, type JobEvent, type JobFile, jobFormat, readJsonFile, writeJson } from "./job-files.ts"

export const host = process.env.SLURMD_NODENAME ?? hostname()

/** Minimum interval between progress reports, in milliseconds. The stage itself records curves. */
const progressInterval = 250

/** Nothing is cached between jobs. */
const noCache: KeyCache = {
  code: () => Effect.succeed(undefined),
  recordCode: () => Effect.void,
  fileDigest: () => Effect.succeed(undefined),
  recordFile: () => Effect.void
}

/** Where a worker records events as they happen, and its outcome. */
export interface Log {
  readonly onProgress: (progress: Progress) => void
  readonly onOutput: (output: string) => void
  readonly end: (end: JobEnd) => void
}

export const logIn = (folder: string): Log => {
  mkdirSync(folder, { recursive: true })
  let told = 0
  let later: { readonly progress: Progress; readonly timer: NodeJS.Timeout } | undefined
  const append = (event: JobEvent) => {
    try {
      // Readable only by its owner, like a log: stages may print anything.
      appendFileSync(join(folder, "events.ndjson"), `${JSON.stringify(event)}\n`, { mode: 0o600 })
    } catch {
      // A full disk: the report is lost, the result is not.
    }
  }
  return {
    onProgress: (progress) => {
      if (progress.note !== undefined) return append({ progress })
      clearTimeout(later?.timer)
      later = undefined
      const tell = () => {
        told = performance.now()
        later = undefined
        append({ progress })
      }
      const wait = told + progressInterval - performance.now()
      if (wait <= 0) tell()
      else later = { progress, timer: setTimeout(tell, wait) }
    },
    onOutput: (output) => append({ output }),
    end: (end) => {
      clearTimeout(later?.timer)
      if (later !== undefined) append({ progress: later.progress })
      writeJson(join(folder, "outcome.json"), { ...end, host })
    }
  }
}

export const failure = (reason: string, message: string): JobEnd => ({ type: "failed", error: { reason, message, isRetryable: false } })

/** The job in its folder; if this version can't read it, the resulting outcome of the job. */
export const jobIn = (folder: string): JobFile | JobEnd => {
  const file = readJsonFile(join(folder, "job.json")) as JobFile | undefined
  if (file?.format === jobFormat) return file
  const found = file === undefined ? "no job.json" : `a job of format ${file.format}`
  return failure(
    "Version",
    `found ${found} in ${folder}, expected format ${jobFormat}: the node has another version of caravan than the driver. Both must see the same project folder.`
  )
}

/** The node's properties that change bits and differ from those in the key. */
const differentNumerics = async ({ describe, job, numerics, numericsFolder }: JobFile): Promise<string | undefined> => {
  if (numerics === null || describe === null) return undefined
  type Describing = { readonly numericsOf: (device: string, threads: number, folder: string) => Promise<Record<string, string>> }
  const here = await ((await import(describe)) as Describing).numericsOf(job.device, job.threads, numericsFolder)
  // The number of ranks is a property of the job, not of a node.
  const names = Object.keys({ ...numerics, ...here }).filter((name) => name !== "ranks" && numerics[name] !== here[name])
  if (names.length === 0) return undefined
  const list = names.map((name) => `${name} is ${here[name] ?? "not set"}, expected ${numerics[name] ?? "none"}`)
  return `its numerics do not match the key: ${list.join("; ")}. Choose identical nodes (a partition, or "sbatch": ["--constraint=..."] in the profile), and use the same libtorch on all (LIBTORCH)`
}

/** Runs the stage of a job file on this node, as described by `job`. */
export const runHere = (file: JobFile, job: Job, execute: Execute, { onOutput, onProgress }: Log): Effect.Effect<Outcome, StageError> =>
  Effect.gen(function* () {
    const wrong = yield* Effect.tryPromise({
      try: () => differentNumerics(file),
      catch: (cause) =>
        new StageError({
          reason: "Node",
          message: `checking its tensor engine: ${messageOf(cause)}. Repair it there, or exclude the node ("sbatch": ["--exclude=..."] in the profile)`,
          isRetryable: false
        })
    })
    if (wrong !== undefined) return yield* new StageError({ reason: "Node", message: wrong, isRetryable: false })
    const stage = yield* Effect.tryPromise({
      try: async () => ((await import(job.module)) as Record<string, { readonly stage: StageInfo }>)[job.exportName]!.stage,
      catch: (cause) =>
        new StageError({
          reason: "Node",
          message: `loading stage ${file.stage} from ${job.module}: ${messageOf(cause)}. The node must see the project folder under the same path as the driver`,
          isRetryable: false
        })
    })
    mkdirSync(job.output, { recursive: true })
    return yield* withoutSecrets(execute)({ stage, job, code: file.code, cache: noCache, limits: file.limits, onProgress, onOutput })
  })
