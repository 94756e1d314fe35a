/**
 * One content from the Hub into the cache: resumed where it was cut off, by this process or an earlier one; compared with its digest before it gets its name; by
 * one process at a time. A partial one has a name of its own, which Python's tools do not use.
 */
import { createReadStream, mkdirSync, statSync } from "node:fs"
import { type FileHandle, open, rename, rm, statfs } from "node:fs/promises"
import { dirname, join } from "node:path"
import { type HubName, repositoryOf } from "../../schemas/hub-name.ts"
import type { Watching } from "../define/remote.ts"
import { messageOf, StoreError } from "../errors.ts"
import { syncPath } from "../store/durable.ts"
import { blobOf, hashFor, isSound, type RemoteFile, rememberSound, type Repository } from "./cache.ts"
import { whileLocked } from "./lock.ts"
import { Passing, persist, request } from "./request.ts"
import type { HubSettings } from "./settings.ts"

export interface Download {
  readonly name: HubName
  readonly commit: string
  readonly file: RemoteFile
  readonly repository: Repository
}

/** A cut after fewer bytes than this counts as a failure like the one before it. */
const advance = 1 << 20

/** Fails where the disk has no room for so many bytes. */
export const checkRoom = async (folder: string, bytes: number, doing: string): Promise<void> => {
  mkdirSync(folder, { recursive: true })
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize < bytes)
    throw new StoreError({
      message: `${doing}: ${bytes} bytes are needed, and the disk of ${folder} has ${bavail * bsize} free. Free some space, or name a folder on another disk in HF_HUB_CACHE.`
    })
}

const addressOf = (settings: HubSettings, { commit, file, name }: Download): string =>
  `${settings.endpoint}/${repositoryOf(name)}/resolve/${commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`

/** Sees to it that the content is in the cache, whole and what its digest says. Throws a PipelineError or a StoreError. */
export const download = async (settings: HubSettings, what: Download, watching: Watching): Promise<void> => {
  const { file, name, repository } = what
  const blob = blobOf(repository, file)
  const doing = `Downloading ${file.path} of hf:${repositoryOf(name)}`
  try {
    mkdirSync(dirname(blob), { recursive: true })
    await whileLocked(join(repository.locks, `${file.digest}.caravan`), watching.signal, async () => {
      // Another process may have had the lock, and have fetched it.
      if (await isSound(repository, file, watching.onBytes)) return
      const partial = `${blob}.caravan-incomplete`
      await fetchWhole(settings, what, partial, doing, watching)
      await syncPath(partial)
      await rename(partial, blob)
      await syncPath(dirname(blob))
      rememberSound(repository, file)
    })
  } catch (cause) {
    throw explained(cause, doing, dirname(blob))
  }
}

const explained = (cause: unknown, doing: string, folder: string): unknown => {
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  if (code === undefined || !/^E[A-Z]+$/.test(code)) return cause
  const advice =
    code === "ENOSPC" || code === "EDQUOT"
      ? "Free some space, or name a folder on another disk in HF_HUB_CACHE. What came so far is kept: the next run goes on from there."
      : "Name a folder that can be written to in HF_HUB_CACHE."
  return new StoreError({ message: `${doing} to ${folder}: ${messageOf(cause)}. ${advice}` })
}

/** Until the partial file is whole and right; one that is whole and wrong is fetched once more from its beginning. */
const fetchWhole = async (settings: HubSettings, what: Download, partial: string, doing: string, { onBytes, signal }: Watching) => {
  const { file } = what
  for (let isRetry = false; ; isRetry = true) {
    let [reached, counted] = [0, 0]
    const count = (bytes: number) => {
      counted += bytes
      onBytes(bytes)
    }
    const found = await persist(settings.waits, signal, () => fetchRest(settings, what, partial, doing, { onBytes: count, signal }), {
      advanced: () => {
        const size = statSync(partial, { throwIfNoEntry: false })?.size ?? 0
        const isFurther = size >= reached + advance
        if (isFurther) reached = size
        return isFurther
      },
      after: "; what came so far is kept, and the next run goes on from there"
    })
    if (found === file.digest) return
    await rm(partial, { force: true })
    onBytes(-counted)
    if (isRetry)
      throw new StoreError({
        message: `${doing}: what came is not what the Hub lists: expected the digest ${file.digest}, got ${found}. It was removed. Try again later; if it stays so, do not trust ${settings.endpoint}.`
      })
  }
}

/** Appends what is missing; gives the digest of the whole. Throws Passing where it was cut off. */
const fetchRest = async (
  settings: HubSettings,
  what: Download,
  partial: string,
  doing: string,
  { onBytes, signal }: Watching
): Promise<string> => {
  const { file } = what
  const handle = await open(partial, "a")
  try {
    let { size } = await handle.stat()
    if (size > file.size) {
      await handle.truncate(0)
      size = 0
    }
    let hash = hashFor(file)
    if (size > 0) {
      for await (const chunk of createReadStream(partial, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) hash.update(chunk)
      onBytes(size)
    }
    // The Hub answers for a part of no bytes with an error.
    if (size === file.size) return hash.digest("hex")
    const headers: Record<string, string> = size > 0 ? { range: `bytes=${size}-` } : {}
    const asked = { url: addressOf(settings, what), doing, headers, signal, accept: [416] }
    return await request(settings, asked, async ({ chunks, headers: answered, status }) => {
      const start = status === 206 ? Number(/^bytes (\d+)-/.exec(answered.get("content-range") ?? "")?.[1] ?? "NaN") : 0
      if (start !== size) {
        // It sends all of it, or has no such part.
        await handle.truncate(0)
        onBytes(-size)
        hash = hashFor(file)
        size = 0
        if (status !== 200) throw new Passing(`${doing}: the server does not send the part that was asked for (${status}).`)
      }
      const length = answered.get("content-length")
      if (length !== null && size + Number(length) !== file.size)
        throw new StoreError({
          message: `${doing}: the Hub lists ${file.size} bytes, and the server is about to send ${size + Number(length)}. Nothing of it was written. Check HF_ENDPOINT.`
        })
      for await (const chunk of chunks) {
        if (size + chunk.length > file.size)
          throw new StoreError({ message: `${doing}: the Hub lists ${file.size} bytes, and the server sends more. Check HF_ENDPOINT.` })
        await writeAll(handle, chunk)
        hash.update(chunk)
        size += chunk.length
        onBytes(chunk.length)
      }
      if (size < file.size) throw new Passing(`${doing}: it was cut off after ${size} of ${file.size} bytes.`)
      return hash.digest("hex")
    })
  } finally {
    await handle.close()
  }
}

const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at)).bytesWritten
}
