/** A run's state in the page: the static part, and one signal per node. */
import { batch, type Signal, signal } from "@preact/signals"
import type { LiveEvent, NodeState, RunView } from "../../cli/ui/api.ts"

export interface RunStore {
  readonly view: RunView
  readonly nodes: ReadonlyMap<string, Signal<NodeState>>
  readonly status: Signal<string>
  readonly finished: Signal<number | null>
  readonly left: Signal<number | null>
  /** Increases with every change of any node. */
  readonly tick: Signal<number>
  /** Number of nodes per state; updated with `tick`. */
  readonly counts: Signal<Readonly<Record<string, number>>>
}

const countsOf = (nodes: ReadonlyMap<string, Signal<NodeState>>): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const node of nodes.values()) {
    const { state } = node.peek()
    counts[state] = (counts[state] ?? 0) + 1
  }
  return counts
}

export const storeOf = (view: RunView): RunStore => {
  const nodes = new Map(view.state.nodes.map((state) => [state.id, signal(state)]))
  return {
    view,
    nodes,
    status: signal(view.status),
    finished: signal(view.finished),
    left: signal(view.state.left),
    tick: signal(0),
    counts: signal(countsOf(nodes))
  }
}

export const applyEvent = (store: RunStore, event: Extract<LiveEvent, { readonly type: "run" }>): void =>
  batch(() => {
    for (const state of event.nodes) {
      const node = store.nodes.get(state.id)
      if (node !== undefined) node.value = state
    }
    store.status.value = event.status
    store.finished.value = event.finished
    store.left.value = event.left
    if (event.nodes.length > 0) {
      store.counts.value = countsOf(store.nodes)
      store.tick.value++
    }
  })

/** The counts for some nodes. */
export const countsIn = (store: RunStore, ids: ReadonlyArray<string>): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const id of ids) {
    const state = store.nodes.get(id)?.peek().state ?? "waiting"
    counts[state] = (counts[state] ?? 0) + 1
  }
  return counts
}
