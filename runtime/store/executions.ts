/** The journal's history: runs, and each node's status in them. Records remain after the objects that they name are deleted. */
import type { SQLInputValue } from "node:sqlite"
import type { KeyParts } from "../key/cache-key.ts"
import { type JournalDatabase, parse, type Row } from "./journal-database.ts"
import type { Listings } from "./listings.ts"

/** "fetched": computed elsewhere and copied from shared results. */
export type NodeStatus = "hit" | "ran" | "fetched" | "failed" | "skipped"

export interface Execution {
  readonly run: string
  readonly pipeline: string
  readonly node: string
  readonly stage: string
  readonly key: string
  readonly parts: KeyParts
  /** The stage's code files with their digests, and its packages with their versions: to name what changed. */
  readonly files: Readonly<Record<string, string>>
  readonly status: NodeStatus
  readonly milliseconds: number
  readonly digest: string | null
  readonly error: string | null
}
/** A recorded execution. */
export interface PastExecution extends Execution {
  /** Increases with time. */
  readonly id: number
  readonly at: number
}

/** An earlier result of a node, to compare with. */
export type EarlierResult = Pick<PastExecution, "key" | "parts" | "files" | "run" | "at">

/** A node's outcome, without its key parts. */
export type Outcome = Omit<PastExecution, "run" | "pipeline" | "parts" | "files">

/** A run as recorded in the journal. */
export interface PastRun {
  readonly id: string
  readonly pipeline: string
  /** Its options (asked.ts); for runs of older versions only parameters. */
  readonly asked: unknown
  readonly started: number
  readonly finished: number | null
  readonly status: string
  /** Why the run itself failed; null if only its nodes did, if any. */
  readonly error: string | null
  /** Number of nodes by status. */
  readonly nodes: Readonly<Partial<Record<NodeStatus, number>>>
}

const runColumns = `id, pipeline, params, started, finished, status, (select error from errors where run = runs.id) as error,
  (select json_group_object(status, n) from (select status, count(*) as n from executions where run = runs.id group by status)) as nodes`

/** The latest runs that satisfy a condition. They are selected first, so that statuses are counted only for them. */
const latest = (condition: string, limit: string): string =>
  `select ${runColumns} from runs where rowid in (select rowid from runs where ${condition} order by started desc, rowid desc limit ${limit}) order by started desc, rowid desc`

const toRun = (row: Row): PastRun => ({
  id: row.id as string,
  pipeline: row.pipeline as string,
  asked: parse(row.params),
  started: row.started as number,
  finished: row.finished as number | null,
  status: row.status as string,
  error: row.error as string | null,
  nodes: parse(row.nodes) as PastRun["nodes"]
})

/** Needs the digest twice: the index contains its prefix. */
const hasDigest = "substr(digest, 1, 8) = substr(?, 1, 8) and digest = ?"

/**
 * The parts of an execution's key. A cache hit stores none (see `hasParts`): the execution that computed the result has the same, because the key is
 * their digest.
 */
const partsColumn = `case parts when '' then (select made.parts from executions made where made.key = executions.key and made.parts <> '' limit 1) else parts end as parts`
const columns = `id, run, pipeline, node, stage, key, ${partsColumn}, files, status, milliseconds, digest, error, at`

export const executions = (database: JournalDatabase, listings: Listings) => {
  const where = (condition: string, ...values: ReadonlyArray<SQLInputValue>): Array<PastExecution> =>
    database.all(`select ${columns} from executions where ${condition}`, ...values).map((row) => ({
      id: row.id as number,
      run: row.run as string,
      pipeline: row.pipeline as string,
      node: row.node as string,
      stage: row.stage as string,
      key: row.key as string,
      parts: parse(row.parts) as KeyParts,
      files: listings.read(row.files as string),
      status: row.status as NodeStatus,
      milliseconds: row.milliseconds as number,
      digest: row.digest as string | null,
      error: row.error as string | null,
      at: row.at as number
    }))

  /** Whether an execution's parts must be stored: a run may reuse thousands of results whose parts are already recorded. */
  const hasParts = ({ key, parts, status }: Execution, blessed: ReadonlySet<string>): boolean =>
    // A pinned stage's code is in its parts but not in its key; a blessed key was computed with other code.
    status !== "hit" || parts.pinned !== undefined || blessed.has(key)
  const blessedKeys = (): ReadonlySet<string> => new Set(database.all("select key from blessings").map(({ key }) => key as string))
  const recordExecution = (execution: Execution, files: string, blessed: ReadonlySet<string>): void => {
    if (execution.status === "ran" || execution.status === "fetched") database.recordUses(execution.key, execution.parts)
    database.run(
      "insert into executions (run, pipeline, node, stage, key, parts, files, status, milliseconds, digest, error, at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      execution.run,
      execution.pipeline,
      execution.node,
      execution.stage,
      execution.key,
      hasParts(execution, blessed) ? JSON.stringify(execution.parts) : "",
      files,
      execution.status,
      Math.round(execution.milliseconds),
      execution.digest,
      execution.error,
      Date.now()
    )
  }

  return {
    startRun: (id: string, pipeline: string, asked: unknown): void => {
      database.run(
        "insert into runs (id, pipeline, params, started, status) values (?, ?, ?, ?, 'running')",
        id,
        pipeline,
        JSON.stringify(asked),
        Date.now()
      )
    },
    /** `error`: why the run ended before its nodes were settled. */
    finishRun: (id: string, status: string, error?: string): void => {
      database.run("update runs set finished = ?, status = ? where id = ?", Date.now(), status, id)
      if (error !== undefined) database.run("insert or replace into errors (run, error) values (?, ?)", id, error)
    },
    recordExecution: (execution: Execution): void => recordExecution(execution, listings.record(execution.files), blessedKeys()),
    recordExecutions: (all: ReadonlyArray<Execution>): void => {
      // All nodes of a stage have the same list of files.
      const listed = new Map<Execution["files"], string>()
      const blessed = blessedKeys()
      for (const execution of all) {
        let files = listed.get(execution.files)
        if (files === undefined) listed.set(execution.files, (files = listings.record(execution.files)))
        recordExecution(execution, files, blessed)
      }
    },

    /** Stores a value that many runs share once; returns its name. */
    recordListing: (value: object): string => listings.record(value),
    /** The value stored under this name; null if there is none. */
    listing: (name: string): unknown => listings.find(name),
    /** Changes whenever another process writes to the journal. */
    version: (): number => Number(database.get("pragma data_version")!.data_version),

    /** Runs, latest first. */
    runs: (filter: { readonly pipeline?: string | undefined; readonly limit?: number | undefined } = {}): Array<PastRun> =>
      database
        .all(latest("? is null or pipeline = ?", "?"), filter.pipeline ?? null, filter.pipeline ?? null, filter.limit ?? -1)
        .map(toRun),
    /** Runs with the search text in the pipeline, id, status, tags or note, latest first; and their total number. */
    findRuns: (search: string, limit: number, from: number): { readonly runs: Array<PastRun>; readonly total: number } => {
      const condition = `?1 = '' or instr(lower(pipeline || ' ' || id || ' ' || status || ' ' || coalesce((select note || ' ' || tags from notes where run = runs.id), '')), lower(?1)) > 0`
      const rows = database.all(latest(condition, "?2 offset ?3"), search, limit, from)
      return { runs: rows.map(toRun), total: Number(database.get(`select count(*) as n from runs where ${condition}`, search)!.n) }
    },
    /** Run -> the previous run of the same pipeline, for all runs at once. */
    runsBefore: (): Map<string, string> =>
      new Map(
        database
          .all("select id, lag(id) over (partition by pipeline order by started, rowid) as before from runs")
          .flatMap((row) => (row.before === null ? [] : [[row.id as string, row.before as string] as const]))
      ),
    /** A run's options. */
    askedFor: (id: string): unknown => {
      const row = database.get("select params from runs where id = ?", id)
      return row === undefined ? null : parse(row.params)
    },
    /** A run's recorded status. */
    endOf: (id: string): Pick<PastRun, "status" | "finished"> | undefined => {
      const row = database.get("select status, finished from runs where id = ?", id)
      return row === undefined ? undefined : { status: row.status as string, finished: row.finished as number | null }
    },
    runOf: (id: string): PastRun | undefined => {
      const row = database.get(`select ${runColumns} from runs where id = ?`, id)
      return row === undefined ? undefined : toRun(row)
    },
    /** Duration of each node of a pipeline when it last ran, in milliseconds. */
    lastDurations: (pipeline: string): Map<string, number> =>
      new Map(
        database
          .all("select node, milliseconds, max(id) from executions where pipeline = ? and status = 'ran' group by node", pipeline)
          .map((row) => [row.node as string, row.milliseconds as number])
      ),
    /** Runs whose id starts with the prefix. */
    runsLike: (prefix: string): Array<PastRun> =>
      database.all(`select ${runColumns} from runs where substr(id, 1, ?) = ? order by started`, prefix.length, prefix).map(toRun),

    /** The executions of a run's nodes, in recording order. */
    executionsOf: (run: string): Array<PastExecution> => where("run = ? order by id", run),
    /** Like executionsOf, but without key parts, and only those recorded after this id. */
    outcomesOf: (run: string, after = 0): Array<Outcome> =>
      database
        .all(
          "select id, node, stage, key, status, milliseconds, digest, error, at from executions where run = ? and id > ? order by id",
          run,
          after
        )
        .map((row) => row as unknown as Outcome),
    /** The executions of one node of a run, in recording order. */
    executionsOfNode: (run: string, node: string): Array<PastExecution> => where("run = ? and node = ? order by id", run, node),
    /** The executions with this artifact as their result: those that computed it, or also those that reused it. */
    executionsWith: (digest: string, statuses: "ran" | "any" = "ran"): Array<PastExecution> =>
      where(`${hasDigest} ${statuses === "ran" ? "and status in ('ran', 'fetched')" : ""} order by id`, digest, digest),
    /** The executions that used this content as an input. */
    executionsFrom: (content: string): Array<PastExecution> =>
      where("status in ('ran', 'fetched') and parts <> '' and key in (select key from uses where content = ?) order by id", content),
    /** The node's last execution in each pipeline with a node of this name, latest first. */
    lastOfNode: (node: string, statuses: ReadonlyArray<NodeStatus>): Array<PastExecution> => {
      const list = statuses.map((status) => `'${status}'`).join(", ")
      return where(`id in (select max(id) from executions where node = ? and status in (${list}) group by pipeline) order by id desc`, node)
    },
    /** The node's executions that have a result, latest first. */
    resultsOfNode: (pipeline: string, node: string, limit: number): Array<PastExecution> =>
      where("pipeline = ? and node = ? and status in ('hit', 'ran', 'fetched') order by id desc limit ?", pipeline, node, limit),
    /** The node's last result under each key, latest first: to report what changed since. */
    earlierResults: (pipeline: string, node: string, limit: number): Array<EarlierResult> =>
      database
        .all(
          `select key, ${partsColumn}, files, run, at from executions where id in (select max(id) from executions where pipeline = ? and node = ? and status in ('hit', 'ran', 'fetched') group by key) order by id desc limit ?`,
          pipeline,
          node,
          limit
        )
        .flatMap((row) => {
          try {
            const parts = parse(row.parts) as KeyParts
            return [
              { key: row.key as string, parts, files: listings.read(row.files as string), run: row.run as string, at: row.at as number }
            ]
          } catch {
            // A damaged old record: only the reason for rerunning a node is lost, so the node need not fail.
            return []
          }
        }),
    /** All node names ever recorded here. */
    nodeNames: (pipeline?: string): Array<string> =>
      database
        .all("select distinct node from executions where ?1 is null or pipeline = ?1", pipeline ?? null)
        .map((row) => row.node as string),
    /** For each artifact, the last node with it as its result. */
    nodesOf: (): Map<string, { readonly pipeline: string; readonly node: string; readonly stage: string }> => {
      // With max(), the other columns come from its row.
      const rows = database.all("select digest, pipeline, node, stage, max(id) from executions where digest is not null group by digest")
      return new Map(
        rows.map((row) => [
          row.digest as string,
          { pipeline: row.pipeline as string, node: row.node as string, stage: row.stage as string }
        ])
      )
    },

    /** When each artifact was last computed or reused by a run, in milliseconds since 1970. */
    lastUses: (): Map<string, number> =>
      new Map(
        database
          .all(
            "select digest, max(at) as used from (select digest, at from executions where digest is not null union all select digest, made from traces) group by digest"
          )
          .map((row) => [row.digest as string, row.used as number])
      ),
    /** Like lastUses, for one artifact. */
    lastUse: (digest: string): number | undefined => {
      const row = database.get(
        `select max(at) as used from (select at from executions where ${hasDigest} union all select made from traces where digest = ?)`,
        digest,
        digest,
        digest
      )
      return (row?.used as number | null | undefined) ?? undefined
    }
  }
}
