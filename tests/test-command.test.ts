/** The counts of `npm test` (scripts/test.mjs), on projects with a few tests. */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterEach, describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("..", import.meta.url))
let folder: string
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** The run's last line, the file that it leaves for .ci/run, and its exit status. */
const run = (files: Readonly<Record<string, string>>) => {
  folder = mkdtempSync(join(tmpdir(), "caravan-test-command-"))
  writeFileSync(join(folder, "package.json"), `{ "type": "module" }`)
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"))
  for (const [name, tests] of Object.entries(files))
    writeFileSync(join(folder, `${name}.test.ts`), `import { it } from "vitest"\n${tests}\n`)
  const { status, stdout } = spawnSync(process.execPath, [join(root, "scripts/test.mjs"), "."], {
    cwd: folder,
    encoding: "utf8",
    env: { PATH: process.env["PATH"] }
  })
  const line = stdout.trimEnd().split("\n").at(-1)!
  expect(readFileSync(join(folder, ".caravan/test-summary.txt"), "utf8")).toBe(`${line}\n`)
  return [line, status]
}

describe("the last line of a run", () => {
  it("counts the tests that pass, fail and are skipped, and a file that can't be loaded as one failure", () => {
    const files = {
      good: `it("passes", () => {})\nit("passes", () => {})\nit.skip("later", () => {})`,
      bad: `it("passes", () => {})\nit("fails", () => { throw new Error("no") })`,
      broken: `throw new Error("no")`
    }
    expect(run(files)).toEqual(["3 passed, 2 failed, 1 skipped", 1])
  })
  it("counts an error outside of the tests as one failure, even if each test passes", () => {
    const good = `it("passes", async () => {
      setTimeout(() => { throw new Error("no") }, 1)
      await new Promise((on) => setTimeout(on, 50))
    })`
    expect(run({ good })).toEqual(["1 passed, 1 failed", 1])
  })
})
