/** A completely full disk: commands that only read work, `caravan gc` frees space, and the next run continues. */
import { spawnSync } from "node:child_process"
import { closeSync, cpSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtureFolder } from "../runtime/fixture.ts"
import { command, removeFolder, runJson } from "./caravan.ts"

let folder: string
const place = mkdtempSync(join(tmpdir(), "caravan-full-"))
const image = `${place}.image`
beforeAll(() => {
  folder = fixtureFolder()
  runJson(folder, "pipeline.ts", "--set", "times=2")
  runJson(folder, "pipeline.ts")
})
const unmount = () => spawnSync("umount", ["-l", place])
afterAll(() => {
  unmount()
  rmSync(place, { recursive: true, force: true })
  rmSync(image, { force: true })
  removeFolder(folder)
})

/** File systems of 4 MiB, by how they are mounted; false if that is not allowed. */
const fileSystems: Readonly<Record<string, () => boolean>> = {
  tmpfs: () => spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "none", place]).status === 0,
  ext4: () =>
    spawnSync("dd", ["if=/dev/zero", `of=${image}`, "bs=1M", "count=4"]).status === 0 &&
    spawnSync("mkfs.ext4", ["-q", "-m", "0", "-F", "-O", "^has_journal", image]).status === 0 &&
    spawnSync("mount", ["-o", "loop", image, place]).status === 0
}
const allowed = Object.fromEntries(
  Object.entries(fileSystems).map(([name, mount]) => {
    const isMounted = mount()
    unmount()
    return [name, isMounted]
  })
)

const home = join(place, "home")
const caravan = (...args: ReadonlyArray<string>) => {
  const env = { ...process.env, CARAVAN_HOME: home, NODE_OPTIONS: "" }
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], { cwd: folder, env, encoding: "utf8" })
  return { status, text: `${stdout}${stderr}` }
}
const free = () => {
  const { bavail, bsize } = statfsSync(place)
  return bavail * bsize
}
/** Writes until nothing more fits. */
const fill = () => {
  const file = openSync(join(place, "filler"), "a")
  try {
    for (let size = 65_536; size >= 1; size >>= 1)
      try {
        for (;;) writeSync(file, Buffer.alloc(size))
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== "ENOSPC") throw cause
      }
  } finally {
    closeSync(file)
  }
  expect(free()).toBe(0)
}

describe.each(Object.keys(fileSystems))("a full %s", (name) => {
  const skipped = !allowed[name]
  it.skipIf(skipped)(
    `is readable, and freed by gc; the next run makes what was deleted${skipped ? " (skipped: mounting is not allowed here)" : ""}`,
    { timeout: 600_000 },
    () => {
      expect(fileSystems[name]!()).toBe(true)
      try {
        mkdirSync(home)
        cpSync(join(folder, "home"), home, { recursive: true })
        // Of a run that was killed: gc would remove its records, which needs space.
        const leases = new DatabaseSync(join(home, "leases.db"))
        leases.exec("insert into holders (id, what, pid) values ('00000000-0000-4000-8000-000000000000', 'caravan run', 1)")
        leases.close()
        fill()
        for (const args of [["runs"], ["show", "latest"], ["du"], ["lineage", "shout"], ["gc", "--max-size", "0", "--keep", "0"]]) {
          const { status, text } = caravan(...args)
          expect([args, status, text]).toEqual([args, 0, expect.not.stringMatching(/^\s+at /m)])
        }
        const refused = caravan("run", "pipeline.ts", "--set", "times=3")
        expect([refused.status === 0, refused.text]).toEqual([false, expect.stringMatching(/Free some space/)])
        expect(free()).toBe(0)
        const { status, text } = caravan("gc", "--max-size", "0", "--keep", "0", "--yes")
        expect([status, text]).toEqual([0, expect.stringMatching(/^Deleted 5 objects.*: .* freed\.$/m)])
        expect(free()).toBeGreaterThan(0)
        // The remaining space is too little for a run: delete the user's own file.
        rmSync(join(place, "filler"))
        const run = caravan("run", "pipeline.ts", "--json")
        expect([run.status, run.text]).toEqual([0, expect.stringContaining('"status": "ran"')])
      } finally {
        unmount()
      }
    }
  )
})
