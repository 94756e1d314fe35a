/**
 * Group commit: while one group is being written, what becomes ready waits, and is the next group. Whatever a write costs once (an fsync of a folder, a
 * transaction) is shared by the group; nothing waits for a group to fill.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"

/**
 * Gives what adds an item to the next group, and waits until it is written: also when interrupted, since what is finished is not lost. `write` gives
 * what became of each item, in order. The scope must outlive those who add.
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
      // What these resume may have more to write at once.
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

/** A turn of the event loop. */
const nextTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})
