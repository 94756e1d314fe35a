/**
 * Objects as they lie on the disk: `objects/ab/<digest>/` holds an artifact's files and its manifest `artifact.json`, whose sha256 is the digest.
 *
 * Calls that only touch what the kernel has in memory are synchronous: for small files a trip through the thread pool costs more than the call.
 * What waits for a disk (fsync, reading large files) is not. All throw StoreError when it can't be told how an object is.
 */
import { hash } from "node:crypto"
import { readdirSync, renameSync, statSync } from "node:fs"
import { readdir, readFile, rm, stat, utimes } from "node:fs/promises"
import { dirname, join } from "node:path"
import { isAbsent, isGone, messageOf, StoreError } from "../errors.ts"
import { digestOfFileAt, type OnBytes, readSmall, sha256File } from "../key/file-digest.ts"
import { allOf, foldersOf, makeFolder, renameIfFree, syncPath } from "./durable.ts"

/** Raised when manifests change. */
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
/** An object as it lies in the store. */
export interface FoundObject {
  readonly digest: string
  /** The type of its manifest; undefined when that is damaged. */
  readonly type: string | undefined
  /** Bytes of all its files. */
  readonly size: number
  /** When it was put there, in milliseconds since 1970. */
  readonly made: number
}
/** A written folder that only has to be made durable: its type is checked, its files are hashed, its manifest is in it. */
export interface SealedObject extends StoredObject {
  readonly directory: string
  /** Its files, the manifest among them. */
  readonly files: ReadonlyArray<string>
}

export const manifestName = "artifact.json"

export const objectPath = (home: string, digest: string): string => `${home}/objects/${digest.slice(0, 2)}/${digest}`

/** Every file below a folder, relative, sorted. Links and special files are refused: an artifact is files. */
const listFiles = (directory: string): Array<string> => {
  const out: Array<string> = []
  const visit = (below: string) => {
    for (const entry of readdirSync(join(directory, below), { withFileTypes: true })) {
      const path = join(below, entry.name)
      if (entry.isDirectory()) visit(path)
      else if (entry.isFile()) out.push(path)
      else throw new Error(`${join(directory, path)} is not a plain file: an artifact holds files and folders only`)
    }
  }
  visit("")
  if (out.includes(manifestName)) throw new Error(`the stage wrote a file ${manifestName}: that name is the store's own`)
  return out.sort()
}

/** The files of a written folder with their digests, as a manifest has them. */
export const describeFiles = async (directory: string): Promise<Manifest["files"]> => {
  const list: Array<Manifest["files"][number]> = []
  for (const path of listFiles(directory)) list.push({ path, ...(await digestOfFileAt(join(directory, path))) })
  return list
}

/** undefined when an object is not there or the disk can't read it. */
const unreadable = (cause: unknown): undefined => {
  if (isGone(cause)) return undefined
  // Too many open files, say, or no permission: that is no reason to make a sound object again.
  throw new StoreError({
    message: `Looking at a result in the store: ${messageOf(cause)}. The result stays where it is: fix that, then run again.`
  })
}

/** An object's manifest, and when it was last written to. */
const manifestAt = (folder: string, digest: string): { readonly manifest: Manifest; readonly written: number } | undefined => {
  let read: ReturnType<typeof readSmall>
  try {
    read = readSmall(`${folder}/${manifestName}`)
  } catch (cause) {
    return unreadable(cause)
  }
  const { bytes, written } = read
  if (hash("sha256", bytes) !== digest) return undefined
  const manifest = JSON.parse(bytes.toString("utf8")) as Manifest
  if (manifest.format > format)
    throw new StoreError({
      message: `Reading the result ${folder}: it has format ${manifest.format}, this version of caravan knows formats up to ${format}. Use that newer version, or name another folder with CARAVAN_HOME.`
    })
  return { manifest, written }
}

/**
 * How an object looks without its bytes being read. "present": every file is there at its size, none written to after the manifest, which is written
 * last. "modified": one was, by damage or because the store was copied; only the bytes can tell.
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
    unreadable(cause)
    return "missing"
  }
}

/**
 * What is wrong with an object's bytes; undefined when they are what the manifest says. One that was modified and is sound is present again: its
 * manifest is dated anew, so that it is not read in every run.
 */
export const damageOf = async (home: string, digest: string, onBytes?: OnBytes): Promise<string | undefined> => {
  const folder = objectPath(home, digest)
  const found = manifestAt(folder, digest)
  if (found === undefined) return "its manifest is missing or not what its name says"
  let youngest = 0
  for (const file of found.manifest.files) {
    const read = await readAt(join(folder, file.path), onBytes).catch(unreadable)
    if (read === undefined) return `${file.path} is missing, or the disk can't read it`
    if (read.sha256 !== file.sha256) return `${file.path} has changed`
    youngest = Math.max(youngest, read.written)
  }
  if (youngest > found.written) {
    // Whole milliseconds, and one more for what is lost on the way to the file system's own unit.
    const time = (Math.ceil(youngest) + 1) / 1000
    // Where that can't be written it is read again, which is all.
    await utimes(`${folder}/${manifestName}`, time, time).catch(() => undefined)
  }
  return undefined
}

/** A file's digest. When it was written to is asked first: what is written while it is read is younger than that. */
const readAt = async (path: string, onBytes: OnBytes | undefined): Promise<{ readonly written: number; readonly sha256: string }> => ({
  written: statSync(path).mtimeMs,
  sha256: await sha256File(path, onBytes)
})

/** Moves a damaged object out of the way, where it can be looked at; gives that place, or undefined when there is no such object. */
export const setAside = (home: string, digest: string): string | undefined => {
  makeFolder(join(home, "quarantine"))
  const place = join(home, "quarantine", `${digest}-${Date.now()}-${process.pid}`)
  try {
    renameSync(objectPath(home, digest), place)
    return place
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
    return undefined
  }
}

/** Makes a sealed folder durable and renames it to its place; gives the folder that it is in now, which has to be fsynced. */
const put = async (home: string, { digest, directory, files }: SealedObject): Promise<string> => {
  await allOf([
    ...files.map((file) => syncPath(join(directory, file), 0o444)),
    ...foldersOf(files).map((folder) => syncPath(join(directory, folder)))
  ])
  const target = objectPath(home, digest)
  if (!renameIfFree(directory, target)) {
    // The same object is there already: made by another run, or by another node. It stays unless it is damaged.
    // What is left of this one is swept by a later run if it can't be removed now.
    if ((await damageOf(home, digest)) === undefined) await rm(directory, { recursive: true, force: true }).catch(() => undefined)
    else {
      setAside(home, digest)
      renameIfFree(directory, target)
    }
  }
  return dirname(target)
}

/**
 * Takes sealed folders in, durably: fsyncs everything in them, renames each to its place, then fsyncs the folders they are in. Gives what each
 * failed by, if it did; one that fails keeps no other from being taken in.
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

/** Every object, in no order. Reads the manifests, not the bytes. */
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
      // It went while this looked.
      if (made === undefined) continue
      const size =
        manifest === undefined || manifest.format > format
          ? await sizeOf(folder)
          : manifest.files.reduce((sum, file) => sum + file.size, bytes!.length)
      // Whole milliseconds, as Date.now() counts them: what was made in this one is not of the future.
      found.push({ digest, type: manifest?.type, size, made: Math.floor(made.mtimeMs) })
    }
  }
  return found
}

/** Bytes of all files below a folder, or of a file; 0 when it is gone. Does not reject. */
export const sizeOf = async (path: string): Promise<number> => {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return 0
  if (!found.isDirectory()) return found.size
  let sum = 0
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []))
    if (entry.isFile()) sum += (await stat(join(entry.parentPath, entry.name)).catch(() => undefined))?.size ?? 0
  return sum
}
