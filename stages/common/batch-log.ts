/**
 * A log of a stage's results per batch, so that a stage that was killed does not compute them again. The results are stored in the order in which they
 * were computed. A stage computes the same batches in the same order each time, even if it has several phases (two models, or several turns of a
 * dialogue). So the next result that it requests is either the next one in the log or the first that has to be computed.
 *
 * Several ranks share the batches. Each batch is the same as on one rank, so its result has the same bits.
 */
import { open } from "node:fs/promises"
import { join } from "node:path"
import { deserialize, serialize } from "node:v8"
import * as Effect from "effect/Effect"
import { gatherAll, rank, ranks } from "../../engine/ranks.ts"
import type { Checkpoints } from "../../runtime/define/resume-points.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { StageError } from "../../runtime/errors.ts"
import { ArtifactError } from "../../schemas/artifact.ts"
import { messageOf } from "../../schemas/explained-error.ts"
import { ofAllRanks } from "./checkpointed.ts"

export interface Batch<A, E> {
  /** Identifies the batch; compared with the name in the log. */
  readonly name: string
  readonly compute: Effect.Effect<A, E>
  /** The progress to report once the batch is computed. */
  readonly progressOf: (result: A) => Progress
  /** Always computed by rank 0, because it asks a program or a server. */
  readonly onRankZero?: boolean
}

export interface BatchLog {
  /** The results of the stage's next batches, from a checkpoint or computed now. The batches must be independent, and results must be plain data. */
  readonly all: <A, E>(batches: ReadonlyArray<Batch<A, E>>) => Effect.Effect<Array<A>, E | ArtifactError>
}

type Report = (progress: Progress) => Effect.Effect<void>

/** A log that stores nothing, and computes every batch on this rank: for batches within a step that is stored as a unit. */
export const withoutLog = (progress: Report): BatchLog => ({
  all: (batches) => Effect.forEach(batches, ({ compute, progressOf }) => Effect.tap(compute, (result) => progress(progressOf(result))))
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

/** The log of a stage, with the results in its newest checkpoint; a checkpoint is saved whenever one is due. All ranks of a stage must open it at the same point. */
export const openBatchLog = Effect.fn("openBatchLog")(function* (context: {
  readonly checkpoints: Checkpoints
  readonly progress: Report
}): Effect.fn.Return<BatchLog, ArtifactError | StageError> {
  const { progress } = context
  const checkpoints = ofAllRanks(context.checkpoints)
  const found = yield* checkpoints.latest
  const entries =
    found === undefined
      ? []
      : yield* Effect.tryPromise({
          try: () => readEntries(found.path, found.step),
          catch: (cause) => failed(found.path, `the results of ${found.step} batches`, messageOf(cause))
        })
  if (found !== undefined) yield* progress({ note: `resumes after ${found.step} batches, from a checkpoint` })
  let at = 0
  /** The next result in the log, which must be that of the batch `name`. */
  const logged = Effect.fnUntraced(function* (name: string): Effect.fn.Return<unknown, ArtifactError> {
    const entry = entries[at++]!
    return entry.name === name ? entry.result : yield* failed(found?.path ?? "", `batch ${at} to be ${name}`, entry.name)
  })
  /** Computes one batch on each rank, or a single one on rank 0, and exchanges the results. */
  const round = Effect.fnUntraced(function* <A, E>(batches: ReadonlyArray<Batch<A, E>>): Effect.fn.Return<ReadonlyArray<A>, E> {
    const own = batches[rank()]
    const result = own === undefined ? undefined : yield* own.compute
    const results = gatherAll(result as A, `exchanging results, from ${batches[0]!.name}`).slice(0, batches.length)
    for (const [i, { name, progressOf }] of batches.entries()) {
      entries.push({ name, result: results[i]! })
      at++
      yield* progress(progressOf(results[i]!))
    }
    if (checkpoints.due())
      yield* checkpoints.save(entries.length, (folder) =>
        Effect.tryPromise({
          try: () => writeEntries(folder, entries),
          catch: (cause) => ({ message: messageOf(cause) })
        })
      )
    return results
  })
  const all = Effect.fnUntraced(function* <A, E>(batches: ReadonlyArray<Batch<A, E>>): Effect.fn.Return<Array<A>, E | ArtifactError> {
    const results: Array<A> = []
    while (results.length < batches.length) {
      const next = batches.slice(results.length, results.length + ranks())
      if (at < entries.length) results.push((yield* logged(next[0]!.name)) as A)
      else results.push(...(yield* round(next.some(({ onRankZero }) => onRankZero) ? next.slice(0, 1) : next)))
    }
    return results
  })
  return { all }
})
