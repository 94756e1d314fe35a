/** Where the store and the journal are: the folder CARAVAN_HOME names, or `.caravan/` beside the nearest package.json. */
import { accessSync, constants, existsSync, statSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import { isAbsent, messageOf } from "../errors.ts"

export const findHome = (from: string, environment: Readonly<Record<string, string | undefined>> = process.env): string => {
  const named = environment.CARAVAN_HOME
  if (named !== undefined && named !== "") return resolve(named)
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return join(folder, ".caravan")
    if (folder === dirname(folder)) return join(resolve(from), ".caravan")
  }
}

/** What keeps a path from being a home, in words: a file is in its place, or it can't be read. undefined: it is a folder, or nothing is there yet. */
export const whyNoHome = (home: string): string | undefined => {
  try {
    if (!statSync(home).isDirectory()) return `${home} is a file, and a folder is needed`
    accessSync(home, constants.R_OK | constants.X_OK)
    return undefined
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOTDIR") return `a part of the path ${home} is a file, and a folder is needed`
    return isAbsent(cause) ? undefined : `the folder can't be read (${messageOf(cause)})`
  }
}
