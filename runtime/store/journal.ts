/**
 * The journal: what ran, when, from what, to what; and the index from cache key to result. node:sqlite in WAL mode, so that several runs may
 * share it.
 */
import { hash } from "node:crypto"
import { join } from "node:path"
import { DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from "node:sqlite"
import type { KeyParts } from "../key/cache-key.ts"
import { messageOf, StoreError } from "../errors.ts"
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

/** A run as the journal has it. */
export interface RunRecord {
  readonly id: string
  readonly pipeline: string
  /** What it was asked for (run.ts `Asked`); runs of older versions have only parameters here. */
  readonly asked: unknown
  readonly started: number
  readonly finished: number | null
  readonly status: string
  /** How many nodes ended how. */
  readonly nodes: Readonly<Partial<Record<NodeStatus, number>>>
}

/** An execution as it was recorded. */
export interface RecordedExecution extends Execution {
  /** Grows with time. */
  readonly id: number
  readonly at: number
}

/** What is known of an artifact, whether or not the store still has it. */
export interface ArtifactRecord {
  readonly digest: string
  readonly contentDigest: string
  readonly type: string
  readonly metrics: Readonly<Record<string, number>>
  readonly made: number
}

/** The word of a user that a result stands for code that it was not made with (bless.ts). */
export interface Blessing {
  /** The key under which it counts since; it was made, or counted before, under `from`. */
  readonly key: string
  readonly from: string
  readonly digest: string
  /** The code that it stands for: its digest, and its files and packages. */
  readonly code: string
  readonly files: Readonly<Record<string, string>>
  /** What of the code had changed. */
  readonly changes: ReadonlyArray<string>
}

/** Raised when the tables change. 2: artifacts, uses and listings, for what made what. 3: sums of the rows that results depend on. */
const version = 3

/** Tables whose rows have a sum: SQLite does not notice when the disk changes a bit of a value. A row whose sum is wrong is as good as none. */
const summed = ["traces", "files", "code"] as const
const sumOf = (...values: ReadonlyArray<string>): string => hash("sha256", JSON.stringify(values)).slice(0, 16)

const tables = `
  create table if not exists traces (key text primary key, digest text not null, content_digest text not null, type text not null, metrics text not null, provenance text not null, made integer not null, sum text) strict;
  create table if not exists runs (id text primary key, pipeline text not null, params text not null, started integer not null, finished integer, status text not null) strict;
  create table if not exists executions (
    id integer primary key, run text not null, pipeline text not null, node text not null, stage text not null, key text not null, parts text not null, files text not null,
    status text not null, milliseconds integer not null, digest text, error text, at integer not null) strict;
  create index if not exists executions_by_node on executions (pipeline, node, id);
  create index if not exists executions_by_digest on executions (digest, at);
  create index if not exists executions_by_run on executions (run);
  create index if not exists executions_by_key on executions (key);
  create table if not exists listings (digest text primary key, value text not null) strict;
  create table if not exists artifacts (digest text primary key, content_digest text not null, type text not null, metrics text not null, made integer not null) strict;
  create index if not exists artifacts_by_content on artifacts (content_digest);
  create table if not exists uses (content text not null, key text not null, primary key (content, key)) strict, without rowid;
  create table if not exists generations (key text not null, digest text not null, made integer not null, retired integer not null) strict;
  create index if not exists generations_by_key on generations (key, retired);
  create table if not exists blessings (key text not null, digest text not null, from_key text not null, code text not null, files text not null, changes text not null, at integer not null) strict;
  create index if not exists blessings_by_key on blessings (key, at);
  create table if not exists files (path text primary key, stamp text not null, digest text not null, sum text) strict;
  create table if not exists code (stage text primary key, value text not null, sum text) strict;
`

/** What SQLite says of a file whose bytes have changed: of its structure, or of the definitions of its tables. */
const damaged = /not a database|malformed|no such (table|column)|no column named|syntax error|unrecognized token/

const knownAdvice = (reason: string): string | undefined => {
  if (damaged.test(reason)) return "It is damaged: move it away, and results are made and recorded anew"
  if (/is full|ENOSPC/.test(reason)) return "Free some space, then run again: what is finished is kept"
  if (/is locked/.test(reason))
    return "Another run has held it for long, perhaps one that is stopped (kill -CONT lets it go on): then run again"
  return undefined
}
const adviceOf = (reason: string): string => knownAdvice(reason) ?? "Mend the folder, then run again: what is finished is kept"

const runColumns = `id, pipeline, params, started, finished, status,
  (select json_group_object(status, n) from (select status, count(*) as n from executions where run = runs.id group by status)) as nodes`

const parse = (text: SQLOutputValue | undefined): unknown => {
  try {
    return JSON.parse(text as string) as unknown
  } catch (cause) {
    throw new Error(`a row of it is malformed (${messageOf(cause)})`, { cause })
  }
}

const toRun = (row: Record<string, SQLOutputValue>): RunRecord => ({
  id: row.id as string,
  pipeline: row.pipeline as string,
  asked: parse(row.params),
  started: row.started as number,
  finished: row.finished as number | null,
  status: row.status as string,
  nodes: parse(row.nodes) as RunRecord["nodes"]
})
const toArtifact = (row: Record<string, SQLOutputValue>): ArtifactRecord => ({
  digest: row.digest as string,
  contentDigest: row.content_digest as string,
  type: row.type as string,
  metrics: parse(row.metrics) as Record<string, number>,
  made: row.made as number
})

export class Journal {
  readonly #file: string
  readonly #database: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()
  readonly #listings = new WeakMap<object, { readonly value: string; readonly digest: string }>()

  constructor(home: string) {
    this.#file = join(home, "journal.db")
    let database: DatabaseSync | undefined
    try {
      makeFolder(home)
      this.#database = database = new DatabaseSync(this.#file)
      this.#database.exec(
        "pragma busy_timeout = 10000; pragma journal_mode = wal; pragma synchronous = full; pragma wal_autocheckpoint = 4000"
      )
      const found = Number(this.#database.prepare("pragma user_version").get()!.user_version)
      if (found > version) throw new Error(`it has format ${found}, this version of caravan knows formats up to ${version}`)
      this.#database.exec(tables)
      if (found < version) this.#upgrade(found)
    } catch (cause) {
      database?.close()
      const reason = messageOf(cause)
      const advice = /has format/.test(reason)
        ? "Use that newer version, or name another folder with CARAVAN_HOME"
        : (knownAdvice(reason) ?? "Make the folder writable, or name another with CARAVAN_HOME")
      throw new StoreError({ message: `Opening the journal ${this.#file}: ${reason}. ${advice}.` })
    }
  }

  /** Fills the tables that an older version did not have. Another process may be doing the same: each row is written at most once. */
  #upgrade(from: number): void {
    this.transaction(() => {
      if (from === 1) {
        this.#database.exec(
          "insert or ignore into artifacts (digest, content_digest, type, metrics, made) select digest, content_digest, type, metrics, made from traces"
        )
        for (const { key, parts } of this.#all("select key, parts from executions where status = 'ran'"))
          this.#recordUses(key as string, parse(parts) as KeyParts)
      }
      if (from < 3 && from !== 0)
        for (const table of summed) {
          const columns = this.#all(`select name from pragma_table_info('${table}')`)
          if (!columns.some(({ name }) => name === "sum")) this.#database.exec(`alter table ${table} add column sum text`)
        }
      this.#database.exec(`pragma user_version = ${version}`)
    })
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
            message: `Using the journal ${this.#file}: ${messageOf(cause)}. ${adviceOf(messageOf(cause))}.`
          })
    }
  }
  #get(sql: string, ...values: ReadonlyArray<SQLInputValue>): Record<string, SQLOutputValue> | undefined {
    return this.#try(() => this.#prepare(sql).get(...values))
  }
  #all(sql: string, ...values: ReadonlyArray<SQLInputValue>): Array<Record<string, SQLOutputValue>> {
    return this.#try(() => this.#prepare(sql).all(...values))
  }
  /** How many rows it changed. */
  #run(sql: string, ...values: ReadonlyArray<SQLInputValue>): number {
    return this.#try(() => Number(this.#prepare(sql).run(...values).changes))
  }

  /** Up to so many traces by key, any: one query for many is several times faster than many for one. */
  someTraces(limit: number): Map<string, Trace> {
    const statement = this.#prepare("select key, digest, content_digest, type, metrics, sum from traces limit ?")
    statement.setReturnArrays(true)
    const rows = this.#try(() => statement.all(limit)) as unknown as Array<ReadonlyArray<string | null>>
    const found = new Map<string, Trace>()
    for (const [key, ...columns] of rows) {
      const trace = this.#toTrace(key!, columns)
      if (trace !== undefined) found.set(key!, trace)
    }
    return found
  }

  trace(key: string): Trace | undefined {
    const row = this.#get("select digest, content_digest, type, metrics, sum from traces where key = ?", key)
    return row === undefined ? undefined : this.#toTrace(key, Object.values(row) as Array<string | null>)
  }
  /** undefined when the sum says that a bit has changed. */
  #toTrace(key: string, [digest, contentDigest, type, metrics, sum]: ReadonlyArray<string | null>): Trace | undefined {
    if (sum !== null && sum !== sumOf(key, digest!, contentDigest!, type!, metrics!)) return undefined
    return {
      key,
      digest: digest!,
      contentDigest: contentDigest!,
      type: type!,
      metrics: metrics === "{}" ? {} : (this.#try(() => parse(metrics)) as Record<string, number>)
    }
  }

  /** The first result under a key stays: who comes second with the same key has the same result, or a nondeterministic stage. */
  recordTrace(trace: Trace, provenance: unknown): void {
    const metrics = JSON.stringify(trace.metrics)
    const insert = () =>
      this.#run(
        "insert into traces (key, digest, content_digest, type, metrics, provenance, made, sum) values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (key) do nothing",
        trace.key,
        trace.digest,
        trace.contentDigest,
        trace.type,
        metrics,
        JSON.stringify(provenance),
        Date.now(),
        sumOf(trace.key, trace.digest, trace.contentDigest, trace.type, metrics)
      )
    if (insert() === 0 && this.trace(trace.key) === undefined) {
      // One whose sum is wrong makes room.
      this.forgetTrace(trace.key)
      insert()
    }
    // Outlives the trace: what an artifact was stays known when its object is collected or its key made again.
    this.#run(
      "insert or ignore into artifacts (digest, content_digest, type, metrics, made) values (?, ?, ?, ?, ?)",
      trace.digest,
      trace.contentDigest,
      trace.type,
      metrics,
      Date.now()
    )
  }

  /** Forgets results whose object is gone or damaged, or that are to be made again. */
  forgetTrace(key: string): void {
    this.#run("delete from traces where key = ?", key)
  }

  /** Makes room for a new generation of a result (--force); what was there stays known. */
  retireTrace(key: string): void {
    this.#run("insert into generations select key, digest, made, ? from traces where key = ?", Date.now(), key)
    this.forgetTrace(key)
  }
  /** Results that a key had before, the oldest first. */
  generations(key: string): Array<{ readonly digest: string; readonly made: number; readonly retired: number }> {
    return this.#all("select digest, made, retired from generations where key = ? order by retired, rowid", key).map((row) => ({
      digest: row.digest as string,
      made: row.made as number,
      retired: row.retired as number
    }))
  }

  recordBlessing({ key, digest, from, code, files, changes }: Blessing): void {
    this.#run(
      "insert into blessings (key, digest, from_key, code, files, changes, at) values (?, ?, ?, ?, ?, ?, ?)",
      key,
      digest,
      from,
      code,
      this.#recordListing(files),
      JSON.stringify(changes),
      Date.now()
    )
  }
  /** How the result under a key came to be blessed, the first first. */
  blessings(key: string): Array<Omit<Blessing, "files"> & { readonly at: number }> {
    return this.#try(() =>
      this.#all("select * from blessings where key = ? order by at, rowid", key).map((row) => ({
        key,
        from: row.from_key as string,
        digest: row.digest as string,
        code: row.code as string,
        changes: parse(row.changes) as Array<string>,
        at: row.at as number
      }))
    )
  }
  /** This code, if a result was made with it under this key or it was blessed since; else the code of which one of both is true, whichever was last. */
  acceptedCode(
    key: string,
    digest: string,
    present: string
  ): { readonly code: string; readonly files: Readonly<Record<string, string>> } | undefined {
    const row = this.#get(
      `select code, files from (
        select json_extract(parts, '$.code') as code, files, at, 0 as blessed from executions where key = ?1 and digest = ?2 and status = 'ran' and json_valid(parts)
        union all select code, files, at, 1 as blessed from blessings where key = ?1 and digest = ?2)
      order by code = ?3 desc, at desc, blessed desc limit 1`,
      key,
      digest,
      present
    )
    if (row === undefined) return undefined
    try {
      return { code: row.code as string, files: this.#listing(row.files as string) }
    } catch {
      // A damaged row of the past, as in lastExecution.
      return undefined
    }
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
    if (execution.status === "ran") this.#recordUses(execution.key, execution.parts)
    this.#run(
      "insert into executions (run, pipeline, node, stage, key, parts, files, status, milliseconds, digest, error, at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      execution.run,
      execution.pipeline,
      execution.node,
      execution.stage,
      execution.key,
      JSON.stringify(execution.parts),
      this.#recordListing(execution.files),
      execution.status,
      Math.round(execution.milliseconds),
      execution.digest,
      execution.error,
      Date.now()
    )
  }

  /** Which key takes which content: the way from an artifact to what was made of it. */
  #recordUses(key: string, parts: KeyParts): void {
    for (const content of Object.values(parts.inputs).flat())
      if (content !== null) this.#run("insert or ignore into uses (content, key) values (?, ?)", content, key)
  }

  /** Lists of files and packages are long, and the same for every node of a stage: each is kept once, and named by its digest. */
  #recordListing(files: Readonly<Record<string, string>>): string {
    let listing = this.#listings.get(files)
    if (listing === undefined) {
      const value = JSON.stringify(files)
      this.#listings.set(files, (listing = { value, digest: hash("sha256", value) }))
    }
    const { digest, value } = listing
    this.#run("insert or ignore into listings (digest, value) values (?, ?)", digest, value)
    return digest
  }
  #listing(text: string): Record<string, string> {
    // Older versions wrote the list itself.
    const value = text.startsWith("{")
      ? text
      : (this.#get("select value from listings where digest = ?", text)?.value as string | undefined)
    return this.#try(() => parse(value ?? "{}")) as Record<string, string>
  }

  /** Runs, the latest first. */
  runs(filter: { readonly pipeline?: string | undefined; readonly limit?: number | undefined } = {}): Array<RunRecord> {
    return this.#try(() =>
      this.#all(
        `select ${runColumns} from runs where ? is null or pipeline = ? order by started desc, rowid desc limit ?`,
        filter.pipeline ?? null,
        filter.pipeline ?? null,
        filter.limit ?? -1
      ).map(toRun)
    )
  }
  /** Runs whose id begins so. */
  runsLike(prefix: string): Array<RunRecord> {
    return this.#try(() =>
      this.#all(`select ${runColumns} from runs where substr(id, 1, ?) = ? order by started`, prefix.length, prefix).map(toRun)
    )
  }

  #executions(where: string, ...values: ReadonlyArray<SQLInputValue>): Array<RecordedExecution> {
    return this.#try(() =>
      this.#all(`select * from executions where ${where}`, ...values).map((row) => ({
        id: row.id as number,
        run: row.run as string,
        pipeline: row.pipeline as string,
        node: row.node as string,
        stage: row.stage as string,
        key: row.key as string,
        parts: parse(row.parts) as KeyParts,
        files: this.#listing(row.files as string),
        status: row.status as NodeStatus,
        milliseconds: row.milliseconds as number,
        digest: row.digest as string | null,
        error: row.error as string | null,
        at: row.at as number
      }))
    )
  }
  /** What became of the nodes of a run, in the order in which it was recorded. */
  executionsOf(run: string): Array<RecordedExecution> {
    return this.#executions("run = ? order by id", run)
  }
  /** The executions that ended with this artifact: those that made it, or also those that found it. */
  executionsWith(digest: string, statuses: "ran" | "any" = "ran"): Array<RecordedExecution> {
    return this.#executions(`digest = ? ${statuses === "ran" ? "and status = 'ran'" : ""} order by id`, digest)
  }
  /** The executions that made something of this content. */
  executionsFrom(content: string): Array<RecordedExecution> {
    return this.#executions("status = 'ran' and key in (select key from uses where content = ?) order by id", content)
  }
  /** The node's last execution in each pipeline that has a node of this name, the latest first. */
  lastOfNode(node: string, statuses: ReadonlyArray<NodeStatus>): Array<RecordedExecution> {
    const list = statuses.map((status) => `'${status}'`).join(", ")
    return this.#executions(
      `id in (select max(id) from executions where node = ? and status in (${list}) group by pipeline) order by id desc`,
      node
    )
  }
  /** The node's executions that ended with a result, the latest first. */
  resultsOfNode(pipeline: string, node: string, limit: number): Array<RecordedExecution> {
    return this.#executions("pipeline = ? and node = ? and status in ('hit', 'ran') order by id desc limit ?", pipeline, node, limit)
  }
  /** Every name a node ever had here. */
  nodeNames(): Array<string> {
    return this.#all("select distinct node from executions").map((row) => row.node as string)
  }

  artifact(digest: string): ArtifactRecord | undefined {
    const row = this.#get("select * from artifacts where digest = ?", digest)
    return row === undefined ? undefined : this.#try(() => toArtifact(row))
  }
  /** Artifacts whose digest begins so. */
  artifactsLike(prefix: string): Array<ArtifactRecord> {
    return this.#try(() => this.#all("select * from artifacts where substr(digest, 1, ?) = ?", prefix.length, prefix).map(toArtifact))
  }
  /** Artifacts of this content, the latest first: the same rows may be in several files. */
  artifactsOfContent(content: string): Array<ArtifactRecord> {
    return this.#try(() => this.#all("select * from artifacts where content_digest = ? order by made desc", content).map(toArtifact))
  }
  /** What the trace of a key says of its making: run, node, code, inputs, version of Node. */
  provenance(key: string): Readonly<Record<string, unknown>> | undefined {
    const row = this.#get("select provenance from traces where key = ?", key)
    return row === undefined ? undefined : (this.#try(() => parse(row.provenance)) as Record<string, unknown>)
  }
  /** The digests that a trace names: what a run could find. */
  tracedDigests(): Set<string> {
    return new Set(this.#all("select distinct digest from traces").map((row) => row.digest as string))
  }
  /** When each artifact was last made or found by a run, in milliseconds since 1970. */
  lastUses(): Map<string, number> {
    return new Map(
      this.#all(
        "select digest, max(at) as used from (select digest, at from executions where digest is not null union all select digest, made from traces) group by digest"
      ).map((row) => [row.digest as string, row.used as number])
    )
  }
  /** As lastUses, of one. */
  lastUse(digest: string): number | undefined {
    const row = this.#get(
      "select max(at) as used from (select at from executions where digest = ? union all select made from traces where digest = ?)",
      digest,
      digest
    )
    return (row?.used as number | null | undefined) ?? undefined
  }
  /** The node whose result each artifact last was. */
  nodesOf(): Map<string, { readonly pipeline: string; readonly node: string; readonly stage: string }> {
    // With max(), the other columns are of its row.
    const rows = this.#all("select digest, pipeline, node, stage, max(id) from executions where digest is not null group by digest")
    return new Map(
      rows.map((row) => [row.digest as string, { pipeline: row.pipeline as string, node: row.node as string, stage: row.stage as string }])
    )
  }
  /** Files of the user's with this content, as they were last seen. */
  filesOfContent(digest: string): Array<string> {
    return this.#all("select path from files where digest = ? order by path", digest).map((row) => row.path as string)
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
    try {
      return {
        key: row.key as string,
        parts: parse(row.parts) as KeyParts,
        files: this.#listing(row.files as string),
        status: row.status as NodeStatus
      }
    } catch {
      // A damaged row of the past: only the reason for running a node is lost with it, and no node has to fail for that.
      return undefined
    }
  }

  fileDigest(path: string, stamp: string): string | undefined {
    const row = this.#get("select digest, sum from files where path = ? and stamp = ?", path, stamp) as Record<string, string> | undefined
    return row?.sum === sumOf(path, stamp, row?.digest ?? "") ? row.digest : undefined
  }
  recordFile(path: string, stamp: string, digest: string): void {
    this.#run(
      "insert into files (path, stamp, digest, sum) values (?, ?, ?, ?) on conflict (path) do update set stamp = excluded.stamp, digest = excluded.digest, sum = excluded.sum",
      path,
      stamp,
      digest,
      sumOf(path, stamp, digest)
    )
  }

  code(stage: string): unknown {
    const row = this.#get("select value, sum from code where stage = ?", stage) as Record<string, string> | undefined
    return row?.sum === sumOf(stage, row?.value ?? "") ? parse(row.value) : undefined
  }
  recordCode(stage: string, value: unknown): void {
    const text = JSON.stringify(value)
    this.#run(
      "insert into code (stage, value, sum) values (?, ?, ?) on conflict (stage) do update set value = excluded.value, sum = excluded.sum",
      stage,
      text,
      sumOf(stage, text)
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
