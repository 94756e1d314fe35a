/** Fetches a node's inputs from the Hub: once per run, however many nodes read them. */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { dependencies, type StageNode } from "../define/graph.ts"
import type { RemoteFiles } from "../define/remote.ts"
import type { RunContext } from "./context.ts"
import { fetchInput } from "./inputs.ts"

/** Why an input is not available; undefined if all are. */
export type FetchInputs = (node: StageNode) => Effect.Effect<string | undefined>

export const makeFetchInputs = ({ emit, graph, known }: RunContext): FetchInputs => {
  const failures = new Map<string, string>()
  const locks = new Map<string, Semaphore.Semaphore>()

  const fetched = (id: string, remote: RemoteFiles): Effect.Effect<void> => {
    let lock = locks.get(id)
    if (lock === undefined) locks.set(id, (lock = Semaphore.makeUnsafe(1)))
    return Effect.gen(function* () {
      const seen = known.get(id)!
      if (seen.stamp !== undefined || failures.has(id)) return
      const stamp = yield* Effect.result(fetchInput(remote, emit))
      if (stamp._tag === "Success") known.set(id, { ...seen, stamp: stamp.success })
      else failures.set(id, stamp.failure.message)
    }).pipe(lock.withPermits(1))
  }

  return Effect.fnUntraced(function* (node) {
    for (const id of dependencies(node)) {
      const input = graph.nodes.get(id)!
      if (input.kind === "stage" || input.remote === undefined) continue
      yield* fetched(id, input.remote)
      const failure = failures.get(id)
      if (failure !== undefined) return failure
    }
    return undefined
  })
}
