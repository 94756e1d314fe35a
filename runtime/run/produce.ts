/** Runs a node's stage on its inputs and seals the output in a temporary folder, ready to be committed to the store. */
import { copyFileSync, existsSync, mkdirSync } from "node:fs"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { dependencies, type StageNode } from "../define/graph.ts"
import type { NodeLimits } from "../define/node.ts"
import { messageOf, StageError, type StoreError } from "../errors.ts"
import { cacheKey, type KeyParts } from "../key/cache-key.ts"
import { checkStamp } from "../key/file-source.ts"
import type { SealedObject } from "../store/objects.ts"
import { curvesFile, Sidecar, skippedFile } from "../store/sidecar.ts"
import { changes } from "./changes.ts"
import { curveOfCheckpoints, writeCurve } from "./curve.ts"
import type { RunContext } from "./context.ts"
import type { Placed } from "./execute.ts"
import { curvesPath, skippedPath } from "./node-log.ts"
import type { RunOptions } from "./options.ts"
import { machineFor } from "./ranks.ts"
import type { Job, Outcome } from "./run-stage.ts"

/** Default seconds between two checkpoints of a stage. */
const defaultCheckpointSeconds = 60

export interface Produced extends Outcome {
  readonly sealed: SealedObject
  /** Files about how it was made, if any. */
  readonly sidecar: SealedObject | undefined
}

export const limitsOf = ({ options }: RunContext, node: StageNode): NodeLimits => ({ ...options.limits, ...node.limits })

/** Whether a node's stage runs as a Slurm job. Stages with `inProcess` are too small for a job unless their node requests it. */
export const isJob = (options: Pick<RunOptions, "on">, { placement, stage }: StageNode): boolean =>
  (placement?.executor ?? (stage.resources.inProcess === true ? "local" : options.on)) === "slurm"

const placementOf = (run: RunContext, node: StageNode, key: string, { numerics }: KeyParts): Placed | undefined =>
  isJob(run.options, node)
    ? { key, node: node.id, placement: node.placement ?? {}, numerics, onInterruption: run.options.onInterruption ?? (() => "leave") }
    : undefined

/** The folder of a stage's resume checkpoints. */
export const checkpointFolder = ({ store }: RunContext, key: string): string => join(store.home, "checkpoints", key)

/** The file of a mapped stage's shard results. There is one per combination of everything they depend on except the split dataset. */
const shardsFile = (run: RunContext, node: StageNode, parts: KeyParts): string | null => {
  const { home } = run.store
  const { sharding } = node.stage
  if (sharding === undefined) return null
  const base = cacheKey({ ...parts, inputs: { ...parts.inputs, [sharding.over]: null } })
  // Jobs use a folder, next to their checkpoints: SQLite does not work on a shared file system.
  return isJob(run.options, node) ? join(home, "checkpoints", `shards-${base}`) : join(home, "shards", `${base}.db`)
}

/** The artifacts at a node's ports. */
export const inputsOf = (node: StageNode, ref: (id: string) => ArtifactRef<any>): Job["inputs"] =>
  Object.fromEntries(
    Object.entries(node.inputs).map(([port, ids]) => [port, ids === null ? null : typeof ids === "string" ? ref(ids) : ids.map(ref)])
  )

const jobOf = (run: RunContext, node: StageNode, key: string, parts: KeyParts, folders: Pick<Job, "output" | "sidecar">): Job => {
  const { checkpointSeconds, checkpointSteps: steps } = run.options
  return {
    module: node.stage.module,
    exportName: run.facts.code.get(node.id)!.exportName,
    config: node.config,
    inputs: inputsOf(node, (id) => {
      const { path, type, digest, contentDigest } = run.known.get(id)!
      return { path, type, digest, contentDigest }
    }),
    ...folders,
    skippedLimit: limitsOf(run, node).skipped,
    seed: node.seed,
    ...machineFor(node, run.options),
    checkpoints: {
      folder: checkpointFolder(run, key),
      seconds: checkpointSeconds ?? (steps === undefined ? defaultCheckpointSeconds : Infinity),
      steps
    },
    shards: shardsFile(run, node, parts)
  }
}

/** Fails if a user's file changed while a stage read it: the result would not belong to any version of the file. */
const checkFiles = Effect.fnUntraced(function* (run: RunContext, node: StageNode) {
  for (const id of dependencies(node)) {
    const { path, stamp } = run.known.get(id)!
    if (stamp === undefined) continue
    yield* checkStamp(
      path,
      stamp,
      () =>
        new StageError({
          reason: "InputChanged",
          message: `The input ${path} changed while it was being read. Nothing was recorded: wait until it is completely written, then run again.`,
          isRetryable: false
        })
    )
  }
})

/** Runs the stage. On success the caller removes the output folders (`sealed`, `sidecar`); on failure they are removed here. */
export const produce = (run: RunContext, node: StageNode, key: string, parts: KeyParts): Effect.Effect<Produced, StageError | StoreError> =>
  Effect.gen(function* () {
    const { emit, facts, graph, journal, store } = run
    const { all: why } = yield* changes(node, { facts, journal, pipeline: graph.pipeline }, parts)
    emit({ type: "node-started", node: node.id, stage: node.stage.name, why })
    const directory = yield* store.temporary
    // Created when the first file is written to it.
    const sidecarFolder = `${directory}-sidecar`
    const work = Effect.gen(function* () {
      const outcome = yield* run.execute({
        stage: node.stage,
        job: jobOf(run, node, key, parts, { output: directory, sidecar: sidecarFolder }),
        code: facts.code.get(node.id)!,
        cache: journal,
        limits: limitsOf(run, node),
        on: placementOf(run, node, key, parts),
        onProgress: ({ note, ...progress }) => {
          if (note !== undefined) emit({ type: "note", node: node.id, message: note })
          else emit({ type: "progress", node: node.id, progress })
        },
        onOutput: (text) => emit({ type: "output", node: node.id, text })
      })
      yield* checkFiles(run, node)
      const sealed = yield* store.seal(directory, node.type).pipe(
        Effect.catchTag("ArtifactError", (error) =>
          Effect.fail(
            new StageError({
              reason: "BadOutput",
              message: `Stage ${node.stage.name} did not write a ${node.type.name}. ${error.message}`,
              isRetryable: false
            })
          )
        )
      )
      const sidecar = existsSync(sidecarFolder)
        ? yield* Effect.catchTag(store.seal(sidecarFolder, Sidecar), "ArtifactError", Effect.die)
        : undefined
      return { ...outcome, sealed, sidecar }
    })
    return yield* work.pipe(
      Effect.mapError((error) => (error instanceof StageError ? withSkipped(run, node, sidecarFolder, error) : error)),
      Effect.onError(() =>
        Effect.gen(function* () {
          // If the process was killed, the rows of its last checkpoint are used.
          if (!existsSync(join(sidecarFolder, curvesFile))) {
            const left = yield* Effect.promise(() => curveOfCheckpoints(checkpointFolder(run, key)))
            yield* writeCurve(left, sidecarFolder, (message) => emit({ type: "note", node: node.id, message }))
          }
          const curve = keepForUser(sidecarFolder, curvesFile, curvesPath(store.home, run.id, node.id), "its curve so far is")
          if (curve !== undefined) emit({ type: "note", node: node.id, message: curve })
          yield* store.remove(directory)
          yield* store.remove(sidecarFolder)
        })
      )
    )
  })

/** Copies a file of a failed stage's sidecar next to its log, because it may explain the failure. Returns a message with its path, if it exists. */
const keepForUser = (sidecarFolder: string, file: string, to: string, what: string): string | undefined => {
  if (!existsSync(join(sidecarFolder, file))) return undefined
  try {
    mkdirSync(dirname(to), { recursive: true })
    copyFileSync(join(sidecarFolder, file), to)
    return `${what} in ${to}`
  } catch (cause) {
    return `${what} lost: ${messageOf(cause)}`
  }
}

/** Adds the path of the list of skipped rows to a stage's error. */
const withSkipped = ({ id, store }: RunContext, node: StageNode, sidecarFolder: string, error: StageError): StageError => {
  const where = keepForUser(sidecarFolder, skippedFile, skippedPath(store.home, id, node.id), "The rows that it skipped are")
  if (where === undefined) return error
  const advice =
    error.reason !== "TooManySkipped"
      ? ""
      : node.limits?.skipped === undefined
        ? " Fix the data, or raise the limit (a fraction, 0 to 1) with --max-skipped, or with limits.skipped in a program."
        : " Fix the data, or raise this node's limit in the pipeline: limited({ skipped })."
  return new StageError({ reason: error.reason, isRetryable: error.isRetryable, message: `${error.message} ${where}.${advice}` })
}
