/** Files, folders and patterns of files of the user's as inputs: identified by content, which is hashed again only when their size or times have changed. */
import { createHash } from "node:crypto"
import type { BigIntStats, Stats } from "node:fs"
import { readdir, stat } from "node:fs/promises"
import { join, relative } from "node:path"
import * as Effect from "effect/Effect"
import { filesMatching, isPattern, patternBase } from "../../schemas/file-pattern.ts"
import { isAbsent, messageOf, PipelineError } from "../errors.ts"
import { type OnBytes, sha256File } from "./file-digest.ts"
import type { KeyCache } from "./key-cache.ts"

/** A file that changed less than this before it was looked at may change again without its times showing it, in milliseconds. */
const settling = 100

/** What something is that is neither a file nor a folder: reading it might not end, or not begin. Undefined for a file or a folder. */
const specialKind = (found: Stats | BigIntStats): string | undefined => {
  if (found.isFIFO()) return "a FIFO (a named pipe)"
  if (found.isSocket()) return "a socket"
  if (found.isCharacterDevice()) return "a character device"
  return found.isBlockDevice() ? "a block device" : undefined
}

/** Throws where a path is a device, a pipe or a socket; a path where nothing is yet may become a file. */
export const refuseSpecial = async (path: string): Promise<void> => {
  const found = await stat(path).catch(() => undefined)
  const kind = found === undefined ? undefined : specialKind(found)
  if (kind !== undefined) throw new Error(`${path} is ${kind}, not a file`)
}

/** Every file below a folder, relative, sorted. Links are followed: Hugging Face's cache is made of them. */
const listFiles = async (directory: string, below = ""): Promise<Array<string>> => {
  const out: Array<string> = []
  for (const name of (await readdir(join(directory, below))).sort()) {
    const path = join(below, name)
    if ((await stat(join(directory, path))).isDirectory()) out.push(...(await listFiles(directory, path)))
    else out.push(path)
  }
  return out
}

/** The files that an input stands for when it is not one file: the folder that they are named from, and their names in it. */
const filesOf = async (path: string): Promise<{ readonly base: string; readonly names: ReadonlyArray<string> } | undefined> => {
  if (isPattern(path)) {
    const base = patternBase(path)
    const names = (await filesMatching(path)).map((file) => relative(base, file))
    if (names.length === 0) throw new Error("no file matches. Check the pattern (relative ones are from the folder the command runs in).")
    return { base, names }
  }
  return (await stat(path)).isDirectory() ? { base: path, names: await listFiles(path) } : undefined
}

/** Size, times and inode of a file, or of every file of a folder or pattern: when it is the same, so is the content. */
export const stampOf = async (path: string): Promise<string> => (await look(path)).stamp

/** The stamp, the bytes in all, and when the youngest file last changed (milliseconds since 1970). */
const look = async (path: string): Promise<{ readonly stamp: string; readonly bytes: number; readonly changed: number }> => {
  let [bytes, changed] = [0, 0]
  const describe = async (file: string) => {
    const found = await stat(file, { bigint: true })
    const kind = specialKind(found)
    if (kind !== undefined)
      throw new Error(
        file === path
          ? `it is ${kind}, not a file or folder. Write what it gives to a file, and give that.`
          : `${relative(path, file)} in it is ${kind}, not a file or folder. Take it out.`
      )
    const { size, mtimeNs, ctimeNs, ctimeMs, ino } = found
    bytes += Number(size)
    changed = Math.max(changed, Number(ctimeMs))
    return `${size}:${mtimeNs}:${ctimeNs}:${ino}`
  }
  const files = await filesOf(path)
  if (files === undefined) return { stamp: await describe(path), bytes, changed }
  const parts: Array<string> = []
  for (const name of files.names) parts.push(`${name}:${await describe(join(files.base, name))}`)
  return { stamp: parts.join("\n"), bytes, changed }
}

const hash = async (path: string, onBytes: OnBytes): Promise<string> => {
  const files = await filesOf(path)
  if (files === undefined) return sha256File(path, onBytes)
  const tree = createHash("sha256")
  for (const name of files.names) tree.update(`${Buffer.byteLength(name)}:${name}:${await sha256File(join(files.base, name), onBytes)}\n`)
  return tree.digest("hex")
}

/** The content digest of a file or folder that is as it was when it was last read; undefined for any other. */
export const knownDigest = Effect.fnUntraced(function* (path: string, cache: KeyCache) {
  const stamp = yield* Effect.promise(() => stampOf(path).catch(() => undefined))
  const digest = stamp === undefined ? undefined : yield* cache.fileDigest(path, stamp)
  return stamp === undefined || digest === undefined ? undefined : { digest, stamp }
})

/** Hears how much of an input is read. */
export type OnRead = (read: { readonly path: string; /** Bytes. */ readonly done: number; readonly total: number }) => void
/** Milliseconds between two reports of a reading; small inputs are read before the first. */
export const reportInterval = 200

/** The content digest of a file or folder, and the stamp it had. Bytes are read where they have changed; `onRead` hears of it at intervals and at the end. */
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
    if ((await stampOf(path)) !== stamp) throw new Error("it changed while it was read: let whatever writes it finish, then run again")
    return hashed
  })
  if (before - changed > settling) yield* cache.recordFile(path, stamp, digest)
  return { digest, stamp }
})

const reasonOf = (cause: unknown): string =>
  (cause as NodeJS.ErrnoException).code === "ELOOP"
    ? "it is a symbolic link that leads back to itself. Point it to a file."
    : isAbsent(cause)
      ? "there is no such file or folder. Check the path (relative paths are from the folder the command runs in)."
      : messageOf(cause)

/** Fails when a file no longer has the stamp that it had. `failed` makes the error of it. */
export const checkStamp = <E>(path: string, stamp: string, failed: () => E): Effect.Effect<void, E> =>
  Effect.flatMap(
    // A file that can't be looked at any more is not as it was.
    Effect.promise(() => stampOf(path).catch(() => "")),
    (now) => (now === stamp ? Effect.void : Effect.fail(failed()))
  )
