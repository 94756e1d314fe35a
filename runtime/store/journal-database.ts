/** The journal's SQLite database: its tables, what older versions lack of them, and its statements. Throws what SQLite says. */
import { hash } from "node:crypto"
import { dirname } from "node:path"
import { type DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from "node:sqlite"
import type { KeyParts } from "../key/cache-key.ts"
import { messageOf, storeError } from "../errors.ts"
import { makeFolder, makePrivateFile } from "./durable.ts"
import { whyNoHome } from "./home.ts"
import { isReadOnly, openSnapshot } from "./read-only.ts"
import { openWal } from "./wal.ts"

export type Row = Record<string, SQLOutputValue>

/** Raised when the tables change. 2: artifacts, uses and listings, for what made what. 3: sums of the rows that results depend on. 4: sidecars. */
export const journalFormat = 4

/** Tables whose rows have a sum: SQLite does not notice when the disk changes a bit of a value. A row whose sum is wrong is as good as none. */
const summed = ["traces", "files", "code"] as const
export const sumOf = (...values: ReadonlyArray<string>): string => hash("sha256", JSON.stringify(values)).slice(0, 16)

// A run may add thousands of rows that say what was found: their indexes are short, and none is by key.
const tables = `
  create table if not exists traces (key text primary key, digest text not null, content_digest text not null, type text not null, metrics text not null, provenance text not null, made integer not null, sum text, sidecar text, skipped text) strict;
  create table if not exists runs (id text primary key, pipeline text not null, params text not null, started integer not null, finished integer, status text not null) strict;
  create table if not exists executions (
    id integer primary key, run text not null, pipeline text not null, node text not null, stage text not null, key text not null, parts text not null, files text not null,
    status text not null, milliseconds integer not null, digest text, error text, at integer not null) strict;
  create index if not exists executions_by_node on executions (pipeline, node, id);
  create index if not exists executions_by_run on executions (run);
  drop index if exists executions_by_digest;
  drop index if exists executions_by_key;
  create index if not exists executions_by_short_digest on executions (substr(digest, 1, 8));
  create index if not exists executions_by_key_with_parts on executions (key) where parts <> '';
  create table if not exists listings (digest text primary key, value text not null) strict;
  create table if not exists artifacts (digest text primary key, content_digest text not null, type text not null, metrics text not null, made integer not null) strict;
  create index if not exists artifacts_by_content on artifacts (content_digest);
  create table if not exists uses (content text not null, key text not null, primary key (content, key)) strict, without rowid;
  create table if not exists generations (key text not null, digest text not null, made integer not null, retired integer not null) strict;
  create index if not exists generations_by_key on generations (key, retired);
  create table if not exists blessings (key text not null, digest text not null, from_key text not null, code text not null, files text not null, changes text not null, at integer not null) strict;
  create index if not exists blessings_by_key on blessings (key, at);
  create table if not exists notes (run text primary key, tags text not null, note text not null, at integer not null) strict;
  create table if not exists files (path text primary key, stamp text not null, digest text not null, sum text) strict;
  create table if not exists code (stage text primary key, value text not null, sum text) strict;
`

/** What SQLite says of a file whose bytes have changed: of its structure, or of the definitions of its tables. */
const damaged = /not a database|malformed|no such (table|column)|no column named|syntax error|unrecognized token/

const knownAdvice = (reason: string): string | undefined => {
  if (damaged.test(reason)) return "It is damaged: move it away; runs then make and record the results again"
  if (/is full|ENOSPC/.test(reason)) return "Free some space, then run again: finished results are kept"
  if (/a folder is needed/.test(reason)) return "Name a folder in CARAVAN_HOME"
  if (/can't be read|copyfile/.test(reason)) return "Make it readable (its owner can, with chmod), or name another folder in CARAVAN_HOME"
  if (/can't be written/.test(reason)) return "Make the folder writable, or name another with CARAVAN_HOME"
  if (/is locked/.test(reason))
    return "Another run has held it for long, perhaps one that is stopped (kill -CONT resumes it): then run again"
  return undefined
}
const opening = (file: string) =>
  storeError((reason) => {
    const advice = /has format/.test(reason)
      ? "Use that newer version, or name another folder with CARAVAN_HOME"
      : (knownAdvice(reason) ?? "Make the folder writable, or name another with CARAVAN_HOME")
    return `Opening the journal ${file}: ${reason}. ${advice}.`
  })
export const using = (file: string) =>
  storeError(
    (reason) =>
      `Using the journal ${file}: ${reason}. ${knownAdvice(reason) ?? "Fix the folder, then run again: finished results are kept"}.`
  )

/** A value that is kept as JSON. */
export const parse = (text: SQLOutputValue | undefined): unknown => {
  try {
    return JSON.parse(text as string) as unknown
  } catch (cause) {
    throw new Error(`a row of it is malformed (${messageOf(cause)})`, { cause })
  }
}

/** Opens the file, and makes it with its folder where there is none; or a copy of it, where it can only be read. */
const open = (file: string, isSnapshot: boolean): DatabaseSync => {
  const reason = whyNoHome(dirname(file))
  if (reason !== undefined) throw new Error(reason)
  if (!isSnapshot) {
    makeFolder(dirname(file))
    makePrivateFile(file)
  }
  const database = isSnapshot ? openSnapshot(file) : openWal(file, 10_000, "pragma synchronous = full; pragma wal_autocheckpoint = 4000")
  try {
    const found = formatOf(database)
    if (found > journalFormat) throw new Error(`it has format ${found}, this version of caravan knows formats up to ${journalFormat}`)
    database.exec(tables)
    return database
  } catch (cause) {
    database.close()
    throw cause
  }
}
const formatOf = (database: DatabaseSync): number => Number(database.prepare("pragma user_version").get()!.user_version)

export class JournalDatabase {
  readonly #file: string
  #opened: DatabaseSync | undefined
  /** Whether it is a copy that is read because the file can't be written to. */
  #isSnapshot = false
  readonly #statements = new Map<string, StatementSync>()

  /** Opens it when it is first used: what can't start leaves nothing behind. */
  constructor(file: string) {
    this.#file = file
  }

  get #database(): DatabaseSync {
    if (this.#opened !== undefined) return this.#opened
    try {
      const isSnapshot = isReadOnly(this.#file)
      this.#opened = open(this.#file, isSnapshot)
      const found = formatOf(this.#opened)
      if (found < journalFormat) this.#upgrade(found)
      this.#isSnapshot = isSnapshot
      return this.#opened
    } catch (cause) {
      this.close()
      throw opening(this.#file)(cause)
    }
  }

  /** Fills the tables that an older version did not have. Another process may be doing the same: each row is written at most once. */
  #upgrade(from: number): void {
    this.transaction(() => {
      if (from === 1) {
        this.#database.exec(
          "insert or ignore into artifacts (digest, content_digest, type, metrics, made) select digest, content_digest, type, metrics, made from traces"
        )
        for (const { key, parts } of this.all("select key, parts from executions where status in ('ran', 'fetched')"))
          this.recordUses(key as string, parse(parts) as KeyParts)
      }
      if (from < 3 && from !== 0) for (const table of summed) this.#addColumn(table, "sum")
      if (from < 4 && from !== 0) for (const column of ["sidecar", "skipped"]) this.#addColumn("traces", column)
      this.#database.exec(`pragma user_version = ${journalFormat}`)
    })
  }

  #addColumn(table: string, column: string): void {
    const columns = this.all(`select name from pragma_table_info('${table}')`)
    if (!columns.some(({ name }) => name === column)) this.#database.exec(`alter table ${table} add column ${column} text`)
  }

  /** Which key takes which content: the way from an artifact to what was made of it. */
  recordUses(key: string, parts: KeyParts): void {
    for (const content of Object.values(parts.inputs).flat())
      if (content !== null) this.run("insert or ignore into uses (content, key) values (?, ?)", content, key)
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  get(sql: string, ...values: ReadonlyArray<SQLInputValue>): Row | undefined {
    return this.#prepare(sql).get(...values)
  }
  all(sql: string, ...values: ReadonlyArray<SQLInputValue>): Array<Row> {
    return this.#prepare(sql).all(...values)
  }
  /** As `all`, each row as the list of its columns: several times faster where there are thousands. */
  lists(sql: string, ...values: ReadonlyArray<SQLInputValue>): Array<ReadonlyArray<SQLOutputValue>> {
    const statement = this.#prepare(sql)
    statement.setReturnArrays(true)
    return statement.all(...values) as unknown as Array<ReadonlyArray<SQLOutputValue>>
  }
  /** How many rows it changed. */
  run(sql: string, ...values: ReadonlyArray<SQLInputValue>): number {
    this.#writable()
    return this.remember(sql, ...values)
  }
  /** As `run`, for what only saves time later: it is not refused where the file can't be written to, and is gone with this process then. */
  remember(sql: string, ...values: ReadonlyArray<SQLInputValue>): number {
    return Number(this.#prepare(sql).run(...values).changes)
  }
  #writable(): DatabaseSync {
    const database = this.#database
    if (this.#isSnapshot) throw new Error("it can't be written to")
    return database
  }

  /** Runs the writes of `body` as one transaction. */
  transaction<A>(body: () => A): A {
    this.#writable().exec("begin immediate")
    try {
      const result = body()
      this.#database.exec("commit")
      return result
    } catch (cause) {
      // Some errors (a full disk) have rolled back already.
      if (this.#database.isTransaction) this.#database.exec("rollback")
      throw cause
    }
  }

  close(): void {
    this.#statements.clear()
    this.#opened?.close()
    this.#opened = undefined
  }
}
