/** Opens SQLite databases in WAL mode, for sharing between processes. */
import { DatabaseSync } from "node:sqlite"

/** SQLite's error codes for a full disk: FULL, and that the WAL index (-shm) can't be opened, sized or mapped. */
const noRoom: ReadonlyArray<unknown> = [13, 4618, 4874, 5386]

/**
 * Opens a database in WAL mode with these pragmas. On a full disk, where the WAL index can't be created, the connection keeps the index in memory and
 * locks the database exclusively: it can be read, and gc can free space. Throws SQLite's errors.
 */
export const openWal = (file: string, busyTimeout: number, pragmas: string): DatabaseSync => {
  const open = (locking: "normal" | "exclusive") => {
    const database = new DatabaseSync(file)
    try {
      database.exec(
        `pragma busy_timeout = ${busyTimeout}; pragma locking_mode = ${locking}; pragma journal_mode = wal; pragma user_version; ${pragmas}`
      )
      return database
    } catch (cause) {
      database.close()
      throw cause
    }
  }
  for (const end = performance.now() + busyTimeout; ; pause()) {
    try {
      return open("normal")
    } catch (cause) {
      const { errcode } = cause as { readonly errcode?: unknown }
      if (noRoom.includes(errcode)) return open("exclusive")
      // SQLite fails immediately while another process switches a new database to WAL mode, because neither could continue if both waited.
      if (errcode !== busy || performance.now() > end) throw cause
    }
  }
}

const busy = 5
const pauses = new Int32Array(new SharedArrayBuffer(4))
/** Ten milliseconds, as in SQLite itself. */
const pause = () => void Atomics.wait(pauses, 0, 0, 10)
