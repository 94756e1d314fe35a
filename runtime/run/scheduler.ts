/** The ready queue of a graph: one fiber per node, started once all its dependencies are settled. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import { dependencies, type Graph } from "../define/graph.ts"

/**
 * Settles every node. Permits bound the concurrency (--jobs; one stage with tensors), and no fiber holds anything that others need while it waits for
 * one, so nodes that wait for one kind of permit do not delay the others. If a node fails, interrupts the rest and fails with its error.
 */
export const schedule = <E>(
  graph: Graph,
  settle: (id: string) => Effect.Effect<void, E>,
  /** Already settled nodes. */
  settled: { readonly has: (id: string) => boolean }
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
        // Starting immediately would nest a stack frame per node of a chain. Without propagation, `join` would wait forever for an interrupted fiber.
        { startImmediately: false, propagateInterruption: true }
      )
    for (const id of ready) yield* begin(id)
    yield* Effect.raceFirst(Deferred.await(done), FiberSet.join(fibers))
  }).pipe(Effect.scoped)
