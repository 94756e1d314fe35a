/**
 * Shard results of a mapped stage (map.ts): one SQLite file per combination of everything but the shards, `shards/<digest>.db`, so that a thousand
 * small results cost a thousand inserts and not a thousand fsynced folders. Each insert is its own transaction and survives the process. After a
 * power failure the last ones may be missing, never wrong: each has its sha256, verified on every read. The file is a cache: without it results are
 * recomputed.
 */
import { createHash } from "node:crypto"
import { closeSync, existsSync, openSync, utimesSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { isDamaged, moveDamagedAside } from "../errors.ts"
import { makeFolder } from "./durable.ts"

const tables = "create table if not exists shards (key text primary key, sum text not null, bytes blob not null) strict, without rowid"

export class Shards {
  readonly #database: DatabaseSync
  readonly #select: StatementSync
  readonly #insert: StatementSync

  /** Opens the file; a damaged one is set aside. Throws errors of the file system and SQLite. */
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
      moveDamagedAside(file)
      this.#database = open()
    }
    this.#select = this.#database.prepare("select sum, bytes from shards where key = ?")
    this.#insert = this.#database.prepare("insert or replace into shards (key, sum, bytes) values (?, ?, ?)")
    touch(file)
  }

  /** The result under a key; undefined if missing or damaged. */
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

/** The files of a database in a safe order of deletion: SQLite would replay a leftover log into a new file of the same name. */
export const shardFiles = (file: string): ReadonlyArray<string> => [`${file}-wal`, `${file}-shm`, file]

/** Includes the key: a result is never mistaken for another key's. */
const sumOf = (key: string, bytes: Uint8Array): string => createHash("sha256").update(`${key.length}:${key}`).update(bytes).digest("hex")

/** gc uses the file's time of last use. */
const touch = (file: string): void => {
  if (!existsSync(file)) closeSync(openSync(file, "a"))
  const now = new Date()
  utimesSync(file, now, now)
}
