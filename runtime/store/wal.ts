/** Opening SQLite databases in WAL mode, where several processes share them. */
import { DatabaseSync } from "node:sqlite"

/** SQLite's codes for no room: FULL, and that the index of the log (-shm) can't be opened, sized or mapped. */
const noRoom: ReadonlyArray<unknown> = [13, 4618, 4874, 5386]

/**
 * Opens a database in WAL mode with these pragmas. On a full disk, where the index of its log can't be made, the connection keeps the index in memory
 * and the database to itself: it can be read, and gc can free space. Throws what SQLite says.
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
      // SQLite refuses at once where another process switches a new database to WAL mode: neither could go on while both wait.
      if (errcode !== busy || performance.now() > end) throw cause
    }
  }
}

const busy = 5
const pauses = new Int32Array(new SharedArrayBuffer(4))
/** Ten milliseconds, as SQLite itself waits. */
const pause = () => void Atomics.wait(pauses, 0, 0, 10)
