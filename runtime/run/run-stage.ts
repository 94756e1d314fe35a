/** Runs a stage on a job: directly in the run's process, or in a child process (child.ts). */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { own } from "../../schemas/own.ts"
import { decodeConfig } from "../../schemas/hyper.ts"
import { noCheckpoints } from "../define/resume-points.ts"
import type { SkippedCount } from "../define/skipped.ts"
import { type Context, type Progress, portOf, type StageInfo } from "../define/stage-info.ts"
import { StageError, stageErrorOf } from "../errors.ts"
import { type CheckpointOptions, openCheckpoints, type StopRequest } from "../store/resume-points.ts"
import { withCurve, Curve, writeCurve } from "./curve.ts"
import { runMapped, type ShardPart } from "./mapped.ts"
import type { RankGroup } from "./ranks.ts"
import { collectSkipped } from "./skipped-rows.ts"

/** Everything a stage needs, as plain data. */
export interface Job {
  readonly module: string
  readonly exportName: string
  readonly config: Readonly<Record<string, unknown>>
  readonly inputs: Readonly<Record<string, ArtifactRef<any> | ReadonlyArray<ArtifactRef<any>> | null>>
  readonly output: string
  readonly seed: number
  readonly device: "cpu" | "cuda"
  readonly threads: number
  /** For a stage with several ranks; absent: a single process. */
  readonly ranks?: RankGroup | undefined
  /** Where the stage saves checkpoints; null: it saves none and starts from the beginning. */
  readonly checkpoints: CheckpointOptions | null
  /** Where a mapped stage stores its shard results; null or absent: it stores none. */
  readonly shards?: string | null
  /** For a mapped stage with several workers: this worker's shards. */
  readonly part?: ShardPart | undefined
  /** The folder for files about how the result was made (store/sidecar.ts); null or absent: none are kept. */
  readonly sidecar?: string | null
  /** The metrics of the result being reproduced; absent in a run. */
  readonly recorded?: Readonly<Record<string, number>> | undefined
  /** Maximum fraction of rows that the stage may skip; absent if neither the node nor the run sets it. */
  readonly skippedLimit?: number | undefined
}

/** A stage's metrics and other results besides its output. */
export interface Outcome {
  readonly metrics: Readonly<Record<string, number>>
  readonly skipped: ReadonlyArray<SkippedCount>
}

/** Runs the stage. Every error becomes a StageError that can be shown. */
export const runStage = (
  stage: StageInfo,
  job: Job,
  progress: (progress: Progress) => void,
  stop?: StopRequest
): Effect.Effect<Outcome, StageError> =>
  Effect.suspend(() => {
    const { sidecar } = job
    if (sidecar === null || sidecar === undefined) return runWith(stage, job, progress, stop)
    const curve = new Curve()
    return runWith(stage, job, progress, stop, curve).pipe(
      // Also for a failed stage: its curve helps to find the reason.
      Effect.onExit((exit) =>
        Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
          ? Effect.void
          : writeCurve(curve, sidecar, (message) => progress({ note: message }))
      )
    )
  })

const runWith = (
  stage: StageInfo,
  job: Job,
  progress: (progress: Progress) => void,
  stop: StopRequest | undefined,
  curve?: Curve
): Effect.Effect<Outcome, StageError> =>
  Effect.gen(function* () {
    const config = yield* decodeConfig(stage.config, job.config, `Stage ${stage.name}`)
    const inputs = Object.fromEntries(
      Object.entries(stage.inputs).map(([name, port]) => [name, own(job.inputs, name) ?? (portOf(port).arity === "many" ? [] : undefined)])
    )
    for (const [name, port] of Object.entries(stage.inputs)) {
      const { type } = portOf(port)
      for (const ref of [own(job.inputs, name) ?? []].flat() as ReadonlyArray<ArtifactRef<any>>) yield* type.validate(ref.path)
    }
    const skipped = collectSkipped(stage.name, job.sidecar ?? undefined, job.skippedLimit)
    const kept = job.checkpoints === null ? undefined : openCheckpoints(job.checkpoints, (note) => progress({ note }), stop)
    const checkpoints = kept ?? noCheckpoints
    const context: Context = {
      config,
      inputs,
      output: { path: job.output, type: stage.output },
      seed: job.seed,
      device: job.device,
      threads: job.threads,
      // Yields to the event loop, so that messages and signals are handled between steps.
      progress: (report) =>
        Effect.andThen(
          Effect.sync(() => {
            curve?.add(report)
            progress(report)
          }),
          nextTurn
        ),
      checkpoints: curve === undefined || checkpoints === noCheckpoints ? checkpoints : withCurve(checkpoints, curve),
      skipped,
      recorded: job.recorded
    }
    const run: StageInfo["run"] = (given) => {
      const made: unknown = stage.run(keyedOnly(stage, given))
      return Effect.isEffect(made) ? (made as ReturnType<StageInfo["run"]>) : Effect.fail(notAnEffect(stage, made))
    }
    const { sharding } = stage
    const written = yield* Effect.suspend(() =>
      sharding === undefined ? run(context) : runMapped({ ...stage, run }, sharding, context, job.shards ?? undefined, job.part)
    ).pipe(
      Effect.onError(() => skipped.close),
      Effect.ensuring(kept?.settled ?? Effect.void)
    )
    if (written?.slot?.path !== job.output)
      return yield* new StageError({
        reason: "NothingWritten",
        message: `Stage ${stage.name} did not return its output. End its run with writeDataset(output, ...), saveCheckpoint(output, ...) or another writer.`,
        isRetryable: false
      })
    return { metrics: written.metrics, skipped: yield* skipped.finish }
  }).pipe(
    Effect.catchCause((cause) => {
      // If the run itself was interrupted, this is not reached.
      if (Cause.hasInterruptsOnly(cause))
        return Effect.fail(
          new StageError({
            reason: "Interrupted",
            message: `Stage ${stage.name} interrupted itself: a stage must return its output or fail with an error. Fix its code (Effect.interrupt, or a fiber that was interrupted and then joined).`,
            isRetryable: false
          })
        )
      return Effect.fail(stageErrorOf(cause))
    })
  )

/** The error for a stage whose `run` returns no Effect: it was written without types, or as an async function. */
const notAnEffect = (stage: StageInfo, made: unknown): StageError =>
  new StageError({
    reason: "Defect",
    message: `Stage ${stage.name}: its run returned ${made instanceof Promise ? "a promise" : typeof made === "object" && made !== null ? "an object" : String(made)}, expected an Effect. Write it with Effect.gen or Effect.fn, and wrap promises in Effect.tryPromise.`,
    isRetryable: false
  })

/** Prevents a stage from reading values that are not in its key: its result would be reused for another seed or device. */
const keyedOnly = (stage: StageInfo, context: Context): Context => {
  const tensors = stage.resources.tensors === true
  const refuse = (field: "seed" | "device" | "threads", declaration: string) => {
    const get = () => {
      const error = new Error(
        `Stage ${stage.name} reads context.${field}, which is not part of its key: a result for another ${field} would be reused. Declare \`${declaration}\`, or do not read it.`
      )
      // The stack starts where the stage reads the field, not here.
      Error.captureStackTrace(error, get)
      throw error
    }
    Object.defineProperty(context, field, { get })
  }
  if (!stage.seeded) refuse("seed", "seeded: true")
  if (!tensors) for (const field of ["device", "threads"] as const) refuse(field, "resources: { tensors: true }")
  return context
}

const nextTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})
