/** The jobs of a store, from their folders, whichever driver submitted them. */
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { isAbsent } from "../errors.ts"
import { attemptsIn, tail } from "./attempts.ts"
import { readJsonFile, type Submission } from "./job-files.ts"
import { isAlive, type Known, type States } from "./states.ts"

export interface ListedJob {
  readonly key: string
  readonly node: string
  /** null if not submitted yet. */
  readonly id: string | null
  /**
   * Slurm's state; "DONE" or "FAILED" for a job whose outcome no run has collected; "GONE" or "UNKNOWN" if Slurm does not know it or does not
   * respond.
   */
  readonly state: string
  /** Whether it may be pending or running. The id of another job may by now belong to a job that is not ours: a restarted controller may reuse ids. */
  readonly isAlive: boolean
  readonly reason: string
  readonly host: string | null
  readonly profile: string
  readonly submitted: number
  readonly step: number | null
  readonly total: number | null
  readonly folder: string
}

const keysIn = (home: string): ReadonlyArray<string> => {
  try {
    return readdirSync(join(home, "jobs"))
  } catch (cause) {
    if (isAbsent(cause)) return []
    throw cause
  }
}

export const listJobs = async (home: string, states: States): Promise<ReadonlyArray<ListedJob>> => {
  const found: Array<ListedJob> = []
  for (const key of keysIn(home)) {
    const folder = join(home, "jobs", key)
    const submission = readJsonFile(join(folder, "submission.json")) as Submission | undefined
    if (submission === undefined) continue
    const { current, outcome, started } = attemptsIn(folder)
    const known: Known = await states.of(submission.token, 1)
    const state = typeof known === "string" ? known.toUpperCase() : known.state
    let [step, total]: [number | null, number | null] = [null, null]
    if (current !== undefined) {
      const read = tail(join(folder, current, "events.ndjson"))
      for (let events = read(); events.length > 0; events = read())
        for (const event of events)
          if ("progress" in event && event.progress.step !== undefined) [step, total] = [event.progress.step, event.progress.total ?? null]
    }
    found.push({
      key,
      node: submission.node,
      id: submission.id ?? (typeof known === "string" ? null : known.id),
      isAlive: isAlive(known),
      state: outcome?.type === "done" ? "DONE" : outcome?.type === "failed" ? "FAILED" : state,
      reason: typeof known === "string" ? "" : known.reason,
      host: started?.host ?? null,
      profile: submission.profile,
      submitted: submission.at,
      ...{ step, total, folder }
    })
  }
  return found.sort((a, b) => a.submitted - b.submitted)
}
