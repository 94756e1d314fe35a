/**
 * Downloads one content from the Hub into the cache: resumes an interrupted download, also of an earlier process; verifies the digest before
 * renaming; and runs in one process at a time. Partial files have our own names, which Python's tools do not use.
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
import { TransientError, persist, request } from "./request.ts"
import type { HubSettings } from "./settings.ts"

export interface Download {
  readonly name: HubName
  readonly commit: string
  readonly file: RemoteFile
  readonly repository: Repository
}

/** An interruption after fewer bytes than this counts as another failure in a row. */
const advance = 1 << 20

/** Fails if the disk has too little space for this many bytes. */
export const checkRoom = async (folder: string, bytes: number, doing: string): Promise<void> => {
  mkdirSync(folder, { recursive: true })
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize < bytes)
    throw new StoreError({
      message: `${doing}: ${bytes} bytes are needed, but the disk of ${folder} has ${bavail * bsize} free. Free some space, or set HF_HUB_CACHE to a folder on another disk.`
    })
}

const addressOf = (settings: HubSettings, { commit, file, name }: Download): string =>
  `${settings.endpoint}/${repositoryOf(name)}/resolve/${commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`

/** Ensures that the content is in the cache, complete and verified. Throws a PipelineError or a StoreError. */
export const download = async (settings: HubSettings, what: Download, watching: Watching): Promise<void> => {
  const { file, name, repository } = what
  const blob = blobOf(repository, file)
  const doing = `Downloading ${file.path} of hf:${repositoryOf(name)}`
  try {
    mkdirSync(dirname(blob), { recursive: true })
    await whileLocked(join(repository.locks, `${file.digest}.caravan`), watching.signal, async () => {
      // Another process may have held the lock and downloaded it.
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
      ? "Free some space, or set HF_HUB_CACHE to a folder on another disk. The partial download is kept, and the next run resumes it."
      : "Set HF_HUB_CACHE to a writable folder."
  return new StoreError({ message: `${doing} to ${folder}: ${messageOf(cause)}. ${advice}` })
}

/** Downloads until the partial file is complete and correct; a complete but wrong file is downloaded once more from the start. */
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
      after: "; the partial download is kept, and the next run resumes it"
    })
    if (found === file.digest) return
    await rm(partial, { force: true })
    onBytes(-counted)
    if (isRetry)
      throw new StoreError({
        message: `${doing}: the downloaded content does not match the Hub's listing: expected the digest ${file.digest}, got ${found}. The file was removed. Try again later; if this persists, do not trust ${settings.endpoint}.`
      })
  }
}

/** Appends the missing bytes; returns the digest of the complete file. Throws TransientError if interrupted. */
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
    // The Hub answers a request for an empty range with an error.
    if (size === file.size) return hash.digest("hex")
    const headers: Record<string, string> = size > 0 ? { range: `bytes=${size}-` } : {}
    const asked = { url: addressOf(settings, what), doing, headers, signal, accept: [416] }
    return await request(settings, asked, async ({ chunks, headers: answered, status }) => {
      const start = status === 206 ? Number(/^bytes (\d+)-/.exec(answered.get("content-range") ?? "")?.[1] ?? "NaN") : 0
      if (start !== size) {
        // It sends the complete file, or does not support ranges.
        await handle.truncate(0)
        onBytes(-size)
        hash = hashFor(file)
        size = 0
        if (status !== 200) throw new TransientError(`${doing}: the server did not send the requested range (${status}).`)
      }
      const length = answered.get("content-length")
      if (length !== null && size + Number(length) !== file.size)
        throw new StoreError({
          message: `${doing}: the Hub lists ${file.size} bytes, but the server announces ${size + Number(length)}. Nothing was written. Check HF_ENDPOINT.`
        })
      for await (const chunk of chunks) {
        if (size + chunk.length > file.size)
          throw new StoreError({ message: `${doing}: the Hub lists ${file.size} bytes, but the server sends more. Check HF_ENDPOINT.` })
        await writeAll(handle, chunk)
        hash.update(chunk)
        size += chunk.length
        onBytes(chunk.length)
      }
      if (size < file.size) throw new TransientError(`${doing}: interrupted after ${size} of ${file.size} bytes.`)
      return hash.digest("hex")
    })
  } finally {
    await handle.close()
  }
}

const writeAll = async (handle: FileHandle, bytes: Uint8Array): Promise<void> => {
  for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at)).bytesWritten
}
