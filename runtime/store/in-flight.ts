/**
 * Claims across processes: of all runs that need the result of one key, one computes it and the others wait. Claims are stored in leases.db, next to
 * the leases; a claim is valid while its process holds its lock (leases.ts). If the process dies, the next one that checks takes over; a stopped process
 * (SIGSTOP) is waited for, because it may continue at any time. All functions throw StoreError.
 */
import { randomUUID } from "node:crypto"
import { readFileSync } from "node:fs"
import type { Leases } from "./leases.ts"

/** The right to compute the result of a key. */
export interface Claim {
  readonly key: string
  readonly token: string
}

export type Claimed =
  /** We compute it. `tookOver`: the previous holder died. */
  | { readonly mine: true; readonly claim: Claim; readonly tookOver: boolean }
  /** Someone else computes it; `by` describes who. */
  | { readonly mine: false; readonly by: string }

export const claimKey = (leases: Leases, holder: string, key: string): Claimed =>
  leases.exclusive((database) => {
    const row = database
      .prepare(
        "select flights.holder, holders.what, holders.pid from flights left join holders on holders.id = flights.holder where key = ?"
      )
      .get(key) as { readonly holder: string; readonly what: string | null; readonly pid: number | null } | undefined
    if (row !== undefined) {
      if (row.holder === holder) return { mine: false, by: "another node of this run" }
      if (leases.isAlive(row.holder)) return { mine: false, by: nameOf(row.what, row.pid) }
    }
    const token = randomUUID()
    database.prepare("insert or replace into flights (key, holder, token) values (?, ?, ?)").run(key, holder, token)
    return { mine: true, claim: { key, token }, tookOver: row !== undefined }
  })

/** The keys of the claims that are still valid: check before recording results. */
export const stillHeld = (leases: Leases, claims: ReadonlyArray<Claim>): Set<string> =>
  leases.exclusive((database) => {
    const select = database.prepare("select token from flights where key = ?")
    return new Set(claims.filter(({ key, token }) => select.get(key)?.token === token).map(({ key }) => key))
  })

/** Releases claims: their results are recorded, or will not be computed. */
export const releaseClaims = (leases: Leases, claims: ReadonlyArray<Claim>): void =>
  leases.exclusive((database) => {
    const remove = database.prepare("delete from flights where key = ? and token = ?")
    for (const { key, token } of claims) remove.run(key, token)
  })

type Reader = Parameters<Parameters<Leases["reading"]>[0]>[0]
const keysIn = (leases: Leases, database: Reader): ReadonlySet<string> => {
  const rows = database.prepare("select key, holder from flights").all() as Array<{ readonly key: string; readonly holder: string }>
  return new Set(rows.flatMap(({ key, holder }) => (leases.isAlive(holder) ? [key] : [])))
}

export const claimedKeys = (leases: Leases): ReadonlySet<string> => leases.reading((database) => keysIn(leases, database))

/** Calls `body` with the claimed keys, under a lock that stops runs from claiming more. Keep it short: runs wait for the lock. */
export const withClaimsLocked = <A>(leases: Leases, body: (keys: ReadonlySet<string>) => A): A =>
  leases.exclusive((database) => body(keysIn(leases, database)))

const nameOf = (what: string | null, pid: number | null): string => {
  if (pid === null) return "another run"
  return `${what ?? "a run"} in process ${pid}${isStopped(pid) ? ", which is stopped (kill -CONT resumes it)" : ""}`
}

const isStopped = (pid: number): boolean => {
  try {
    return /^State:\s+[Tt]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}
