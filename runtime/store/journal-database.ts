/** The journal's SQLite database: its tables, upgrades from older versions, and its statements. Throws SQLite's errors. */
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

/** Increased when the tables change. 2: artifacts, uses and listings, for lineage. 3: checksums of the rows that results depend on. 4: sidecars. */
export const journalFormat = 4

/** Tables with a checksum per row: SQLite does not detect flipped bits in values. A row with a wrong checksum is ignored. */
const summed = ["traces", "files", "code"] as const
export const sumOf = (...values: ReadonlyArray<string>): string => hash("sha256", JSON.stringify(values)).slice(0, 16)

// A run may add thousands of rows for reused results: indexes are short, and none is by key.
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
  create table if not exists errors (run text primary key, error text not null) strict;
  create table if not exists files (path text primary key, stamp text not null, digest text not null, sum text) strict;
  create table if not exists code (stage text primary key, value text not null, sum text) strict;
`

/** SQLite's errors for a file whose bytes have changed: in its structure or its table definitions. */
const damaged =
  /not a database|malformed|no such (table|column|function)|unknown (function|datatype)|no column named|syntax error|unrecognized token/

const knownAdvice = (reason: string): string | undefined => {
  if (damaged.test(reason)) return "It is damaged: move it away; runs then recompute and record the results"
  if (/is full|ENOSPC/.test(reason)) return "Free some space, then run again: finished results are kept"
  if (/a folder is needed/.test(reason)) return "Set CARAVAN_HOME to a folder"
  if (/can't be read|copyfile/.test(reason)) return "Make it readable (its owner can use chmod), or set CARAVAN_HOME to another folder"
  if (/can't be written/.test(reason)) return "Make the folder writable, or set CARAVAN_HOME to another folder"
  if (/is locked/.test(reason))
    return "Another run has held the lock for a long time; it may be stopped (kill -CONT resumes it). Then run again"
  return undefined
}
const opening = (file: string) =>
  storeError((reason) => {
    const advice = /has format/.test(reason)
      ? "Use the newer version, or set CARAVAN_HOME to another folder"
      : (knownAdvice(reason) ?? "Make the folder writable, or set CARAVAN_HOME to another folder")
    return `Opening the journal ${file}: ${reason}. ${advice}.`
  })
export const using = (file: string) =>
  storeError(
    (reason) =>
      `Using the journal ${file}: ${reason}. ${knownAdvice(reason) ?? "Fix the folder, then run again: finished results are kept"}.`
  )

/** Parses a value stored as JSON. */
export const parse = (text: SQLOutputValue | undefined): unknown => {
  try {
    return JSON.parse(text as string) as unknown
  } catch (cause) {
    throw new Error(`one of its rows is malformed (${messageOf(cause)})`, { cause })
  }
}

/** Opens the file, creating it and its folder if missing; or opens a copy if the file is read-only. */
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
    if (found > journalFormat)
      throw new Error(`it has format ${found}, but this version of caravan supports formats up to ${journalFormat}`)
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
  /** Whether this is a copy, because the file is read-only. */
  #isSnapshot = false
  readonly #statements = new Map<string, StatementSync>()

  /** Opens on first use, so that a command that fails to start leaves nothing behind. */
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

  /** Fills tables that an older version lacked. Another process may be doing the same: each row is written at most once. */
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

  /** Records which key uses which content: the link from an artifact to what was made from it. */
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
  /** Like `all`, with each row as a list of columns: several times faster for thousands of rows. */
  lists(sql: string, ...values: ReadonlyArray<SQLInputValue>): Array<ReadonlyArray<SQLOutputValue>> {
    const statement = this.#prepare(sql)
    statement.setReturnArrays(true)
    return statement.all(...values) as unknown as Array<ReadonlyArray<SQLOutputValue>>
  }
  /** Returns the number of changed rows. */
  run(sql: string, ...values: ReadonlyArray<SQLInputValue>): number {
    this.#writable()
    return this.remember(sql, ...values)
  }
  /** Like `run`, for caches: on a read-only file the write goes to the copy and is lost when the process ends. */
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
      // Some errors (a full disk) have already rolled back.
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
