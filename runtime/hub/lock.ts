/** A lock between processes, by a lock of SQLite's on a file of its own: the kernel drops it when its process ends, however that ends. */
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as sleep } from "node:timers/promises"
import { messageOf, storeError } from "../errors.ts"
import { makeFolder } from "../store/durable.ts"

/** Milliseconds between two looks whether a lock is free. */
const interval = 100

/** Runs `body` while no other process, and nothing else of this one, has the lock of this file. */
export const whileLocked = async <A>(file: string, signal: AbortSignal | undefined, body: () => Promise<A>): Promise<A> => {
  makeFolder(dirname(file))
  const failed = storeError((reason) => `Locking ${file}: ${reason}. Make its folder writable, or name another one in HF_HUB_CACHE.`)
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
