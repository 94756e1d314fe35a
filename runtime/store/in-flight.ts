/**
 * In-flight claims across processes: of all runs that want the result of one key, one makes it and the others wait for it. Who makes what is in
 * leases.db, beside the leases; a maker is believed as long as its process keeps its lock (leases.ts). When it dies the next one to look takes
 * over; one that is stopped (SIGSTOP) is waited for, since it may go on at any time. All throw StoreError.
 */
import { randomUUID } from "node:crypto"
import { readFileSync } from "node:fs"
import type { Leases } from "./leases.ts"

/** The right to make the result of a key. */
export interface Claim {
  readonly key: string
  readonly token: string
}

export type Claimed =
  /** It is ours to make. `tookOver`: somebody died over it. */
  | { readonly mine: true; readonly claim: Claim; readonly tookOver: boolean }
  /** Somebody makes it: who, in words. */
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

/** The keys of those claims that are still held: to be looked at before results are recorded. */
export const stillHeld = (leases: Leases, claims: ReadonlyArray<Claim>): Set<string> =>
  leases.exclusive((database) => {
    const select = database.prepare("select token from flights where key = ?")
    return new Set(claims.filter(({ key, token }) => select.get(key)?.token === token).map(({ key }) => key))
  })

/** Gives up claims: their results are recorded, or will not be made. */
export const releaseClaims = (leases: Leases, claims: ReadonlyArray<Claim>): void =>
  leases.exclusive((database) => {
    const remove = database.prepare("delete from flights where key = ? and token = ?")
    for (const { key, token } of claims) remove.run(key, token)
  })

/** Runs `body` while nobody can claim a key, with those that are claimed. Keep it short: runs wait meanwhile. */
export const whileNobodyClaims = <A>(leases: Leases, body: (keys: ReadonlySet<string>) => A): A =>
  leases.exclusive((database) => {
    const rows = database.prepare("select key, holder from flights").all() as Array<{ readonly key: string; readonly holder: string }>
    return body(new Set(rows.flatMap(({ key, holder }) => (leases.isAlive(holder) ? [key] : []))))
  })

const nameOf = (what: string | null, pid: number | null): string => {
  if (pid === null) return "another run"
  return `${what ?? "a run"} in process ${pid}${isStopped(pid) ? ", which is stopped (kill -CONT lets it go on)" : ""}`
}

const isStopped = (pid: number): boolean => {
  try {
    return /^State:\s+[Tt]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}
