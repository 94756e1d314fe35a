/** The journal's index from cache key to result: reused results, replaced results, and blessed code. */
import type { SkippedCount } from "../define/skipped.ts"
import type { JournalDatabase } from "./journal-database.ts"
import { parse, type Row, sumOf } from "./journal-database.ts"
import type { Listings } from "./listings.ts"

export interface Trace {
  readonly key: string
  readonly digest: string
  readonly contentDigest: string
  readonly type: string
  readonly metrics: Readonly<Record<string, number>>
  /** Digest of the files about how it was made (sidecar.ts), if any. */
  readonly sidecar?: string | undefined
  /** The rows that its stage skipped. */
  readonly skipped?: ReadonlyArray<SkippedCount> | undefined
}

/** The journal's information about an artifact, whether or not the store still has it. */
export interface KnownArtifact {
  readonly digest: string
  readonly contentDigest: string
  readonly type: string
  readonly metrics: Readonly<Record<string, number>>
  readonly made: number
}

/** A user's assertion that a result is valid for code other than the code that made it (bless.ts). */
export interface Blessing {
  /** The key under which the result is now valid; before, it was valid under `from`. */
  readonly key: string
  readonly from: string
  readonly digest: string
  /** The code for which it is valid: its digest, and its files and packages. */
  readonly code: string
  readonly files: Readonly<Record<string, string>>
  /** The changes in the code. */
  readonly changes: ReadonlyArray<string>
}
/** A recorded blessing. */
export type PastBlessing = Omit<Blessing, "files"> & { readonly at: number }

/** An earlier result of a key. */
export interface Generation {
  readonly digest: string
  readonly made: number
  readonly retired: number
}

/** JSON has no NaN or infinities: they are stored as text. */
const metricsText = (metrics: Trace["metrics"]): string =>
  JSON.stringify(metrics, (_, value: unknown) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value))
/** Older versions stored null for them. */
const metricsIn = (text: string): Trace["metrics"] =>
  text === "{}"
    ? {}
    : Object.fromEntries(Object.entries(parse(text) as object).map(([name, value]) => [name, value === null ? NaN : Number(value)]))

/** undefined if the checksum does not match. */
const toTrace = (key: string, row: ReadonlyArray<string | null>): Trace | undefined => {
  const [digest, contentDigest, type, metrics, sidecar, skipped, sum] = row
  if (sum !== null && sum !== sumOf(key, digest!, contentDigest!, type!, metrics!, ...beside(sidecar!, skipped!))) return undefined
  return {
    key,
    digest: digest!,
    contentDigest: contentDigest!,
    type: type!,
    metrics: metricsIn(metrics!),
    ...(sidecar === null ? {} : { sidecar: sidecar! }),
    ...(skipped === null ? {} : { skipped: parse(skipped) as ReadonlyArray<SkippedCount> })
  }
}
/** The checksummed columns that most rows leave empty, and that older versions lacked. */
const beside = (...columns: ReadonlyArray<string | null>): ReadonlyArray<string> =>
  columns.some((column) => column !== null) ? columns.map((column) => column ?? "") : []
/** In the order of `toTrace`. */
const traceColumns = "digest, content_digest, type, metrics, sidecar, skipped, sum"
const toArtifact = (row: Row): KnownArtifact => ({
  digest: row.digest as string,
  contentDigest: row.content_digest as string,
  type: row.type as string,
  metrics: metricsIn(row.metrics as string),
  made: row.made as number
})

export const traces = (database: JournalDatabase, listings: Listings) => {
  const trace = (key: string): Trace | undefined => {
    const row = database.get(`select ${traceColumns} from traces where key = ?`, key)
    return row === undefined ? undefined : toTrace(key, Object.values(row) as Array<string | null>)
  }
  /** Deletes the trace of a result whose object is missing or damaged, or that will be recomputed. */
  const forgetTrace = (key: string): void => void database.run("delete from traces where key = ?", key)

  return {
    trace,
    forgetTrace,
    /** The keys with this artifact as their recorded result. */
    keysOf: (digest: string): Array<string> =>
      database.all("select key from traces where digest = ?", digest).map((row) => row.key as string),
    /** Up to `limit` arbitrary traces by key: one query for many is several times faster than many queries. */
    someTraces: (limit: number): Map<string, Trace> => {
      const found = new Map<string, Trace>()
      for (const [key, ...columns] of database.lists(`select key, ${traceColumns} from traces limit ?`, limit)) {
        const made = toTrace(key as string, columns as Array<string | null>)
        if (made !== undefined) found.set(made.key, made)
      }
      return found
    },
    /** The first result under a key stays: a second one with the same key is equal, or the stage is nondeterministic. */
    recordTrace: (recorded: Trace, provenance: unknown): void => {
      const { key, digest, contentDigest, type, sidecar = null } = recorded
      const metrics = metricsText(recorded.metrics)
      const skipped = recorded.skipped === undefined || recorded.skipped.length === 0 ? null : JSON.stringify(recorded.skipped)
      const insert = () =>
        database.run(
          "insert into traces (key, digest, content_digest, type, metrics, sidecar, skipped, provenance, made, sum) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (key) do nothing",
          key,
          digest,
          contentDigest,
          type,
          metrics,
          sidecar,
          skipped,
          JSON.stringify(provenance),
          Date.now(),
          sumOf(key, digest, contentDigest, type, metrics, ...beside(sidecar, skipped))
        )
      if (insert() === 0 && trace(key) === undefined) {
        // A row with a wrong checksum is replaced.
        forgetTrace(key)
        insert()
      }
      // Outlives the trace: an artifact's record remains when its object is deleted or its key recomputed.
      database.run(
        "insert or ignore into artifacts (digest, content_digest, type, metrics, made) values (?, ?, ?, ?, ?)",
        digest,
        contentDigest,
        type,
        metrics,
        Date.now()
      )
    },
    /** Makes room for a new generation of a result (--force); the old one stays recorded. */
    retireTrace: (key: string): void => {
      database.run("insert into generations select key, digest, made, ? from traces where key = ?", Date.now(), key)
      forgetTrace(key)
    },
    /** Earlier results of a key, oldest first. */
    generations: (key: string): Array<Generation> =>
      database.all("select digest, made, retired from generations where key = ? order by retired, rowid", key).map((row) => ({
        digest: row.digest as string,
        made: row.made as number,
        retired: row.retired as number
      })),

    recordBlessing: ({ key, digest, from, code, files, changes }: Blessing): void => {
      database.run(
        "insert into blessings (key, digest, from_key, code, files, changes, at) values (?, ?, ?, ?, ?, ?, ?)",
        key,
        digest,
        from,
        code,
        listings.record(files),
        JSON.stringify(changes),
        Date.now()
      )
    },
    /** The blessings of the result under a key, oldest first. */
    blessings: (key: string): Array<PastBlessing> =>
      database.all("select * from blessings where key = ? order by at, rowid", key).map((row) => ({
        key,
        from: row.from_key as string,
        digest: row.digest as string,
        code: row.code as string,
        changes: parse(row.changes) as Array<string>,
        at: row.at as number
      })),
    /** This code, if a result was computed with it under this key or blessed for it; otherwise the code for which that last happened. */
    acceptedCode: (
      key: string,
      digest: string,
      present: string
    ): { readonly code: string; readonly files: Readonly<Record<string, string>> } | undefined => {
      const row = database.get(
        `select code, files from (
          select json_extract(parts, '$.code') as code, files, at, 0 as blessed from executions where key = ?1 and digest = ?2 and status in ('ran', 'fetched') and parts <> '' and json_valid(parts)
          union all select code, files, at, 1 as blessed from blessings where key = ?1 and digest = ?2)
        order by code = ?3 desc, at desc, blessed desc limit 1`,
        key,
        digest,
        present
      )
      if (row === undefined) return undefined
      try {
        return { code: row.code as string, files: listings.read(row.files as string) }
      } catch {
        // A damaged old record, as in lastExecution.
        return undefined
      }
    },

    artifact: (digest: string): KnownArtifact | undefined => {
      const row = database.get("select * from artifacts where digest = ?", digest)
      return row === undefined ? undefined : toArtifact(row)
    },
    /** Artifacts whose digest starts with the prefix. */
    artifactsLike: (prefix: string): Array<KnownArtifact> =>
      database.all("select * from artifacts where substr(digest, 1, ?) = ?", prefix.length, prefix).map(toArtifact),
    /** Artifacts with this content, latest first: several files may contain the same rows. */
    artifactsOfContent: (content: string): Array<KnownArtifact> =>
      database.all("select * from artifacts where content_digest = ? order by made desc", content).map(toArtifact),
    /** The provenance in a key's trace: run, node, code, inputs, Node version. */
    provenance: (key: string): Readonly<Record<string, unknown>> | undefined => {
      const row = database.get("select provenance from traces where key = ?", key)
      return row === undefined ? undefined : (parse(row.provenance) as Record<string, unknown>)
    },
    /** The digests named by a trace: what a run could reuse. */
    tracedDigests: (): Set<string> => new Set(database.all("select distinct digest from traces").map((row) => row.digest as string)),
    /** Sidecars named by a trace, with their results. */
    sidecars: (): Array<{ readonly sidecar: string; readonly result: string }> =>
      database
        .all("select distinct sidecar, digest from traces where sidecar is not null")
        .map((row) => ({ sidecar: row.sidecar as string, result: row.digest as string }))
  }
}
