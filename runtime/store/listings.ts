/** Lists of files and packages are long, and the same for every node of a stage: the journal keeps each once, and names it by its digest. */
import { hash } from "node:crypto"
import { type JournalDatabase, parse } from "./journal-database.ts"

export interface Listings {
  /** Keeps a list; gives its name. */
  readonly record: (files: object) => string
  readonly read: (name: string) => Readonly<Record<string, string>>
  /** What another than a list of files was recorded as. */
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
      // Older versions wrote the list itself.
      const value = name.startsWith("{")
        ? name
        : (database.get("select value from listings where digest = ?", name)?.value as string | undefined)
      return parse(value ?? "{}") as Record<string, string>
    }
  }
}
