/** The generated reference: as the code is, and complete. */
import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { commands } from "../cli/main.ts"
import { describeConfig } from "../schemas/hyper.ts"
import { reference, stale } from "../scripts/reference.ts"
import { code, text } from "../scripts/reference/markdown.ts"
import { loadStages, placesIn } from "../scripts/reference/stages.ts"

const root = new URL("../", import.meta.url)
const pages = await reference()

describe("docs/reference", () => {
  it("is what `node scripts/reference.ts` makes", () => expect(stale(pages)).toEqual([]))
  it("is found stale when a page has changed, or is one that the code has no more", () => {
    const other = new Map(pages)
    other.set("docs/reference/commands.md", "# Commands\n")
    other.delete("docs/reference/stages/ppo.md")
    expect(stale(other)).toEqual(["docs/reference/commands.md", "docs/reference/stages/ppo.md"])
  })
  it("has every stage with each of its fields", async () => {
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
  it("has every command with each of its flags", async () => {
    const page = pages.get("docs/reference/commands.md")!
    for (const [name, { load }] of Object.entries(commands)) {
      const section = page.split(`\n## ${name}\n`)[1]?.split("\n## ")[0] ?? ""
      const { flags } = (await load()).command
      expect([name, Object.keys(flags).filter((flag) => !section.includes(`| \`--${flag}`))]).toEqual([name, []])
    }
  })
})

describe("a decision", () => {
  it("is in the index", () => {
    const index = readFileSync(new URL("docs/decisions/README.md", root), "utf8")
    const names = readdirSync(new URL("docs/decisions/", root)).filter((name) => name !== "README.md")
    expect(names.filter((name) => !index.includes(`](${name})`))).toEqual([])
  })
})

describe("text of the reference", () => {
  it("shows as it is", () => {
    expect(text("a * b < c & `x<y>` [d](e) f_g")).toBe("a \\* b \\< c &amp; `x<y>` \\[d\\](e) f\\_g")
    expect([code("a|b"), code("`a`")]).toEqual(["`a|b`", "`` `a` ``"])
  })
  it("names the places of the paper that it cites, each once", () => {
    expect(placesIn("§3.2.3, table 29: A.3.1 (§3.2.3); InstructGPT C.4, figure 7")).toBe("§3.2.3, table 29, A.3.1, figure 7")
  })
})
