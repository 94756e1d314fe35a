/**
 * Objects on disk: `objects/ab/<digest>/` contains an artifact's files and its manifest `artifact.json`, whose sha256 is the digest.
 *
 * Calls that only touch the kernel's memory are synchronous: for small files a round trip through the thread pool costs more than the call. Calls
 * that wait for a disk (fsync, reading large files) are asynchronous. All throw StoreError if an object's state can't be determined.
 */
import { hash } from "node:crypto"
import { readdirSync, renameSync, statSync } from "node:fs"
import { readdir, readFile, rm, stat, utimes } from "node:fs/promises"
import { dirname, join } from "node:path"
import { isAbsent, isMissingOrUnreadable, messageOf, StoreError } from "../errors.ts"
import { digestOfFileAt, type OnBytes, readSmall, sha256File } from "../key/file-digest.ts"
import { allOf, foldersOf, makeFolder, renameIfFree, syncPath } from "./durable.ts"

/** Increased when the manifest format changes. */
export const format = 1
export interface Manifest {
  readonly format: number
  readonly type: string
  readonly contentDigest: string
  readonly files: ReadonlyArray<{ readonly path: string; readonly size: number; readonly sha256: string }>
}
export interface StoredObject {
  readonly digest: string
  readonly contentDigest: string
}
/** An object found in the store. */
export interface FoundObject {
  readonly digest: string
  /** The type in its manifest; undefined if the manifest is damaged. */
  readonly type: string | undefined
  /** Total bytes of its files. */
  readonly size: number
  /** When it was stored, in milliseconds since 1970. */
  readonly made: number
}
/** A written folder that is ready to be stored: its type is checked, its files are hashed, and it contains its manifest. It is not yet on disk durably. */
export interface SealedObject extends StoredObject {
  readonly directory: string
  /** Its files, including the manifest. */
  readonly files: ReadonlyArray<string>
}

export const manifestName = "artifact.json"

export const objectPath = (home: string, digest: string): string => `${home}/objects/${digest.slice(0, 2)}/${digest}`

/** All files below a folder, as sorted relative paths. Refuses links and special files: an artifact consists of files. */
const listFiles = (directory: string): Array<string> => {
  const out: Array<string> = []
  const visit = (below: string) => {
    for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
      const path = join(below, entry.name)
      if (entry.isDirectory()) visit(path)
      else if (entry.isFile()) out.push(path)
      else throw new Error(`${join(directory, path)} is not a regular file: an artifact may only contain files and folders`)
    }
  }
  visit("")
  if (out.includes(manifestName)) throw new Error(`the stage wrote a file ${manifestName}: that name is reserved for the store`)
  return out.sort()
}

/** The files of a written folder with their digests, as listed in a manifest. */
export const describeFiles = async (directory: string): Promise<Manifest["files"]> => {
  const list: Array<Manifest["files"][number]> = []
  for (const path of listFiles(directory)) list.push({ path, ...(await digestOfFileAt(join(directory, path))) })
  return list
}

/** Returns undefined for errors which mean that an object is missing or the disk can't read it; throws for others. */
const undefinedIfUnreadable = (cause: unknown): undefined => {
  if (isMissingOrUnreadable(cause)) return undefined
  // With too many open files or no permission, the object may be intact: do not recompute it.
  throw new StoreError({
    message: `Checking a result in the store: ${messageOf(cause)}. The result was not changed: fix this, then run again.`
  })
}

/** An object's manifest, and its modification time. */
const manifestAt = (folder: string, digest: string): { readonly manifest: Manifest; readonly written: number } | undefined => {
  let read: ReturnType<typeof readSmall>
  try {
    read = readSmall(`${folder}/${manifestName}`)
  } catch (cause) {
    return undefinedIfUnreadable(cause)
  }
  const { bytes, written } = read
  if (hash("sha256", bytes) !== digest) return undefined
  const manifest = JSON.parse(bytes.toString("utf8")) as Manifest
  if (manifest.format > format)
    throw new StoreError({
      message: `Reading the result ${folder}: it has format ${manifest.format}, but this version of caravan supports formats up to ${format}. Use the newer version, or set CARAVAN_HOME to another folder.`
    })
  return { manifest, written }
}

/**
 * An object's state, determined without reading its bytes. "present": every file exists, has its recorded size, and was not modified after the
 * manifest, which is written last. "modified": a file was modified later; it may be damaged, or the store was copied, and only its bytes can tell.
 */
export type Presence = "present" | "modified" | "missing"

export const presenceOf = (home: string, digest: string): Presence => {
  const folder = objectPath(home, digest)
  const found = manifestAt(folder, digest)
  if (found === undefined) return "missing"
  try {
    let presence: Presence = "present"
    for (const file of found.manifest.files) {
      const { mtimeMs, size } = statSync(`${folder}/${file.path}`)
      if (size !== file.size) return "missing"
      if (mtimeMs > found.written) presence = "modified"
    }
    return presence
  } catch (cause) {
    undefinedIfUnreadable(cause)
    return "missing"
  }
}

/**
 * Reads an object and returns a description of its damage; undefined if its bytes match the manifest. A modified but intact object becomes "present"
 * again: its manifest gets a new time, so that not every run reads it.
 */
export const damageOf = async (home: string, digest: string, onBytes?: OnBytes): Promise<string | undefined> => {
  const folder = objectPath(home, digest)
  const found = manifestAt(folder, digest)
  if (found === undefined) return "its manifest is missing or does not match its digest"
  let youngest = 0
  for (const file of found.manifest.files) {
    const read = await readAt(join(folder, file.path), onBytes).catch(undefinedIfUnreadable)
    if (read === undefined) return `${file.path} is missing, or the disk can't read it`
    if (read.sha256 !== file.sha256) return `${file.path} has changed`
    youngest = Math.max(youngest, read.written)
  }
  if (youngest > found.written) {
    // Whole milliseconds, plus one for rounding to the file system's resolution.
    const time = (Math.ceil(youngest) + 1) / 1000
    // If this fails, the object is read again next time.
    await utimes(`${folder}/${manifestName}`, time, time).catch(() => undefined)
  }
  return undefined
}

/** A file's digest. Its modification time is read first, so that a write during the read makes it newer. */
const readAt = async (path: string, onBytes: OnBytes | undefined): Promise<{ readonly written: number; readonly sha256: string }> => ({
  written: statSync(path).mtimeMs,
  sha256: await sha256File(path, onBytes)
})

/** Moves a damaged object to quarantine, where it can be examined. Returns its new path, or undefined if the object does not exist. */
export const setAside = (home: string, digest: string): string | undefined => {
  makeFolder(join(home, "quarantine"))
  const target = join(home, "quarantine", `${digest}-${Date.now()}-${process.pid}`)
  try {
    renameSync(objectPath(home, digest), target)
    return target
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
    return undefined
  }
}

/** Makes a sealed folder durable and renames it to its place; returns its parent folder, which must be fsynced. */
const put = async (home: string, { digest, directory, files }: SealedObject): Promise<string> => {
  await allOf([
    ...files.map((file) => syncPath(join(directory, file), 0o444)),
    ...foldersOf(files).map((folder) => syncPath(join(directory, folder)))
  ])
  const target = objectPath(home, digest)
  if (!renameIfFree(directory, target)) {
    // Another run or node has already stored this object. Keep it unless it is damaged. If this copy can't be removed now, a later run sweeps it.
    if ((await damageOf(home, digest)) === undefined) await rm(directory, { recursive: true, force: true }).catch(() => undefined)
    else {
      setAside(home, digest)
      renameIfFree(directory, target)
    }
  }
  return dirname(target)
}

/**
 * Adds sealed folders durably: fsyncs everything in them, renames each to its place, then fsyncs the parent folders. Returns each folder's error, if
 * any; one failure does not prevent the others.
 */
export const putAll = async (
  home: string,
  objects: ReadonlyArray<SealedObject>
): Promise<ReadonlyArray<{ readonly cause: unknown } | undefined>> => {
  const places = new Set<string>()
  const failures = await Promise.all(
    objects.map((object) =>
      put(home, object).then(
        (place) => void places.add(place),
        (cause: unknown) => ({ cause })
      )
    )
  )
  try {
    await allOf([...places, join(home, "objects"), home].map((place) => syncPath(place)))
  } catch (cause) {
    return failures.map((failure) => failure ?? { cause })
  }
  return failures.map((failure) => failure ?? undefined)
}

/** All objects, unordered. Reads the manifests, not the bytes. */
export const allObjects = async (home: string): Promise<Array<FoundObject>> => {
  const root = join(home, "objects")
  const found: Array<FoundObject> = []
  const list = (path: string) =>
    readdir(path).catch((cause: unknown) => {
      if (isAbsent(cause)) return []
      throw cause
    })
  for (const prefix of await list(root)) {
    for (const digest of await list(join(root, prefix))) {
      const folder = join(root, prefix, digest)
      const bytes = await readFile(join(folder, manifestName)).catch(() => undefined)
      const sound = bytes !== undefined && hash("sha256", bytes) === digest
      const manifest = sound ? (JSON.parse(bytes.toString("utf8")) as Manifest) : undefined
      const made = await stat(folder).catch(() => undefined)
      // Deleted in the meantime.
      if (made === undefined) continue
      const size =
        manifest === undefined || manifest.format > format
          ? await sizeOf(folder)
          : manifest.files.reduce((sum, file) => sum + file.size, bytes!.length)
      // Whole milliseconds, like Date.now(): an object stored in this millisecond must not be in the future.
      found.push({ digest, type: manifest?.type, size, made: Math.floor(made.mtimeMs) })
    }
  }
  return found
}

/** Bytes of a file or of all files below a folder; 0 if missing. Never rejects. */
export const sizeOf = async (path: string): Promise<number> => {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return 0
  if (!found.isDirectory()) return found.size
  let sum = 0
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []))
    if (entry.isFile()) sum += (await stat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0
  return sum
}
