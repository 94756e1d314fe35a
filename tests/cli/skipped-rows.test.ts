/** Messages about rows that can't be used: 101 pairs of which 90 contain "[INST]". */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import { caravan, removeFolder, workFolder } from "./caravan.ts"

let folder: string
beforeAll(() => {
  folder = workFolder()
  const transcript = (i: number, answer: string) => `\n\nHuman: ${i < 90 ? "What is [INST]?" : "Hello?"} ${i}\n\nAssistant: ${answer}`
  const pair = (i: number) => JSON.stringify({ chosen: transcript(i, "Yes."), rejected: transcript(i, "No.") })
  writeFileSync(join(folder, "pairs.jsonl"), Array.from({ length: 101 }, (_, i) => `${pair(i)}\n`).join(""))
})
afterAll(() => removeFolder(folder))

const run = (...more: ReadonlyArray<string>) =>
  caravan(folder, "run", "../../../pipelines/rlhf.ts", "--set", "preferences=pairs.jsonl", "--only", "pairs", ...more)
const counted = "skipped 90 of 101 rows (89.1%): 90 with a tag of the chat format in the text"
const listed = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { readonly line: number; readonly row: { readonly chosen: string } })

it("stop the run, which says how many, why and where they are; show and log report it again", { timeout: 120_000 }, () => {
  const { status, stdout, stderr } = run()
  expect(status).toBe(1)
  for (const text of [stdout, stderr, caravan(folder, "show", "latest").stdout, caravan(folder, "log", "pairs").stdout]) {
    expect(text).toContain(`Stage import-preferences ${counted}. The first: line 1 of `)
    expect(text).toContain("At most 20% may be skipped.")
    const rows = listed(
      /skipped are in (\S+\.jsonl)\. Fix the data, or raise the limit \(a fraction, 0 to 1\) with --max-skipped/.exec(text)![1]!
    )
    expect([rows.length, rows[89]!.line, rows[89]!.row.chosen]).toEqual([90, 90, "\n\nHuman: What is [INST]? 89\n\nAssistant: Yes."])
  }
})

it("give one warning when the stage runs; none for the cached result, which show lists, nor with --quiet", { timeout: 120_000 }, () => {
  const warnings = (text: string) => [...text.matchAll(/pairs: WARNING: skipped 90 of .* They are listed in (\S+)\n/g)]
  const first = run("--max-skipped", "1")
  expect(first.status).toBe(0)
  const [warning, ...others] = warnings(first.stderr)
  expect(others).toEqual([])
  expect(first.stdout).toMatch(/^Skipped rows: pairs \(90 of 101 rows\)\. caravan show [0-9a-f]{8} lists why\.$/m)
  const file = warning![1]!
  expect(listed(file)).toHaveLength(90)
  for (const more of [[], ["--quiet"]]) {
    const { status, stdout, stderr } = run(...more)
    expect([status, warnings(stderr)]).toEqual([0, []])
    expect(stdout).not.toContain("Skipped rows")
  }
  const quiet = run("--max-skipped", "1", "--force", "pairs", "--quiet")
  expect([quiet.status, quiet.stderr]).toEqual([0, ""])
  expect(caravan(folder, "show", "latest").stdout).toContain(`WARNING: ${counted}`)
  const { nodes } = JSON.parse(run("--json").stdout) as { readonly nodes: ReadonlyArray<{ readonly id: string }> }
  const told = { status: "hit", skipped: [{ of: 101, skipped: 90 }], skippedRows: file }
  expect(nodes.find(({ id }) => id === "pairs")).toMatchObject(told)
})

it("are kept if tags are escaped", { timeout: 120_000 }, () => {
  const { status, stdout } = run("--set", "pairs.chatTags=escape")
  expect(status).toBe(0)
  expect(stdout).not.toContain("Skipped rows")
})

it("of many nodes are reported at the end, for those that left out most, with the number of others", { timeout: 120_000 }, () => {
  const rows = (bad: number) =>
    Array.from({ length: 20 }, (_, i) => (i < bad ? "x\n" : '{"prompt":"q","chosen":"a","rejected":"b"}\n')).join("")
  writeFileSync(join(folder, "one.jsonl"), rows(1))
  writeFileSync(join(folder, "three.jsonl"), rows(3))
  writeFileSync(
    join(folder, "many.ts"),
    `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"

export default Pipeline.make("many", { params: Schema.Struct({}) }, () =>
  Object.fromEntries(
    Array.from({ length: 14 }, (_, i) => {
      const file = fileAt(i === 13 ? "three.jsonl" : "one.jsonl")
      return ["n" + i, importPreferences({ file }, { shape: "prompt-chosen-rejected", source: "s" + i }).named("n" + i)]
    })
  )
)
`
  )
  const { status, stdout, stderr } = caravan(folder, "run", "many.ts")
  expect(status).toBe(0)
  expect(stdout).toMatch(
    /^Skipped rows: n13 \(3 of 20 rows\), (n\d+ \(1 of 20 rows\), ){10}n\d+ \(1 of 20 rows\) and 2 more nodes\. caravan show /m
  )
  expect(stderr.match(/WARNING: skipped 1 of 20 rows \(5%\): 1 not JSON/g)).toHaveLength(13)
  expect(stderr.match(/n13: WARNING: skipped 3 of 20 rows \(15%\): 3 not JSON\. They are listed in /g)).toHaveLength(1)
  expect(caravan(folder, "run", "many.ts").stderr).not.toContain("WARNING")
})

it("that are missing from a later stage: its error names the node that removed them, and why", { timeout: 120_000 }, () => {
  writeFileSync(join(folder, "silent.jsonl"), `{"prompt":" ","chosen":"a","rejected":"b"}\n`.repeat(7))
  writeFileSync(
    join(folder, "empty.ts"),
    `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { cleanPreferences } from "../../../stages/data/clean.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { splitPreferences } from "../../../stages/data/split.ts"

export default Pipeline.make("empty", { params: Schema.Struct({}) }, () => {
  const rows = importPreferences({ file: fileAt("silent.jsonl") }, { shape: "prompt-chosen-rejected" })
  return { train: splitPreferences({ rows: cleanPreferences({ rows, others: [], evaluation: [] }).named("clean") }) }
})
`
  )
  const { status, stderr } = caravan(folder, "run", "empty.ts", "--quiet")
  expect(status).toBe(1)
  expect(stderr).toMatch(
    /FAILED .* Nothing to split: got an empty dataset\. .* "clean" made 0 rows from 7 \(empty 7\)\. If a model wrote the answers, /
  )
})
