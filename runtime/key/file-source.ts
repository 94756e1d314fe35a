/**
 * The user's files, folders and file patterns as inputs: identified by content, which is only rehashed if their size or times changed. A single file's
 * ending is part of its identity if readers choose its format by it; in a folder or a pattern, names are.
 */
import { createHash, hash as hashOf } from "node:crypto"
import type { BigIntStats, Stats } from "node:fs"
import { readdir, stat } from "node:fs/promises"
import { join, relative } from "node:path"
import * as Effect from "effect/Effect"
import { decisiveEnding } from "../../schemas/data-files.ts"
import { filesMatching, isPattern, patternBase } from "../../schemas/file-pattern.ts"
import { isAbsent, messageOf, PipelineError } from "../errors.ts"
import { type OnBytes, sha256File } from "./file-digest.ts"
import type { KeyCache } from "./key-cache.ts"

/** A file modified within this many milliseconds before the check may change again without a visible change in its times. */
const settling = 100

/** The kind of something that is neither a file nor a folder, because reading it might block or never end. Undefined for files and folders. */
const specialKind = (found: Stats | BigIntStats): string | undefined => {
  if (found.isFIFO()) return "a FIFO (a named pipe)"
  if (found.isSocket()) return "a socket"
  if (found.isCharacterDevice()) return "a character device"
  return found.isBlockDevice() ? "a block device" : undefined
}

/** Throws if a path is a device, a pipe or a socket; a missing path may still become a file. */
export const rejectSpecial = async (path: string): Promise<void> => {
  const found = await stat(path).catch(() => undefined)
  const kind = found === undefined ? undefined : specialKind(found)
  if (kind !== undefined) throw new Error(`${path} is ${kind}, not a file`)
}

const brokenLink = (name: string): Error =>
  new Error(`it contains ${name}, a link whose target is missing. Restore the target, or remove the link.`)

/** All files below a folder, as sorted relative paths. Links are followed: Hugging Face's cache consists of links. */
const listFiles = async (directory: string, below = ""): Promise<Array<string>> => {
  const out: Array<string> = []
  for (const name of (await readdir(join(directory, below))).sort()) {
    const path = join(below, name)
    const found = await stat(join(directory, path)).catch((cause: unknown) => {
      throw isAbsent(cause) ? brokenLink(path) : cause
    })
    if (found.isDirectory()) out.push(...(await listFiles(directory, path)))
    else out.push(path)
  }
  return out
}

/** The files of an input that is not a single file: their base folder, and their names relative to it. */
const filesOf = async (path: string): Promise<{ readonly base: string; readonly names: ReadonlyArray<string> } | undefined> => {
  if (isPattern(path)) {
    const base = patternBase(path)
    const names = (await filesMatching(path)).map((file) => relative(base, file))
    if (names.length === 0) throw new Error("no file matches. Check the pattern (relative patterns start at the current folder).")
    return { base, names }
  }
  return (await stat(path)).isDirectory() ? { base: path, names: await listFiles(path) } : undefined
}

/** A file's name within a folder or a pattern. */
const nameIn = (path: string, file: string): string => relative(isPattern(path) ? patternBase(path) : path, file)

/** Size, times and inode of a file, or of every file in a folder or pattern: if it is unchanged, so is the content. */
export const stampOf = async (path: string): Promise<string> => (await look(path)).stamp

/** The stamp, the total bytes, and the latest modification time (milliseconds since 1970). */
const look = async (path: string): Promise<{ readonly stamp: string; readonly bytes: number; readonly changed: number }> => {
  let [bytes, changed] = [0, 0]
  const describe = async (file: string) => {
    const found = await stat(file, { bigint: true }).catch((cause: unknown) => {
      throw file === path || !isAbsent(cause) ? cause : brokenLink(nameIn(path, file))
    })
    const kind = specialKind(found)
    if (kind !== undefined)
      throw new Error(
        file === path
          ? `it is ${kind}, not a file or folder. Write its content to a file and use that file.`
          : `it contains ${nameIn(path, file)}, which is ${kind}, not a file or folder. Remove it.`
      )
    const { size, mtimeNs, ctimeNs, ctimeMs, ino } = found
    bytes += Number(size)
    changed = Math.max(changed, Number(ctimeMs))
    return `${size}:${mtimeNs}:${ctimeNs}:${ino}`
  }
  const files = await filesOf(path)
  if (files === undefined) {
    const ending = decisiveEnding(path)
    return { stamp: `${await describe(path)}${ending === undefined ? "" : `:${ending}`}`, bytes, changed }
  }
  const parts: Array<string> = []
  for (const name of files.names) parts.push(`${name}:${await describe(join(files.base, name))}`)
  return { stamp: parts.join("\n"), bytes, changed }
}

const hash = async (path: string, onBytes: OnBytes): Promise<string> => {
  const files = await filesOf(path)
  if (files === undefined) {
    const [sha256, ending] = [await sha256File(path, onBytes), decisiveEnding(path)]
    return ending === undefined ? sha256 : hashOf("sha256", `${ending}:${sha256}`)
  }
  const tree = createHash("sha256")
  for (const name of files.names) tree.update(`${Buffer.byteLength(name)}:${name}:${await sha256File(join(files.base, name), onBytes)}\n`)
  return tree.digest("hex")
}

/** The content digest of a file or folder that has not changed since it was last read; undefined otherwise. */
export const knownDigest = Effect.fnUntraced(function* (path: string, cache: KeyCache) {
  const stamp = yield* Effect.promise(() => stampOf(path).catch(() => undefined))
  const digest = stamp === undefined ? undefined : yield* cache.fileDigest(path, stamp)
  return stamp === undefined || digest === undefined ? undefined : { digest, stamp }
})

/** Called with how much of an input has been read. */
export type OnRead = (read: { readonly path: string; /** Bytes. */ readonly done: number; readonly total: number }) => void
/** Milliseconds between two progress reports; small inputs finish before the first. */
export const reportInterval = 200

/** The content digest of a file or folder, and its stamp. Reads only changed files; calls `onRead` at intervals and at the end. */
export const digestFile = Effect.fnUntraced(function* (path: string, cache: KeyCache, onRead: OnRead = () => undefined) {
  const attempt = <A>(body: () => Promise<A>): Effect.Effect<A, PipelineError> =>
    Effect.tryPromise({ try: body, catch: (cause) => new PipelineError({ message: `Reading the input ${path}: ${reasonOf(cause)}` }) })
  const before = Date.now()
  const { stamp, bytes: total, changed } = yield* attempt(() => look(path))
  const known = yield* cache.fileDigest(path, stamp)
  if (known !== undefined) return { digest: known, stamp }
  const digest = yield* attempt(async () => {
    let done = 0
    let last = performance.now()
    let isReported = false
    const hashed = await hash(path, (count) => {
      done += count
      const now = performance.now()
      if (now - last < reportInterval) return
      last = now
      isReported = true
      onRead({ path, done, total })
    })
    if (isReported) onRead({ path, done: total, total })
    if ((await stampOf(path)) !== stamp)
      throw new Error("it changed while it was being read: wait until it is completely written, then run again")
    return hashed
  })
  if (before - changed > settling) yield* cache.recordFile(path, stamp, digest)
  return { digest, stamp }
})

const reasonOf = (cause: unknown): string =>
  (cause as NodeJS.ErrnoException).code === "ELOOP"
    ? "it is a symbolic link that leads back to itself. Point it to a file."
    : isAbsent(cause)
      ? "no such file or folder. Check the path (relative paths start at the current folder)."
      : messageOf(cause)

/** Fails if a file's stamp has changed. `failed` creates the error. */
export const checkStamp = <E>(path: string, stamp: string, failed: () => E): Effect.Effect<void, E> =>
  Effect.flatMap(
    // A file that can't be checked any more counts as changed.
    Effect.promise(() => stampOf(path).catch(() => "")),
    (now) => (now === stamp ? Effect.void : Effect.fail(failed()))
  )
