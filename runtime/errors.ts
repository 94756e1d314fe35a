/** What can go wrong around a stage. Every error's message says what was being done, what was expected, what was found and what to do. */
import { renameSync, rmSync } from "node:fs"
import * as Schema from "effect/Schema"

/** A pipeline that can't be run as written: a wrong wire, a name twice, an unknown parameter. Found before anything runs. */
export class PipelineError extends Schema.TaggedError<PipelineError>()("PipelineError", { message: Schema.String }) {}

/** A stage that failed, crashed or was killed. */
export class StageError extends Schema.TaggedError<StageError>()("StageError", {
  /** The stage's own error tag, or "Crash", "Defect". */
  reason: Schema.String,
  message: Schema.String
}) {}

/** The store or the journal can't do its work (disk full, no permission, damaged file). */
export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", { message: Schema.String }) {}

/** A StoreError for what a body threw; one that it threw itself stays as it is. */
export const storeError =
  (tell: (reason: string) => string) =>
  (cause: unknown): StoreError =>
    cause instanceof StoreError ? cause : new StoreError({ message: tell(messageOf(cause)) })

export const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

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
