/**
 * Which objects are currently needed, and by whom. A run takes a lease on an object before checking whether it exists, and keeps the lease until it
 * ends; `caravan gc` moves an object away only while it holds this database's write lock and sees no lease. So either the run takes its lease first
 * and the object stays, or the object is already gone when the run checks, and the run recomputes it. No clock is involved.
 *
 * A holder is alive while its process holds the lock on its file `leases/<id>`. The kernel releases the lock when the process ends for any reason; a
 * stopped process keeps it. The database only matters while holders are alive: if it is damaged and no holder is alive, the next process that opens it
 * moves it aside. Claims (in-flight.ts) are in the same database.
 */
import { randomUUID } from "node:crypto"
import { existsSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { isDamaged, messageOf, moveDamagedAside, StoreError } from "../errors.ts"
import { makeFolder, makePrivateFile } from "./durable.ts"
import { isReadOnly, openSnapshot } from "./read-only.ts"
import { openWal } from "./wal.ts"

const tables = `
  create table if not exists holders (id text primary key, what text not null, pid integer not null) strict;
  create table if not exists leases (holder text not null, digest text not null, primary key (holder, digest)) strict, without rowid;
  create table if not exists flights (key text primary key, holder text not null, token text not null) strict, without rowid;
`

const isId = (name: string): boolean => /^[0-9a-f-]{36}$/.test(name)

/** Whether another connection, of this or another process, has locked this file. Read access is enough, so this also works in a read-only store. */
const isLocked = (file: string): boolean => {
  if (!existsSync(file)) return false
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(file, { readOnly: true })
    database.exec("pragma busy_timeout = 0; select name from sqlite_master")
    return false
  } catch {
    // Locked, or this user may not read it: its holder may be alive.
    return true
  } finally {
    database?.close()
  }
}

/** Whether the process of a holder in this store is alive. */
export const isHolderAlive = (home: string, id: string): boolean => isId(id) && isLocked(join(home, "leases", id))

/** The locks of this process's holders, kept referenced: a connection that is garbage-collected is closed and releases its lock. */
const held = new Set<DatabaseSync>()

export interface Holder {
  readonly id: string
  /** Protects these objects from gc until `release`. */
  readonly lease: (digests: ReadonlyArray<string>) => void
  readonly release: () => void
}

export class Leases {
  readonly #home: string
  readonly #folder: string
  readonly #database: DatabaseSync
  /** Whether this is a copy, because the file is read-only. */
  readonly #isSnapshot: boolean
  readonly #statements = new Map<string, StatementSync>()

  constructor(home: string) {
    this.#home = home
    this.#folder = join(home, "leases")
    const file = join(home, "leases.db")
    this.#isSnapshot = isReadOnly(file)
    this.#database = this.#try("Opening", () => {
      if (this.#isSnapshot) {
        const database = openSnapshot(file)
        database.exec(tables)
        return database
      }
      makeFolder(home)
      makeFolder(this.#folder)
      const open = () => {
        makePrivateFile(join(home, "leases.db"))
        const database = openWal(join(home, "leases.db"), 30_000, "pragma synchronous = off")
        try {
          database.exec(tables)
          // Written without fsync: after a power failure it may open but be damaged inside.
          const check = database.prepare("pragma integrity_check(1)").get()?.integrity_check
          if (check !== "ok") throw new Error(`it is malformed: ${String(check)}`)
        } catch (cause) {
          database.close()
          throw cause
        }
        return database
      }
      try {
        return open()
      } catch (cause) {
        // After a power failure no process in it is alive, so its content is not needed.
        if (!isDamaged(cause) || readdirSync(this.#folder).some((name) => isId(name) && this.isAlive(name))) throw cause
        moveDamagedAside(join(home, "leases.db"))
        return open()
      }
    })
  }

  #try<A>(doing: string, body: () => A): A {
    try {
      return body()
    } catch (cause) {
      if (cause instanceof StoreError) throw cause
      const reason = messageOf(cause)
      const advice = /is full|ENOSPC/.test(reason)
        ? "Free some space (for example with caravan gc --yes), then run again: finished results are kept"
        : "Make the folder writable; a damaged leases.db can be deleted while nothing runs"
      throw new StoreError({ message: `${doing} the leases of the store (leases.db next to ${this.#folder}): ${reason}. ${advice}.` })
    }
  }

  /** Runs `body` under the database's write lock. Keep it short. */
  exclusive<A>(body: (database: { readonly prepare: (sql: string) => StatementSync }) => A): A {
    return this.#try("Writing", () => {
      if (this.#isSnapshot) throw new Error("they can't be written to")
      this.#prepare("begin immediate").run()
      try {
        return body({ prepare: (sql) => this.#prepare(sql) })
      } finally {
        try {
          if (this.#database.isTransaction) this.#prepare("commit").run()
        } finally {
          // If the disk is full, a failed commit leaves the transaction open, and with it the lock that all others wait for.
          if (this.#database.isTransaction) this.#prepare("rollback").run()
        }
      }
    })
  }
  /** Runs a `body` that only reads: without the lock in a store that can't be written to. */
  reading<A>(body: (database: { readonly prepare: (sql: string) => StatementSync }) => A): A {
    return this.#isSnapshot ? this.#try("Reading", () => body({ prepare: (sql) => this.#prepare(sql) })) : this.exclusive(body)
  }
  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (statement === undefined) this.#statements.set(sql, (statement = this.#database.prepare(sql)))
    return statement
  }

  /** Registers a holder; `what` describes it to others ("caravan run"). */
  hold(what: string): Holder {
    const id = randomUUID()
    const file = join(this.#folder, id)
    let alive: DatabaseSync | undefined
    try {
      // Created and locked in one transaction: gc would take an unlocked file for the file of a dead process.
      this.exclusive(() => {
        makePrivateFile(file)
        alive = new DatabaseSync(file)
        alive.exec("begin exclusive")
        this.#database.prepare("insert into holders (id, what, pid) values (?, ?, ?)").run(id, what, process.pid)
      })
    } catch (cause) {
      // Release the lock even if only the commit failed: a holder without its lock counts as dead.
      alive?.close()
      throw cause
    }
    const lock = alive!
    held.add(lock)
    const insert = this.#database.prepare("insert or ignore into leases (holder, digest) values (?, ?)")
    let released = false
    return {
      id,
      lease: (digests) => this.exclusive(() => digests.forEach((digest) => insert.run(id, digest))),
      release: () => {
        if (released) return
        released = true
        try {
          this.exclusive(() => this.#forget(id))
        } catch {
          // For example, the disk is full. Without its lock this holder counts as dead, and the next gc removes it.
        }
        held.delete(lock)
        lock.close()
        try {
          this.#removeFile(id)
        } catch {
          // The next gc removes the file. An empty file must not make the run fail.
        }
      }
    }
  }

  #forget(id: string): void {
    this.#database.prepare("delete from leases where holder = ?").run(id)
    this.#database.prepare("delete from flights where holder = ?").run(id)
    this.#database.prepare("delete from holders where id = ?").run(id)
  }
  #removeFile(id: string): void {
    for (const suffix of ["", "-journal"]) rmSync(join(this.#folder, `${id}${suffix}`), { force: true })
  }

  /** Whether a holder's process is alive. */
  isAlive(id: string): boolean {
    return isHolderAlive(this.#home, id)
  }

  /** The leases of living holders (digest -> holder), and the dead holders. */
  #look(): { readonly leased: ReadonlyMap<string, string>; readonly gone: ReadonlySet<string> } {
    const rows = (sql: string) => this.#database.prepare(sql).all() as Array<Record<string, string>>
    const names = new Map<string, string>()
    const gone = new Set<string>()
    for (const { id, pid, what } of rows("select id, what, pid from holders")) {
      if (this.isAlive(id!)) names.set(id!, `${what} (process ${pid})`)
      else gone.add(id!)
    }
    const leased = new Map<string, string>()
    for (const { digest, holder } of rows("select holder, digest from leases"))
      if (!gone.has(holder!)) leased.set(digest!, names.get(holder!) ?? holder!)
    return { leased, gone }
  }

  /** The leases of living holders: digest -> holder. */
  leased(): ReadonlyMap<string, string> {
    return this.#isSnapshot ? this.#try("Reading", () => this.#look().leased) : this.withLeasesLocked((leased) => leased)
  }

  /** Calls `body` with the leases of living holders (digest -> holder), under a lock that stops others from taking leases. Keep it short: runs wait. */
  withLeasesLocked<A>(body: (leased: ReadonlyMap<string, string>) => A): A {
    const { gone, result } = this.exclusive(() => {
      const { gone, leased } = this.#look()
      // A file without a row: its process died while registering.
      const isKnown = this.#database.prepare("select 1 from holders where id = ?")
      for (const name of readdirSync(this.#folder))
        if (isId(name) && isKnown.get(name) === undefined && !isLocked(join(this.#folder, name))) this.#removeFile(name)
      return { gone, result: body(leased) }
    })
    try {
      if (gone.size > 0) this.exclusive(() => gone.forEach((id) => this.#forget(id)))
      for (const id of gone) this.#removeFile(id)
    } catch {
      // For example, the disk is full, and the caller is about to free space. The next call removes them.
    }
    return result
  }

  close(): void {
    this.#statements.clear()
    this.#database.close()
  }
}
