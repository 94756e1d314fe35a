/** The generated reference is up to date and complete. */
import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { commands } from "../cli/main.ts"
import { describeConfig } from "../schemas/hyper.ts"
import { reference, stale } from "../scripts/reference.ts"
import { code, text } from "../scripts/reference/markdown.ts"
import { errorSources } from "../scripts/reference/error-sources.ts"
import { reasons } from "../scripts/reference/reasons.ts"
import { sourceOf } from "../scripts/reference/source.ts"
import { loadStages, placesIn } from "../scripts/reference/stages.ts"

const root = new URL("../", import.meta.url)
const pages = await reference()

describe("docs/reference", () => {
  it("equals the output of `node scripts/reference.ts`", () => expect(stale(pages)).toEqual([]))
  it("is reported as out of date if a page differs or has no counterpart in the code", () => {
    const other = new Map(pages)
    other.set("docs/reference/commands.md", "# Commands\n")
    other.delete("docs/reference/stages/ppo.md")
    expect(stale(other)).toEqual(["docs/reference/commands.md", "docs/reference/stages/ppo.md"])
  })
  it("lists every stage with all its fields", async () => {
    const stages = await loadStages()
    expect(stages.length).toBeGreaterThan(100)
    const all = [...pages.values()].join("\n")
    for (const { stage } of stages) {
      const section = all.split(`\n## \`${stage.name}\`\n`)[1]?.split("\n## ")[0]
      const missing = describeConfig(stage.config).filter(({ name, neutral }) => {
        const row = section?.split("\n").find((line) => line.startsWith(`| \`${name}\` |`))
        return row === undefined || (neutral !== undefined && !row.includes("Not in the cache key"))
      })
      expect([stage.name, missing.map(({ name }) => name)]).toEqual([stage.name, []])
    }
  })
  it("lists every command with all its flags", async () => {
    const page = pages.get("docs/reference/commands.md")!
    for (const [name, { load }] of Object.entries(commands)) {
      const section = page.split(`\n## ${name}\n`)[1]?.split("\n## ")[0] ?? ""
      const { flags } = (await load()).command
      expect([name, Object.keys(flags).filter((flag) => !section.includes(`| \`--${flag}`))]).toEqual([name, []])
    }
  })
})

describe("the reference of errors", () => {
  const page = pages.get("docs/reference/errors.md")!
  const filesIn = (layer: string) =>
    readdirSync(new URL(`${layer}/`, root), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(new URL(`${layer}/${name}`, root), "utf8"))
  const sources = ["cli", "data", "engine", "models", "runtime", "schemas", "stages"].flatMap(filesIn)
  it("lists every tagged error class", () => {
    const tags = sources.flatMap((source) =>
      [...source.matchAll(/(?:TaggedError|ExplainedError)<\w+>\(\)\(\s*"(\w+)"/g)].map(([, tag]) => tag!)
    )
    expect(tags.length).toBeGreaterThan(30)
    expect(tags.filter((tag) => !page.includes(`\n### ${tag}\n`))).toEqual([])
  })
  it("lists every reason for a failed node, and none that the code does not use", () => {
    const given = filesIn("runtime").flatMap((source) =>
      [...source.matchAll(/\breason: "([A-Z]\w+)"|\bfail(?:ed|ure)?\(\s*"([A-Z]\w+)"|\? "(Failure)" : "Defect"/g)].map(
        ([, a, b, c]) => a ?? b ?? c!
      )
    )
    expect([...new Set(given)].sort()).toEqual(Object.keys(reasons).sort())
  })
  it("shows the messages as in the code, with names in place of values", () => {
    const text = `
      /** The seal is
       * broken. */
      export class SealError extends ExplainedError<SealError>()("SealError") {}
      class QuietError extends Schema.TaggedError<QuietError>()("QuietError", { message: Schema.String }) {
        readonly isRetryable = false
      }
      SealError.of({ doing: \`Opening \${file.path}\`, expected: "a seal", found: seals.length + 1, hint: hintFor(file) + " Stop." })
      new QuietError({ message: \`\${i + 1} of \${JSON.stringify(name)} is \${a ? b : c}\` })
      new QuietError({ message: other.message })
      new StageErrorOfOthers({ message: "not ours" })`
    expect(errorSources([sourceOf("a.ts", text)])).toEqual({
      classes: [
        { name: "SealError", file: "a.ts", meaning: "The seal is broken.", retried: "says so" },
        { name: "QuietError", file: "a.ts", meaning: "", retried: "no" }
      ],
      messages: [
        { name: "SealError", reason: undefined, message: "Opening <path>: expected a seal, found <n>. <…> Stop." },
        { name: "QuietError", reason: undefined, message: '<i> of "<name>" is <…>' }
      ]
    })
  })
})

describe("the reference of artifacts", () => {
  it("lists the columns of a dataset with Arrow's types, and the fields of a report, nested ones included", () => {
    const page = pages.get("docs/reference/artifacts.md")!
    const sectionOf = (name: string) => page.split(`\n## \`${name}\`\n`)[1]!.split("\n## ")[0]!
    for (const row of [
      "| `id` | `utf8` |",
      "| `rating` | `int32?` | How much better `chosen` is: 0 ",
      "| `prompt` | `list<{role:utf8,content:utf8}>` |"
    ])
      expect(sectionOf("dataset:preference/1")).toContain(row)
    for (const row of ["| `iterations` | list of PpoIteration |", "| `iterations[].kl` | number |"])
      expect(sectionOf("report:ppo-diagnostics/1")).toContain(row)
  })
})

describe("a decision", () => {
  it("is listed in the index", () => {
    const index = readFileSync(new URL("docs/decisions/README.md", root), "utf8")
    const names = readdirSync(new URL("docs/decisions/", root)).filter((name) => name !== "README.md")
    expect(names.filter((name) => !index.includes(`](${name})`))).toEqual([])
  })
})

describe("text of the reference", () => {
  it("is escaped for Markdown", () => {
    expect(text("a * b < c & `x<y>` [d](e) f_g")).toBe("a \\* b \\< c &amp; `x<y>` \\[d\\](e) f\\_g")
    expect([code("a|b"), code("`a`")]).toEqual(["`a|b`", "`` `a` ``"])
  })
  it("lists the places of the paper that it cites, each once", () => {
    expect(placesIn("§3.2.3, table 29: A.3.1 (§3.2.3); InstructGPT C.4, figure 7")).toBe("§3.2.3, table 29, A.3.1, figure 7")
  })
})
