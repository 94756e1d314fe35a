/** The reference of artifacts: every type that a stage takes or gives, with the columns of datasets and the fields of reports. */
import { type ArtifactType, type DatasetType } from "../../schemas/artifact.ts"
import { columnsOf, describeKind, type Kind } from "../../schemas/arrow.ts"
import { portOf } from "../../runtime/define/stage-info.ts"
import { code, generated, link, page, table } from "./markdown.ts"
import { placeOfStage, type StageExport } from "./stages.ts"

export const path = "docs/reference/artifacts.md"

const columnRows = (kind: Kind): ReadonlyArray<ReadonlyArray<string>> =>
  kind.tag === "struct" ? kind.fields.map((field) => [code(field.name), code(describeKind(field.kind))]) : []

export const artifactsPage = (stages: ReadonlyArray<StageExport>): string => {
  const types = new Map<
    string,
    { readonly type: ArtifactType<any>; readonly makers: Array<StageExport>; readonly users: Array<StageExport> }
  >()
  const entriesOf = (type: ArtifactType<any>) =>
    type.name
      .split("|")
      .filter((name) => name !== "file")
      .map((name) => {
        if (!types.has(name)) types.set(name, { type, makers: [], users: [] })
        return types.get(name)!
      })
  for (const each of stages) {
    for (const { makers } of entriesOf(each.stage.output)) makers.push(each)
    for (const port of Object.values(each.stage.inputs))
      for (const { users } of entriesOf(portOf(port).type)) if (!users.includes(each)) users.push(each)
  }
  const names = (list: ReadonlyArray<StageExport>) => list.map((each) => link(path, placeOfStage(each), code(each.stage.name))).join(", ")
  const section = (name: string): string => {
    const { makers, type, users } = types.get(name)!
    const { row } = type as Partial<DatasetType<unknown>>
    return page(
      `## ${code(name)}`,
      row !== undefined && table(["column", "type"], columnRows(columnsOf(row))),
      [makers.length === 0 ? "" : `Made by ${names(makers)}.`, users.length === 0 ? "" : `Used by ${names(users)}.`]
        .filter((line) => line !== "")
        .join(" ")
    ).trimEnd()
  }
  return page("# Artifacts", generated, "What stages exchange.", ...[...types.keys()].sort().map(section))
}
