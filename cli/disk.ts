/** Free space on a folder's disk; the folder need not exist yet. */
import { existsSync, statfsSync } from "node:fs"
import { dirname } from "node:path"

/** Bytes that can still be written; undefined if the system does not report them. */
export const freeBytes = (folder: string): number | undefined => {
  try {
    let existing = folder
    while (!existsSync(existing)) existing = dirname(existing)
    const { bavail, bsize } = statfsSync(existing)
    return bavail * bsize
  } catch {
    return undefined
  }
}
