/**
 * Stores that can't be written to: on a read-only mount, or another user's. SQLite needs files beside a database that is in WAL mode, and a run may be
 * writing to it; so what is there is copied to a temporary folder and read from the copy.
 */
import { accessSync, constants, copyFileSync, existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { DatabaseSync } from "node:sqlite"

/** Whether a file can't be written, or made where there is none. */
export const isReadOnly = (file: string): boolean => {
  let folder = dirname(file)
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder)
  try {
    accessSync(folder, constants.W_OK)
    if (existsSync(file)) accessSync(file, constants.W_OK)
    return false
  } catch {
    return true
  }
}

/** A database as it is now, to be read: an empty one when the file is not there. What is written to it is gone with the connection. */
export const openSnapshot = (file: string): DatabaseSync => {
  if (!existsSync(file)) return new DatabaseSync(":memory:")
  const folder = mkdtempSync(join(tmpdir(), "caravan-snapshot-"))
  try {
    const copy = join(folder, basename(file))
    copyDatabase(file, copy)
    const database = new DatabaseSync(copy)
    try {
      // In one file, which is gone when the process ends, however it ends.
      database.exec("pragma journal_mode = memory")
      return database
    } catch (cause) {
      database.close()
      throw cause
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** How often it is copied while a checkpoint is being written to it. */
const mostTries = 5

/** Copies a database and its log. The log only grows between checkpoints, and its own sums say where it ends: the database must not change meanwhile. */
const copyDatabase = (from: string, to: string): void => {
  const stamp = () => {
    const { ino, mtimeNs, size } = statSync(from, { bigint: true })
    return `${ino} ${mtimeNs} ${size}`
  }
  for (let i = 0; i < mostTries; i++) {
    const before = stamp()
    copyFileSync(from, to)
    rmSync(`${to}-wal`, { force: true })
    if (existsSync(`${from}-wal`)) copyFileSync(`${from}-wal`, `${to}-wal`)
    if (stamp() === before) return
  }
  throw new Error("it is written to all the time: try again in a moment")
}
