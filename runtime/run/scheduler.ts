/** The ready queue of a graph: a fiber a node, begun once all it depends on is settled. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import { dependencies, type Graph } from "../define/graph.ts"

/**
 * Settles every node. No fiber holds what others need while it waits: what runs at once is bounded by the room there is (--jobs, one stage with
 * tensors), so however many wait for one kind of room, others are found or run beside them. Fails, and interrupts the rest, when one fails.
 */
export const schedule = <E>(
  graph: Graph,
  settle: (id: string) => Effect.Effect<void, E>,
  /** Nodes that are settled already. */
  settled: { readonly has: (id: string) => boolean } = new Set<string>()
): Effect.Effect<void, E> =>
  Effect.gen(function* () {
    const waiting = new Map<string, number>()
    const dependents = new Map<string, Array<string>>()
    const ready: Array<string> = []
    let left = 0
    for (const node of graph.nodes.values()) {
      if (settled.has(node.id)) continue
      left++
      const needs = new Set(dependencies(node).filter((id) => !settled.has(id)))
      waiting.set(node.id, needs.size)
      for (const need of needs) {
        const list = dependents.get(need)
        if (list === undefined) dependents.set(need, [node.id])
        else list.push(node.id)
      }
      if (needs.size === 0) ready.push(node.id)
    }
    if (left === 0) return
    const fibers = yield* FiberSet.make<void, E>()
    const done = yield* Deferred.make<void>()
    const begin = (id: string): Effect.Effect<unknown> =>
      FiberSet.run(
        fibers,
        Effect.gen(function* () {
          yield* settle(id)
          for (const dependent of dependents.get(id) ?? []) {
            const count = waiting.get(dependent)! - 1
            waiting.set(dependent, count)
            if (count === 0) yield* begin(dependent)
          }
          if (--left === 0) yield* Deferred.succeed(done, undefined)
        }),
        // Else a chain of nodes would be as deep a stack; and one that ends by an interruption would be waited for.
        { startImmediately: false, propagateInterruption: true }
      )
    for (const id of ready) yield* begin(id)
    yield* Effect.raceFirst(Deferred.await(done), FiberSet.join(fibers))
  }).pipe(Effect.scoped)
