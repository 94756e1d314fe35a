/** A FIFO semaphore for thousands of waiters. effect/Semaphore scans all waiters at each release, and the partitioned one only considers the first. */
import * as Effect from "effect/Effect"
import * as PartitionedSemaphore from "effect/PartitionedSemaphore"

export interface FairSemaphore {
  readonly withPermit: <A, E, R>(work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** `work` may release its permit before it ends. */
  readonly withPermitUntil: <A, E, R>(work: (release: Effect.Effect<void>) => Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export const fairSemaphore = (permits: number): FairSemaphore => {
  const semaphore = PartitionedSemaphore.makeUnsafe<null>({ permits })
  const withPermitUntil: FairSemaphore["withPermitUntil"] = (work) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        yield* restore(semaphore.take(null, 1))
        // A release resumes the next waiter immediately, inside the releasing fiber: let that fiber continue first.
        yield* nextMicrotask
        let held = true
        const release = Effect.suspend(() => {
          if (!held) return Effect.void
          held = false
          return Effect.asVoid(semaphore.release(1))
        })
        return yield* Effect.ensuring(restore(work(release)), release)
      })
    )
  return { withPermitUntil, withPermit: (work) => withPermitUntil(() => work) }
}

const nextMicrotask = Effect.callback<void>((resume) => queueMicrotask(() => resume(Effect.void)))
