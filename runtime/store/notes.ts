/** People's tags and notes on runs. Nothing depends on them. */
import { type JournalDatabase, parse } from "./journal-database.ts"

export interface RunNote {
  readonly tags: ReadonlyArray<string>
  readonly note: string
}
export const noNote: RunNote = { tags: [], note: "" }

export const notes = (database: JournalDatabase) => ({
  noteOf: (run: string): RunNote => {
    const row = database.get("select tags, note from notes where run = ?", run)
    return row === undefined ? noNote : { tags: parse(row.tags) as Array<string>, note: row.note as string }
  },
  writeNote: (run: string, { note, tags }: RunNote): void => {
    database.run(
      "insert into notes (run, tags, note, at) values (?, ?, ?, ?) on conflict (run) do update set tags = excluded.tags, note = excluded.note, at = excluded.at",
      run,
      JSON.stringify(tags),
      note,
      Date.now()
    )
  }
})
