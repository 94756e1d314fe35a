/**
 * A job's folder, `jobs/<key>/`: all that driver and job say to each other. Each file is written under another name and renamed, so none is seen half written, and no lock is
 * asked of a file system that several machines share.
 *
 *     job.json  job.sh      what is to be done, and the script that does it
 *     submission.json       written before sbatch with a token, which is the job's comment; after it with the job's number
 *     current               the newest attempt: a job that Slurm starts again is another attempt
 *     <attempt>/            started.json, events.ndjson, output/, sidecar/, outcome.json
 *     slurm.log             what the job's script and Slurm itself said
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { NodeLimits } from "../define/node.ts"
import type { Progress } from "../define/stage-info.ts"
import { isAbsent } from "../errors.ts"
import type { CodeIdentity } from "../key/code-identity.ts"
import type { Job, Outcome } from "../run/run-stage.ts"

export const jobFormat = 1

export interface JobFile {
  readonly format: number
  readonly key: string
  readonly node: string
  readonly stage: string
  /** Output, sidecar and shards are each attempt's own. */
  readonly job: Job
  readonly code: CodeIdentity
  readonly limits: Pick<NodeLimits, "seconds" | "memory">
  /** What of the driver's machine the key has; the node's must be the same. null for a stage without tensors. */
  readonly numerics: Readonly<Record<string, string>> | null
  /** The modules that set the tensor engine up, and that tell its numerics; where the latter are kept. */
  readonly prepare: string | null
  readonly describe: string | null
  readonly numericsFolder: string
}

export interface Submission {
  readonly token: string
  /** The job's number; null between the decision to submit and Slurm's answer. */
  readonly id: string | null
  readonly node: string
  readonly profile: string
  readonly at: number
}

export interface Started {
  readonly attempt: string
  readonly host: string
  readonly at: number
  /** How far the node's clock is ahead of the file system's, in milliseconds. */
  readonly ahead: number
}

export type JobEnd =
  | { readonly type: "done"; readonly outcome: Outcome; readonly files: ReadonlyArray<{ readonly path: string; readonly size: number }> }
  | { readonly type: "failed"; readonly error: { readonly reason: string; readonly message: string; readonly isRetryable: boolean } }
  /** Told to stop by a signal: USR1 before its time is up, TERM when it is cancelled or preempted. */
  | { readonly type: "stopped"; readonly signal: string }
export type JobOutcome = JobEnd & { readonly host: string }

export type JobEvent = { readonly progress: Progress } | { readonly output: string }

export const jobFolder = (home: string, key: string): string => join(home, "jobs", key)

/** Writes a file whole, to last. */
export const writeWhole = (path: string, text: string): void => {
  const fresh = `${path}.${process.pid}-${Math.random().toString(36).slice(2)}`
  const file = openSync(fresh, "w")
  try {
    // All of it: a full disk may take a part.
    writeFileSync(file, text)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(fresh, path)
}
export const writeJson = (path: string, value: unknown): void => writeWhole(path, JSON.stringify(value))

/** undefined where there is no such file. */
export const readWhole = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch (cause) {
    if (isAbsent(cause)) return undefined
    throw cause
  }
}
/** What such a file has, for whoever names its type; undefined where there is no such file. */
export const readJsonFile = (path: string): unknown => {
  const text = readWhole(path)
  return text === undefined ? undefined : JSON.parse(text)
}

export const makeAttempt = (folder: string, attempt: string): string => {
  const path = join(folder, attempt)
  mkdirSync(path, { recursive: true })
  return path
}
