/** The store and the journal of this folder, for commands that look at them. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { findHome, whyNoHome } from "../runtime/store/home.ts"
import { Journal } from "../runtime/store/journal.ts"
import { Store } from "../runtime/store/store.ts"
import { UsageError } from "./command.ts"
import { write, writeJson } from "./output.ts"

/** The store and the journal in this folder. */
export const storeAt = (home: string): Layer.Layer<Store | Journal> => Layer.merge(Store.layer(home), Journal.layer(home))

/** Opens them for `body`. Makes none: looking at a store that is not there is a mistake. */
export const withStore = async <A, E>(body: Effect.Effect<A, E, Store | Journal>): Promise<A> => {
  const home = findHome(process.cwd())
  const reason = whyNoHome(home)
  if (reason !== undefined) throw new UsageError(`There is no store at ${home}: ${reason}. Name the store's folder in CARAVAN_HOME.`)
  if (!existsSync(join(home, "journal.db")))
    throw new UsageError(
      `There is no store at ${home}: nothing has run here yet. Run a pipeline, or name the store's folder in CARAVAN_HOME.`
    )
  return Effect.runPromise(Effect.provide(body, storeAt(home)))
}

/** One JSON document on stdout, or lines. */
export const print = (json: boolean, document: unknown, lines: ReadonlyArray<string>): void => {
  if (json) writeJson(document)
  else write(lines.map((line) => `${line}\n`).join(""))
}
