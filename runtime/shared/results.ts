/** Copies complete results to and from the shared storage (files.ts). */
import { mkdir, readFile, rm, statfs } from "node:fs/promises"
import { dirname, join } from "node:path"
import { manifestName } from "../store/objects.ts"
import { decodeEntryOf, decodeManifest, encodeEntry, type Entry } from "./entry.ts"
import { SharedError, type SharedFiles } from "./files.ts"

/** Maximum number of a result's files copied concurrently. */
const concurrency = 4
const forEach = async <A>(items: ReadonlyArray<A>, body: (item: A) => Promise<void>): Promise<void> => {
  const left = [...items]
  const failures: Array<unknown> = []
  const work = async () => {
    for (let item = left.shift(); item !== undefined && failures.length === 0; item = left.shift())
      await body(item).catch((cause: unknown) => failures.push(cause))
  }
  await Promise.all(Array.from({ length: concurrency }, work))
  if (failures.length > 0) throw failures[0]
}

export const entryOf = async (shared: SharedFiles, key: string): Promise<Entry | undefined> => {
  const bytes = await shared.entry(key)
  return bytes === undefined ? undefined : decodeEntryOf(key, bytes)
}

/**
 * Copies a result's files into an empty folder; each file matches its name. Returns false if some are missing, as can happen for an old result. The
 * caller checks the digest of the result.
 */
export const fetchObject = async (shared: SharedFiles, digest: string, folder: string): Promise<boolean> => {
  const manifestFile = join(folder, manifestName)
  if (!(await shared.fetch(digest, manifestFile))) return false
  const { files } = decodeManifest(digest, await readFile(manifestFile))
  // Sealing writes it again and computes its digest.
  await rm(manifestFile)
  const size = files.reduce((sum, file) => sum + file.size, 0)
  const { bavail, bsize } = await statfs(folder)
  if (size > bavail * bsize)
    throw new SharedError("refused", `its result ${digest} has ${size} bytes, more than the free space on the store's disk`)
  let isWhole = true
  await forEach(files, async ({ path, sha256, size }) => {
    const to = join(folder, path)
    await mkdir(dirname(to), { recursive: true })
    if (!(await shared.fetch(sha256, to, size))) isWhole = false
  })
  return isWhole
}

/** Copies a stored result there, except files that already exist; the manifest last. */
const sendObject = async (shared: SharedFiles, digest: string, folder: string): Promise<void> => {
  const manifestFile = join(folder, manifestName)
  const bytes = await readFile(manifestFile)
  await forEach(decodeManifest(digest, bytes).files, async ({ path, sha256, size }) => {
    if ((await shared.has(sha256)) !== size) await shared.send(sha256, join(folder, path))
  })
  if ((await shared.has(digest)) !== bytes.length) await shared.send(digest, manifestFile)
}

/** Shares a stored result. Its entry is written last, so that everything it names exists. */
export const sendResult = async (shared: SharedFiles, entry: Entry, pathOf: (digest: string) => string): Promise<void> => {
  const there = await entryOf(shared, entry.key).catch((cause: unknown) => {
    if (cause instanceof SharedError && cause.trouble === "lying") return undefined
    throw cause
  })
  await sendObject(shared, entry.digest, pathOf(entry.digest))
  if (entry.sidecar !== null) await sendObject(shared, entry.sidecar, pathOf(entry.sidecar))
  // The first entry stays, as in the journal.
  if (there === undefined) await shared.putEntry(entry.key, encodeEntry(entry))
}
