/** Durable file operations: their effects survive a power failure. */
import { closeSync, constants, existsSync, fchmodSync, fsync, fsyncSync, mkdirSync, openSync, renameSync } from "node:fs"
import { dirname } from "node:path"
import { promisify } from "node:util"

/**
 * Creates a folder and its parents durably: the content of a folder is lost in a power failure if the parent folder was not fsynced. Node's own
 * recursive mkdir hangs on file systems that refuse with ENOENT (such as /proc), and reports disk errors as ENOENT too.
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
 * Creates an empty file that only its owner can read and write, if missing. An existing file keeps its mode, which its owner may have widened. SQLite
 * gives the files next to a database (-wal, -shm, -journal) the database's mode.
 */
export const makePrivateFile = (path: string): void => {
  if (!existsSync(path)) closeSync(openSync(path, constants.O_CREAT | constants.O_WRONLY, 0o600))
}

const syncFolder = (folder: string): void => {
  let file: number
  try {
    file = openSync(folder, "r")
  } catch (cause) {
    // A folder that is writable but not readable, as some homes are: only the system can sync it.
    if ((cause as NodeJS.ErrnoException).code === "EACCES") return
    throw cause
  }
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** As many as libuv has threads, plus a few that wait: a file system commits concurrent requests together. */
const concurrentSyncs = 8
let syncing = 0
const waitingToSync: Array<() => void> = []
const fsyncAsync = promisify(fsync)

/** fsyncs a file or folder, after setting its mode if given. */
export const syncPath = async (path: string, mode?: number): Promise<void> => {
  if (syncing === concurrentSyncs) await new Promise<void>((resolve) => waitingToSync.push(resolve))
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

/** Waits for all promises even if one fails, so that no work continues after the caller has received the error. */
export const allOf = async (work: ReadonlyArray<Promise<void>>): Promise<void> => {
  for (const result of await Promise.allSettled(work)) if (result.status === "rejected") throw result.reason
}

/** Renames a folder unless the new path exists; returns whether it was renamed. Creates the parent folder if necessary. */
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

/** The folders that contain these files, innermost first; "" is the outermost. */
export const foldersOf = (paths: ReadonlyArray<string>): Array<string> => {
  const folders = new Set([""])
  for (const path of paths) for (let folder = dirname(path); folder !== "."; folder = dirname(folder)) folders.add(folder)
  return [...folders].sort((a, b) => b.length - a.length)
}
