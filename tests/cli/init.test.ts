/** What `caravan init` rejects. tests/package.test.ts installs and runs what it makes. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { caravan, removeFolder, workFolder } from "./caravan.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))

it("caravan init rejects a folder that is not empty, lists its contents, and leaves it alone", () => {
  mkdirSync(join(folder, "mine"))
  writeFileSync(join(folder, "mine/notes.txt"), "")
  const { status, stderr, stdout } = caravan(folder, "init", "mine")
  expect([status, stdout]).toEqual([2, ""])
  expect(stderr).toMatch(/^caravan init mine: .*mine is not empty \(notes\.txt\)\. Choose a new or empty folder\.\n$/)
  expect(readdirSync(join(folder, "mine"))).toEqual(["notes.txt"])
})

it("caravan init needs a folder's name, and has help with examples", () => {
  expect(caravan(folder, "init").stderr).toContain("caravan init needs <folder>. For example: caravan init my-chat")
  expect(caravan(folder, "init", "--help").stdout).toContain("npm install && npx caravan run pipeline.ts")
  expect(existsSync(join(folder, "my-chat"))).toBe(false)
})
