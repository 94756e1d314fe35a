/** What can go wrong around a stage. Every error's message says what was being done, what was expected, what was found and what to do. */
import { renameSync, rmSync } from "node:fs"
import { inspect } from "node:util"
import * as Cause from "effect/Cause"
import * as Schema from "effect/Schema"
import { isPassing } from "../schemas/explained-error.ts"

/** A pipeline that can't be run as written: a wrong wire, a name twice, an unknown parameter. Found before anything runs. */
export class PipelineError extends Schema.TaggedError<PipelineError>()("PipelineError", { message: Schema.String }) {}

/** A stage that failed, crashed or was killed. */
export class StageError extends Schema.TaggedError<StageError>()("StageError", {
  /** The stage's own error tag, or "Crash", "Defect", "Timeout" and the like. */
  reason: Schema.String,
  message: Schema.String,
  /** Whether trying again may help. The scheduler asks this and nothing else. */
  isRetryable: Schema.Boolean
}) {}

/** The code of what the tensor engine throws for memory that could not be had. */
const outOfMemory = "OUT_OF_MEMORY"

/**
 * What a stage ended by, as an error that can be shown. The stage's own error says whether trying again may help (`isRetryable`); one that does not say is
 * tried again, as retries were asked for. A defect is a mistake in the code, which is there the next time too.
 */
export const stageErrorOf = (cause: Cause.Cause<unknown>): StageError => {
  const error = Cause.squash(cause)
  if (error instanceof StageError) return error
  if ((error as { readonly code?: unknown } | undefined)?.code === outOfMemory)
    return new StageError({
      reason: "OutOfMemory",
      message: `Out of memory: ${messageOf(error)}. What would help: fewer rows at once (batchSize, inferenceBatchSize), precision bfloat16, or a GPU that no other program uses (nvidia-smi lists them).`,
      isRetryable: true
    })
  const said = (typeof error === "object" && error !== null ? error : {}) as { readonly _tag?: unknown; readonly isRetryable?: unknown }
  const isFailure = Cause.hasFails(cause)
  return new StageError({
    reason: typeof said._tag === "string" ? said._tag : isFailure ? "Failure" : "Defect",
    // Where it happened is what the author of a mistake needs.
    message: `${messageOf(error)}${said._tag === undefined ? placeOf(error) : ""}`,
    isRetryable: typeof said.isRetryable === "boolean" ? said.isRetryable : isFailure || isPassing(error)
  })
}

/** The store or the journal can't do its work (disk full, no permission, damaged file). */
export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", { message: Schema.String }) {}

/** A StoreError for what a body threw; one that it threw itself stays as it is. */
export const storeError =
  (tell: (reason: string) => string) =>
  (cause: unknown): StoreError =>
    cause instanceof StoreError ? cause : new StoreError({ message: tell(messageOf(cause)) })

/** What a thrown value says: its message; of one that has none, what it holds. */
export const messageOf = (cause: unknown): string => {
  if (typeof cause !== "object" || cause === null) return String(cause)
  const { message } = cause as { readonly message?: unknown }
  if (typeof message === "string" && message !== "") return message
  const held = inspect({ ...cause }, { breakLength: Infinity, depth: 2 })
  return cause instanceof Error ? `${cause.name} ${held}` : held
}

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

/** Whether what was to be read is not there or the disk can't read it; else (too many open files, no permission) it may be whole for all we know. */
export const isGone = (cause: unknown): boolean =>
  ["ENOENT", "ENOTDIR", "EISDIR", "EIO"].includes((cause as NodeJS.ErrnoException).code ?? "")

/** Whether there is no such file or folder. */
export const isAbsent = (cause: unknown): boolean => ["ENOENT", "ENOTDIR"].includes((cause as NodeJS.ErrnoException).code ?? "")

/** Whether SQLite says that a file's bytes are no database, or a broken one. */
export const isDamaged = (cause: unknown): boolean => /not a database|malformed/.test(messageOf(cause))

/** Gives a damaged database another name, for whoever wants to look. */
export const setDamagedAside = (file: string): void => {
  renameSync(file, `${file}.damaged-${Date.now()}`)
  for (const suffix of ["-wal", "-shm"]) rmSync(`${file}${suffix}`, { force: true })
}
