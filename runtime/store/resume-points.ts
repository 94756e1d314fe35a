/**
 * Checkpoints inside a stage, on disk: what a stage that was killed goes on from. `checkpoints/<key>/<step>/` holds the stage's own files and, written
 * last, a seal with the size and sha256 of each. The key names code, config, seed, inputs and numerics, so a stage only ever meets checkpoints of
 * the very computation it is doing; an in-flight claim (in-flight.ts) keeps others from writing there meanwhile. The last two are kept, and all go when
 * the stage's result is recorded.
 */
import { createHash, randomUUID } from "node:crypto"
import { readdir, readFile, rm } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { isPassing } from "../../schemas/explained-error.ts"
import type { Checkpoints, HeldFile, ResumePoint } from "../define/resume-points.ts"
import { isGone, messageOf, StageError } from "../errors.ts"
import { sha256File } from "../key/file-digest.ts"
import { writeHeld } from "./checkpoint-writer.ts"
import { makeFolder } from "./durable.ts"
import { type Seal, seal, sealFormat, sealName } from "./seal.ts"

export interface CheckpointOptions {
  /** Where those of this key are. */
  readonly folder: string
  /** Seconds between two, at least; 0: after every step. */
  readonly seconds: number
  /** Steps between two, at most; whichever comes first. */
  readonly steps?: number | undefined
}

/** What is asked of a running stage from outside: to save what it has and stop. */
export interface StopRequest {
  requested: boolean
  /** Called when the stage asks whether a checkpoint is due: one that never does is not worth waiting for. */
  listens: () => void
  /** Called once the stage has saved after it was asked to. */
  saved: () => void
}

/** Saving stops a stage for at most this share of the time; what is written while it goes on may be written for at most that share. */
const largestShare = { stopped: 0.05, beside: 0.25 }
const kept = 2

export interface OpenCheckpoints extends Checkpoints {
  /** Waits until what is being written is on the disk, or failed: its error is a note. To be called when the stage ends. */
  readonly settled: Effect.Effect<void>
}

export const openCheckpoints = (options: CheckpointOptions, note: (message: string) => void, stop?: StopRequest): OpenCheckpoints => {
  const { folder, seconds, steps = Infinity } = options
  let last = performance.now()
  let pause = 0
  let done = 0
  /** The end of the one that is being written while the stage goes on. */
  let writing: Promise<void> = Promise.resolve()
  const settled = Effect.promise(() => writing)
  const due = () => {
    stop?.listens()
    done++
    if (stop?.requested === true || seconds === 0 || done >= steps) return true
    return performance.now() - last >= Math.max(seconds * 1000, pause)
  }
  const failed = async (step: number, fresh: string, message: string): Promise<void> => {
    note(`its checkpoint after step ${step} could not be written (${message}); it goes on, and those before are kept`)
    await rm(fresh, { recursive: true, force: true }).catch(() => undefined)
  }
  const written = async (step: number, fresh: string, writing: ReturnType<typeof writeHeld>): Promise<void> => {
    const end = await writing
    if ("failed" in end) return failed(step, fresh, end.failed)
    pause = Math.max(pause, end.milliseconds / largestShare.beside)
    await removeOlder(folder)
  }
  const save: Checkpoints["save"] = (step, write) =>
    Effect.gen(function* () {
      const began = performance.now()
      yield* settled
      const fresh = join(folder, `new-${randomUUID()}`)
      const to = join(folder, nameOf(step))
      const files: Array<HeldFile> = []
      const result = yield* Effect.result(
        Effect.gen(function* () {
          yield* attempt(async () => makeFolder(fresh))
          yield* write(fresh, (file) => files.push(file))
          if (files.length === 0) yield* attempt(() => seal(fresh, to))
        })
      )
      if (result._tag === "Failure") yield* Effect.promise(() => failed(step, fresh, result.failure.message))
      else if (files.length === 0) yield* Effect.promise(() => removeOlder(folder))
      else writing = written(step, fresh, writeHeld({ files, from: fresh, to }))
      done = 0
      last = performance.now()
      pause = (last - began) / largestShare.stopped
      if (stop?.requested === true) {
        yield* settled
        stop.saved()
      }
    })
  const latest = Effect.andThen(
    settled,
    Effect.tryPromise({
      try: () => newest(folder, note),
      catch: (cause) => (cause instanceof StageError ? cause : unreadableCheckpoint(cause))
    })
  )
  return { latest, due, save, settled }
}

const attempt = <A>(body: () => Promise<A>): Effect.Effect<A, { readonly message: string }> =>
  Effect.tryPromise({ try: body, catch: (cause) => ({ message: messageOf(cause) }) })

/** Sorts as the number does. */
const nameOf = (step: number): string => String(step).padStart(12, "0")
const isName = (name: string): boolean => /^\d{12,}$/.test(name)

/** What `body` reads; undefined when it is not there. Throws StageError where that can't be told: a checkpoint may be days of work. */
const read = async <A>(body: () => Promise<A>): Promise<A | undefined> => {
  try {
    return await body()
  } catch (cause) {
    if (isGone(cause)) return undefined
    throw unreadableCheckpoint(cause)
  }
}

/** The error of a checkpoint that can't be looked at: it may be days of work, so it is neither passed over nor removed. */
export const unreadableCheckpoint = (cause: unknown): StageError =>
  new StageError({
    reason: "Checkpoint",
    message: `Looking at a checkpoint: ${messageOf(cause)}. It stays where it is: fix that, then run again.`,
    isRetryable: isPassing(cause)
  })

/** What is wrong with a checkpoint; undefined when it is whole. */
const damage = async (folder: string): Promise<string | undefined> => {
  const text = (await read(() => readFile(join(folder, sealName), "utf8"))) ?? ""
  const bytes = text.slice(text.indexOf("\n") + 1)
  if (createHash("sha256").update(bytes).digest("hex") !== text.slice(0, text.indexOf("\n"))) return "its seal is missing or damaged"
  const { files, format: found } = JSON.parse(bytes) as Seal
  if (found > sealFormat)
    throw new StageError({
      reason: "Checkpoint",
      message: `Reading the checkpoint ${folder}: it has format ${found}, this version of caravan knows formats up to ${sealFormat}. It stays where it is: continue with that newer version, or move it away to start over.`,
      isRetryable: false
    })
  for (const { path, sha256 } of files)
    if ((await read(() => sha256File(join(folder, path)))) !== sha256) return `${path} is missing or has changed`
  return undefined
}

const newest = async (folder: string, note: (message: string) => void): Promise<ResumePoint | undefined> => {
  const names = (await read(() => readdir(folder))) ?? []
  // What a killed stage was writing.
  for (const name of names) if (name.startsWith("new-")) await rm(join(folder, name), { recursive: true, force: true })
  for (const name of names.filter(isName).sort().reverse()) {
    const path = join(folder, name)
    const found = await damage(path)
    if (found === undefined) return { step: Number(name), path }
    note(`its checkpoint after step ${Number(name)} is damaged (${found}): passed over`)
    await rm(path, { recursive: true, force: true })
  }
  return undefined
}

const removeOlder = async (folder: string): Promise<void> => {
  const names = (await readdir(folder).catch(() => [] as Array<string>)).filter(isName).sort()
  for (const name of names.slice(0, -kept)) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined)
}
