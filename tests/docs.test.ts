/** The stages' pages: every stage is on one, and everything that a page names exists. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { AnyStage } from "../runtime/define/stage.ts"
import { hyperInfo } from "../schemas/hyper.ts"

const root = new URL("../", import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), "utf8")
const folder = "docs/stages/"
const pages = readdirSync(new URL(folder, root)).filter((name) => name.endsWith(".md"))

const isStage = (value: unknown): value is AnyStage => typeof value === "function" && "stage" in value
/** By export name. */
const stages = new Map<string, { readonly file: string; readonly stage: AnyStage["stage"] }>()
for (const name of readdirSync(new URL("stages/", root), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))) {
  const exported: Record<string, unknown> = await import(new URL(`stages/${name}`, root).href)
  for (const [key, value] of Object.entries(exported)) if (isStage(value)) stages.set(key, { file: `stages/${name}`, stage: value.stage })
}

interface Page {
  readonly name: string
  readonly text: string
  /** Cells of every row of a table. */
  readonly rows: ReadonlyArray<ReadonlyArray<string>>
}
const pageOf = (name: string, text: string): Page => ({
  name,
  text,
  rows: text
    .split("\n")
    .filter((line) => line.startsWith("| ") && !line.startsWith("|---"))
    .map((line) =>
      line
        .slice(1, -1)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim().replaceAll("\\|", "|"))
    )
})
const codes = (text: string): Array<string> => [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!)

/** Names on a page that do not exist: files and links; exports and tests that follow the name of their file; defaults. */
const missing = (page: Page): Array<string> => {
  const out: Array<string> = []
  const links = [...page.text.matchAll(/\]\(([^)#:]+)\)/g)].map(([, path]) => folder + path!)
  // A path in the prose may be without quotes.
  const paths = [...page.text.matchAll(/(?<![\w/.*])((?:stages|tests|models|engine|data|pipelines|docs|runtime)\/[\w./-]+\w)/g)].map(
    ([, path]) => path!
  )
  for (const path of [...links, ...paths])
    if (
      !existsSync(new URL(path, root)) &&
      !readdirSync(new URL("docs/decisions/", root)).some((name) => `docs/decisions/${name}`.startsWith(path))
    )
      out.push(path)
  for (const cell of page.rows.flat()) {
    // `file.ts` `name`, `other`   and   `file.test.ts` "title", "other"
    for (const [, file, names] of cell.matchAll(/`([\w./-]+\.ts)`((?:,? `\w+`)+)/g))
      for (const name of codes(names!))
        if (
          existsSync(new URL(file!, root)) &&
          !new RegExp(`^export (const|class|function\\*?|type|interface) ${name}\\b`, "m").test(read(file!))
        )
          out.push(`${file} ${name}`)
    for (const [, file, titles] of cell.matchAll(/`([\w./-]+\.test\.ts)`((?:,? (?:"(?:[^"`]|`\w+`)+"))+)/g))
      for (const [, title] of titles!.matchAll(/"([^"]+)"/g))
        if (existsSync(new URL(file!, root)) && !read(file!).includes(title!)) out.push(`${file} "${title}"`)
  }
  for (const [, name, field, value] of page.text.matchAll(/`(\w+)\.(\w+)` = `([^`]*)`/g)) {
    const found = stages.get(name!)?.stage.config.fields as Readonly<Record<string, object>> | undefined
    const info = found?.[field!] === undefined ? undefined : hyperInfo(found[field!]!)
    if (info === undefined || String(info.default) !== value) out.push(`${name}.${field} = ${value}, but ${String(info?.default)}`)
  }
  return out
}
/** Rows that describe a stage: its export, its file, and each of its inputs. */
const describes = ({ rows }: Page, name: string): boolean => {
  const { file, stage } = stages.get(name)!
  return rows.some(([first = "", where = "", inputs = ""]) => {
    const named = codes(inputs)
    return first === `\`${name}\`` && where === `\`${file}\`` && Object.keys(stage.inputs).every((input) => named.includes(input))
  })
}

describe("the stages' pages", () => {
  const all = pages.map((name) => pageOf(name, read(folder + name)))
  it.each([...stages.keys()])("have %s, with its file and inputs", (name) => {
    expect(all.filter((page) => describes(page, name)).map((page) => page.name)).toHaveLength(1)
  })
  it.each(all)("$name only names things that exist", (page) => {
    expect(missing(page)).toEqual([])
  })
  it("are all in the index, which has the 23 details, each with a test", () => {
    const index = all.find(({ name }) => name === "README.md")!
    expect(pages.filter((name) => name !== "README.md" && !index.text.includes(`](${name})`))).toEqual([])
    const details = index.rows.filter(([first]) => /^\d/.test(first!))
    expect(details.flatMap(([first]) => first!.split(", ").map(Number))).toEqual(Array.from({ length: 23 }, (_, i) => i + 1))
    for (const [, , test] of details) expect(test).toMatch(/^`tests\/[\w./-]+\.test\.ts` "/)
  })
  it("give every detail the code and the test", () => {
    for (const page of all) {
      if (page.name === "README.md") continue
      const details = page.rows.filter(
        (row) => row.length === 4 && !stages.has(codes(row[0]!)[0] ?? "") && row[3] !== "test" && row[3] !== "output"
      )
      expect([page.name, details.length > 5]).toEqual([page.name, true])
      for (const [, , code, test] of details) {
        expect(code).toMatch(/^`[\w/-]+\.ts`/)
        expect(test).toMatch(/^`tests\/[\w./-]+\.test\.ts` "/)
      }
    }
  })
})

describe("a page", () => {
  it("that names something that does not exist is detected", () => {
    // Split into parts: otherwise the title would be in this file.
    const absent = ["no test", "is called so"].join(" ")
    const text = [
      "Prose about stages/nowhere.ts and docs/decisions/0099, [a link](nowhere.md), `ppo.clip` = `0.3`, `ppo.nothing` = `1`, `ppo.gamma` = `1`.",
      `| x | – | \`stages/ppo/ppo.ts\` \`ppo\`, \`nothing\` | \`tests/docs.test.ts\` "that names what is not there is found out", "${absent}" |`
    ].join("\n")
    expect(missing(pageOf("x.md", text))).toEqual([
      "docs/stages/nowhere.md",
      "stages/nowhere.ts",
      "docs/decisions/0099",
      "stages/ppo/ppo.ts nothing",
      `tests/docs.test.ts "${absent}"`,
      "ppo.clip = 0.3, but 0.2",
      "ppo.nothing = 1, but undefined"
    ])
  })
  it("describes a stage only with all of its inputs", () => {
    const row = (inputs: string) => pageOf("x.md", `| \`score\` | \`stages/reward/score.ts\` | ${inputs} | scored |`)
    expect(describes(row("`completions`, `reward`"), "score")).toBe(true)
    expect(describes(row("`completions`"), "score")).toBe(false)
  })
})

describe("the package", () => {
  it("exports every stage but those of the small world", async () => {
    const exported: Record<string, unknown> = await import(new URL("index.ts", root).href)
    const world = /^stages\/(world\/(annotate|data|facts|ghost-attention|preference-statistics|ratings|summary|sums))\.ts$/
    expect([...stages].filter(([name, { file }]) => !world.test(file) && !(name in exported)).map(([name]) => name)).toEqual([])
  })
})
