/** Computes the shards of a mapped stage in several jobs (docs/decisions/0010-stage-map.md): the result does not depend on their number. */
import { rmSync } from "node:fs"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import type { StageError } from "../errors.ts"
import type { Execute, Work } from "../run/execute.ts"

/** Distributes the shards of a mapped stage to workers, each a separate job; the shard results are stored for the job that joins them. */
export const dealOut = (run: Execute, work: Work, workers: number): Effect.Effect<void, StageError> => {
  const steps = Array.from({ length: workers }, () => [0, 0] as [step: number, total: number])
  const partOf = (index: number): Work => {
    const key = `${work.on!.key}.${index}`
    const { checkpoints } = work.job
    return {
      ...work,
      job: {
        ...work.job,
        part: { index, of: workers },
        output: `${work.job.output}-part-${index}`,
        sidecar: null,
        checkpoints: checkpoints === null ? null : { ...checkpoints, folder: join(dirname(checkpoints.folder), key) }
      },
      on: { ...work.on!, key, node: `${work.on!.node}.${index + 1}of${workers}` },
      onProgress: (progress) => {
        if (progress.step === undefined || progress.note !== undefined) return work.onProgress(progress)
        // A worker reports every shard, including those of other workers that it skips.
        steps[index] = [Math.floor(progress.step / workers), progress.total ?? 0]
        const step = Math.min(
          steps.reduce((sum, [step]) => sum + step, 0),
          progress.total ?? Infinity
        )
        work.onProgress({ step, ...(progress.total === undefined ? {} : { total: progress.total }), message: `on ${workers} workers` })
      }
    }
  }
  return Effect.forEach(
    Array.from({ length: workers }, (_, index) => partOf(index)),
    (part) =>
      run(part).pipe(
        Effect.andThen(
          Effect.sync(() => {
            for (const path of [part.job.output, part.job.checkpoints?.folder])
              if (path !== undefined) rmSync(path, { recursive: true, force: true })
          })
        )
      ),
    { concurrency: "unbounded", discard: true }
  )
}
