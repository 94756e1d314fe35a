/**
 * Runs a mapped stage (`Stage.map`, docs/decisions/0010-stage-map.md): splits the dataset at one port after a fixed number of rows, runs the stage on
 * each shard, and concatenates the outputs in order. Shard results are stored (store/shards.ts) and reused: by this node after a kill, and by the
 * next one when rows were appended.
 */
import { createHash } from "node:crypto"
import { mkdirSync, readFileSync, rmdirSync, unlinkSync, writeFileSync } from "node:fs"
import { mkdir, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { ArtifactError, type ArtifactRef, type DatasetType, type Written, written } from "../../schemas/artifact.ts"
import type { OpenDataset } from "../../schemas/dataset-file.ts"
import { isTransient } from "../../schemas/explained-error.ts"
import { type Checkpoints, noCheckpoints } from "../define/resume-points.ts"
import type { SkippedRow, SkippedRows } from "../define/skipped.ts"
import type { Context, Progress, Sharding, StageInfo } from "../define/stage-info.ts"
import { digestOf } from "../encoding.ts"
import { messageOf, StageError, stageErrorOf } from "../errors.ts"
import { shardFolder, type ShardStore } from "../store/shard-folder.ts"

/** Part of the key of every mapped stage. Increase it when a change of the mapping affects results: the split, the shards' seeds, the concatenation. */
export const mappingVersion = 1

const fileName = "data.arrow"
/** Minimum interval between progress reports, in milliseconds; the stage's own reports come in addition. */
const progressInterval = 50
/** Maximum number of steps within a shard, to number its checkpoints. */
const stepsOfShard = 1_000_000

/** The rows of an open dataset in groups of `size`, with one batch in memory at a time. */
async function* shardsOf(file: OpenDataset, size: number): AsyncGenerator<Array<unknown>> {
  let shard: Array<unknown> = []
  for (let i = 0; i < file.batches; i++) {
    for (const row of (await file.batch(i)) as Array<unknown>) {
      shard.push(row)
      if (shard.length < size) continue
      yield shard
      shard = []
    }
  }
  if (shard.length > 0) yield shard
}

/** Feeds a consumer of rows one list at a time: `push` resolves once the list is consumed, and rejects, as `end` does, with the consumer's error. */
const pipe = <A>(consume: (rows: AsyncIterable<unknown>) => Promise<A>) => {
  const lists: Array<ReadonlyArray<unknown>> = []
  let [ended, broken] = [false, false]
  let [given, taken] = [() => {}, () => {}]
  const rows = async function* () {
    for (;;) {
      for (let list = lists.shift(); list !== undefined; list = lists.shift()) {
        yield* list
        taken()
      }
      if (ended) return
      await new Promise<void>((resolve) => (given = resolve))
    }
  }
  const result = consume(rows())
  // `push` and `end` report it.
  result.catch(() => {
    broken = true
    taken()
  })
  return {
    push: async (list: ReadonlyArray<unknown>): Promise<void> => {
      const done = new Promise<void>((resolve) => (taken = resolve))
      lists.push(list)
      given()
      if (!broken) await done
      if (broken) await result
    },
    end: (): Promise<A> => {
      ended = true
      given()
      return result
    }
  }
}

/** The shards of one worker: every `of`th from `index`, counted from 0. */
export interface ShardPart {
  readonly index: number
  readonly of: number
}

/** Runs a mapped stage on all shards. */
export const runMapped = (
  stage: StageInfo,
  { over, rows: size }: Sharding,
  context: Context,
  /** Where shard results are stored; undefined: only while the stage runs. */
  kept: string | undefined,
  /** For one of several workers: it computes and stores its own shards, and returns no rows. */
  part?: ShardPart
): Effect.Effect<Written<any>, { readonly message: string }> =>
  Effect.gen(function* () {
    const [{ openRows, writeRows }, { datasetBytes }, { Shards }] = yield* Effect.promise(() =>
      Promise.all([import("../../schemas/dataset-file.ts"), import("../../schemas/dataset-bytes.ts"), import("../store/shards.ts")])
    )
    const isMine = (index: number) => part === undefined || index % part.of === part.index
    const inputs = context.inputs as Readonly<Record<string, ArtifactRef<any>>>
    const inputType = stage.inputs[over] as DatasetType<unknown>
    const outputType = stage.output as DatasetType<unknown>
    const [input, output] = [datasetBytes(inputType), datasetBytes(outputType)]
    // Inside the output's folder, so that it is removed with it in any case.
    const scratch = join(context.output.path, "shards")
    const [cut, folder] = [join(scratch, "input"), join(scratch, "output")]
    yield* Effect.acquireRelease(
      trying("Creating the folder for its shards", () => mkdir(cut, { recursive: true })),
      () => Effect.promise(() => rm(scratch, { recursive: true, force: true }))
    )
    const file = yield* Effect.acquireRelease(openRows(inputs[over]!.path, inputType), (opened) =>
      Effect.promise(() => opened.close().catch(() => undefined))
    )
    const open = (path: string) =>
      attempt(`Opening the shard results in ${path}`, (): ShardStore => (path.endsWith(".db") ? new Shards(path) : shardFolder(path)))
    const shards = yield* Effect.acquireRelease(
      kept === undefined
        ? open(join(scratch, "shards.db"))
        : open(kept).pipe(
            Effect.catch(({ message }) =>
              Effect.andThen(
                context.progress({ note: `${message}. The stage continues without storing shards` }),
                open(join(scratch, "shards.db"))
              )
            )
          ),
      (opened) => Effect.sync(() => opened.close())
    )
    const count = Math.ceil(file.rowCount / size)
    let told = 0
    /** Number of rows of the shards, by kind. */
    const rowsOf = new Map<string, Looked>()
    const tell = ({ rows, of }: GatheredRows) => {
      for (const row of rows) context.skipped.add(row)
      for (const [what, looked] of of) addLooked(rowsOf, what, looked)
    }

    const makeShard = (index: number, rows: ReadonlyArray<unknown>, bytes: Uint8Array, key: string) =>
      Effect.gen(function* () {
        // Small private files: an asynchronous write would take longer.
        writeFileSync(join(cut, fileName), bytes)
        mkdirSync(folder)
        const digest = createHash("sha256").update(bytes).digest("hex")
        const seed = stage.seeded ? shardSeed(context.seed, index) : context.seed
        const skipped = gatherSkipped()
        const done = yield* stage.run({
          ...context,
          inputs: { ...inputs, [over]: { path: cut, type: inputType.name, digest, contentDigest: digest } },
          output: { path: folder, type: outputType },
          seed,
          progress: (report) => context.progress(shardProgress(report, index, count)),
          checkpoints: ofShard(context.checkpoints, index, key),
          skipped
        })
        if (done?.slot?.path !== folder)
          return yield* new StageError({
            reason: "NothingWritten",
            message: `Stage ${stage.name} did not return its output. End its run with writeDataset(output, ...).`,
            isRetryable: false
          })
        const [result, made] = yield* attempt(`Reading the output of stage ${stage.name}`, () => {
          const written = readFileSync(join(folder, fileName))
          return [written, output.decode(written)] as const
        })
        yield* attempt("Storing the shard's result", () => {
          // Before the result, so that every stored result has its skipped rows.
          if (skipped.of.size > 0) shards.put(skippedKey(key), Buffer.from(JSON.stringify(skipped.gathered())))
          shards.put(key, result)
        })
        tell(skipped.gathered())
        // Half the cost of a recursive removal: a dataset contains nothing else.
        unlinkSync(join(folder, fileName))
        rmdirSync(folder)
        return made
      }).pipe(
        Effect.catchCause((cause) => {
          if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
          const { isRetryable, message, reason } = stageErrorOf(cause)
          const first = index * size + 1
          const where = `Shard ${index + 1} of ${count} (rows ${first} to ${first + rows.length - 1} of "${over}")`
          return Effect.fail(new StageError({ reason, message: `${where}: ${message}`, isRetryable }))
        })
      )

    const results = yield* Effect.acquireRelease(
      Effect.sync(() => pipe((rows: AsyncIterable<unknown>) => writeRows(context.output.path, outputType, rows))),
      ({ end }) => Effect.promise(() => end().catch(() => 0))
    )
    const iterator = shardsOf(file, size)
    for (let index = 0; ; index++) {
      const next = yield* trying(`Reading the rows of "${over}"`, () => iterator.next())
      if (next.done === true) break
      if (!isMine(index)) continue
      const bytes = input.encode(next.value)
      const key = keyOf(bytes, stage.seeded ? index : null)
      const found = yield* attempt("Looking up the shard's result", () => {
        const result = shards.get(key)
        const skipped = result === undefined ? undefined : shards.get(skippedKey(key))
        if (skipped !== undefined) tell(JSON.parse(Buffer.from(skipped).toString("utf8")) as GatheredRows)
        return result
      })
      const rows = found === undefined ? yield* makeShard(index, next.value, bytes, key) : output.decode(found)
      if (part === undefined) yield* trying(writing, () => results.push(rows))
      if (performance.now() - told > progressInterval || index + 1 === count) {
        told = performance.now()
        yield* context.progress({ step: index + 1, total: count })
      }
    }
    const total = yield* trying(writing, () => results.end())
    // The limit applies to all shards together, so it is checked when they are joined.
    for (const [what, { of, most }] of part === undefined ? rowsOf : []) yield* context.skipped.check(what, of, most)
    return written(context.output, { rows: total, shards: count })
  }).pipe(Effect.scoped)

const writing = "Writing the combined output of the shards"
const failed = (doing: string, cause: unknown): StageError =>
  new StageError({ reason: "Shards", message: `${doing}: ${messageOf(cause)}`, isRetryable: isTransient(cause) })
const attempt = <A>(doing: string, body: () => A): Effect.Effect<A, StageError> =>
  Effect.try({ try: body, catch: (cause) => failed(doing, cause) })
/** Damaged or invalid rows already have a complete message. */
const trying = <A>(doing: string, body: () => Promise<A>): Effect.Effect<A, StageError | ArtifactError> =>
  Effect.tryPromise({ try: body, catch: (cause) => (cause instanceof ArtifactError ? cause : failed(doing, cause)) })

/** A shard's position is part of its key if the stage uses random numbers: equal shards then have different seeds. */
const keyOf = (bytes: Uint8Array, index: number | null): string =>
  `${index === null ? "" : `${index}:`}${createHash("sha256").update(bytes).digest("hex")}`

/** The skipped rows of a shard are stored next to its result. */
const skippedKey = (key: string): string => `${key}:skipped`

/** Number of rows of a kind, and the maximum fraction that may be skipped (`SkippedRows.check`). */
interface Looked {
  readonly of: number
  readonly most?: number | undefined
}
const addLooked = (rows: Map<string, Looked>, what: string, { most, of }: Looked) => {
  rows.set(what, { of: (rows.get(what)?.of ?? 0) + of, most })
}

/** The skipped rows of one shard, and its number of rows by kind. */
interface GatheredRows {
  readonly rows: ReadonlyArray<SkippedRow>
  readonly of: ReadonlyArray<readonly [string, Looked]>
}
/** Collects the skipped rows of one shard. The limit applies to all shards together, so it is checked at the end. */
const gatherSkipped = (): SkippedRows & { readonly of: ReadonlyMap<string, Looked>; readonly gathered: () => GatheredRows } => {
  const rows: Array<SkippedRow> = []
  const of = new Map<string, Looked>()
  return {
    of,
    add: (row) => void rows.push(row),
    check: (what, count, most) => Effect.sync(() => addLooked(of, what, { of: count, most })),
    gathered: () => ({ rows, of: [...of] })
  }
}

/** A shard's seed, 0 .. 2^48 - 1: it depends only on the shard's position, not on earlier shards or reused results. */
export const shardSeed = (seed: number, index: number): number => Number.parseInt(digestOf(["caravan shard", seed, index]).slice(0, 12), 16)

/** A shard's progress as part of the whole. */
const shardProgress = ({ step, total, message, ...others }: Progress, index: number, count: number): Progress => {
  const place = step === undefined ? [] : [`step ${step}${total === undefined ? "" : `/${total}`}`]
  const parts = [...place, ...(message === undefined ? [] : [message])]
  return { ...others, step: index, total: count, message: `shard ${index + 1}${parts.length === 0 ? "" : `: ${parts.join(", ")}`}` }
}

/** The node's checkpoints as seen by one shard: other shards' checkpoints are ignored. */
const ofShard = (checkpoints: Checkpoints, index: number, key: string): Checkpoints => {
  if (checkpoints === noCheckpoints) return checkpoints
  return {
    due: checkpoints.due,
    latest: Effect.gen(function* () {
      const found = yield* checkpoints.latest
      if (found === undefined) return undefined
      const text = yield* Effect.promise(() => readFile(join(found.path, "shard"), "utf8").catch(() => ""))
      const [whose, step] = text.split(" ")
      return whose === key ? { step: Number(step), path: join(found.path, "state") } : undefined
    }),
    save: (step, write) =>
      checkpoints.save(index * stepsOfShard + Math.min(step, stepsOfShard - 1), (folder, hold) =>
        Effect.gen(function* () {
          yield* trying("Saving a shard's position", async () => {
            await mkdir(join(folder, "state"))
            await writeFile(join(folder, "shard"), `${key} ${step}`)
          })
          yield* write(join(folder, "state"), hold)
        })
      )
  }
}
