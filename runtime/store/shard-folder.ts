/**
 * What a mapped stage made of each shard, as files of a folder, `<folder>/<sha256 of the key>`: for stages that run on other machines, as a file system that several machines share
 * may have no locks that SQLite could trust. Each file has its sum before it, looked at whenever it is read.
 */
import { hash, randomUUID } from "node:crypto"
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { isGone } from "../errors.ts"
import { makeFolder } from "./durable.ts"

/** What is made of shards, by their keys (Shards has it in a database). */
export interface ShardStore {
  /** The result under a key; undefined when there is none, or none that is whole. */
  readonly get: (key: string) => Uint8Array | undefined
  readonly put: (key: string, bytes: Uint8Array) => void
  readonly close: () => void
}

const sumLength = 64

export const shardFolder = (folder: string): ShardStore => {
  makeFolder(folder)
  const pathOf = (key: string) => join(folder, hash("sha256", key))
  /** With the key: a result is never taken for another's. */
  const sumOf = (key: string, bytes: Uint8Array) => hash("sha256", Buffer.concat([Buffer.from(`${key.length}:${key}`), bytes]))
  return {
    get: (key) => {
      let file: Buffer
      try {
        file = readFileSync(pathOf(key))
      } catch (cause) {
        if (isGone(cause)) return undefined
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
