/** The journal's history: runs, and what became of each node in them. Records stay when the objects that they name go. */
import type { SQLInputValue } from "node:sqlite"
import type { KeyParts } from "../key/cache-key.ts"
import { type JournalDatabase, parse, type Row } from "./journal-database.ts"
import type { Listings } from "./listings.ts"

/** "fetched": made elsewhere, and taken from shared results. */
export type NodeStatus = "hit" | "ran" | "fetched" | "failed" | "skipped"

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
/** An execution as it was recorded. */
export interface PastExecution extends Execution {
  /** Grows with time. */
  readonly id: number
  readonly at: number
}

/** What became of a node, without what it was made of. */
export type Outcome = Omit<PastExecution, "run" | "pipeline" | "parts" | "files">

/** A run as the journal has it. */
export interface PastRun {
  readonly id: string
  readonly pipeline: string
  /** What it was asked for (asked.ts); runs of older versions have only parameters here. */
  readonly asked: unknown
  readonly started: number
  readonly finished: number | null
  readonly status: string
  /** How many nodes ended how. */
  readonly nodes: Readonly<Partial<Record<NodeStatus, number>>>
}

const runColumns = `id, pipeline, params, started, finished, status,
  (select json_group_object(status, n) from (select status, count(*) as n from executions where run = runs.id group by status)) as nodes`

/** The latest runs of which a condition holds. They are chosen first: how their nodes ended is then counted for these alone. */
const latest = (condition: string, limit: string): string =>
  `select ${runColumns} from runs where rowid in (select rowid from runs where ${condition} order by started desc, rowid desc limit ${limit}) order by started desc, rowid desc`

const toRun = (row: Row): PastRun => ({
  id: row.id as string,
  pipeline: row.pipeline as string,
  asked: parse(row.params),
  started: row.started as number,
  finished: row.finished as number | null,
  status: row.status as string,
  nodes: parse(row.nodes) as PastRun["nodes"]
})

/** Takes the digest twice: the index has how it begins. */
const hasDigest = "substr(digest, 1, 8) = substr(?, 1, 8) and digest = ?"

/**
 * The parts of an execution's key. One that found its result has none of its own (see `hasParts`): those of the execution that made it are the same, as
 * the key is a digest of them.
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

  /** Whether an execution's parts have to be written: thousands of nodes may be found in each run, and what made them is on record. */
  const hasParts = ({ key, parts, status }: Execution, blessed: ReadonlySet<string>): boolean =>
    // The code of a pinned stage is in its parts and not in its key; a blessed key was made under another.
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
    finishRun: (id: string, status: string): void => {
      database.run("update runs set finished = ?, status = ? where id = ?", Date.now(), status, id)
    },
    recordExecution: (execution: Execution): void => recordExecution(execution, listings.record(execution.files), blessedKeys()),
    recordExecutions: (all: ReadonlyArray<Execution>): void => {
      // The lists of a stage's files are the same for all its nodes.
      const listed = new Map<Execution["files"], string>()
      const blessed = blessedKeys()
      for (const execution of all) {
        let files = listed.get(execution.files)
        if (files === undefined) listed.set(execution.files, (files = listings.record(execution.files)))
        recordExecution(execution, files, blessed)
      }
    },

    /** Keeps what is the same for many runs, once; gives its name. */
    recordListing: (value: object): string => listings.record(value),
    /** What was kept under this name; null where nothing was. */
    listing: (name: string): unknown => listings.find(name),
    /** Another number than before once another process has written to the journal. */
    version: (): number => Number(database.get("pragma data_version")!.data_version),

    /** Runs, the latest first. */
    runs: (filter: { readonly pipeline?: string | undefined; readonly limit?: number | undefined } = {}): Array<PastRun> =>
      database
        .all(latest("? is null or pipeline = ?", "?"), filter.pipeline ?? null, filter.pipeline ?? null, filter.limit ?? -1)
        .map(toRun),
    /** Runs of which a search's text is in the pipeline, the id, the status, a tag or the note, the latest first; and how many there are. */
    findRuns: (search: string, limit: number, from: number): { readonly runs: Array<PastRun>; readonly total: number } => {
      const condition = `?1 = '' or instr(lower(pipeline || ' ' || id || ' ' || status || ' ' || coalesce((select note || ' ' || tags from notes where run = runs.id), '')), lower(?1)) > 0`
      const rows = database.all(latest(condition, "?2 offset ?3"), search, limit, from)
      return { runs: rows.map(toRun), total: Number(database.get(`select count(*) as n from runs where ${condition}`, search)!.n) }
    },
    /** Run -> the run of the same pipeline that began last before it; of all runs in one go. */
    runsBefore: (): Map<string, string> =>
      new Map(
        database
          .all("select id, lag(id) over (partition by pipeline order by started, rowid) as before from runs")
          .flatMap((row) => (row.before === null ? [] : [[row.id as string, row.before as string] as const]))
      ),
    /** What a run was asked for. */
    askedFor: (id: string): unknown => {
      const row = database.get("select params from runs where id = ?", id)
      return row === undefined ? null : parse(row.params)
    },
    /** How a run stands, as it says itself. */
    endOf: (id: string): Pick<PastRun, "status" | "finished"> | undefined => {
      const row = database.get("select status, finished from runs where id = ?", id)
      return row === undefined ? undefined : { status: row.status as string, finished: row.finished as number | null }
    },
    /** The run of this id. */
    runOf: (id: string): PastRun | undefined => {
      const row = database.get(`select ${runColumns} from runs where id = ?`, id)
      return row === undefined ? undefined : toRun(row)
    },
    /** What each node of a pipeline took when it last ran, in milliseconds. */
    lastDurations: (pipeline: string): Map<string, number> =>
      new Map(
        database
          .all("select node, milliseconds, max(id) from executions where pipeline = ? and status = 'ran' group by node", pipeline)
          .map((row) => [row.node as string, row.milliseconds as number])
      ),
    /** Runs whose id begins so. */
    runsLike: (prefix: string): Array<PastRun> =>
      database.all(`select ${runColumns} from runs where substr(id, 1, ?) = ? order by started`, prefix.length, prefix).map(toRun),

    /** What became of the nodes of a run, in the order in which it was recorded. */
    executionsOf: (run: string): Array<PastExecution> => where("run = ? order by id", run),
    /** As executionsOf, without what they were made of: of those that were recorded after the one of this id. */
    outcomesOf: (run: string, after = 0): Array<Outcome> =>
      database
        .all(
          "select id, node, stage, key, status, milliseconds, digest, error, at from executions where run = ? and id > ? order by id",
          run,
          after
        )
        .map((row) => row as unknown as Outcome),
    /** The executions of one node of a run, in the order in which they were recorded. */
    executionsOfNode: (run: string, node: string): Array<PastExecution> => where("run = ? and node = ? order by id", run, node),
    /** The executions that ended with this artifact: those that made it, or also those that found it. */
    executionsWith: (digest: string, statuses: "ran" | "any" = "ran"): Array<PastExecution> =>
      where(`${hasDigest} ${statuses === "ran" ? "and status in ('ran', 'fetched')" : ""} order by id`, digest, digest),
    /** The executions that made something of this content. */
    executionsFrom: (content: string): Array<PastExecution> =>
      where("status in ('ran', 'fetched') and parts <> '' and key in (select key from uses where content = ?) order by id", content),
    /** The node's last execution in each pipeline that has a node of this name, the latest first. */
    lastOfNode: (node: string, statuses: ReadonlyArray<NodeStatus>): Array<PastExecution> => {
      const list = statuses.map((status) => `'${status}'`).join(", ")
      return where(`id in (select max(id) from executions where node = ? and status in (${list}) group by pipeline) order by id desc`, node)
    },
    /** The node's executions that ended with a result, the latest first. */
    resultsOfNode: (pipeline: string, node: string, limit: number): Array<PastExecution> =>
      where("pipeline = ? and node = ? and status in ('hit', 'ran', 'fetched') order by id desc limit ?", pipeline, node, limit),
    /** What was known of a node when it last ran or was found: to say what changed since. */
    lastExecution: (pipeline: string, node: string): Pick<Execution, "key" | "parts" | "files" | "status"> | undefined => {
      const row = database.get(
        `select key, ${partsColumn}, files, status from executions where pipeline = ? and node = ? and status in ('hit', 'ran', 'fetched') order by id desc limit 1`,
        pipeline,
        node
      )
      if (row === undefined) return undefined
      try {
        return {
          key: row.key as string,
          parts: parse(row.parts) as KeyParts,
          files: listings.read(row.files as string),
          status: row.status as NodeStatus
        }
      } catch {
        // A damaged row of the past: only the reason for running a node is lost with it, and no node has to fail for that.
        return undefined
      }
    },
    /** Every name a node ever had here. */
    nodeNames: (): Array<string> => database.all("select distinct node from executions").map((row) => row.node as string),
    /** The node whose result each artifact last was. */
    nodesOf: (): Map<string, { readonly pipeline: string; readonly node: string; readonly stage: string }> => {
      // With max(), the other columns are of its row.
      const rows = database.all("select digest, pipeline, node, stage, max(id) from executions where digest is not null group by digest")
      return new Map(
        rows.map((row) => [
          row.digest as string,
          { pipeline: row.pipeline as string, node: row.node as string, stage: row.stage as string }
        ])
      )
    },

    /** When each artifact was last made or found by a run, in milliseconds since 1970. */
    lastUses: (): Map<string, number> =>
      new Map(
        database
          .all(
            "select digest, max(at) as used from (select digest, at from executions where digest is not null union all select digest, made from traces) group by digest"
          )
          .map((row) => [row.digest as string, row.used as number])
      ),
    /** As lastUses, of one. */
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
