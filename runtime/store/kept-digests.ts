/** The journal as the key cache (key/key-cache.ts): digests of the user's files, and identities of stages' code. */
import { type JournalDatabase, parse, sumOf } from "./journal-database.ts"

export const keptDigests = (database: JournalDatabase) => ({
  fileDigest: (path: string, stamp: string): string | undefined => {
    const row = database.get("select digest, sum from files where path = ? and stamp = ?", path, stamp) as
      | Record<string, string>
      | undefined
    return row?.sum === sumOf(path, stamp, row?.digest ?? "") ? row.digest : undefined
  },
  recordFile: (path: string, stamp: string, digest: string): void => {
    database.remember(
      "insert into files (path, stamp, digest, sum) values (?, ?, ?, ?) on conflict (path) do update set stamp = excluded.stamp, digest = excluded.digest, sum = excluded.sum",
      path,
      stamp,
      digest,
      sumOf(path, stamp, digest)
    )
  },
  /** The user's files with this content, when last seen. */
  filesOfContent: (digest: string): Array<string> =>
    database.all("select path from files where digest = ? order by path", digest).map((row) => row.path as string),
  code: (stage: string): unknown => {
    const row = database.get("select value, sum from code where stage = ?", stage) as Record<string, string> | undefined
    return row?.sum === sumOf(stage, row?.value ?? "") ? parse(row.value) : undefined
  },
  recordCode: (stage: string, value: unknown): void => {
    const text = JSON.stringify(value)
    database.remember(
      "insert into code (stage, value, sum) values (?, ?, ?) on conflict (stage) do update set value = excluded.value, sum = excluded.sum",
      stage,
      text,
      sumOf(stage, text)
    )
  }
})
