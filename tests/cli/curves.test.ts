/** `caravan curves` as a user calls it. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder, runJson } from "./caravan.ts"

let folder: string
beforeAll(() => {
  folder = fixtureFolder()
  writeFileSync(
    join(folder, "descending-pipeline.ts"),
    `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { hyperInt } from "../../../schemas/hyper.ts"
import { descend, descendInChild } from "./descending.ts"
import { lines } from "./mapped.ts"
export default Pipeline.make("descending", { params: Schema.Struct({ divergesAt: hyperInt(0, "step") }) }, ({ divergesAt }) => {
  const texts = lines({ file: fileAt("words.txt") })
  return { result: descendInChild({ texts }, { steps: 100 }), other: descend({ texts }, { steps: 5, divergesAt }) }
})
`
  )
  runJson(folder, "descending-pipeline.ts")
})
afterAll(() => removeFolder(folder))

const curves = (...args: ReadonlyArray<string>) => caravan(folder, "curves", ...args)

describe("caravan curves", () => {
  it("lists the nodes that have a curve", () => {
    expect(curves("latest").stdout).toMatch(
      /^descend +descend +ran +\/.*curves\.parquet\ndescend-in-child +descend-in-child +ran .*\n2 nodes of 3 in run [0-9a-f]{8} with a curve\.\n$/
    )
  })

  it("shows each series of a node on a line, by the node's or its output's name", () => {
    const { stdout, status } = curves("latest", "descend-in-child")
    expect(status).toBe(0)
    // Halved from 1/2 a hundred times; the mean of 2.5 steps per column.
    expect(stdout).toMatch(/^100 rows in .*\n +values +first +last +min +max\n/)
    expect(stdout).toMatch(/^ {2}loss +100 +0\.5000 +7\.889e-31 +7\.889e-31 +0\.5000 +█▂▁+$/m)
    expect(stdout).toMatch(/^ {2}kl +50 +-2 +-100 +-100 +-2 +█+.*▁$/m)
    for (const series of ["seconds", "memory", "tokens", "tokensPerSecond"]) expect(stdout).toMatch(new RegExp(`^  ${series} `, "m"))
    expect(curves("latest", "result").stdout).toBe(stdout)
  })

  it("prints every row as CSV and as JSON", () => {
    const [header, ...lines] = curves("latest", "result", "--csv").stdout.trimEnd().split("\n")
    const columns = header!.split(",")
    expect(columns).toEqual(["step", "seconds", "memory", "loss", "tokens", "kl", "tokensPerSecond"])
    expect(lines).toHaveLength(100)
    const cells = (line: number) => Object.fromEntries(lines[line]!.split(",").map((cell, i) => [columns[i]!, cell]))
    expect(cells(0)).toMatchObject({ step: "1", loss: "0.5", tokens: "10", tokensPerSecond: "", kl: "" })
    expect(cells(99)).toMatchObject({ step: "100", loss: String(2 ** -100), kl: "-100" })
    const { node, rows } = JSON.parse(curves("latest", "result", "--json").stdout)
    expect([node, rows.length]).toEqual(["descend-in-child", 100])
    expect(rows[1]).toMatchObject({ step: 2, loss: 0.25, tokens: 20, kl: -2 })
    expect("kl" in rows[0]).toBe(false)
  })

  it("shows the curve of a cached result, and of a node that failed with NaN as loss", () => {
    const before = curves("latest", "result").stdout
    const { status } = runJson(folder, "descending-pipeline.ts", "--set", "divergesAt=3")
    expect(status).toBe("failed")
    expect(curves("latest", "result").stdout).toBe(before)
    expect(curves("latest", "other", "--json").stdout).toContain('"loss": "NaN",\n      "gradientNorm": "Infinity"')
    expect(curves("latest", "descend").stdout).toMatch(/^ {2}loss +3 +0\.5000 +NaN +0\.2500 +0\.5000 +█▁ *$/m)
  })

  it("draws one panel per series", () => {
    const file = join(folder, "curve.svg")
    expect(curves("latest", "result", "--figure", file)).toMatchObject({ status: 0, stdout: "", stderr: "" })
    const svg = readFileSync(file, "utf8")
    expect(svg).toMatch(/^<svg/)
    for (const series of ["loss", "tokens", "kl", "tokensPerSecond", "seconds", "memory"]) expect(svg).toContain(`>${series}</text>`)
    // One line per panel; that of a hundred steps has a hundred points.
    const lines = [...svg.matchAll(/aria-roledescription="line mark"[^>]* d="([^"]+)"/g)].map(([, path]) => path!.split("L").length)
    expect(lines.toSorted((a, b) => a - b)).toEqual([50, 99, 100, 100, 100, 100])
  })

  it("reports a damaged file", () => {
    const { path } = JSON.parse(curves("latest~1", "other", "--json").stdout) as { readonly path: string }
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.subarray(0, bytes.length / 2))
    const { status, stderr } = curves("latest~1", "other")
    writeFileSync(path, bytes)
    expect(stderr).toMatch(/^Reading the curve \/.*curves\.parquet: .+ If the file is damaged, rerun the node with --force\.$/m)
    expect([status, /^\s+at /m.exec(stderr)]).toEqual([2, null])
  })

  it.each([
    ["no such node", ["latest", "descent"], 'has no node "descent". Did you mean "descend"?'],
    ["a node without a curve", ["latest", "lines"], 'has no curve of "lines"'],
    ["no such run", ["nothing"], 'Looking for the run "nothing": no run, node, output or digest has that name'],
    ["CSV without a node", ["latest", "--csv"], "--csv prints the rows of one node. Add a node's name"],
    ["a figure without a node", ["latest", "--figure", "x.svg"], "--figure draws the rows of one node. Add a node's name"],
    [
      "a figure that is not an SVG file",
      ["latest", "result", "--figure", "x.png"],
      '--figure must be the name of an SVG file, got "x.png"'
    ],
    ["a figure in a missing folder", ["latest", "result", "--figure", "nowhere/x.svg"], "Writing the figure nowhere/x.svg: ENOENT"]
  ])("says what is wrong: %s", (_, args, message) => {
    const { status, stderr } = curves(...args)
    expect(stderr).toContain(message)
    expect([status, /^\s+at /m.exec(stderr)]).toEqual([2, null])
  })
})
