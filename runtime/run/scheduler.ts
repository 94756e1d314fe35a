/** The ready queue of a graph: one fiber per node, started once all its dependencies are settled. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import { dependencies, type Graph } from "../define/graph.ts"

/**
 * Settles every node. No fiber holds a resource that others need while it waits: concurrency is bounded by the available permits (--jobs, one stage
 * with tensors), so however many wait for one kind of permit, other nodes are found or run in parallel. If one fails, fails and interrupts the rest.
 */
export const schedule = <E>(
  graph: Graph,
  settle: (id: string) => Effect.Effect<void, E>,
  /** Already settled nodes. */
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
        // Otherwise a chain of nodes would need an equally deep stack, and a fiber that ends by interruption would be awaited.
        { startImmediately: false, propagateInterruption: true }
      )
    for (const id of ready) yield* begin(id)
    yield* Effect.raceFirst(Deferred.await(done), FiberSet.join(fibers))
  }).pipe(Effect.scoped)
