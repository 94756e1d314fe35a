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
  try {
    return open("normal")
  } catch (cause) {
    if (!noRoom.includes((cause as { readonly errcode?: unknown }).errcode)) throw cause
    return open("exclusive")
  }
}
