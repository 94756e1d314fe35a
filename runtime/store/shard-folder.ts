/**
 * Shard results of a mapped stage as files in a folder, `<folder>/<sha256 of the key>`: for stages that run on other machines, because a shared file
 * system may not support the locks that SQLite needs. Each file starts with its checksum, which is verified on every read.
 */
import { hash, randomUUID } from "node:crypto"
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { isMissingOrUnreadable } from "../errors.ts"
import { makeFolder } from "./durable.ts"

/** Shard results by key (Shards stores them in a database). */
export interface ShardStore {
  /** The result under a key; undefined if missing or damaged. */
  readonly get: (key: string) => Uint8Array | undefined
  readonly put: (key: string, bytes: Uint8Array) => void
  readonly close: () => void
}

const sumLength = 64

export const shardFolder = (folder: string): ShardStore => {
  makeFolder(folder)
  const pathOf = (key: string) => join(folder, hash("sha256", key))
  /** Includes the key: a result is never mistaken for another key's. */
  const sumOf = (key: string, bytes: Uint8Array) => hash("sha256", Buffer.concat([Buffer.from(`${key.length}:${key}`), bytes]))
  return {
    get: (key) => {
      let file: Buffer
      try {
        file = readFileSync(pathOf(key))
      } catch (cause) {
        if (isMissingOrUnreadable(cause)) return undefined
        throw cause
      }
      const bytes = file.subarray(sumLength)
      return file.subarray(0, sumLength).toString("latin1") === sumOf(key, bytes) ? bytes : undefined
    },
    put: (key, bytes) => {
      const fresh = join(folder, `new-${randomUUID()}`)
      try {
        writeFileSync(fresh, Buffer.concat([Buffer.from(sumOf(key, bytes), "latin1"), bytes]))
        renameSync(fresh, pathOf(key))
      } catch (cause) {
        rmSync(fresh, { force: true })
        throw cause
      }
    },
    close: () => {}
  }
}
