/**
 * The journal: what ran, when, with which inputs and results; and the index from cache key to result. node:sqlite in WAL mode, so that several runs
 * can share it.
 */
import { join } from "node:path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { StoreError } from "../errors.ts"
import { executions } from "./executions.ts"
import { JournalDatabase, using } from "./journal-database.ts"
import { keptDigests } from "./kept-digests.ts"
import { makeListings } from "./listings.ts"
import { notes } from "./notes.ts"
import { traces } from "./traces.ts"

/** The journal's tables, for code that reads or writes many rows at once. Its functions throw. */
export type JournalTables = ReturnType<typeof traces> &
  ReturnType<typeof executions> &
  ReturnType<typeof keptDigests> &
  ReturnType<typeof notes>

/** Wraps throwing functions as effects. */
type Effects<Functions> = {
  readonly [Name in keyof Functions]: Functions[Name] extends (...values: infer Values) => infer A
    ? (...values: Values) => Effect.Effect<A, StoreError>
    : never
}

export interface JournalOperations extends Effects<JournalTables> {
  /** Reads many rows in one effect. */
  readonly read: <A>(body: (tables: JournalTables) => A) => Effect.Effect<A, StoreError>
  /** Runs the writes of `body` as one transaction. */
  readonly transaction: <A>(body: (tables: JournalTables) => A) => Effect.Effect<A, StoreError>
  /** Like lastUse, for callers that hold a lock. Throws. */
  readonly lastUseUnsafe: JournalTables["lastUse"]
}

export class Journal extends Context.Service<Journal, JournalOperations>()("caravan/runtime/Journal") {
  /** The journal in this folder, created on first use if missing. */
  static readonly layer = (home: string): Layer.Layer<Journal> =>
    Layer.effect(
      Journal,
      Effect.gen(function* () {
        const file = join(home, "journal.db")
        const database = yield* Effect.acquireRelease(
          Effect.sync(() => new JournalDatabase(file)),
          (opened) => Effect.sync(() => opened.close())
        )
        const listings = makeListings(database)
        const tables: JournalTables = {
          ...traces(database, listings),
          ...executions(database, listings),
          ...keptDigests(database),
          ...notes(database)
        }
        const attempt = <A>(body: () => A): Effect.Effect<A, StoreError> => Effect.try({ try: body, catch: using(file) })
        return {
          ...effectsOf(tables, attempt),
          read: (body) => attempt(() => body(tables)),
          transaction: (body) => attempt(() => database.transaction(() => body(tables))),
          lastUseUnsafe: tables.lastUse
        }
      })
    )
}

const effectsOf = <Functions extends Readonly<Record<string, (...values: any) => unknown>>>(
  functions: Functions,
  attempt: <A>(body: () => A) => Effect.Effect<A, StoreError>
): Effects<Functions> =>
  Object.fromEntries(
    Object.entries(functions).map(([name, body]) => [name, (...values: ReadonlyArray<unknown>) => attempt(() => body(...values))])
  ) as Effects<Functions>
