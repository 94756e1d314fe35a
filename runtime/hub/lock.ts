/** A lock between processes, by a lock of SQLite's on a file of its own: the kernel drops it when its process ends, however that ends. */
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as sleep } from "node:timers/promises"
import { makeFolder } from "../store/durable.ts"

/** Milliseconds between two looks whether a lock is free. */
const interval = 100

/** Runs `body` while no other process, and nothing else of this one, has the lock of this file. */
export const whileLocked = async <A>(file: string, signal: AbortSignal | undefined, body: () => Promise<A>): Promise<A> => {
  makeFolder(dirname(file))
  const database = new DatabaseSync(file, { timeout: 0 })
  try {
    for (;;) {
      try {
        database.exec("begin exclusive")
        break
      } catch (cause) {
        if (!/locked|busy/.test((cause as Error).message)) throw cause
        await sleep(interval, undefined, { ...(signal && { signal }) })
      }
    }
    return await body()
  } finally {
    database.close()
  }
}
