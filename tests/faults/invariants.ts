/**
 * Invariants after every fault: one winning record per key; every record's files exist and are unchanged; a later run ends with the
 * digests of an undisturbed run; nothing that was reported as made is made again; and nothing has to be unlocked or deleted by hand.
 */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { damageOf } from "../../runtime/store/objects.ts"
import { digestsOf, type Outcome, remove, type Request, type Runner, statusesOf } from "./harness.ts"

/** Node -> digest, of an undisturbed run. */
export type Clean = Readonly<Record<string, string | null>>

/** Faults of the records in a home; empty if all is well. Reads every file of every record. */
export const wrongRecords = async (home: string): Promise<Array<string>> => {
  const file = join(home, "journal.db")
  if (!existsSync(file)) return []
  const wrong: Array<string> = []
  const database = new DatabaseSync(file)
  try {
    const tables = database
      .prepare("select name from sqlite_master where type = 'table'")
      .all()
      .map((row) => row.name)
    // A run may have ended while the tables were made: each is made separately, and there are no records before the last one exists.
    if (!tables.includes("traces")) return []
    if (!tables.includes("executions")) {
      const { n } = database.prepare("select count(*) as n from traces").get()!
      return n === 0 ? [] : [`${String(n)} records, and no table of what was executed`]
    }
    const check = database
      .prepare("pragma integrity_check")
      .all()
      .map((row) => String(row.integrity_check))
    if (check.join() !== "ok") wrong.push(`the journal: ${check.join(", ")}`)
    // The journal can't hold two records of a key; the possible fault is different results reported under it.
    for (const { key, digests } of database
      .prepare(
        "select key, group_concat(distinct digest) as digests from executions where status in ('ran', 'fetched', 'hit') group by key having count(distinct digest) > 1"
      )
      .all())
      wrong.push(`results of the key ${String(key)}: ${String(digests)}`)
    for (const { key, digest } of database
      .prepare(
        "select key, digest from traces where not exists (select 1 from executions where executions.key = traces.key and executions.digest = traces.digest and status in ('ran', 'fetched'))"
      )
      .all())
      wrong.push(`the record of the key ${String(key)} names ${String(digest)}, which no node was said to make`)
    for (const { digest } of database.prepare("select distinct digest from traces").all()) {
      const damage = await damageOf(home, String(digest))
      if (damage !== undefined) wrong.push(`a record names the object ${String(digest)}, and ${damage}`)
    }
  } finally {
    database.close()
  }
  return wrong
}

/** Fails if the records in a home are wrong. */
export const checkRecords = async (home: string): Promise<void> => {
  const wrong = await wrongRecords(home)
  if (wrong.length > 0) throw new Error(`After the test, in ${home}: ${wrong.join("; ")}`)
}

/** After a test: fails if the records in the home of this folder are wrong (docs/faults.md), and deletes the folder. */
export const checkAndRemove = (folder: string): Promise<void> => checkRecords(join(folder, "home")).finally(() => remove(folder))

export interface After {
  readonly clean: Clean
  /** Nodes that were reported as made by the run with the fault, or made before it. */
  readonly finished: ReadonlyArray<string>
  /** The last step that was reported as saved. */
  readonly step?: number | undefined
  /** Runs the pipeline again, without faults, in another process than the one with the fault. */
  readonly runner: Runner
  readonly request: Request
}

/** The violated invariants. Runs the pipeline twice more. */
export const broken = async ({ clean, finished, step, runner, request }: After): Promise<Array<string>> => {
  const wrong = await wrongRecords(request.home)
  const again: Outcome = await runner.run(request)
  if (again.end.type !== "done" || again.end.status !== "succeeded")
    return [...wrong, `the next run ends with ${JSON.stringify(again.end)}`]
  const digests = digestsOf(again)
  for (const [node, digest] of Object.entries(clean))
    if (digests[node] !== digest) wrong.push(`${node} comes out as ${digests[node]}, not as ${digest}`)
  for (const node of finished) if (statusesOf(again)[node] !== "hit") wrong.push(`${node} was made, and is made again`)
  if (step !== undefined && again.steps.some((done) => done <= step))
    wrong.push(`step ${again.steps[0]} is done again, though ${step} were kept`)
  wrong.push(...(await wrongRecords(request.home)))
  const third = statusesOf(await runner.run(request))
  for (const node of Object.keys(clean)) if (third[node] !== "hit") wrong.push(`the run after that does not find ${node}`)
  // A living process may still be writing: its files are removed once it is gone.
  const tmp = join(request.home, "tmp")
  const left = (existsSync(tmp) ? readdirSync(tmp) : []).filter((name) => !existsSync(`/proc/${name.split("-")[0]}`))
  if (left.length > 0) wrong.push(`tmp holds ${left.join(", ")}`)
  return wrong
}
