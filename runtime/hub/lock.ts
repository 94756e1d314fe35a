/** A lock between processes, implemented by a SQLite lock on a separate file: the kernel releases it when the process ends for any reason. */
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as sleep } from "node:timers/promises"
import { messageOf, storeError } from "../errors.ts"
import { makeFolder } from "../store/durable.ts"

/** Milliseconds between two attempts to take a lock. */
const interval = 100

/** Runs `body` while no other process, and nothing else in this one, holds the lock on this file. */
export const whileLocked = async <A>(file: string, signal: AbortSignal | undefined, body: () => Promise<A>): Promise<A> => {
  makeFolder(dirname(file))
  const failed = storeError((reason) => `Locking ${file}: ${reason}. Make its folder writable, or set HF_HUB_CACHE to another folder.`)
  let database: DatabaseSync
  try {
    database = new DatabaseSync(file, { timeout: 0 })
  } catch (cause) {
    throw failed(cause)
  }
  try {
    for (;;) {
      try {
        database.exec("begin exclusive")
        break
      } catch (cause) {
        if (!/locked|busy/.test(messageOf(cause))) throw failed(cause)
        await sleep(interval, undefined, { ...(signal && { signal }) })
      }
    }
    return await body()
  } finally {
    database.close()
  }
}
