/** `caravan rows`: prints a dataset's rows. */
import { existsSync, statSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { fileName, openAnyRows } from "../../schemas/dataset-file.ts"
import { artifactPath } from "../artifact-path.ts"
import { type Command, exitCodes, type Given, UsageError, wholeNumber } from "../command.ts"
import { write, writeJsonLine } from "../output.ts"
import { count } from "../display/units.ts"

/** A row as lines of text, one field per line: strings unquoted, long ones below their name; lists and structs as JSON. */
const rowLines = (row: Readonly<Record<string, unknown>>): ReadonlyArray<string> =>
  Object.entries(row).map(([name, value]) => {
    if (typeof value !== "string") return `  ${name}: ${JSON.stringify(value)}`
    const lines = value.split("\n")
    return lines.length === 1 ? `  ${name}: ${value}` : `  ${name}:\n${lines.map((line) => `    ${line}`).join("\n")}`
  })

const run = (path: string, given: Given) =>
  Effect.gen(function* () {
    const head = wholeNumber(given, "head", 1) ?? Infinity
    const file = yield* Effect.acquireRelease(openAnyRows(path), (opened) => Effect.promise(() => opened.close()))
    let printed = 0
    for (let index = 0; index < file.batches && printed < head; index++) {
      const rows = yield* Effect.tryPromise({ try: () => file.batch(index), catch: (cause) => cause as Error })
      for (const row of rows.slice(0, head - printed) as ReadonlyArray<Record<string, unknown>>) {
        printed++
        if (given.has("json")) writeJsonLine(row)
        else write([`row ${printed}`, ...rowLines(row), ""].map((line) => `${line}\n`).join(""))
      }
    }
    if (!given.has("json"))
      write(`${printed === file.rowCount ? count(printed, "row") : `${printed} of ${count(file.rowCount, "row")}`} of ${path}\n`)
  }).pipe(Effect.scoped)

export const command: Command = {
  name: "rows",
  summary:
    "Prints the rows of a dataset. Name it by its node or output (also as pipeline:name or run:name), by its digest, or by the path of its folder or its .arrow file.",
  positionals: ["<dataset>"],
  flags: {
    head: { value: "n", help: "print only the first n rows" },
    json: { help: "print one JSON object per line" }
  },
  examples: ["caravan rows helpfulness-pairs --head 3", "caravan rows latest~1:demonstrations --json > demonstrations.jsonl"],
  run: async (given) => {
    const text = given.positionals[0]!
    const found = await artifactPath(text)
    const path = statSync(found).isDirectory() ? join(found, fileName) : found
    if (!existsSync(path))
      throw new UsageError(
        `Reading the rows of ${text}: expected a dataset, a folder with the file ${fileName}, found ${found} without it. Name a node whose output is a dataset (caravan show lists the nodes of a run).`
      )
    await Effect.runPromise(run(path, given))
    return exitCodes.ok
  }
}
