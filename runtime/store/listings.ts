/** Lists of files and packages are long and equal for all nodes of a stage: the journal stores each once, named by its digest. */
import { hash } from "node:crypto"
import { type JournalDatabase, parse } from "./journal-database.ts"

export interface Listings {
  /** Stores a list; returns its name. */
  readonly record: (files: object) => string
  readonly read: (name: string) => Readonly<Record<string, string>>
  /** A recorded value of any kind. */
  readonly find: (name: string) => unknown
}

export const makeListings = (database: JournalDatabase): Listings => {
  const known = new WeakMap<object, { readonly value: string; readonly digest: string }>()
  return {
    record: (files) => {
      let listing = known.get(files)
      if (listing === undefined) {
        const value = JSON.stringify(files)
        known.set(files, (listing = { value, digest: hash("sha256", value) }))
      }
      const { digest, value } = listing
      database.run("insert or ignore into listings (digest, value) values (?, ?)", digest, value)
      return digest
    },
    find: (name) => parse(database.get("select value from listings where digest = ?", name)?.value ?? "null"),
    read: (name) => {
      // Older versions stored the list itself.
      const value = name.startsWith("{")
        ? name
        : (database.get("select value from listings where digest = ?", name)?.value as string | undefined)
      return parse(value ?? "{}") as Record<string, string>
    }
  }
}
