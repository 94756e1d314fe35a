/**
 * Resume checkpoints of stages on disk. `checkpoints/<key>/<step>/` contains the stage's own files and, written last, a seal with the size and sha256
 * of each file. The key identifies code, config, seed, inputs and numerics, so a stage only finds checkpoints of exactly its own computation; a claim
 * (in-flight.ts) prevents other runs from writing there. The last two are kept, and all are deleted when the stage's result is recorded.
 */
import { createHash, randomUUID } from "node:crypto"
import { readdir, readFile, rm } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { isTransient } from "../../schemas/explained-error.ts"
import type { Checkpoints, HeldFile, ResumePoint } from "../define/resume-points.ts"
import { isMissingOrUnreadable, messageOf, StageError } from "../errors.ts"
import { sha256File } from "../key/file-digest.ts"
import { writeHeld } from "./checkpoint-writer.ts"
import { makeFolder } from "./durable.ts"
import { type Seal, seal, sealFormat, sealName } from "./seal.ts"

export interface CheckpointOptions {
  /** The folder of this key's checkpoints. */
  readonly folder: string
  /** Minimum seconds between two checkpoints; 0: after every step. */
  readonly seconds: number
  /** Maximum steps between two checkpoints; whichever comes first. */
  readonly steps?: number | undefined
}

/** A request from outside that a running stage save its state and stop. */
export interface StopRequest {
  requested: boolean
  /** Called when the stage looks for a checkpoint or asks whether one is due. A stage that does neither can't save, and is not waited for. */
  listens: () => void
  /** Called when the stage has saved after the request. */
  saved: () => void
}

/** Maximum fraction of the time that a stage pauses to save, and that background writes take. */
const maxShare = { paused: 0.05, background: 0.25 }
/** Number of checkpoints kept. */
const kept = 2

export interface OpenCheckpoints extends Checkpoints {
  /** Waits until pending writes are on disk or have failed; errors become notes. Call it when the stage ends. */
  readonly settled: Effect.Effect<void>
}

export const openCheckpoints = (options: CheckpointOptions, note: (message: string) => void, stop?: StopRequest): OpenCheckpoints => {
  const { folder, seconds, steps = Infinity } = options
  let last = performance.now()
  let pause = 0
  let done = 0
  /** The pending background write. */
  let writing: Promise<void> = Promise.resolve()
  const settled = Effect.promise(() => writing)
  const due = () => {
    stop?.listens()
    done++
    if (stop?.requested === true || seconds === 0 || done >= steps) return true
    return performance.now() - last >= Math.max(seconds * 1000, pause)
  }
  const onFailure = async (step: number, fresh: string, message: string): Promise<void> => {
    note(`its checkpoint after step ${step} could not be written (${message}); the stage continues, and earlier checkpoints are kept`)
    await rm(fresh, { recursive: true, force: true }).catch(() => undefined)
  }
  const onWritten = async (step: number, fresh: string, writing: ReturnType<typeof writeHeld>): Promise<void> => {
    const end = await writing
    if ("failed" in end) return onFailure(step, fresh, end.failed)
    pause = Math.max(pause, end.milliseconds / maxShare.background)
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
      if (result._tag === "Failure") yield* Effect.promise(() => onFailure(step, fresh, result.failure.message))
      else if (files.length === 0) yield* Effect.promise(() => removeOlder(folder))
      else writing = onWritten(step, fresh, writeHeld({ files, from: fresh, to }))
      done = 0
      last = performance.now()
      pause = (last - began) / maxShare.paused
      if (stop?.requested === true) {
        yield* settled
        stop.saved()
      }
    })
  const latest = Effect.andThen(
    Effect.andThen(
      Effect.sync(() => stop?.listens()),
      settled
    ),
    Effect.tryPromise({
      try: () => newest(folder, note),
      catch: (cause) => (cause instanceof StageError ? cause : unreadableCheckpoint(cause))
    })
  )
  return { latest, due, save, settled }
}

const attempt = <A>(body: () => Promise<A>): Effect.Effect<A, { readonly message: string }> =>
  Effect.tryPromise({ try: body, catch: (cause) => ({ message: messageOf(cause) }) })

/** Padded, so that names sort like numbers. */
const nameOf = (step: number): string => String(step).padStart(12, "0")
const isName = (name: string): boolean => /^\d{12,}$/.test(name)

/** The result of `body`; undefined if the file is missing or the disk can't read it. Throws StageError for other errors. */
const read = async <A>(body: () => Promise<A>): Promise<A | undefined> => {
  try {
    return await body()
  } catch (cause) {
    if (isMissingOrUnreadable(cause)) return undefined
    throw unreadableCheckpoint(cause)
  }
}

/** The error for a checkpoint that can't be read: it may be days of work, so it is neither skipped nor removed. */
export const unreadableCheckpoint = (cause: unknown): StageError =>
  new StageError({
    reason: "Checkpoint",
    message: `Reading a checkpoint: ${messageOf(cause)}. The checkpoint was not changed: fix this, then run again.`,
    isRetryable: isTransient(cause)
  })

/** A description of the damage to a checkpoint; undefined if it is intact. */
const damage = async (folder: string): Promise<string | undefined> => {
  const text = (await read(() => readFile(join(folder, sealName), "utf8"))) ?? ""
  const bytes = text.slice(text.indexOf("\n") + 1)
  if (createHash("sha256").update(bytes).digest("hex") !== text.slice(0, text.indexOf("\n"))) return "its seal is missing or damaged"
  const { files, format: found } = JSON.parse(bytes) as Seal
  if (found > sealFormat)
    throw new StageError({
      reason: "Checkpoint",
      message: `Reading the checkpoint ${folder}: it has format ${found}, but this version of caravan supports formats up to ${sealFormat}. The checkpoint was not changed: continue with the newer version, or move it away to start over.`,
      isRetryable: false
    })
  for (const { path, sha256 } of files)
    if ((await read(() => sha256File(join(folder, path)))) !== sha256) return `${path} is missing or has changed`
  return undefined
}

const newest = async (folder: string, note: (message: string) => void): Promise<ResumePoint | undefined> => {
  const names = (await read(() => readdir(folder))) ?? []
  // Folders that a killed stage left incomplete.
  for (const name of names) if (name.startsWith("new-")) await rm(join(folder, name), { recursive: true, force: true })
  for (const name of names.filter(isName).sort().reverse()) {
    const path = join(folder, name)
    const found = await damage(path)
    if (found === undefined) return { step: Number(name), path }
    note(`its checkpoint after step ${Number(name)} is damaged (${found}) and was deleted`)
    await rm(path, { recursive: true, force: true })
  }
  return undefined
}

const removeOlder = async (folder: string): Promise<void> => {
  const names = (await readdir(folder).catch(() => [] as Array<string>)).filter(isName).sort()
  for (const name of names.slice(0, -kept)) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined)
}
