/** The location of the store and the journal: the folder in CARAVAN_HOME, or `.caravan/` next to the nearest package.json. */
import { accessSync, constants, existsSync, statSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import { isAbsent, messageOf } from "../errors.ts"

export const findHome = (from: string): string => {
  const named = process.env.CARAVAN_HOME
  if (named !== undefined && named !== "") return resolve(named)
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return join(folder, ".caravan")
    if (folder === dirname(folder)) return join(resolve(from), ".caravan")
  }
}

/** Why a path can't be a home, in words: it is a file or unreadable. undefined if it is a folder or does not exist yet. */
export const whyNoHome = (home: string): string | undefined => {
  try {
    if (!statSync(home).isDirectory()) return `${home} is a file, but a folder is needed`
    accessSync(home, constants.R_OK | constants.X_OK)
    return undefined
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOTDIR") return `a part of the path ${home} is a file, but a folder is needed`
    return isAbsent(cause) ? undefined : `the folder can't be read (${messageOf(cause)})`
  }
}
