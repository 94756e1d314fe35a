/** `caravan report` as a user calls it: on a pipeline with other stages than the recipe's, on a failed run, and on mistakes. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder, runJson } from "./caravan.ts"

const hostile = `<script>alert("1")</script>\u202e`
let folder: string
beforeAll(() => {
  folder = fixtureFolder()
  writeFileSync(
    join(folder, "descending-pipeline.ts"),
    `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { descend, descendInChild } from "./descending.ts"
import { lines } from "./mapped.ts"
const params = Schema.Struct({ divergesAt: hyperInt(0, "step"), said: hyper("", "text") })
export default Pipeline.make("descending", { params }, ({ divergesAt }) => {
  const texts = lines({ file: fileAt("words.txt") })
  return { result: descendInChild({ texts }, { steps: 100 }), other: descend({ texts }, { steps: 5, divergesAt }) }
})
`
  )
  runJson(folder, "descending-pipeline.ts", "--set", `said=${hostile}`)
})
afterAll(() => removeFolder(folder))

const report = (...args: ReadonlyArray<string>) => caravan(folder, "report", ...args)
const pageIn = (name: string) => readFileSync(join(folder, name, "report.html"), "utf8")

describe("caravan report", () => {
  it("says that it was writing a report if the folder can't be created", () => {
    const { status, stderr } = report("latest", "--to", "words.txt/below")
    expect(stderr).toMatch(/^Writing the report to .*words\.txt\/below: .*\. Choose another folder\. What was written was removed\.$/m)
    expect([status, stderr.includes("Exporting")]).toEqual([1, false])
  })

  it("writes one page on any pipeline, with the stages' curves and durations", () => {
    const { status, stdout } = report("latest")
    expect(status).toBe(0)
    const [name] = readdirSync(folder).filter((one) => one.startsWith("report-descending-"))
    expect(stdout).toContain(`file://${join(folder, name!, "report.html")}`)
    const page = pageIn(name!)
    for (const part of ["descending, run ", "3 ran", "words.txt", "descend-in-child: loss and other reported numbers", "Stages by time"])
      expect(page).toContain(part)
    expect(readdirSync(join(folder, name!, "figures")).toSorted()).toEqual(
      ["descend-in-child", "descend"].flatMap((stage) => [`training-curves-${stage}.csv`, `training-curves-${stage}.svg`])
    )
    const lines = readFileSync(join(folder, name!, "figures/training-curves-descend-in-child.csv"), "utf8").split("\n")
    expect(lines[0]).toBe("node,what,step,value")
    expect(lines[1]).toBe("descend-in-child,loss,1,0.5")
  })

  it("has no scripts, makes no network requests, and shows hostile text as text", () => {
    report("latest", "--to", "hostile", "--json")
    const page = pageIn("hostile")
    expect(page).not.toMatch(/<script|\u202e/i)
    expect(page.slice(page.indexOf("<dl>"), page.indexOf("</dl>"))).toContain("&lt;script&gt;alert(")
    expect(page).toContain("Content-Security-Policy")
    expect(page.replaceAll("http://www.w3.org", "")).not.toMatch(/(?:src|href|url)\s*[=(]\s*["']?https?:/i)
  })

  it("reports a failed run: why, and where its curve has NaN values", () => {
    expect(runJson(folder, "descending-pipeline.ts", "--set", "divergesAt=3").status).toBe("failed")
    const { status, stdout } = report("latest", "--to", "failed", "--json")
    expect(status).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ pipeline: "descending", sections: ["Training curves", "Time by stage"] })
    const page = pageIn("failed")
    expect(page).toMatch(/<p>descend failed: /)
    expect(page).toContain("1 of 3 values of loss of descend are NaN or infinite, the first at step 3.")
  })

  it("without a name shows the latest run that made results and names the later run that made none; the report on that run names the earlier one", () => {
    runJson(folder, "descending-pipeline.ts")
    const first = report("--to", "before", "--json")
    expect([first.status, first.stderr]).toEqual([0, ""])
    const before = JSON.parse(first.stdout).run as string
    const failed = runJson(folder, "descending-pipeline.ts", "--only", "other", "--set", "divergesAt=2", "--force", "other").status
    expect(failed).toBe("failed")
    const found = report("--to", "found", "--json")
    const named = report("latest", "--to", "named", "--json")
    const empty = JSON.parse(named.stdout).run as string
    expect([JSON.parse(found.stdout).run, found.stderr]).toEqual([
      before,
      `Using run ${before.slice(0, 8)}, the latest that made results. A later run made none: caravan show ${empty.slice(0, 8)}\n`
    ])
    expect([named.status, named.stderr]).toEqual([
      0,
      `Run ${empty.slice(0, 8)} made no results (failed: caravan show ${empty.slice(0, 8)}). The latest run that did: caravan report ${before.slice(0, 8)}\n`
    ])
  })

  it("says what is missing if no stage made it", () => {
    writeFileSync(
      join(folder, "bare-pipeline.ts"),
      `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { lines } from "./mapped.ts"
export default Pipeline.make("bare", { params: Schema.Struct({}) }, () => ({ result: lines({ file: fileAt("words.txt") }) }))
`
    )
    runJson(folder, "bare-pipeline.ts")
    const { stdout } = report("latest", "--to", "bare", "--json")
    expect((JSON.parse(stdout) as { readonly sections: unknown }).sections).toMatchObject(["Results", expect.anything()])
    expect(pageIn("bare")).toContain("There are no figures: no stage of this run trained a model")
    expect(pageIn("hostile")).not.toContain("There are no figures")
  })

  it("says which results are no longer in the store", () => {
    const { outputs } = runJson(folder, "descending-pipeline.ts")
    rmSync(outputs.result!.path, { recursive: true })
    report("latest", "--to", "gone")
    expect(pageIn("gone")).toMatch(/<p>Results that are no longer in the store: .*descend-in-child/)
  })

  it.each([
    ["no such run", ["nothing"], 'Looking for the run "nothing": no such run'],
    [
      "a folder that is not empty",
      ["latest", "--to", "hostile"],
      "Writing the report to hostile: the folder is not empty. Choose a new folder, or replace its content with --force."
    ],
    ["a file", ["latest", "--to", "words.txt"], "Writing the report to words.txt: it is a file. Choose a new folder."],
    ["an invalid number", ["latest", "--dialogues", "many"], '--dialogues must be an integer from 0 to 9999, got "many".']
  ])("says what is wrong: %s", (_, args, message) => {
    const { status, stderr } = report(...args)
    expect(stderr).toContain(message)
    expect([status, /^\s+at /m.exec(stderr)]).toEqual([2, null])
    expect(existsSync(join(folder, "hostile/report.html"))).toBe(true)
  })
})
