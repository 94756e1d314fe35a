/** `caravan run`, `plan`, `why` and `graph` as a user calls them: stdout, stderr, exit codes. */
import { readFileSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, type Finished, removeFolder } from "./caravan.ts"

let folder: string
let first: Finished
beforeAll(() => {
  folder = fixtureFolder()
  first = caravan(folder, "run", "pipeline.ts")
})
afterAll(() => removeFolder(folder))

const on = (...args: ReadonlyArray<string>) => caravan(folder, args[0]!, "pipeline.ts", ...args.slice(1))

describe("caravan run", () => {
  it("shows progress on stderr; nodes, reports and paths of the outputs on stdout", () => {
    expect(first.status).toBe(0)
    expect(first.stderr).toMatch(/^lines: running \(it has never run here\)\nlines: done in .* \(rows 3\)\n/)
    expect(first.stderr).toMatch(/^Done in [\d.]+ m?s\.$/m)
    expect(first.stderr).not.toContain("\u001b")
    expect(first.stdout).toMatch(
      /^Nodes: 4 ran\n {2}ran {6}lines {3}[\s\S]*\n\ncounts:\n\{\n {2}"characters": 31,\n {2}"rows": 6\n\}\n\nOutputs:\n/
    )
    const [, path] = /^ {2}counts {2}(.*)$/m.exec(first.stdout)!
    expect(readFileSync(`${path}/report.json`, "utf8")).toContain('"rows": 6')
  })

  it("the second time reports that everything was cached", () => {
    const { status, stdout, stderr } = on("run")
    expect([status, stderr.replace(/in [\d.]+ m?s/, "in no time")]).toEqual([0, "Done in no time; 4 found in the store.\n"])
    expect(stdout).toMatch(/^Nodes: 4 found in the store$/m)
  })

  it("with --json prints one document on stdout and nothing else", () => {
    const document = JSON.parse(on("run", "--json").stdout) as { nodes: Array<unknown>; outputs: Record<string, unknown> }
    expect(document).toEqual({
      run: expect.stringMatching(/^[0-9a-f-]{36}$/),
      pipeline: "fixture",
      status: "succeeded",
      nodes: ["lines", "shout", "wait", "counts"].map((id) => ({
        id,
        stage: id === "counts" ? "count" : id,
        status: "hit",
        milliseconds: expect.any(Number),
        key: expect.stringMatching(/^[0-9a-f]{64}$/),
        digest: expect.stringMatching(/^[0-9a-f]{64}$/),
        metrics: id === "counts" ? {} : { rows: 3 }
      })),
      outputs: Object.fromEntries(
        ["loud", "counts", "late"].map((name) => [
          name,
          { kind: name === "counts" ? "report" : "dataset", path: expect.stringContaining("/home/objects/"), digest: expect.any(String) }
        ])
      )
    })
  })

  it("that fails exits with 1 and one message, without a stack trace; the document says failed", () => {
    const failed = on("run", "--set", "lines.touch=true", "--json")
    expect(failed.status).toBe(1)
    expect(failed.stderr).toMatch(/^lines: FAILED after .* changed while it was being read\. .*run again\.$/m)
    expect(failed.stderr).not.toMatch(/^\s+at /m)
    expect(JSON.parse(failed.stdout)).toMatchObject({
      status: "failed",
      nodes: [{ id: "lines", status: "failed" }, { status: "skipped", digest: null }, { status: "skipped" }, { status: "skipped" }],
      outputs: {}
    })
    // For people: what failed and why, and how many nodes depend on it, in few lines.
    const [head, ...rows] = on("run", "--set", "lines.touch=true").stdout.trimEnd().split("\n")
    expect(head).toBe("Nodes: 1 failed, 3 skipped")
    expect(rows).toEqual([
      expect.stringMatching(/^ {2}failed {3}lines {2}\S/),
      expect.stringMatching(/^ {11}.* changed while it was being read\. .*run again\.$/),
      "  skipped  shout, wait, counts"
    ])
    caravan(folder, "run", "pipeline.ts")
  })
})

describe("caravan plan, why and graph", () => {
  it("say what would run and why, and where the change began", () => {
    const words = ["--set", "shout.times=2"]
    expect(on("plan", ...words).stdout).toMatch(/^run {3}shout {11}config times: 1 -> 2\n.*\nrun\? {2}counts {10}depends on shout$/m)
    expect(on("why", "counts", ...words).stdout).toBe(
      "counts would run unless its inputs do not change: depends on shout\n  because of shout: config times: 1 -> 2\n"
    )
    expect(on("why", "shout", ...words).stdout).toMatch(
      /^shout would run: config times: 1 -> 2\n {2}compared with run [0-9a-f]{8}, just now \(.*seed 0, cpu, 1 thread\)\n$/
    )
    expect(on("why", "lines").stdout).toMatch(/^lines (is in the store|would run)/)
  })

  it("compare with the earlier result with the fewest differences, and say which run that is", () => {
    const steps = (...more: ReadonlyArray<string>) => [...more, "--until", "wait"]
    const { run: first } = JSON.parse(on("run", ...steps("--set", "wait.steps=3", "--json")).stdout) as { readonly run: string }
    on("run", ...steps("--set", "wait.steps=4", "--seed", "1"))
    // The last run had another seed and other steps.
    const found = on("plan", ...steps("--set", "wait.steps=5")).stdout
    expect(found).toMatch(new RegExp(`^run +wait +config steps: 3 -> 5 \\(compared with run ${first.slice(0, 8)}\\)$`, "m"))
    expect(on("why", "wait", "--set", "wait.steps=5").stdout).toMatch(
      new RegExp(
        `^wait would run: config steps: 3 -> 5 .*\n {2}compared with run ${first.slice(0, 8)}, .* \\(.*wait\\.steps=3.*seed 0.*\\), whose result has the fewest differences\n`
      )
    )
    expect(JSON.parse(on("why", "wait", "--set", "wait.steps=5", "--json").stdout)).toMatchObject({
      since: { run: first, isLatest: false }
    })
  })

  it("say how often a forced node was made, and the earlier results", () => {
    expect(on("why", "lines").stdout).not.toContain("it was made")
    for (let i = 0; i < 2; i++) on("run", "--until", "lines", "--force", "lines")
    const { stdout } = on("why", "lines")
    expect(stdout).toMatch(
      /^lines is in the store.*\n {2}computed 3 times under this key \(--force\); earlier results: ([0-9a-f]{12}) \(just now\), \1 \(just now\)\n$/
    )
    expect(JSON.parse(on("why", "lines", "--json").stdout)).toMatchObject({ generations: [{ digest: expect.any(String) }, {}] })
  })

  it("show the graph as text, Mermaid or JSON", () => {
    expect(on("graph").stdout).toContain("counts (count) <- shout, wait")
    expect(on("graph", "--format", "mermaid").stdout).toMatch(/^graph LR\n {2}n0\[\/"file:words\.txt"\/\]\n {2}n1\["lines"\]/)
    expect(JSON.parse(on("graph", "--json").stdout)).toMatchObject({ pipeline: "fixture", outputs: { loud: "shout" } })
    expect(on("graph", "--format", "dot").status).toBe(2)
  })
})

it("--version prints the package's version", () => {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }
  expect(caravan(folder, "--version")).toMatchObject({ status: 0, stdout: `${version}\n`, stderr: "" })
})

describe("--help", () => {
  it("of a command has its flags and examples; with a pipeline, its parameters too", () => {
    const { status, stdout } = caravan(folder, "plan", "-h")
    expect(status).toBe(0)
    expect(stdout).toMatch(/--set <name=value>[\s\S]*Examples:\n {2}caravan plan/)
    expect(on("run", "--help").stdout).toMatch(
      /Parameters of fixture, set with --set name=value:\n {2}file {3}lines of text \(default: "words\.txt"\)\n {2}times {2}exclamation marks \(default: 1\)/
    )
  })
})
