/**
 * What a mapped stage made of each shard (map.ts): one SQLite file for everything but the shards that the results depend on, `shards/<digest>.db`, so that
 * a thousand small results cost a thousand inserts and not a thousand fsynced folders. Each insert is a transaction of its own: it survives
 * the process, however that ends. When power fails the last ones may be missing, never wrong: each has its sha256, looked at whenever it is read.
 * The file is a cache: without it results are made again.
 */
import { createHash } from "node:crypto"
import { closeSync, existsSync, openSync, utimesSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { isDamaged, setDamagedAside } from "../errors.ts"
import { makeFolder } from "./durable.ts"

const tables = "create table if not exists shards (key text primary key, sum text not null, bytes blob not null) strict, without rowid"

export class Shards {
  readonly #database: DatabaseSync
  readonly #select: StatementSync
  readonly #insert: StatementSync

  /** Opens the file; a damaged one is set aside. Throws what the file system or SQLite say. */
  constructor(file: string) {
    makeFolder(dirname(file))
    const open = () => {
      const database = new DatabaseSync(file)
      try {
        database.exec("pragma busy_timeout = 10000; pragma journal_mode = wal; pragma synchronous = normal")
        database.exec(tables)
        return database
      } catch (cause) {
        database.close()
        throw cause
      }
    }
    try {
      this.#database = open()
    } catch (cause) {
      if (!isDamaged(cause)) throw cause
      setDamagedAside(file)
      this.#database = open()
    }
    this.#select = this.#database.prepare("select sum, bytes from shards where key = ?")
    this.#insert = this.#database.prepare("insert or replace into shards (key, sum, bytes) values (?, ?, ?)")
    touch(file)
  }

  /** The result under a key; undefined when there is none, or none that is whole. */
  get(key: string): Uint8Array | undefined {
    const row = this.#select.get(key)
    if (row === undefined) return undefined
    const bytes = row.bytes as Uint8Array
    return sumOf(key, bytes) === row.sum ? bytes : undefined
  }

  put(key: string, bytes: Uint8Array): void {
    this.#insert.run(key, sumOf(key, bytes), bytes)
  }

  close(): void {
    this.#database.close()
  }
}

/** The files of one, in the order in which they can go: SQLite would replay a log that is left over into a new file of the name. */
export const shardFiles = (file: string): ReadonlyArray<string> => [`${file}-wal`, `${file}-shm`, file]

/** With the key: a result is never taken for another's. */
const sumOf = (key: string, bytes: Uint8Array): string => createHash("sha256").update(`${key.length}:${key}`).update(bytes).digest("hex")

/** gc goes by when a file was last used. */
const touch = (file: string): void => {
  if (!existsSync(file)) closeSync(openSync(file, "a"))
  const now = new Date()
  utimesSync(file, now, now)
}
