/** Running a node's stage on its inputs: what it wrote is sealed in a folder of its own, and not yet in the store. */
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

/** Seconds between two checkpoints of a stage, unless the run says otherwise. */
const usualCheckpointSeconds = 60

export interface Produced extends Outcome {
  readonly sealed: SealedObject
  /** What is told of how it was made, where there is something to tell. */
  readonly sidecar: SealedObject | undefined
}

export const limitsOf = ({ options }: RunContext, node: StageNode): NodeLimits => ({ ...options.limits, ...node.limits })

/** Whether a node's stage runs as a job of its own. One that asks for the run's own process is not worth a job. */
export const isJob = (options: Pick<RunOptions, "on">, { placement, stage }: StageNode): boolean =>
  (placement?.executor ?? (stage.resources.inProcess === true ? "local" : options.on)) === "slurm"

const placed = (run: RunContext, node: StageNode, key: string, { numerics }: KeyParts): Placed | undefined =>
  isJob(run.options, node)
    ? { key, node: node.id, placement: node.placement ?? {}, numerics, onInterruption: run.options.onInterruption ?? (() => "leave") }
    : undefined

/** Where a stage keeps what it goes on from when it is killed. */
export const checkpointFolder = ({ store }: RunContext, key: string): string => join(store.home, "checkpoints", key)

/** Where a mapped stage keeps what it made of its shards. All that these depend on, except the dataset that is cut, has one file. */
const shardsFile = (run: RunContext, node: StageNode, parts: KeyParts): string | null => {
  const { home } = run.store
  const { sharding } = node.stage
  if (sharding === undefined) return null
  const base = cacheKey({ ...parts, inputs: { ...parts.inputs, [sharding.over]: null } })
  // No database on a file system that machines share: files, where jobs keep checkpoints too.
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
    mostSkipped: limitsOf(run, node).skipped,
    seed: node.seed,
    ...machineFor(node, run.options),
    checkpoints: {
      folder: checkpointFolder(run, key),
      seconds: checkpointSeconds ?? (steps === undefined ? usualCheckpointSeconds : Infinity),
      steps
    },
    shards: shardsFile(run, node, parts)
  }
}

/** A file of the user's that changed while a stage read it makes the result worthless: it belongs to no content. */
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
          message: `The input ${path} changed while it was read. Nothing was recorded: let whatever writes it finish, then run again.`,
          isRetryable: false
        })
    )
  }
})

/** Runs the stage; the folder that it wrote stays when this succeeds. */
export const produce = (run: RunContext, node: StageNode, key: string, parts: KeyParts): Effect.Effect<Produced, StageError | StoreError> =>
  Effect.gen(function* () {
    const { emit, facts, graph, journal, store } = run
    const last = yield* journal.lastExecution(graph.pipeline, node.id)
    emit({ type: "node-started", node: node.id, stage: node.stage.name, why: changes(node, facts, last, parts).all })
    const directory = yield* store.temporary
    // Made where there is something to put there.
    const beside = `${directory}-sidecar`
    const work = Effect.gen(function* () {
      const outcome = yield* run.execute({
        stage: node.stage,
        job: jobOf(run, node, key, parts, { output: directory, sidecar: beside }),
        code: facts.code.get(node.id)!,
        cache: journal,
        limits: limitsOf(run, node),
        on: placed(run, node, key, parts),
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
              message: `Stage ${node.stage.name} wrote something other than a ${node.type.name}. ${error.message}`,
              isRetryable: false
            })
          )
        )
      )
      const sidecar = existsSync(beside) ? yield* Effect.catchTag(store.seal(beside, Sidecar), "ArtifactError", Effect.die) : undefined
      return { ...outcome, sealed, sidecar }
    })
    return yield* work.pipe(
      Effect.mapError((error) => (error instanceof StageError ? withSkipped(run, node, beside, error) : error)),
      Effect.onError(() =>
        Effect.gen(function* () {
          // Of a process that was killed there is what its last checkpoint has.
          if (!existsSync(join(beside, curvesFile))) {
            const left = yield* Effect.promise(() => curveOfCheckpoints(checkpointFolder(run, key)))
            yield* writeCurve(left, beside, (message) => emit({ type: "note", node: node.id, message }))
          }
          const curve = kept(beside, curvesFile, curvesPath(store.home, run.id, node.id), "its curve until then is")
          if (curve !== undefined) emit({ type: "note", node: node.id, message: curve })
          yield* store.remove(directory)
          yield* store.remove(beside)
        })
      )
    )
  })

/** Keeps a file of what would have been the sidecar of a stage that fails, beside its log: it may say why. Gives where it is, if it is there. */
const kept = (beside: string, file: string, to: string, what: string): string | undefined => {
  if (!existsSync(join(beside, file))) return undefined
  try {
    mkdirSync(dirname(to), { recursive: true })
    copyFileSync(join(beside, file), to)
    return `${what} in ${to}`
  } catch (cause) {
    return `${what} lost: ${messageOf(cause)}`
  }
}

/** The error of a stage that had skipped rows: it says where they are listed. */
const withSkipped = ({ id, store }: RunContext, node: StageNode, beside: string, error: StageError): StageError => {
  const where = kept(beside, skippedFile, skippedPath(store.home, id, node.id), "The rows that it skipped are")
  if (where === undefined) return error
  const advice =
    error.reason !== "TooManySkipped"
      ? ""
      : node.limits?.skipped === undefined
        ? " Fix the data, or allow more with --max-skipped (a share, 0 to 1)."
        : " Fix the data, or allow more where the pipeline limits this node: limited({ skipped })."
  return new StageError({ reason: error.reason, isRetryable: error.isRetryable, message: `${error.message} ${where}.${advice}` })
}
