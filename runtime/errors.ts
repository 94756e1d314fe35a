/** Errors around a stage. Each message says what was being done, what was expected, what was found and what to do. */
import { renameSync, rmSync } from "node:fs"
import * as Cause from "effect/Cause"
import * as Schema from "effect/Schema"
import { isTransient, messageOf } from "../schemas/explained-error.ts"

export { messageOf }

/** A pipeline that can't run as written: a wrong wire, a duplicate name, an unknown parameter. Detected before anything runs. */
export class PipelineError extends Schema.TaggedError<PipelineError>()("PipelineError", { message: Schema.String }) {}

/** A stage that failed, crashed or was killed. */
export class StageError extends Schema.TaggedError<StageError>()("StageError", {
  /** The stage's own error tag, or "Crash", "Defect", "Timeout" and so on. */
  reason: Schema.String,
  message: Schema.String,
  /** Whether a retry may help. The scheduler uses only this. */
  isRetryable: Schema.Boolean
}) {}

/** The error code of the tensor engine for a failed allocation. */
const outOfMemory = "OUT_OF_MEMORY"

/**
 * The error that ended a stage, in displayable form. A stage's own error says whether a retry may help (`isRetryable`); errors that do not say are
 * retried if retries were requested. A defect is a bug in the code and would happen again.
 */
export const stageErrorOf = (cause: Cause.Cause<unknown>): StageError => {
  const error = Cause.squash(cause)
  if (error instanceof StageError) return error
  if ((error as { readonly code?: unknown } | undefined)?.code === outOfMemory)
    return new StageError({
      reason: "OutOfMemory",
      message: `Out of memory: ${messageOf(error)}. Try fewer rows per batch (batchSize, inferenceBatchSize), precision bfloat16, or a GPU that no other program uses (see nvidia-smi).`,
      isRetryable: true
    })
  const tagged = (typeof error === "object" && error !== null ? error : {}) as { readonly _tag?: unknown; readonly isRetryable?: unknown }
  const isFailure = Cause.hasFails(cause)
  return new StageError({
    reason: typeof tagged._tag === "string" ? tagged._tag : isFailure ? "Failure" : "Defect",
    // The author of a bug needs its location.
    message: `${messageOf(error)}${tagged._tag === undefined ? placeOf(error) : ""}`,
    isRetryable: typeof tagged.isRetryable === "boolean" ? tagged.isRetryable : isFailure || isTransient(error)
  })
}

/** The store or the journal failed (disk full, no permission, damaged file). */
export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", { message: Schema.String }) {}

/** Converts a thrown value to a StoreError; a StoreError passes through unchanged. */
export const storeError =
  (messageFor: (reason: string) => string) =>
  (cause: unknown): StoreError =>
    cause instanceof StoreError ? cause : new StoreError({ message: messageFor(messageOf(cause)) })

/** " (at /project/stages/sft.ts:12)": the first frame of an error's stack outside of packages; "" when there is none. */
export const placeOf = (error: unknown): string => {
  const stack = (error as { readonly stack?: unknown } | undefined)?.stack
  if (typeof stack !== "string") return ""
  const line = stack
    .split("\n")
    .find((frame) => /^\s*at .*\.[mc]?[tj]s:\d+/.test(frame) && !frame.includes("node_modules") && !frame.includes("node:"))
  const match = line === undefined ? null : /(?:file:\/\/)?(\/[^():]+):(\d+):\d+/.exec(line)
  return match === null ? "" : ` (at ${match[1]}:${match[2]})`
}

/** Whether the file is missing or the disk can't read it. Other errors (too many open files, no permission) do not mean that it is damaged. */
export const isMissingOrUnreadable = (cause: unknown): boolean =>
  ["ENOENT", "ENOTDIR", "EISDIR", "EIO"].includes((cause as NodeJS.ErrnoException).code ?? "")

/** Whether the file or folder does not exist. */
export const isAbsent = (cause: unknown): boolean => ["ENOENT", "ENOTDIR"].includes((cause as NodeJS.ErrnoException).code ?? "")

/** Whether SQLite reports that the file is not a database or is damaged. */
export const isDamaged = (cause: unknown): boolean => /not a database|malformed/.test(messageOf(cause))

/** Renames a damaged database, so that it can be examined later. */
export const moveDamagedAside = (file: string): void => {
  renameSync(file, `${file}.damaged-${Date.now()}`)
  for (const suffix of ["-wal", "-shm"]) rmSync(`${file}${suffix}`, { force: true })
}
