/**
 * Rows of every shape survive a round trip: from a published file into a dataset, out as the Parquet file that `caravan export` writes, and in again, without
 * naming a shape.
 */
import { mkdirSync, readdirSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, expect, it } from "vitest"
import { lookAtPath } from "../../../data/shapes/shaped.ts"
import { type Kind, kindsOf, shapeOf } from "../../../data/shapes/shapes.ts"
import { writeParquet } from "../../../data/write-parquet.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { openAnyRows } from "../../../schemas/dataset-file.ts"
import { Demonstrations, Preferences, Prompts, Texts } from "../../../schemas/rows.ts"
import { importDemonstrations, importTexts } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { importPrompts } from "../../../stages/data/import-prompts.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { rowsIn, runStage } from "../running.ts"

const files = new URL("../../data/shapes/files/", import.meta.url).pathname
const folder = workFolder()
afterAll(() => removeFolder(folder))

const kinds: Readonly<Record<Kind, readonly [AnyStage, any]>> = {
  preferences: [importPreferences, Preferences],
  demonstrations: [importDemonstrations, Demonstrations],
  prompts: [importPrompts, Prompts],
  texts: [importTexts, Texts]
}
/** Allowed differences: a pair's or dialogue's id is its position, and a pair's source is the shape with which it was read. */
const ofPlace: Readonly<Record<Kind, ReadonlyArray<string>>> = {
  preferences: ["id", "source"],
  demonstrations: ["id"],
  prompts: [],
  texts: []
}

const at = (path: string) => ({ file: { path, type: "file", digest: "", contentDigest: "" } })
const cases: Array<readonly [string, Kind]> = []
for (const name of readdirSync(files).filter((each) => each !== "question-answer.jsonl"))
  for (const kind of kindsOf(shapeOf(await lookAtPath(join(files, name), { documents: "line", map: {} }))!)) cases.push([name, kind])

it.each(cases)("%s as %s", async (name, kind) => {
  const [stage, type] = kinds[kind]
  const imported = await runStage(stage, at(join(files, name)))
  const place = join(folder, `${name}-${kind}`)
  mkdirSync(place)
  const opened = await Effect.runPromise(openAnyRows(join(imported.path, "data.arrow")))
  await writeParquet(opened, join(place, "data.parquet"))
  await opened.close()
  const again = await runStage(stage, at(join(place, "data.parquet")))
  const rowsOf = async (of: typeof imported) =>
    (await rowsIn<Record<string, unknown>>(of, type)).map((row) =>
      Object.fromEntries(Object.entries(row).filter(([field]) => !ofPlace[kind].includes(field)))
    )
  const rows = await rowsOf(imported)
  expect(rows.length).toBeGreaterThan(0)
  expect(await rowsOf(again)).toEqual(rows)
})
