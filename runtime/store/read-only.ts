/**
 * Stores that can't be written: on a read-only mount, or another user's. SQLite needs extra files next to a database in WAL mode, and a run may be
 * writing to it; so the files are copied to a temporary folder and read from there.
 */
import { accessSync, constants, copyFileSync, existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { DatabaseSync } from "node:sqlite"

/** Whether a file is not writable, or can't be created if missing. */
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

/** A database's current state, for reading; empty if the file does not exist. Writes are lost when the connection closes. */
export const openSnapshot = (file: string): DatabaseSync => {
  if (!existsSync(file)) return new DatabaseSync(":memory:")
  const folder = mkdtempSync(join(tmpdir(), "caravan-snapshot-"))
  try {
    const copy = join(folder, basename(file))
    copyDatabase(file, copy)
    const database = new DatabaseSync(copy)
    try {
      // In a single file that is removed when the process ends for any reason.
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

/** Maximum number of copies attempted while a WAL checkpoint is in progress. */
const maxTries = 5

/**
 * Copies a database and its WAL. Between WAL checkpoints the WAL only grows, and its checksums mark its end; the database itself must not change
 * during the copy.
 */
const copyDatabase = (from: string, to: string): void => {
  const stamp = () => {
    const { ino, mtimeNs, size } = statSync(from, { bigint: true })
    return `${ino} ${mtimeNs} ${size}`
  }
  for (let i = 0; i < maxTries; i++) {
    const before = stamp()
    copyFileSync(from, to)
    rmSync(`${to}-wal`, { force: true })
    if (existsSync(`${from}-wal`)) copyFileSync(`${from}-wal`, `${to}-wal`)
    if (stamp() === before) return
  }
  throw new Error("it is being written continuously: try again in a moment")
}
