/** `caravan data inspect`: information about files before anything runs. */
import { readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { inspect, type Inspection } from "../../data/inspect.ts"
import { shapes } from "../../data/shapes/shapes.ts"
import type { Demonstration, Preference } from "../../schemas/rows.ts"
import { parsePrompt } from "../../stages/data/import-prompts.ts"
import { caravan, removeFolder, workFolder } from "./caravan.ts"

const samples = new URL("../data/shapes/files/", import.meta.url).pathname
let folder: string
beforeAll(() => {
  folder = workFolder()
})
afterAll(() => removeFolder(folder))
const put = (name: string, content: string | Uint8Array): string => {
  writeFileSync(join(folder, name), content)
  return name
}
const jsonOf = (...args: ReadonlyArray<string>): Inspection & { readonly status: number | null } => {
  const { status, stderr, stdout } = caravan(folder, "data", "inspect", ...args, "--json")
  if (stdout === "") throw new Error(stderr)
  return { ...(JSON.parse(stdout) as Inspection), status }
}
const pair = (prompt: string, chosen: string, rejected: string, more: object = {}) =>
  `${JSON.stringify({ prompt, chosen, rejected, ...more })}\n`

it("detects every shape without a hint, and what its rows can be imported as", async () => {
  const ids = new Set<string>()
  const check = {
    preferences: (row: Preference) => row,
    demonstrations: (row: Demonstration) => row,
    prompts: (value: unknown) => parsePrompt(value, false, ids),
    texts: (row: { readonly text: string }) => row
  }
  const known = new Map(shapes.map((shape) => [shape.name, shape]))
  for (const name of readdirSync(samples)) {
    const found = await inspect([join(samples, name)], { shape: "auto", map: {}, documents: "line", check, examples: 1, problems: 5 })
    const gives = found.gives.filter((kind) => known.get(found.shape ?? "")?.[kind] !== undefined)
    expect([name, found.shape === null, found.rows > 0, found.columns.length > 0, found.format !== null, gives]).toEqual([
      name,
      name === "question-answer.jsonl",
      true,
      true,
      true,
      found.gives
    ])
    expect(found.given?.rows !== 0).toBe(true)
  }
})

it("says so when no row of a file can be read", () => {
  const { status, stdout } = caravan(folder, "data", "inspect", put("model.bin", Buffer.from([0, 1, 2])))
  expect(status).toBe(1)
  expect(stdout).toContain("shape: unknown; no row could be read\nproblems: 2 (of 1 row)\n")
})

describe("one JSON document", () => {
  it("has format, shape, rows, columns, and statistics of the imported rows", () => {
    const lines = [
      pair("What is 1 + 1?", "2", "3", { rating: 0, chosenSafe: true, rejectedSafe: false }),
      pair("What is 1 + 1?", "2", "3", { rating: 0, chosenSafe: true, rejectedSafe: false }),
      pair("What is 1 + 1?", "two", "three", { rating: 3, chosenSafe: null, rejectedSafe: null }),
      pair("Hello", "Good day.", "Go.", { rating: 1, chosenSafe: true, rejectedSafe: true })
    ]
    const found = jsonOf(put("pairs.jsonl.gz", gzipSync(lines.join(""))))
    expect(found).toMatchObject({
      status: 0,
      format: "jsonl",
      shape: "prompt-chosen-rejected",
      gives: ["preferences", "prompts"],
      rows: 4,
      files: [{ file: "pairs.jsonl.gz", format: "jsonl", compression: "gzip", shape: "prompt-chosen-rejected", rows: 4 }],
      problems: [],
      given: {
        kind: "preferences",
        rows: 4,
        duplicates: 1,
        repeatedPrompts: 1,
        unit: "characters",
        turns: { mean: 1, median: 1, most: 1 },
        // Answers: 1, 1, 1, 1, 3, 5, 9, 3 characters.
        response: { mean: 3, most: 9 },
        prompt: { mean: (3 * 14 + 5) / 4, most: 14 },
        ratings: { "0": 2, "1": 1, "3": 1 },
        safety: { "safe, unsafe": 2, "unlabelled, unlabelled": 1, "safe, safe": 1 }
      }
    })
    expect(found.columns).toContainEqual({ name: "chosenSafe", type: "boolean", missing: 1 })
    expect(found.given!.examples).toHaveLength(2)
    expect(found.given!.examples[0]).toMatchObject({ id: "1", chosen: "2" })
  })

  it("has file, line, field and reason of every problem, and counts them by reason", () => {
    const bad = `${pair("q", "a", "b")}{\n${pair("q", "a", "a")}${pair("q", "[INST]", "b")}${JSON.stringify({ prompt: "q", chosen: 7, rejected: "b" })}\n`
    const found = jsonOf(put("bad.jsonl", bad))
    expect(found.status).toBe(0)
    expect(found.problems.map(({ field, file, line, reason }) => [file, line, field, reason.slice(0, 30)])).toEqual([
      ["bad.jsonl", 2, "(the line)", "not JSON: Expected property na"],
      ["bad.jsonl", 3, "rejected", "the same as chosen"],
      ["bad.jsonl", 4, "chosen", "the text contains the tag [INS"],
      ["bad.jsonl", 5, "chosen", "expected text or a list with a"]
    ])
    expect(found.problemCounts).toMatchObject({
      "not JSON": 1,
      "field rejected: the same as chosen": 1,
      "with a tag of the chat format in the text": 1
    })
    expect(found.given).toMatchObject({ rows: 1 })
  })

  it("fails if a file is damaged or a label is outside its set, and still reports the others", () => {
    put("whole.jsonl", pair("q", "a", "b"))
    put("cut.jsonl.gz", gzipSync(pair("q", "a", "b").repeat(9000)).subarray(0, 60))
    const found = jsonOf("whole.jsonl", "cut.jsonl.gz")
    expect(found).toMatchObject({ status: 1, rows: 1, problemCounts: { "invalid file": 1 } })
    expect(found.problems[0]).toMatchObject({ file: "cut.jsonl.gz", line: null })
    expect(found.problems[0]!.reason).toMatch(/found unexpected end of file/)
    const labelled = jsonOf(put("labels.jsonl", pair("q", "a", "b", { rating: 1 }) + pair("q", "a", "c", { rating: 9 })))
    expect(labelled).toMatchObject({
      status: 1,
      problems: [{ line: 2, field: "rating" }],
      problemCounts: { "a rating or label outside its set": 1 }
    })
  })

  it("reports files of several shapes, and columns that differ", () => {
    put("a.csv", "prompt,completion\nq,a\n")
    put("b.csv", "prompt,completion,extra\nq,b,c\n")
    put("c.csv", "instruction,output\nq,b\n")
    expect(jsonOf("a.csv", "c.csv")).toMatchObject({ status: 1, shape: null, files: [{ shape: "prompt-completion" }, { shape: "alpaca" }] })
    expect(jsonOf("b.csv", "a.csv").problems).toMatchObject([{ file: "a.csv", field: "extra", reason: "missing, in b.csv text" }])
  })

  it("with mapped columns has the resulting shape", () => {
    const path = join(samples, "question-answer.jsonl")
    expect(jsonOf(path).status).toBe(1)
    const map = ["prompt=question.full", "chosen=better", "rejected=worse"].flatMap((each) => ["--map", each])
    expect(jsonOf(path, ...map)).toMatchObject({ status: 0, shape: "prompt-chosen-rejected", given: { rows: 2 } })
    expect(caravan(folder, "data", "inspect", path, "--map", "promt=question").stderr).toMatch(
      /no shape has a column "promt"\. Did you mean "prompt"\?/
    )
  })
})

it("the page says how to import it, and shows the first rows", () => {
  const { status, stdout } = caravan(folder, "data", "inspect", join(samples, "pku-safe-rlhf.jsonl"), "--examples", "1")
  expect(status).toBe(0)
  expect(stdout).toContain("1 file, jsonl; 3 rows\nshape: pku-safe-rlhf (prompt, response_0,")
  expect(stdout).toContain("; importPreferences\n")
  expect(stdout).toContain("labels (chosen, rejected): safe, safe: 1; safe, unsafe: 1; unsafe, safe: 1\nproblems: none\nexample 1:\n")
})

it("the page counts the rows that cannot be used", () => {
  const { stdout } = caravan(folder, "data", "inspect", put("bad.jsonl", pair("q", "a", "b") + pair("q", "a", "") + pair("q", "", "b")))
  expect(stdout).toContain("\nproblems: 2 (of 3 rows)\n")
})

it("has help on its arguments", () => {
  expect(caravan(folder, "data", "inspct", "x").stderr).toMatch(/expected inspect, got "inspct"\. Did you mean "inspect"\?/)
  expect(caravan(folder, "data", "inspect").stderr).toMatch(/needs <files\.\.\.>/)
  expect(caravan(folder, "data", "inspect", "x", "--shape", "alpca").stderr).toMatch(/unknown shape\. Did you mean "alpaca"\?/)
  const { status, stderr } = caravan(folder, "data", "inspect", "nowhere-*.jsonl")
  expect([status, stderr]).toEqual([2, expect.stringMatching(/expected files that match, found none/)])
})

it("a pattern in a pipeline is planned, run and cached like any input", { timeout: 120_000 }, () => {
  put("part-1.jsonl", pair("q", "a", "b"))
  put("part-2.jsonl", pair("r", "a", "b"))
  put(
    "patterns.ts",
    `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
export default Pipeline.make("patterns", { description: "", params: Schema.Struct({}) }, () => ({ pairs: importPreferences({ file: fileAt("part-*.jsonl") }).named("pairs") }))
`
  )
  const plan = () => caravan(folder, "plan", "patterns.ts")
  expect(plan().stdout).toMatch(/run +pairs/)
  const run = caravan(folder, "run", "patterns.ts")
  expect(run.stderr).toContain("pairs: The rows have the shape prompt-chosen-rejected")
  expect([run.status, plan().stdout]).toEqual([0, expect.stringMatching(/1 in the store, 0 to run/)])
  put("part-3.jsonl", pair("s", "a", "b"))
  expect(plan().stdout).toMatch(/run +pairs/)
})
