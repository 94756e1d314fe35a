/**
 * Who needs which object right now. A run takes a lease on an object before it looks whether the object is there, and keeps it to its end;
 * `caravan gc` moves an object away only while it holds this database's write lock and sees no lease. So either the run comes first and the
 * object stays, or the object is gone when the run looks and is made again: never in between, whatever clocks say.
 *
 * A holder is alive as long as its process keeps the lock on its file `leases/<id>`. The kernel drops that lock when the process ends, however
 * it ends; a stopped process keeps it. Nothing here outlives its holders: a damaged database is set aside by whoever opens it when none lives.
 * Who makes what right now (in-flight.ts) is in the same database.
 */
import { randomUUID } from "node:crypto"
import { existsSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { isDamaged, messageOf, setDamagedAside, StoreError } from "../errors.ts"
import { makeFolder, makePrivateFile } from "./durable.ts"
import { isReadOnly, openSnapshot } from "./read-only.ts"
import { openWal } from "./wal.ts"

const tables = `
  create table if not exists holders (id text primary key, what text not null, pid integer not null) strict;
  create table if not exists leases (holder text not null, digest text not null, primary key (holder, digest)) strict, without rowid;
  create table if not exists flights (key text primary key, holder text not null, token text not null) strict, without rowid;
`

const isId = (name: string): boolean => /^[0-9a-f-]{36}$/.test(name)

/** Whether another connection, of this or another process, has this file locked. Reading is enough to see it, in a store that can't be written to too. */
const isLocked = (file: string): boolean => {
  if (!existsSync(file)) return false
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(file, { readOnly: true })
    database.exec("pragma busy_timeout = 0; select name from sqlite_master")
    return false
  } catch {
    // Locked, or not ours to open: then its holder can't be said to be gone.
    return true
  } finally {
    database?.close()
  }
}

/** Whether the process of a holder in this store still lives. */
export const isHolderAlive = (home: string, id: string): boolean => isId(id) && isLocked(join(home, "leases", id))

/** The locks of this process's holders: a connection that nobody refers to any more is closed, and its lock is gone with it. */
const held = new Set<DatabaseSync>()

export interface Holder {
  readonly id: string
  /** Keeps gc from these objects until `release`. */
  readonly lease: (digests: ReadonlyArray<string>) => void
  readonly release: () => void
}

export class Leases {
  readonly #home: string
  readonly #folder: string
  readonly #database: DatabaseSync
  /** Whether it is a copy that is read because the file can't be written to. */
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
          // Written without fsync: what a loss of power left may open and be broken inside.
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
        // What a machine that lost power left of it says nothing about anybody who lives.
        if (!isDamaged(cause) || readdirSync(this.#folder).some((name) => isId(name) && this.isAlive(name))) throw cause
        setDamagedAside(join(home, "leases.db"))
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
        ? "Free some space (caravan gc --yes does), then run again: finished results are kept"
        : "Make the folder writable; a damaged leases.db can be deleted while nothing runs"
      throw new StoreError({ message: `${doing} the leases of the store (leases.db beside ${this.#folder}): ${reason}. ${advice}.` })
    }
  }

  /** Runs `body` while no other process writes here. Keep it short. */
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
          // A commit that a full disk refuses leaves the transaction open, and with it the lock that all others wait for.
          if (this.#database.isTransaction) this.#prepare("rollback").run()
        }
      }
    })
  }
  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (statement === undefined) this.#statements.set(sql, (statement = this.#database.prepare(sql)))
    return statement
  }

  /** Becomes a holder; `what` says to others who holds ("caravan run"). */
  hold(what: string): Holder {
    const id = randomUUID()
    const file = join(this.#folder, id)
    let alive: DatabaseSync | undefined
    try {
      // Made and locked before anybody can see it: gc takes a file that nobody has locked for a dead process's.
      this.exclusive(() => {
        makePrivateFile(file)
        alive = new DatabaseSync(file)
        alive.exec("begin exclusive")
        this.#database.prepare("insert into holders (id, what, pid) values (?, ?, ?)").run(id, what, process.pid)
      })
    } catch (cause) {
      // Also when it is the commit that fails: without its lock this holder is gone.
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
          // A full disk, say. Without its lock this holder is gone, and the next gc forgets it.
        }
        held.delete(lock)
        lock.close()
        try {
          this.#removeFile(id)
        } catch {
          // The next gc removes it: what this run made must not be lost over an empty file.
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

  /** Whether a holder's process still lives. */
  isAlive(id: string): boolean {
    return isHolderAlive(this.#home, id)
  }

  /** What living holders have leased: digest -> by whom; and the holders that are gone. */
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

  /** What living holders have leased: digest -> by whom. */
  leased(): ReadonlyMap<string, string> {
    return this.#isSnapshot ? this.#try("Reading", () => this.#look().leased) : this.whileNobodyLeases((leased) => leased)
  }

  /** Runs `body` while nobody can take a lease, with what living holders have leased: digest -> by whom. Keep it short: runs wait meanwhile. */
  whileNobodyLeases<A>(body: (leased: ReadonlyMap<string, string>) => A): A {
    const { gone, result } = this.exclusive(() => {
      const { gone, leased } = this.#look()
      // A file without a row: its process died as it became a holder.
      const isKnown = this.#database.prepare("select 1 from holders where id = ?")
      for (const name of readdirSync(this.#folder))
        if (isId(name) && isKnown.get(name) === undefined && !isLocked(join(this.#folder, name))) this.#removeFile(name)
      return { gone, result: body(leased) }
    })
    try {
      if (gone.size > 0) this.exclusive(() => gone.forEach((id) => this.#forget(id)))
      for (const id of gone) this.#removeFile(id)
    } catch {
      // A full disk, say, which the body may be about to free: the next one forgets them.
    }
    return result
  }

  close(): void {
    this.#statements.clear()
    this.#database.close()
  }
}
