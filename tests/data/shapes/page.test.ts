/** docs/shapes.md: each shape has a section with rows as published, which are detected without a hint, and a command that reads them. */
import { readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { readRecords } from "../../../data/records.ts"
import { lookAtPath } from "../../../data/shapes/shaped.ts"
import { kindsOf, shapeOf, shapes } from "../../../data/shapes/shapes.ts"
import rlhf from "../../../pipelines/rlhf.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { type Section, sections } from "./shapes-page.ts"

const files = new URL("files/", import.meta.url).pathname
const folder = workFolder()
afterAll(() => removeFolder(folder))

const valuesOf = async (path: string): Promise<Array<unknown>> => {
  const values: Array<unknown> = []
  for await (const { value } of readRecords(path)) values.push(value)
  return values
}
/** Rows of the small files, which have the published formats. */
const published = (await Promise.all(readdirSync(files).map((name) => valuesOf(join(files, name))))).flat()

const named = (name: string): Section => {
  const found = sections.find(({ heading }) => heading === name)
  if (found === undefined) throw new Error(`docs/shapes.md has no section ${name}`)
  return found
}
const endings: Readonly<Record<string, string>> = { json: "jsonl", csv: "csv", txt: "txt" }

describe.each(shapes.map((shape) => [shape.name, shape] as const))("the section of %s", (name, shape) => {
  it("shows rows as published, which are detected as that shape", async () => {
    const examples = named(name).blocks.filter(({ language }) => language in endings)
    expect(examples.length).toBeGreaterThan(0)
    for (const [i, { language, text }] of examples.entries()) {
      const path = join(folder, `${name}-${i}.${endings[language]!}`)
      writeFileSync(path, text)
      expect([text, shapeOf(await lookAtPath(path, { documents: "line", map: {} }))?.name]).toEqual([text, name])
      for (const value of await valuesOf(path)) expect(published).toContainEqual(value)
    }
  })

  it("has a command with the pipeline's parameters", () => {
    const commands = named(name).blocks.filter(({ language }) => language === "")
    expect(commands.length).toBe(kindsOf(shape).length === 0 ? 0 : 1)
    for (const { text } of commands) {
      expect(text).toMatch(/^npx caravan (data inspect|run) /)
      if (!text.includes("pipelines/rlhf.ts")) continue
      const given = [...text.matchAll(/--set "?(\w+)=/g)].map(([, parameter]) => parameter!)
      expect(given.filter((parameter) => !(parameter in rlhf.params.fields))).toEqual([])
      const takes = { preferences: "preferences", demonstrations: "demonstrations", prompts: "prompts", texts: "" }
      expect(
        kindsOf(shape)
          .map((kind) => takes[kind])
          .some((parameter) => given.includes(parameter))
      ).toBe(true)
    }
  })
})

it("has a mapping if needed, and the mapped row is detected as the resulting shape", async () => {
  const { blocks } = named("Other columns: `map`")
  const path = join(folder, "mine.jsonl")
  writeFileSync(path, blocks.find(({ language }) => language === "json")!.text)
  const given = [...blocks.find(({ language }) => language === "")!.text.matchAll(/--map (\w+)=(\S+)/g)].map(([, ours, theirs]) => [
    ours,
    theirs
  ])
  const map = Object.fromEntries(given) as Record<string, string>
  expect(shapeOf(await lookAtPath(path, { documents: "line", map }))?.name).toBe("prompt-chosen-rejected")
  expect(blocks.find(({ language }) => language === "ts")!.text).toContain(
    `map: { ${given.map(([ours, theirs]) => `${ours}: "${theirs}"`).join(", ")} }`
  )
})
