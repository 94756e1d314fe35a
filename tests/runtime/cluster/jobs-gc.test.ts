/** Folders of unclaimed jobs: gc deletes old ones, but none that is still written to or whose key is being made. */
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { gc, planGc } from "../../../runtime/store/gc.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { openHome } from "../fixture.ts"

it("gc deletes the folders of old jobs, and keeps those that are written to or being made", async () => {
  const home = workFolder()
  const opened = openHome(home)
  const job = (key: string, hours: number) => {
    const attempt = join(home, "jobs", key, "12-0")
    mkdirSync(attempt, { recursive: true })
    const time = new Date(Date.now() - hours * 3_600_000)
    for (const path of [join(attempt, "events.ndjson"), join(home, "jobs", key, "job.json")]) {
      writeFileSync(path, "{}")
      utimesSync(path, time, time)
    }
    for (const path of [attempt, join(home, "jobs", key)]) utimesSync(path, time, time)
  }
  job("old", 100)
  job("making", 100)
  // A worker for some of its shards.
  job("making.3", 100)
  job("young", 1)
  // Its folder is old, but events are still written.
  job("running", 100)
  writeFileSync(join(home, "jobs/running/12-0/events.ndjson"), "{}\n")
  const held = opened.hold("a run")
  opened.now(held.claim("making"))
  const collect = (policy: object) => opened.later(Effect.flatMap(planGc({ keep: 0, ...policy }), gc))
  await collect({})
  expect(readdirSync(join(home, "jobs")).length).toBe(5)
  await collect({ olderThan: 24 * 3_600_000 })
  expect(readdirSync(join(home, "jobs")).sort()).toEqual(["making", "making.3", "running", "young"])
  expect(existsSync(join(home, "jobs/running/12-0/events.ndjson"))).toBe(true)
  opened.close()
  removeFolder(home)
})
