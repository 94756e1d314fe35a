/**
 * Lock files: everything that determines a pipeline's results, written by `caravan freeze` and checked by `caravan run --locked`: the content of its
 * inputs; its nodes with their configs, seeds and wires; the code of their stages; the packages that the code uses; the machine's numerics; and the
 * results that are known.
 */
import { readFile, rename, writeFile } from "node:fs/promises"
import { dirname, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { messageOf, PipelineError } from "../errors.ts"
import { schemaIssues } from "../../schemas/schema-issues.ts"

const Texts = Schema.Record(Schema.String, Schema.String)
const Wires = Schema.Record(Schema.String, Schema.NullOr(Schema.Union([Schema.String, Schema.Array(Schema.String)])))

export const LockFile = Schema.Struct({
  format: Schema.Literal(1),
  /** The format of cache keys: another format recomputes everything. */
  keys: Schema.Number,
  pipeline: Schema.String,
  /** The settings of the command line, repeated by `run --locked`. */
  settings: Texts,
  seed: Schema.Number,
  device: Schema.Literals(["cpu", "cuda"]),
  threads: Schema.Number,
  /** The user's files and folders by node. The path is relative to the lock file and informational; only the content counts. */
  inputs: Schema.Record(Schema.String, Schema.Struct({ path: Schema.String, digest: Schema.String })),
  nodes: Schema.Record(
    Schema.String,
    Schema.Struct({
      stage: Schema.String,
      /** The digest of its code: an entry of `code`. */
      code: Schema.String,
      /** The version in a pinned stage's key; its code is checked anyway. */
      pinned: Schema.optionalKey(Schema.String),
      /** Without fields that can't change the result. */
      config: Schema.Record(Schema.String, Schema.Unknown),
      seed: Schema.NullOr(Schema.Number),
      inputs: Wires,
      /** The digest of its artifact; null if there was none yet. */
      result: Schema.NullOr(Schema.String)
    })
  ),
  code: Schema.Record(Schema.String, Schema.Struct({ files: Texts, packages: Schema.Array(Schema.String) })),
  /** The package-lock.json entry of every package that the code uses. */
  packages: Texts,
  /** null if nothing computes with tensors. */
  numerics: Schema.NullOr(Texts)
})
export type LockFile = typeof LockFile.Type

export const readLock = (path: string): Effect.Effect<LockFile, PipelineError> =>
  Effect.gen(function* () {
    const fail = (what: string) =>
      new PipelineError({
        message: `Reading the lock file ${path}: ${what}. Create it with \`caravan freeze\`, or choose another with --lock.`
      })
    const text = yield* Effect.tryPromise({
      try: () => readFile(path, "utf8"),
      catch: (cause) => fail((cause as NodeJS.ErrnoException).code === "ENOENT" ? "the file does not exist" : messageOf(cause))
    })
    const json = yield* Effect.try({ try: () => JSON.parse(text) as unknown, catch: (cause) => fail(`not JSON (${messageOf(cause)})`) })
    const format = (json as { readonly format?: unknown } | null)?.format
    if (typeof format === "number" && format > 1)
      return yield* fail(`it has format ${format}, but this version of caravan supports formats up to 1`)
    return yield* Schema.decodeUnknownEffect(LockFile)(json).pipe(
      Effect.mapError((error) => fail(`not a lock file: ${schemaIssues(error.message)}`))
    )
  })

export const writeLock = (path: string, lock: LockFile): Effect.Effect<void, PipelineError> =>
  Effect.tryPromise({
    try: async () => {
      await writeFile(`${path}.new`, `${JSON.stringify(lock, undefined, 2)}\n`)
      await rename(`${path}.new`, path)
    },
    catch: (cause) => new PipelineError({ message: `Writing the lock file ${path}: ${messageOf(cause)}. Choose another path with --lock.` })
  })

/** Next to the pipeline file: pipelines/demo.ts -> pipelines/demo.lock.json. */
export const lockPath = (pipeline: string): string => resolve(pipeline).replace(/\.[mc]?[tj]s$/, "") + ".lock.json"
export const lockFolder = (path: string): string => dirname(resolve(path))
