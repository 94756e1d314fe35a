/** docs/paper.md: every section, figure and table of the paper has a row, and everything that a row names exists. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { AnyStage } from "../runtime/define/stage.ts"
import { catalogue } from "../stages/report/catalogue.ts"

const root = new URL("../", import.meta.url)
const text = readFileSync(new URL("docs/paper.md", root), "utf8")
const sources = (folder: string) =>
  readdirSync(new URL(folder, root), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => `${folder}${name}`)

const exported = new Set<string>()
for (const file of sources("stages/")) {
  const found: Record<string, unknown> = await import(new URL(file, root).href)
  for (const [name, value] of Object.entries(found))
    if (typeof value === "function" && "stage" in value && (value as unknown as AnyStage).stage !== undefined) exported.add(name)
}

const rowsOf = (of: string): ReadonlyArray<ReadonlyArray<string>> =>
  of
    .split("\n")
    .filter((line) => line.startsWith("| "))
    .slice(1)
    .map((line) =>
      line
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim())
    )
const part = (title: string): ReadonlyArray<ReadonlyArray<string>> => rowsOf(text.split(`## ${title}\n`)[1]!.split("\n## ")[0]!)
/** "3 to 5" -> 3, 4, 5. */
const numbers = (cell: string): Array<number> => {
  const [from, to = from] = cell.split(" to ").map(Number) as [number, number?]
  return Array.from({ length: to - from + 1 }, (_, i) => from + i)
}
/** Names of figures and tables: after "report:", one or several, up to the end of the cell or a semicolon. */
const shownIn = (cells: ReadonlyArray<string>): Array<string> =>
  cells.flatMap((cell) => [...cell.matchAll(/report: ([^;]*)/g)].flatMap(([, list]) => list!.trim().split(", ")))
const missing = (rows: ReadonlyArray<ReadonlyArray<string>>): Array<string> => [
  ...new Set([
    ...shownIn(rows.flat()).filter((name) => !Object.hasOwn(catalogue, name)),
    ...rows
      .flat()
      .flatMap((cell) =>
        [...cell.matchAll(/`([^`]+)`/g)]
          .map(([, code]) => code!)
          .filter((code) =>
            code.includes("/") && !code.startsWith("caravan ")
              ? !existsSync(new URL(code, root))
              : /^[a-z]\w*$/.test(code) && !exported.has(code)
          )
      ),
    ...rows
      .flat()
      .flatMap((cell) =>
        [...cell.matchAll(/(?<![\w/])((?:pipelines|stages|models|tests)\/[\w./-]+\.ts)/g)]
          .map(([, path]) => path!)
          .filter((path) => !existsSync(new URL(path, root)))
      )
  ])
]

describe("docs/paper.md", () => {
  it("has a row for each of the paper's 33 figures and 52 tables", () => {
    expect(part("Figures").flatMap(([number]) => numbers(number!))).toEqual(Array.from({ length: 33 }, (_, i) => i + 1))
    expect(part("Tables").flatMap(([number]) => numbers(number!))).toEqual(Array.from({ length: 52 }, (_, i) => i + 1))
  })
  it("only names stages, files and figures of the report that exist", () => {
    expect(missing([...part("Sections"), ...part("Figures"), ...part("Tables")])).toEqual([])
  })
  it("names everything that the report shows", () => {
    const named = new Set(shownIn([...part("Sections"), ...part("Figures"), ...part("Tables")].flat()))
    expect(Object.keys(catalogue).filter((name) => !named.has(name))).toEqual([])
  })
  it("gives the paper's number for each figure of the report", () => {
    const rows = [...part("Figures").map((row) => ["figure", ...row]), ...part("Tables").map((row) => ["table", ...row])]
    for (const [name, paper] of Object.entries(catalogue)) {
      if (paper === null || paper.startsWith("§")) continue
      const of = rows
        .filter((row) => shownIn(row).includes(name))
        .flatMap(([kind, number]) => numbers(number!).map((one) => `${kind} ${one}`))
      const [, kind, list] = /^(figure|table)s? (.*)$/.exec(paper)!
      for (const number of list!.split(" and ")) expect([name, of.includes(`${kind} ${number}`)]).toEqual([name, true])
    }
  })
  it("leaves no name of the catalogue without a figure or table that has it", () => {
    const code = [...sources("stages/report/"), ...sources("cli/")]
      .filter((file) => !file.endsWith("catalogue.ts"))
      .map((file) => readFileSync(new URL(file, root), "utf8"))
      .join("\n")
    expect(Object.keys(catalogue).filter((name) => !code.includes(`"${name}"`))).toEqual([])
  })
  it("detects a row that names something that does not exist", () => {
    const row = ["1", "what", "`noStage`, `sft`, `stages/none.ts`, pipelines/none.ts", "report: no-figure, versions"]
    expect(missing([row])).toEqual(["no-figure", "noStage", "stages/none.ts", "pipelines/none.ts"])
  })
})
