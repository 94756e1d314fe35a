/**
 * A job's folder, `jobs/<key>/`: all communication between driver and job. Each file is written under another name and renamed, so that none is seen
 * half written and no locks on a shared file system are needed.
 *
 *     job.json  job.sh      the work, and the script that runs it
 *     submission.json       written before sbatch with a token, which is the job's comment; after it with the job id
 *     current               the newest attempt: each start of the job by Slurm is an attempt
 *     <attempt>/            started.json, events.ndjson, output/, sidecar/, outcome.json
 *     slurm.log             output of the job's script and of Slurm itself
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
  /** Output, sidecar and shards are separate for each attempt. */
  readonly job: Job
  readonly code: CodeIdentity
  readonly limits: Pick<NodeLimits, "seconds" | "memory">
  /** The numerics of the driver's machine in the key; the node's must be equal. null for a stage without tensors. */
  readonly numerics: Readonly<Record<string, string>> | null
  /** The modules that set up the tensor engine and report its numerics; and where the latter are cached. */
  readonly prepare: string | null
  readonly describe: string | null
  readonly numericsFolder: string
}

export interface Submission {
  readonly token: string
  /** The job id; null between the decision to submit and Slurm's response. */
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
  /** Asked to stop by a signal: USR1 before its time limit, TERM when it is cancelled or preempted. */
  | { readonly type: "stopped"; readonly signal: string }
export type JobOutcome = JobEnd & { readonly host: string }

export type JobEvent = { readonly progress: Progress } | { readonly output: string }

export const jobFolder = (home: string, key: string): string => join(home, "jobs", key)

/** Writes a file atomically and durably. */
export const writeWhole = (path: string, text: string): void => {
  const fresh = `${path}.${process.pid}-${Math.random().toString(36).slice(2)}`
  const file = openSync(fresh, "w")
  try {
    // Writes everything; on a full disk writeSync may write only a part.
    writeFileSync(file, text)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(fresh, path)
}
export const writeJson = (path: string, value: unknown): void => writeWhole(path, JSON.stringify(value))

/** undefined if the file does not exist. */
export const readWhole = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch (cause) {
    if (isAbsent(cause)) return undefined
    throw cause
  }
}
/** The content of a JSON file; undefined if it does not exist. */
export const readJsonFile = (path: string): unknown => {
  const text = readWhole(path)
  return text === undefined ? undefined : JSON.parse(text)
}

export const makeAttempt = (folder: string, attempt: string): string => {
  const path = join(folder, attempt)
  mkdirSync(path, { recursive: true })
  return path
}
