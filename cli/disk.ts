/** The room on the disk of a folder, which need not be there yet. */
import { existsSync, statfsSync } from "node:fs"
import { dirname } from "node:path"

/** Bytes that may still be written; undefined where the system does not tell. */
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
