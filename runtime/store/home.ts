/** Where the store and the journal are: the folder CARAVAN_HOME names, or `.caravan/` beside the nearest package.json. */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync } from "node:fs"
import { dirname, join, resolve } from "node:path"

export const findHome = (from: string, environment: Readonly<Record<string, string | undefined>> = process.env): string => {
  const named = environment.CARAVAN_HOME
  if (named !== undefined && named !== "") return resolve(named)
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return join(folder, ".caravan")
    if (folder === dirname(folder)) return join(resolve(from), ".caravan")
  }
}

/**
 * Makes a folder and those above it, to last: what is put into a folder is gone with it when power fails and the folder above was not fsynced.
 * Node's own recursive mkdir never returns where a file system refuses by "no such file" (as /proc does), and calls a disk's errors that too.
 */
export const makeFolder = (folder: string): void => {
  const make = () => {
    try {
      mkdirSync(folder)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "EEXIST") return
      throw cause
    }
    syncFolder(dirname(folder))
  }
  try {
    make()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT" || folder === dirname(folder)) throw cause
    makeFolder(dirname(folder))
    make()
  }
}

const syncFolder = (folder: string): void => {
  let file: number
  try {
    file = openSync(folder, "r")
  } catch (cause) {
    // A folder that may be written to and not be read, as some homes are: only the system can make it last.
    if ((cause as NodeJS.ErrnoException).code === "EACCES") return
    throw cause
  }
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}
