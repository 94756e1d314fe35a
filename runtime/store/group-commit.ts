/**
 * Group commit: while one group is being written, new items wait and form the next group. Fixed costs of a write (an fsync of a folder, a
 * transaction) are shared by the group; nothing waits for a group to fill.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"

/**
 * Returns a function that adds an item to the next group and waits until it is written, even when interrupted, so that finished work is not lost.
 * `write` returns the outcome of each item, in order. The scope must outlive all callers.
 */
export const groupCommit = <Item, A, E>(
  write: (items: ReadonlyArray<Item>) => Effect.Effect<ReadonlyArray<Exit.Exit<A, E>>>
): Effect.Effect<(item: Item) => Effect.Effect<A, E>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const waiting = yield* Queue.unbounded<{ readonly item: Item; readonly written: Deferred.Deferred<A, E> }>()
    const writeGroup = Effect.gen(function* () {
      const group = yield* Queue.takeAll(waiting)
      const exit = yield* Effect.exit(write(group.map(({ item }) => item)))
      group.forEach(({ written }, i) => Deferred.doneUnsafe(written, Exit.isSuccess(exit) ? exit.value[i]! : Exit.failCause(exit.cause)))
      // The resumed fibers may have more items to add.
      yield* nextTurn
    })
    yield* Effect.forkScoped(Effect.forever(writeGroup))
    return (item) =>
      Effect.uninterruptible(
        Effect.suspend(() => {
          const written = Deferred.makeUnsafe<A, E>()
          Queue.offerUnsafe(waiting, { item, written })
          return Deferred.await(written)
        })
      )
  })

/** One turn of the event loop. */
const nextTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})
