/** The artifacts page: every type that a stage reads or writes, with the columns of datasets and the fields of reports. */
import type { ArtifactType, DatasetType } from "../../schemas/artifact.ts"
import { columnsOf, describeKind } from "../../schemas/arrow.ts"
import { portOf } from "../../runtime/define/stage-info.ts"
import { artifactSources, type SchemaText } from "./artifact-sources.ts"
import { code, generated, link, page, table, text } from "./markdown.ts"
import { placeOfStage, type StageExport } from "./stages.ts"

export const path = "docs/reference/artifacts.md"

interface Entry {
  readonly type: ArtifactType<any>
  readonly makers: Array<StageExport>
  readonly users: Array<StageExport>
}

/** Type name -> the stages that make it and that use it. */
const entriesOf = (stages: ReadonlyArray<StageExport>): ReadonlyMap<string, Entry> => {
  const entries = new Map<string, Entry>()
  const of = (type: ArtifactType<any>) =>
    type.name
      .split("|")
      .filter((name) => name !== "file")
      .map((name) => {
        const entry = entries.get(name) ?? { type, makers: [], users: [] }
        entries.set(name, entry)
        return entry
      })
  for (const each of stages) {
    for (const { makers } of of(each.stage.output)) makers.push(each)
    for (const port of Object.values(each.stage.inputs))
      for (const { users } of of(portOf(port).type)) if (!users.includes(each)) users.push(each)
  }
  return entries
}

const names = (list: ReadonlyArray<StageExport>): string =>
  list.map((each) => link(path, placeOfStage(each), code(each.stage.name))).join(", ")

/** Columns with their Arrow types; the fields of a report with theirs. */
const fieldTable = (type: ArtifactType<any>, source: SchemaText | undefined): string => {
  const { row } = type as Partial<DatasetType<unknown>>
  const meaningOf = (name: string) => text(source?.fields.find((field) => field.name === name)?.meaning ?? "")
  if (row !== undefined) {
    const columns = columnsOf(row).fields.map(({ kind, name }) => [code(name), code(describeKind(kind)), meaningOf(name)])
    return table(["column", "Arrow type", "meaning"], columns)
  }
  return source === undefined || source.fields.length === 0
    ? ""
    : table(
        ["field", "type", "meaning"],
        source.fields.map(({ name, type: words }) => [code(name), text(words), meaningOf(name)])
      )
}

const section = (name: string, { makers, type, users }: Entry, source: SchemaText | undefined): string =>
  page(
    `## ${code(name)}`,
    source !== undefined && `${source.meaning === "" ? "" : `${text(source.meaning)} `}Source: ${link(path, source.file)}.`,
    fieldTable(type, source),
    [makers.length === 0 ? "" : `Made by ${names(makers)}.`, users.length === 0 ? "" : `Used by ${names(users)}.`]
      .filter((line) => line !== "")
      .join(" ")
  ).trimEnd()

export const artifactsPage = (stages: ReadonlyArray<StageExport>): string => {
  const sources = artifactSources()
  const entries = [...entriesOf(stages)].sort(([a], [b]) => (a < b ? -1 : 1))
  const bare = entries.filter(([name]) => /^(dataset|report):/.test(name) && !sources.has(name)).map(([name]) => name)
  if (bare.length > 0)
    throw new Error(
      `The reference of artifacts: expected the schema of ${bare.join(", ")} as \`const x = dataset(Struct, "name/1")\` or report(...), found none. Declare it so, or teach scripts/reference/artifact-sources.ts.`
    )
  return page(
    "# Artifacts",
    generated,
    "Stages exchange artifacts: immutable folders in the store. The name of a type ends with its version.",
    table(
      ["kind", "files"],
      [
        [
          "`dataset`",
          "`data.arrow`: an Arrow IPC file with the columns below. A type that ends with `?` may be null. `caravan rows` prints the rows, `caravan export` writes Parquet, JSONL or Arrow"
        ],
        [
          "`checkpoint`",
          "a model in the Hugging Face layout: `config.json`, `model.safetensors` (or shards with an index), the tokenizer's files, and `caravan.json`, which has its role"
        ],
        ["`tokenizer`", "`tokenizer.model` or `tokenizer.json`"],
        ["`report`", "`report.json`: one JSON object with the fields below"]
      ]
    ),
    ...entries.map(([name, entry]) => section(name, entry, sources.get(name)))
  )
}
