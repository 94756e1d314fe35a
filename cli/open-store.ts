/** The store and the journal of this folder, for commands that look at them. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { findHome } from "../runtime/store/home.ts"
import { Journal } from "../runtime/store/journal.ts"
import { Store } from "../runtime/store/store.ts"
import { UsageError } from "./command.ts"

export interface Opened {
  readonly home: string
  readonly journal: Journal
  readonly store: Store
}

/** Opens them, and closes them after `body`. Makes none: looking at a store that is not there is a mistake. */
export const withStore = async <A>(body: (opened: Opened) => Promise<A>): Promise<A> => {
  const home = findHome(process.cwd())
  if (!existsSync(join(home, "journal.db")))
    throw new UsageError(
      `There is no store at ${home}: nothing has run here yet. Run a pipeline, or name the store's folder in CARAVAN_HOME.`
    )
  const journal = new Journal(home)
  const store = new Store(home)
  try {
    return await body({ home, journal, store })
  } finally {
    store.release()
    journal.close()
  }
}

/** One JSON document on stdout, or lines. */
export const print = (json: boolean, document: unknown, lines: ReadonlyArray<string>): void => {
  process.stdout.write(json ? `${JSON.stringify(document, undefined, 2)}\n` : lines.map((line) => `${line}\n`).join(""))
}
