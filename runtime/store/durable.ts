/** File operations that last: what they did is there after a loss of power. */
import { closeSync, constants, existsSync, fchmodSync, fsync, fsyncSync, mkdirSync, openSync, renameSync } from "node:fs"
import { dirname } from "node:path"
import { promisify } from "node:util"

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

/**
 * Makes an empty file that its owner alone may read and write, where there is none. One that is there keeps its mode, which its owner may have widened.
 * SQLite gives the files it puts beside a database (-wal, -shm, -journal) the mode of the database.
 */
export const makePrivateFile = (path: string): void => {
  if (!existsSync(path)) closeSync(openSync(path, constants.O_CREAT | constants.O_WRONLY, 0o600))
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

/** As many at once as libuv has threads, and a few that wait: a file system commits together what is asked for at the same time. */
const syncsAtOnce = 8
let syncing = 0
const waitingToSync: Array<() => void> = []
const fsyncAsync = promisify(fsync)

/** fsyncs a file or a folder, after it was given a mode if any. */
export const syncPath = async (path: string, mode?: number): Promise<void> => {
  if (syncing === syncsAtOnce) await new Promise<void>((resolve) => waitingToSync.push(resolve))
  else syncing++
  try {
    const file = openSync(path, "r")
    try {
      if (mode !== undefined) fchmodSync(file, mode)
      await fsyncAsync(file)
    } finally {
      closeSync(file)
    }
  } finally {
    const next = waitingToSync.shift()
    if (next === undefined) syncing--
    else next()
  }
}

/** Waits for all, also when one fails: nothing goes on behind whoever hears of it. */
export const allOf = async (work: ReadonlyArray<Promise<void>>): Promise<void> => {
  for (const result of await Promise.allSettled(work)) if (result.status === "rejected") throw result.reason
}

/** Renames a folder to a place where none is; false when there is one. Makes the folder of that place where it has to. */
export const renameIfFree = (from: string, to: string): boolean => {
  try {
    renameSync(from, to)
    return true
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === "ENOTEMPTY" || code === "EEXIST") return false
    if (code !== "ENOENT" || existsSync(dirname(to))) throw cause
    makeFolder(dirname(to))
    return renameIfFree(from, to)
  }
}

/** The folders that hold these files, innermost first; "" is the outermost. */
export const foldersOf = (paths: ReadonlyArray<string>): Array<string> => {
  const folders = new Set([""])
  for (const path of paths) for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) folders.add(folder)
  return [...folders].sort((a, b) => b.length - a.length)
}
