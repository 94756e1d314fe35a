/**
 * What holds after every fault: one winning record per key; every record's files are there and are what they were; a run afterwards ends with the
 * digests of a run that was left alone; nothing that was said to be made is made again; and nobody had to unlock or delete anything.
 */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { damageOf } from "../../runtime/store/objects.ts"
import { digestsOf, type Outcome, type Request, type Runner, statusesOf } from "./harness.ts"

/** Node -> digest, of a run that was left alone. */
export type Clean = Readonly<Record<string, string | null>>

/** What is wrong with the records in a home: nothing, one hopes. Reads every file of every record. */
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
    // A run that ended while the tables were made: each is made by itself, and there are no records before the last one is there.
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
    // The journal can't hold two records of a key; what can go wrong is that different results were said to be made under it.
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

/** Fails when the records in a home are wrong. */
export const checkRecords = async (home: string): Promise<void> => {
  const wrong = await wrongRecords(home)
  if (wrong.length > 0) throw new Error(`After the test, in ${home}: ${wrong.join("; ")}`)
}

export interface After {
  readonly clean: Clean
  /** Nodes that the run with the fault said were made, or that were made before it. */
  readonly finished: ReadonlyArray<string>
  /** The last step that was said to be kept. */
  readonly step?: number | undefined
  /** Runs the pipeline again, without faults, as another process than the one that met them. */
  readonly runner: Runner
  readonly request: Request
}

/** What does not hold. Runs the pipeline twice more. */
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
  // A process that lives may still be at what it writes: those are removed once it is gone.
  const tmp = join(request.home, "tmp")
  const left = (existsSync(tmp) ? readdirSync(tmp) : []).filter((name) => !existsSync(`/proc/${name.split("-")[0]}`))
  if (left.length > 0) wrong.push(`tmp holds ${left.join(", ")}`)
  return wrong
}
