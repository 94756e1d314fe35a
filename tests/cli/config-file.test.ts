/** caravan.json: its settings apply to the project's runs; mistakes in it are reported before anything runs. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { readConfig } from "../../cli/config-file.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder } from "./caravan.ts"

let folder: string
beforeAll(() => {
  folder = fixtureFolder()
  writeFileSync(join(folder, "package.json"), `{ "type": "module" }`)
})
afterAll(() => removeFolder(folder))
const write = (text: string) => writeFileSync(join(folder, "caravan.json"), text)
const mistake = (text: string): string => {
  write(text)
  try {
    readConfig(folder)
  } catch (cause) {
    return (cause as Error).message
  }
  throw new Error("it was read")
}

describe("caravan.json", () => {
  it("names the folder of shared results relative to itself, for every folder of its project", () => {
    write(`{ "shared": "results" }`)
    mkdirSync(join(folder, "deep/deeper"), { recursive: true })
    expect(readConfig(join(folder, "deep/deeper"))).toMatchObject({ shared: { folder: join(folder, "results"), isReadOnly: false } })
    write(`{ "shared": { "folder": "/mnt/results", "readOnly": true, "seconds": 5 } }`)
    expect(readConfig(folder).shared).toEqual({ folder: "/mnt/results", isReadOnly: true, seconds: 5 })
  })
  it("with a mistake is rejected, with its path and the mistake", () => {
    expect(mistake("{")).toMatch(/^Reading the config file .*caravan\.json: .*JSON/)
    expect(mistake(`{ "share": "x" }`)).toMatch(/share/)
    expect(mistake(`{ "shared": "" }`)).toMatch(/"shared" is empty/)
    expect(mistake(`{ "shared": { "folder": "x", "seconds": 0 } }`)).toMatch(/"shared\.seconds" is 0, expected a number above 0/)
    expect(mistake(`{ "shared": 3 }`)).toMatch(/shared/)
  })
  it("applies to a run, unless a flag overrides it", () => {
    write(`{ "shared": "results" }`)
    const results = join(folder, "results")
    mkdirSync(results)
    const run = (...flags: ReadonlyArray<string>) => caravan(folder, "run", "pipeline.ts", "--only", "lines", ...flags)
    expect(run("--no-shared").status).toBe(0)
    expect(readdirSync(results)).toEqual([])
    expect(run("--shared-read-only").status).toBe(0)
    expect(readdirSync(results)).toEqual([])
    expect(run("--shared", join(folder, "elsewhere")).stderr).toMatch(/elsewhere can't be written to \(gone/)
    expect(existsSync(join(folder, "elsewhere"))).toBe(false)
    expect(run().status).toBe(0)
    expect(readdirSync(results).sort()).toEqual(["ac", "cas", "tmp"])
    const wrong = run("--no-shared", "--shared", "x")
    expect([wrong.status, wrong.stderr]).toEqual([2, expect.stringMatching(/--no-shared can't be combined/)])
  })
})
