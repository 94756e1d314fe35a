/**
 * The cache of Hub files, in the layout of huggingface_hub, so that Python's tools find files downloaded here and vice versa:
 *
 *   models--owner--name/refs/main             the commit of a branch or tag when it was last looked up
 *   models--owner--name/blobs/<digest>        contents: sha256 for large files, git's sha1 for small ones
 *   models--owner--name/snapshots/<commit>/   links to them, for the files requested so far
 *   models--owner--name/.caravan/             ours: the list of all files of a commit; folders of links for exactly one name; which contents were
 * verified
 */
import { createHash, randomBytes } from "node:crypto"
import {
  createReadStream,
  existsSync,
  lstatSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { dirname, join, relative } from "node:path"
import { type HubName, isCommit } from "../../schemas/hub-name.ts"
import { makeFolder, renameIfFree } from "../store/durable.ts"

/** A file of a commit. */
export interface RemoteFile {
  /** Relative to the repository. */
  readonly path: string
  /** Bytes. */
  readonly size: number
  /** sha256 of the content if git stores a pointer (LFS, Xet); otherwise its git sha1. */
  readonly digest: string
}
export const isDigest = (text: string): boolean => /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text)

export interface Repository {
  readonly folder: string
  readonly locks: string
}
export const repositoryIn = (cache: string, name: HubName): Repository => {
  const folder = `${name.kind}s--${name.owner}--${name.name}`
  return { folder: join(cache, folder), locks: join(cache, ".locks", folder) }
}
export const blobOf = ({ folder }: Repository, { digest }: Pick<RemoteFile, "digest">): string => join(folder, "blobs", digest)

/** Writes a small file atomically. */
const writeWhole = (path: string, text: string): void => {
  makeFolder(dirname(path))
  const made = `${path}.${randomBytes(4).toString("hex")}`
  writeFileSync(made, text)
  renameSync(made, path)
}
const readIfThere = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

export const commitIn = ({ folder }: Repository, revision: string): string | undefined => {
  const commit = readIfThere(join(folder, "refs", revision))?.trim()
  return commit !== undefined && isCommit(commit) ? commit : undefined
}
export const rememberCommit = (repository: Repository, revision: string, commit: string): void => {
  if (commitIn(repository, revision) !== commit) writeWhole(join(repository.folder, "refs", revision), commit)
}

const listPath = ({ folder }: Repository, commit: string): string => join(folder, ".caravan", commit, "files.json")
/** The files of a commit, if they were listed before. */
export const listIn = (repository: Repository, commit: string): ReadonlyArray<RemoteFile> | undefined => {
  try {
    return JSON.parse(readIfThere(listPath(repository, commit)) ?? "") as ReadonlyArray<RemoteFile>
  } catch {
    return undefined
  }
}
export const rememberList = (repository: Repository, commit: string, files: ReadonlyArray<RemoteFile>): void =>
  writeWhole(listPath(repository, commit), JSON.stringify(files))

/** A hash that computes the file's `digest`. */
export const hashFor = ({ digest, size }: RemoteFile) =>
  digest.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`)

const stampOf = (path: string): string => {
  const { ctimeNs, ino, mtimeNs, size } = statSync(path, { bigint: true })
  return `${size}:${mtimeNs}:${ctimeNs}:${ino}`
}
const soundPath = ({ folder }: Repository, digest: string): string => join(folder, ".caravan", "read", digest)
/** Records that a content, in its current state, was read and matches its digest. */
export const rememberSound = (repository: Repository, file: RemoteFile): void =>
  writeWhole(soundPath(repository, file.digest), stampOf(blobOf(repository, file)))

/** Whether a content of that size exists; `isSound` may still find that it differs. */
export const hasSize = (repository: Repository, file: RemoteFile): boolean =>
  statSync(blobOf(repository, file), { throwIfNoEntry: false })?.size === file.size

/**
 * Whether a content exists and matches its digest: reads it if it has not been verified or has changed since. If it matches, `onBytes` receives all
 * its bytes.
 */
export const isSound = async (repository: Repository, file: RemoteFile, onBytes: (count: number) => void): Promise<boolean> => {
  const path = blobOf(repository, file)
  if (!hasSize(repository, file)) return false
  if (readIfThere(soundPath(repository, file.digest)) === stampOf(path)) {
    onBytes(file.size)
    return true
  }
  const hash = hashFor(file)
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    hash.update(chunk)
    onBytes(chunk.length)
  }
  if (hash.digest("hex") !== file.digest) {
    onBytes(-file.size)
    return false
  }
  rememberSound(repository, file)
  return true
}

const link = (from: string, to: string): void => {
  makeFolder(dirname(from))
  symlinkSync(relative(dirname(from), to), from)
}

/** The link to a content in its commit's folder, for Python's tools. An existing entry is left alone. */
export const linkInSnapshot = (repository: Repository, commit: string, file: RemoteFile): void => {
  const path = join(repository.folder, "snapshots", commit, file.path)
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined)
    try {
      link(path, blobOf(repository, file))
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause
    }
}

/** The folder of links to exactly these files, independent of other files downloaded from the commit. `makeView` creates it. */
export const viewOf = ({ folder }: Repository, commit: string, files: ReadonlyArray<RemoteFile>): string => {
  const chosen = createHash("sha256").update(JSON.stringify(files.map(({ digest, path }) => [path, digest])))
  return join(folder, ".caravan", commit, chosen.digest("hex").slice(0, 16))
}
export const hasView = (repository: Repository, view: string, files: ReadonlyArray<RemoteFile>): boolean =>
  existsSync(view) &&
  files.every((file) => {
    const path = join(view, file.path)
    return (
      lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true &&
      readlinkSync(path) === relative(dirname(path), blobOf(repository, file)) &&
      statSync(path, { throwIfNoEntry: false })?.size === file.size
    )
  })
export const makeView = (repository: Repository, view: string, files: ReadonlyArray<RemoteFile>): void => {
  if (hasView(repository, view, files)) return
  // Next to its final place at the same depth, because links are relative.
  const made = `${view}.${randomBytes(4).toString("hex")}`
  for (const file of files) link(join(made, file.path), blobOf(repository, file))
  if (renameIfFree(made, view)) return
  // Another process has created it in the meantime, or somebody has changed it.
  if (!hasView(repository, view, files)) {
    rmSync(view, { recursive: true, force: true })
    if (renameIfFree(made, view)) return
  }
  rmSync(made, { recursive: true, force: true })
}
