/**
 * Results that are found damaged outside of a run: they are moved to the quarantine and their records are forgotten, so that the next run makes them
 * again. This happens under the claims of their keys: a run that is making one at the moment keeps what it makes.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"
import type { OnBytes } from "../key/file-digest.ts"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"

export interface Damage {
  readonly digest: string
  /** What is wrong with its bytes. */
  readonly what: string
  /** Where it was moved to; null when it is still in its place. */
  readonly quarantined: string | null
  /** Why it is still in its place; null when it was moved. */
  readonly left: string | null
}

/** Reads all bytes of a result. Sets it aside and gives what is wrong if they are damaged; undefined when they are sound, or it is gone. */
export const findDamage = (digest: string, onBytes?: OnBytes): Effect.Effect<Damage | undefined, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const store = yield* Store
    const what = yield* store.damage(digest, onBytes)
    if (what === undefined || !existsSync(store.path(digest))) return undefined
    const stays = (left: string): Damage => ({ digest, what, quarantined: null, left })
    // A store that can't be written to, say: that it is damaged is still worth telling.
    return yield* setAside(digest, what).pipe(Effect.catch((error) => Effect.succeed(stays(error.message))))
  })

const setAside = (digest: string, what: string): Effect.Effect<Damage | undefined, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const store = yield* (yield* Store).hold("a look at a damaged result")
    const keys = yield* journal.keysOf(digest)
    for (const key of keys) {
      const claimed = yield* store.claim(key)
      if (!claimed.mine) return { digest, what, quarantined: null, left: `${claimed.by} is making it.` }
    }
    // It may have been made again since it was read.
    if ((yield* store.damage(digest)) === undefined) return undefined
    const quarantined = yield* store.quarantine(digest)
    yield* journal.transaction((tables) => keys.forEach(tables.forgetTrace))
    return quarantined === undefined ? undefined : { digest, what, quarantined, left: null }
  }).pipe(Effect.scoped)

/** What is said of a damaged result. `name` begins the sentence: 'The result of "sft"'. */
export const describeDamage = (name: string, { what, quarantined, left }: Damage): string =>
  quarantined === null
    ? `${name} is damaged (${what}). It was left in its place: ${left}`
    : `${name} is damaged (${what}). It was moved to ${quarantined}: run the pipeline, which makes it again.`
