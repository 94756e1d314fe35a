/** Finds problems of a store without changing anything: for `caravan doctor`. */
import { existsSync, readdirSync, statSync } from "node:fs"
import { join } from "node:path"
import type { DatabaseSync } from "node:sqlite"
import { messageOf } from "../errors.ts"
import { whyNoHome } from "./home.ts"
import { journalFormat } from "./journal-database.ts"
import { openSnapshot } from "./read-only.ts"

export interface StoreProblem {
  readonly what: string
  /** How to fix it. */
  readonly fix: string
  /** Whether nothing can run until it is fixed. */
  readonly isEssential: boolean
}

export const storeProblems = (home: string): ReadonlyArray<StoreProblem> => {
  const reason = whyNoHome(home)
  if (reason !== undefined)
    return [{ what: `There is no store at ${home}: ${reason}.`, fix: "set CARAVAN_HOME to a readable folder", isEssential: true }]
  return [...journalProblems(home), ...leasesProblems(home)]
}

const journalProblems = (home: string): ReadonlyArray<StoreProblem> => {
  const file = join(home, "journal.db")
  const objects = countObjects(home)
  const anew = "runs then recompute the results"
  if (!existsSync(file) || statSync(file).size === 0) {
    // A run killed at its start leaves an empty journal; the next run fills it.
    if (objects === 0) return []
    const what = `The journal ${file} ${existsSync(file) ? "is empty (0 bytes)" : "is missing"}, but the store has results: none of them can be found.`
    return [{ what, fix: `restore a copy of journal.db if you have one; otherwise ${anew}`, isEssential: false }]
  }
  const wrong = databaseProblem(file, (database) => {
    const found = Number(database.prepare("pragma user_version").get()!.user_version)
    return found > journalFormat ? `it has format ${found}, but this version of caravan supports formats up to ${journalFormat}` : undefined
  })
  if (wrong === undefined) return []
  const fix = wrong.startsWith("it has format")
    ? "use the newer version of caravan, or set CARAVAN_HOME to another folder"
    : `restore a copy of journal.db if you have one; otherwise mkdir ${home}/damaged && mv ${file}* ${home}/damaged: ${anew}`
  return [{ what: `The journal ${file} can't be used: ${wrong}.`, fix, isEssential: true }]
}

const leasesProblems = (home: string): ReadonlyArray<StoreProblem> => {
  const file = join(home, "leases.db")
  if (!existsSync(file)) return []
  const wrong = databaseProblem(file)
  if (wrong === undefined) return []
  return [
    {
      what: `The leases ${file} can't be used: ${wrong}.`,
      fix: `rm ${file}* while nothing runs: it only contains data of active runs`,
      isEssential: true
    }
  ]
}

/** A database's problem: it can't be read, its structure is damaged, or whatever `look` reports. */
const databaseProblem = (file: string, look: (database: DatabaseSync) => string | undefined = () => undefined): string | undefined => {
  let database: DatabaseSync | undefined
  try {
    database = openSnapshot(file)
    const check = database.prepare("pragma quick_check(1)").get()?.quick_check
    return check === "ok" ? look(database) : `it is damaged (${String(check)})`
  } catch (cause) {
    return messageOf(cause)
  } finally {
    database?.close()
  }
}

const countObjects = (home: string): number => {
  const root = join(home, "objects")
  return existsSync(root) ? readdirSync(root).length : 0
}
