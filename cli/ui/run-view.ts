/** A run as first sent to its page; later changes arrive as events (live.ts). */
import * as Effect from "effect/Effect"
import { askedOf } from "../../runtime/store/asked.ts"
import { Store } from "../../runtime/store/store.ts"
import type { RunView } from "./api.ts"
import { runWithLine } from "./runs.ts"
import { flatAsked } from "../../runtime/inspect/history.ts"
import { RunWatch } from "./watch.ts"

export const runView = Effect.fnUntraced(function* (id: string) {
  const { home } = yield* Store
  const { graph, isWhole, line, previous, run } = yield* runWithLine(id)
  const asked = askedOf(run)
  const watch = new RunWatch(id, home)
  yield* watch.look()
  return {
    ...line,
    asked: flatAsked(asked),
    selection: { ...asked?.selection },
    outputs: { ...asked?.outputs },
    previous,
    isWhole,
    graph,
    state: watch.since(0)!.state,
    resume: asked?.again === undefined ? "It can't be resumed here: it was started by a program or an older version of caravan." : null
  } satisfies RunView
})
