/**
 * The journal: what ran, when, from what, to what; and the index from cache key to result. node:sqlite in WAL mode, so that several runs may
 * share it.
 */
import { join } from "node:path"
import { DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from "node:sqlite"
import type { KeyParts } from "./cache-key.ts"
import { messageOf, StoreError } from "./errors.ts"
import { makeFolder } from "./home.ts"

export interface Trace {
  readonly key: string
  readonly digest: string
  readonly contentDigest: string
  readonly type: string
  readonly metrics: Readonly<Record<string, number>>
}

export type NodeStatus = "hit" | "ran" | "failed" | "skipped"

export interface Execution {
  readonly run: string
  readonly pipeline: string
  readonly node: string
  readonly stage: string
  readonly key: string
  readonly parts: KeyParts
  /** The files of the stage's code with their digests, and the packages with their versions: to name what changed. */
  readonly files: Readonly<Record<string, string>>
  readonly status: NodeStatus
  readonly milliseconds: number
  readonly digest: string | null
  readonly error: string | null
}

/** Raised when the tables change. */
const version = 1

const tables = `
  create table if not exists traces (key text primary key, digest text not null, content_digest text not null, type text not null, metrics text not null, provenance text not null, made integer not null) strict;
  create table if not exists runs (id text primary key, pipeline text not null, params text not null, started integer not null, finished integer, status text not null) strict;
  create table if not exists executions (
    id integer primary key, run text not null, pipeline text not null, node text not null, stage text not null, key text not null, parts text not null, files text not null,
    status text not null, milliseconds integer not null, digest text, error text, at integer not null) strict;
  create index if not exists executions_by_node on executions (pipeline, node, id);
  create table if not exists files (path text primary key, stamp text not null, digest text not null) strict;
  create table if not exists code (stage text primary key, value text not null) strict;
`

export class Journal {
  readonly #file: string
  readonly #database: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()

  constructor(home: string) {
    this.#file = join(home, "journal.db")
    try {
      makeFolder(home)
      this.#database = new DatabaseSync(this.#file)
      this.#database.exec("pragma busy_timeout = 10000; pragma journal_mode = wal; pragma synchronous = full")
      const found = Number(this.#database.prepare("pragma user_version").get()!.user_version)
      if (found > version) throw new Error(`it has format ${found}, this version of caravan knows formats up to ${version}`)
      this.#database.exec(tables)
      if (found < version) this.#database.exec(`pragma user_version = ${version}`)
    } catch (cause) {
      const reason = messageOf(cause)
      const advice = /not a database|malformed/.test(reason)
        ? "It is damaged: move it away, and results are made and recorded anew"
        : /has format/.test(reason)
          ? "Use that newer version, or name another folder with CARAVAN_HOME"
          : "Make the folder writable, or name another with CARAVAN_HOME"
      throw new StoreError({ message: `Opening the journal ${this.#file}: ${reason}. ${advice}.` })
    }
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  #try<A>(body: () => A): A {
    try {
      return body()
    } catch (cause) {
      throw cause instanceof StoreError
        ? cause
        : new StoreError({
            message: `Using the journal ${this.#file}: ${messageOf(cause)}. Free some space or mend the file, then run again: what is finished is kept.`
          })
    }
  }
  #get(sql: string, ...values: ReadonlyArray<SQLInputValue>): Record<string, SQLOutputValue> | undefined {
    return this.#try(() => this.#prepare(sql).get(...values))
  }
  #run(sql: string, ...values: ReadonlyArray<SQLInputValue>): void {
    this.#try(() => this.#prepare(sql).run(...values))
  }

  trace(key: string): Trace | undefined {
    const row = this.#get("select digest, content_digest, type, metrics from traces where key = ?", key)
    if (row === undefined) return undefined
    return {
      key,
      digest: row.digest as string,
      contentDigest: row.content_digest as string,
      type: row.type as string,
      metrics: JSON.parse(row.metrics as string) as Record<string, number>
    }
  }

  /** The first result under a key stays: who comes second with the same key has the same result, or a nondeterministic stage. */
  recordTrace(trace: Trace, provenance: unknown): void {
    this.#run(
      "insert into traces (key, digest, content_digest, type, metrics, provenance, made) values (?, ?, ?, ?, ?, ?, ?) on conflict (key) do nothing",
      trace.key,
      trace.digest,
      trace.contentDigest,
      trace.type,
      JSON.stringify(trace.metrics),
      JSON.stringify(provenance),
      Date.now()
    )
  }

  /** Forgets results whose object is gone or damaged, or that are to be made again. */
  forgetTrace(key: string): void {
    this.#run("delete from traces where key = ?", key)
  }

  startRun(id: string, pipeline: string, params: unknown): void {
    this.#run(
      "insert into runs (id, pipeline, params, started, status) values (?, ?, ?, ?, 'running')",
      id,
      pipeline,
      JSON.stringify(params),
      Date.now()
    )
  }
  finishRun(id: string, status: string): void {
    this.#run("update runs set finished = ?, status = ? where id = ?", Date.now(), status, id)
  }

  recordExecution(execution: Execution): void {
    this.#run(
      "insert into executions (run, pipeline, node, stage, key, parts, files, status, milliseconds, digest, error, at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      execution.run,
      execution.pipeline,
      execution.node,
      execution.stage,
      execution.key,
      JSON.stringify(execution.parts),
      JSON.stringify(execution.files),
      execution.status,
      Math.round(execution.milliseconds),
      execution.digest,
      execution.error,
      Date.now()
    )
  }

  /** What was known of a node when it last ran or was found: to say what changed since. */
  lastExecution(
    pipeline: string,
    node: string
  ): { readonly key: string; readonly parts: KeyParts; readonly files: Record<string, string>; readonly status: NodeStatus } | undefined {
    const row = this.#get(
      "select key, parts, files, status from executions where pipeline = ? and node = ? and status in ('hit', 'ran') order by id desc limit 1",
      pipeline,
      node
    )
    if (row === undefined) return undefined
    return {
      key: row.key as string,
      parts: JSON.parse(row.parts as string) as KeyParts,
      files: JSON.parse(row.files as string) as Record<string, string>,
      status: row.status as NodeStatus
    }
  }

  fileDigest(path: string, stamp: string): string | undefined {
    return this.#get("select digest from files where path = ? and stamp = ?", path, stamp)?.digest as string | undefined
  }
  recordFile(path: string, stamp: string, digest: string): void {
    this.#run(
      "insert into files (path, stamp, digest) values (?, ?, ?) on conflict (path) do update set stamp = excluded.stamp, digest = excluded.digest",
      path,
      stamp,
      digest
    )
  }

  code(stage: string): unknown {
    const row = this.#get("select value from code where stage = ?", stage)
    return row === undefined ? undefined : (JSON.parse(row.value as string) as unknown)
  }
  recordCode(stage: string, value: unknown): void {
    this.#run(
      "insert into code (stage, value) values (?, ?) on conflict (stage) do update set value = excluded.value",
      stage,
      JSON.stringify(value)
    )
  }

  /** Runs the writes of `body` as one transaction. */
  transaction<A>(body: () => A): A {
    return this.#try(() => {
      this.#database.exec("begin immediate")
      try {
        const result = body()
        this.#database.exec("commit")
        return result
      } catch (cause) {
        // Some errors (a full disk) have rolled back already.
        if (this.#database.isTransaction) this.#database.exec("rollback")
        throw cause
      }
    })
  }

  close(): void {
    this.#statements.clear()
    this.#database.close()
  }
}
