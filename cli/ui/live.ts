/**
 * Live updates as server-sent events. Each update is computed when the previous one has been written: slow clients get fewer updates, and nothing
 * accumulates.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { messageOf } from "../../runtime/errors.ts"
import { Journal } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import type { LiveEvent } from "./api.ts"
import { RunWatch } from "./watch.ts"

/** Milliseconds between two checks of a running run; of a finished run, and of the list of runs. */
const fast = 100
const slow = 1000
/** Writing to a disconnected client reveals the disconnection. */
const aliveAfter = 15_000

interface FeedState {
  readonly begun: boolean
  readonly revision: number
  readonly version: number
}

/** Watches of the runs that clients look at; shared between clients. */
export class Watches {
  readonly #open = new Map<string, { readonly watch: RunWatch; users: number }>()
  readonly #home: string
  constructor(home: string) {
    this.#home = home
  }
  readonly use = (id: string) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        let open = this.#open.get(id)
        if (open === undefined) this.#open.set(id, (open = { watch: new RunWatch(id, this.#home), users: 0 }))
        open.users++
        return open
      }),
      (open) =>
        Effect.sync(() => {
          if (--open.users === 0) this.#open.delete(id)
        })
    )
}

export const liveEvents = (watches: Watches, hello: LiveEvent, run: string | undefined) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const [journal, store] = [yield* Journal, yield* Store]
      const watch = run === undefined ? undefined : (yield* watches.use(run)).watch
      const next = Effect.fnUntraced(function* (state: FeedState) {
        if (!state.begun) return [[hello], Option.some({ ...state, begun: true })] as const
        const began = performance.now()
        for (;;) {
          const version = yield* journal.version()
          const events: Array<LiveEvent> = []
          if (version !== state.version && state.version !== -1 && watch === undefined) events.push({ type: "runs" })
          let { revision } = state
          if (watch !== undefined) {
            yield* watch.look()
            const news = watch.since(revision)
            if (news !== undefined) {
              events.push({ type: "run", ...news.state })
              revision = news.revision
            }
          }
          if (events.length === 0 && performance.now() - began > aliveAfter) events.push({ type: "alive" })
          if (events.length > 0 || state.version === -1) return [events, Option.some({ begun: true, revision, version })] as const
          yield* Effect.sleep(watch === undefined || watch.isOver ? slow : fast)
        }
      })
      const paced = (state: FeedState) => Effect.andThen(state.revision > 0 ? Effect.sleep(fast) : Effect.void, next(state))
      return Stream.paginate({ begun: false, revision: 0, version: -1 } as FeedState, paced).pipe(
        Stream.catch((error) => Stream.succeed<LiveEvent>({ type: "trouble", message: messageOf(error) })),
        Stream.provideService(Journal, journal),
        Stream.provideService(Store, store)
      )
    })
  )
