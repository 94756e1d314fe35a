/** Preference pairs of the user's files, as the stage brings them in. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { Preferences } from "../../schemas/rows.ts"
import { importPreferences } from "../../stages/import.ts"
import { removeFolder, workFolder } from "../cli/caravan.ts"
import { failureOf, rowsIn, runStage } from "./running.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))
let files = 0
const file = (rows: ReadonlyArray<unknown>) => {
  const path = join(folder, `${files++}.jsonl`)
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
  return { path, type: "file", digest: "", contentDigest: "" }
}
const pair = (over: Record<string, unknown> = {}) => ({ prompt: "q", chosen: "a", rejected: "b", ...over })
const format = "prompt-chosen-rejected"

it("pairs of a file keep the labels that they have, and those without a rating among rated ones are counted", async () => {
  const rated = await runStage(
    importPreferences,
    { file: file([pair({ rating: 1, chosenSafe: true, rejectedSafe: false }), pair(), pair({ rating: null })]) },
    { format }
  )
  expect((await rowsIn(rated, Preferences)).map(({ rating, chosenSafe, rejectedSafe }) => [rating, chosenSafe, rejectedSafe])).toEqual([
    [1, true, false],
    [null, null, null],
    [null, null, null]
  ])
  expect(rated.metrics).toMatchObject({ withoutRating: 2, rowsRead: 3, rowsSkipped: 0 })
  const unrated = await runStage(importPreferences, { file: file([pair(), pair()]) }, { format })
  expect(unrated.metrics).toMatchObject({ withoutRating: 0 })
})

it("a pair with a safety label that is none is a bad row, named by its line", async () => {
  expect(await failureOf(importPreferences, { file: file([pair(), pair({ chosenSafe: "yes" })]) }, { format })).toMatch(
    /1 of 2 rows do not fit.*\n {2}line 2, field chosenSafe: expected true, false or null, found "yes"/
  )
})
