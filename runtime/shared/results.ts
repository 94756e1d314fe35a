/** Whole results to and from the place where they are shared (files.ts). */
import { mkdir, readFile, rm, statfs } from "node:fs/promises"
import { dirname, join } from "node:path"
import { manifestName } from "../store/objects.ts"
import { decodeEntryOf, decodeManifest, encodeEntry, type Entry } from "./entry.ts"
import { SharedError, type SharedFiles } from "./files.ts"

/** Files of one result that are copied at once. */
const atOnce = 4
const forEach = async <A>(items: ReadonlyArray<A>, body: (item: A) => Promise<void>): Promise<void> => {
  const left = [...items]
  const failures: Array<unknown> = []
  const work = async () => {
    for (let item = left.shift(); item !== undefined && failures.length === 0; item = left.shift())
      await body(item).catch((cause: unknown) => failures.push(cause))
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  if (failures.length > 0) throw failures[0]
}

export const entryOf = async (shared: SharedFiles, key: string): Promise<Entry | undefined> => {
  const bytes = await shared.entry(key)
  return bytes === undefined ? undefined : decodeEntryOf(key, bytes)
}

/**
 * Copies a result's files into an empty folder: each is what its name says. False where some are gone, as those of an old result may be. What they are together the
 * caller checks.
 */
export const fetchObject = async (shared: SharedFiles, digest: string, folder: string): Promise<boolean> => {
  const manifestFile = join(folder, manifestName)
  if (!(await shared.fetch(digest, manifestFile))) return false
  const { files } = decodeManifest(digest, await readFile(manifestFile))
  // Sealing writes it anew, and finds a digest of its own.
  await rm(manifestFile)
  const size = files.reduce((sum, file) => sum + file.size, 0)
  const { bavail, bsize } = await statfs(folder)
  if (size > bavail * bsize)
    throw new SharedError("refused", `its result ${digest} has ${size} bytes, more than the store's disk has room for`)
  let isWhole = true
  await forEach(files, async ({ path, sha256, size }) => {
    const to = join(folder, path)
    await mkdir(dirname(to), { recursive: true })
    if (!(await shared.fetch(sha256, to, size))) isWhole = false
  })
  return isWhole
}

/** Copies a result of the store there, those of its files that are not there yet; the manifest last. */
const sendObject = async (shared: SharedFiles, digest: string, folder: string): Promise<void> => {
  const manifestFile = join(folder, manifestName)
  const bytes = await readFile(manifestFile)
  await forEach(decodeManifest(digest, bytes).files, async ({ path, sha256, size }) => {
    if ((await shared.has(sha256)) !== size) await shared.send(sha256, join(folder, path))
  })
  if ((await shared.has(digest)) !== bytes.length) await shared.send(digest, manifestFile)
}

/** Shares a result that is in the store. Its entry comes last: who finds it finds all it names. */
export const sendResult = async (shared: SharedFiles, entry: Entry, pathOf: (digest: string) => string): Promise<void> => {
  const there = await entryOf(shared, entry.key).catch((cause: unknown) => {
    if (cause instanceof SharedError && cause.trouble === "lying") return undefined
    throw cause
  })
  await sendObject(shared, entry.digest, pathOf(entry.digest))
  if (entry.sidecar !== null) await sendObject(shared, entry.sidecar, pathOf(entry.sidecar))
  // The first stays, as in the journal.
  if (there === undefined) await shared.putEntry(entry.key, encodeEntry(entry))
}
