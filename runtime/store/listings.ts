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

/** Maximum number of parsed lists kept in memory. */
const keptLists = 100

export const makeListings = (database: JournalDatabase): Listings => {
  const known = new WeakMap<object, { readonly value: string; readonly digest: string }>()
  const parsed = new Map<string, Readonly<Record<string, string>>>()
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
      if (name.startsWith("{")) return parse(name) as Record<string, string>
      let list = parsed.get(name)
      if (list === undefined) {
        const value = database.get("select value from listings where digest = ?", name)?.value
        if (value === undefined) return {}
        if (parsed.size >= keptLists) parsed.clear()
        parsed.set(name, (list = parse(value) as Record<string, string>))
      }
      return list
    }
  }
}
