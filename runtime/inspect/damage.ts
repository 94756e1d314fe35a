/**
 * Results found damaged outside of a run: they are moved to quarantine and their records are deleted, so that the next run recomputes them. This
 * happens under the claims of their keys: a run that is computing one keeps its result.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import type { StoreError } from "../errors.ts"
import type { OnBytes } from "../key/file-digest.ts"
import { Journal } from "../store/journal.ts"
import { Store } from "../store/store.ts"

export interface Damage {
  readonly digest: string
  /** The damage to its bytes. */
  readonly what: string
  /** Where it was moved; null if it was not moved. */
  readonly quarantined: string | null
  /** Why it was not moved; null if it was. */
  readonly left: string | null
}

/**
 * Checks all bytes of a result. If they are damaged, sets the result aside and returns the damage; undefined if they are intact or the result is
 * missing.
 */
export const findDamage = (digest: string, onBytes?: OnBytes): Effect.Effect<Damage | undefined, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const store = yield* Store
    const what = yield* store.damage(digest, onBytes)
    if (what === undefined || !existsSync(store.path(digest))) return undefined
    const stays = (left: string): Damage => ({ digest, what, quarantined: null, left })
    // For example a read-only store: the damage is still worth reporting.
    return yield* setAside(digest, what).pipe(Effect.catch((error) => Effect.succeed(stays(error.message))))
  })

const setAside = (digest: string, what: string): Effect.Effect<Damage | undefined, StoreError, Store | Journal> =>
  Effect.gen(function* () {
    const journal = yield* Journal
    const store = yield* (yield* Store).hold("a check of a damaged result")
    const keys = yield* journal.keysOf(digest)
    for (const key of keys) {
      const claimed = yield* store.claim(key)
      if (!claimed.mine) return { digest, what, quarantined: null, left: `${claimed.by} is computing it.` }
    }
    // It may have been recomputed since the check.
    if ((yield* store.damage(digest)) === undefined) return undefined
    const quarantined = yield* store.quarantine(digest)
    yield* journal.transaction((tables) => keys.forEach(tables.forgetTrace))
    return quarantined === undefined ? undefined : { digest, what, quarantined, left: null }
  }).pipe(Effect.scoped)

/** The message about a damaged result. `name` starts the sentence: 'The result of "sft"'. */
export const describeDamage = (name: string, { what, quarantined, left }: Damage): string =>
  quarantined === null
    ? `${name} is damaged (${what}). It was left in its place: ${left}`
    : `${name} is damaged (${what}). It was moved to ${quarantined}: run the pipeline to recompute it.`
