import { spawnSync } from "node:child_process"
import { mkdirSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import { fullness } from "../../../runtime/cluster/home.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"

const folder = workFolder()
const [shared, home] = [join(folder, "shared"), join(folder, "home")]
let isMounted = false
beforeAll(() => {
  mkdirSync(join(home, "jobs"), { recursive: true })
  mkdirSync(shared)
  isMounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "none", shared]).status === 0
})
afterAll(() => {
  if (isMounted) spawnSync("umount", [shared])
  removeFolder(folder)
})

it("a full file system of the jobs' folder is named, although the store's own has space", ({ skip }) => {
  if (!isMounted) return skip("mounting is not allowed here")
  expect(fullness(home)).toBe("")
  const elsewhere = join(folder, "other-home")
  mkdirSync(elsewhere)
  symlinkSync(shared, join(elsewhere, "jobs"))
  expect(fullness(elsewhere)).toBe(` The folder ${join(elsewhere, "jobs")} is full: free some space, then run again.`)
})
