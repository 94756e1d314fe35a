/** Opens this folder's store and journal, for commands that read them. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { findHome, whyNoHome } from "../runtime/store/home.ts"
import { Journal } from "../runtime/store/journal.ts"
import { Store } from "../runtime/store/store.ts"
import { UsageError } from "./command.ts"
import { write, writeJson } from "./output.ts"

/** The store and journal in this folder. */
export const storeAt = (home: string): Layer.Layer<Store | Journal> => Layer.merge(Store.layer(home), Journal.layer(home))

/** Opens them for `body`. Never creates a store: reading one that does not exist is an error. */
export const withStore = async <A, E>(body: Effect.Effect<A, E, Store | Journal>): Promise<A> => {
  const home = findHome(process.cwd())
  const reason = whyNoHome(home)
  if (reason !== undefined) throw new UsageError(`There is no store at ${home}: ${reason}. Set CARAVAN_HOME to the store's folder.`)
  if (!existsSync(join(home, "journal.db")))
    throw new UsageError(
      `There is no store at ${home}: nothing has run here yet. Run a pipeline, or set CARAVAN_HOME to the store's folder.`
    )
  return Effect.runPromise(Effect.provide(body, storeAt(home)))
}

/** Prints one JSON document or lines of text to stdout. */
export const print = (json: boolean, document: unknown, lines: ReadonlyArray<string>): void => {
  if (json) writeJson(document)
  else write(lines.map((line) => `${line}\n`).join(""))
}
