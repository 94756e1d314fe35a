/** The outputs that `caravan run` prints at the end of a run. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { outputLines, shortened } from "../../../cli/display/outputs.ts"
import type { StoredOutput } from "../../../runtime/run/events.ts"

const folder = mkdtempSync(join(tmpdir(), "caravan-outputs-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const output = (name: string, kind: string, files: Readonly<Record<string, string>>) => {
  const path = join(folder, name)
  mkdirSync(path)
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text)
  return { kind, path, digest: "" } as unknown as StoredOutput
}
const json = (value: unknown) => `${JSON.stringify(value, undefined, 2)}\n`
const long = { rows: Array.from({ length: 100 }, (_, i) => ({ i, score: i / 3 })), mean: { value: 16.5000001 } }

describe("the end of a run", () => {
  const shown = outputLines({
    text: output("a", "report", { "report.json": json(long), "report.txt": "A table.\nIts \u001b[31mend.\n" }),
    page: output("b", "report", { "report.json": json({ page: "report.html" }), "report.html": "<p>" }),
    small: output("c", "report", { "report.json": json({ rows: 6 }) }),
    large: output("d", "report", { "report.json": json(long) }),
    model: output("e", "checkpoint", {})
  })
  it("has small reports in full, large ones shortened, those with their own text last, every path, and where to open a page", () => {
    expect(shown).toEqual([
      ...["small:", "{", '  "rows": 6', "}", ""],
      ...["large:", "{", '  "rows": [ 100 items ],', '  "mean": {"value":16.5}', "}"],
      ...[`(shortened; full report: ${join(folder, "d", "report.json")})`, ""],
      ...["text:", "A table.", "Its end.", ""],
      "Outputs:",
      ...["text ", "page ", "small", "large", "model"].map((name, i) => `  ${name}  ${join(folder, "abcde"[i]!)}`),
      `Open page in a browser: file://${join(folder, "b", "report.html")}`
    ])
  })
  it("prints a report's text only as text, and no line for pages", () => {
    const hostile = { text: output("f", "report", { "report.json": `{"a": "\u009b2J", "b": "${"x".repeat(3000)}"}\n` }) }
    const lines = outputLines(hostile)
    expect(lines.join("")).not.toContain("\u009b")
    expect(Math.max(...lines.slice(0, 2).map((line) => line.length))).toBeLessThanOrEqual(400)
  })
  it("of a run without outputs is empty", () => {
    expect(outputLines({})).toEqual([])
  })
})

describe("a shortened report", () => {
  const nested = { a: { b: { c: "x".repeat(200), d: 1 } } }
  it("is as deep as space allows", () => {
    expect(shortened(nested)).toEqual([
      ...["{", '  "a": {', '    "b": {', `      "c": "${"x".repeat(200)}",`, '      "d": 1', "    }", "  }", "}"]
    ])
    expect(shortened(nested, 5)).toEqual(["{", '  "a": {', '    "b": { 2 fields }', "  }", "}"])
  })
  it("shows the count of a list that is long or whose items do not fit on a line", () => {
    expect(shortened({ byN: [{ n: 1, max: 0.123456 }], texts: ["x".repeat(150)], all: Array.from({ length: 40 }, () => "four") })).toEqual([
      ...["{", '  "byN": [{"n":1,"max":0.1235}],', '  "texts": [ 1 item ],', '  "all": [ 40 items ]', "}"]
    ])
  })
  it("that is too wide says how much is left out", () => {
    const wide = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`field ${i}`, "long enough"]))
    expect(shortened(wide, 4)).toEqual(["{", '  "field 0": "long enough",', '  "field 1": "long enough",', "  ... and 49 more lines"])
  })
})
