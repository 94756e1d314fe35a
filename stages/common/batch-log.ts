/**
 * A log of a stage's results per batch, so that a killed stage does not compute them again. The results are stored in order of computation.
 * A stage computes the same batches in the same order each time, however many phases it has (two models, turn after turn), so the next result it
 * requests is either the next one in the log or the first that must be computed.
 */
import { open } from "node:fs/promises"
import { join } from "node:path"
import { deserialize, serialize } from "node:v8"
import * as Effect from "effect/Effect"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ArtifactError } from "../../schemas/artifact.ts"

export interface Batch<A, E> {
  /** Identifies the batch; compared with the name in the log. */
  readonly name: string
  readonly compute: Effect.Effect<A, E>
  /** The progress to report once the batch is computed. */
  readonly tell: (result: A) => Progress
}

export interface BatchLog {
  /** The result of the stage's next batch: from a checkpoint, or computed now. Results are plain data. */
  readonly next: <A, E>(batch: Batch<A, E>) => Effect.Effect<A, E | ArtifactError>
}

type Report = (progress: Progress) => Effect.Effect<void>

/** A log that stores nothing: for batches within a step that is stored as a unit. */
export const withoutLog = (progress: Report): BatchLog => ({
  next: ({ compute, tell }) => Effect.tap(compute, (result) => progress(tell(result)))
})

/** One result after another, each preceded by its size in bytes. v8's serialisation preserves the bits of every number, including -0 and NaN. */
const fileName = "batches.bin"
interface Entry {
  readonly name: string
  readonly result: unknown
}

const writeEntries = async (folder: string, entries: ReadonlyArray<Entry>): Promise<void> => {
  const file = await open(join(folder, fileName), "w")
  try {
    for (const entry of entries) {
      const bytes = serialize(entry)
      const size = Buffer.alloc(4)
      size.writeUInt32LE(bytes.length)
      // Unlike `write`, writeFile continues until everything is written.
      await file.writeFile(Buffer.concat([size, bytes]))
    }
  } finally {
    await file.close()
  }
}

const readEntries = async (folder: string, count: number): Promise<Array<Entry>> => {
  const file = await open(join(folder, fileName))
  try {
    const entries: Array<Entry> = []
    let at = 0
    const take = async (size: number): Promise<Buffer> => {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(size), 0, size, at)
      if (bytesRead !== size) throw new Error(`it ends within result ${entries.length + 1} of ${count}`)
      at += size
      return buffer
    }
    while (entries.length < count) entries.push(deserialize(await take((await take(4)).readUInt32LE())) as Entry)
    const { size } = await file.stat()
    if (size !== at) throw new Error(`${size - at} extra bytes after its ${count} results`)
    return entries
  } finally {
    await file.close()
  }
}

const failed = (folder: string, expected: string, found: string) =>
  ArtifactError.of({
    doing: `Resuming from ${join(folder, fileName)}`,
    expected,
    found,
    hint: `Delete the folder ${folder} and run again: the stage then starts from the beginning.`
  })

/** The log of a stage, with the results in its newest checkpoint; a checkpoint is saved whenever one is due. */
export const openBatchLog = Effect.fn("openBatchLog")(function* (context: {
  readonly checkpoints: Checkpoints
  readonly progress: Report
}): Effect.fn.Return<BatchLog, ArtifactError | StageError> {
  const { checkpoints, progress } = context
  const found = yield* checkpoints.latest
  const entries =
    found === undefined
      ? []
      : yield* Effect.tryPromise({
          try: () => readEntries(found.path, found.step),
          catch: (cause) =>
            failed(found.path, `the results of ${found.step} batches`, cause instanceof Error ? cause.message : String(cause))
        })
  if (found !== undefined) yield* progress({ note: `resumes after ${found.step} batches, from a checkpoint` })
  let at = 0
  const next = Effect.fnUntraced(function* <A, E>({ name, compute, tell }: Batch<A, E>): Effect.fn.Return<A, E | ArtifactError> {
    const kept = entries[at]
    at++
    if (kept !== undefined) {
      if (kept.name === name) return kept.result as A
      return yield* failed(found?.path ?? "", `batch ${at} to be ${name}`, kept.name)
    }
    const result = yield* compute
    entries.push({ name, result })
    yield* progress(tell(result))
    if (checkpoints.due())
      yield* checkpoints.save(entries.length, (folder) =>
        Effect.tryPromise({
          try: () => writeEntries(folder, entries),
          catch: (cause) => ({ message: cause instanceof Error ? cause.message : String(cause) })
        })
      )
    return result
  })
  return { next }
})
