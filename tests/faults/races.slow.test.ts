/** Concurrent runs: two and sixteen processes with an empty store, and one that is stopped at any call while another needs the same result. */
import { rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  changing,
  digestsOf,
  everything,
  faultFolder,
  mode,
  numbers,
  type Outcome,
  remove,
  requestOf,
  Runner,
  shim,
  without
} from "./harness.ts"
import { broken, type Clean } from "./invariants.ts"

const hour = 3_600_000
const folder = faultFolder()
let sound: Runner
let clean: Clean
beforeAll(async () => {
  sound = new Runner()
  await sound.ready()
  clean = digestsOf(await sound.run(requestOf(folder, join(folder, "clean"))))
})
afterAll(async () => {
  await sound.close()
  remove(folder)
})

/** How often each node was made, according to the journal. */
const makings = (home: string): Record<string, number> => {
  const database = new DatabaseSync(join(home, "journal.db"))
  try {
    return Object.fromEntries(
      database
        .prepare("select node, count(*) as n from executions where status = 'ran' group by node")
        .all()
        .map(({ node, n }) => [String(node), Number(n)])
    )
  } finally {
    database.close()
  }
}

describe("runs that start simultaneously with an empty store,", () => {
  const rounds = everything ? 5 : 1
  it.each(everything ? [2, 16] : [2, 6])(
    "%d of them, run each stage once and end with the same digests",
    { timeout: hour },
    async (count) => {
      const runners = Array.from({ length: count }, () => new Runner())
      try {
        await Promise.all(runners.map((runner) => runner.ready()))
        const found: Array<string> = []
        for (let round = 0; round < rounds; round++) {
          const home = join(folder, `race-${count}-${round}`)
          // Including the stage with a separate process.
          const request = requestOf(folder, home, { apart: count > 6 ? "false" : "true" })
          const outcomes = await Promise.all(runners.map((runner) => runner.run(request)))
          for (const { end } of outcomes)
            if (end.type !== "done" || end.status !== "succeeded") found.push(`round ${round}: ${JSON.stringify(end)}`)
          if (found.length > 0) break
          for (const outcome of outcomes) {
            const digests = digestsOf(outcome)
            for (const [node, digest] of Object.entries(clean))
              if (digests[node] !== digest) found.push(`round ${round}: ${node} is ${digests[node]}`)
          }
          for (const [node, times] of Object.entries(makings(home)))
            if (times !== 1) found.push(`round ${round}: ${node} was made ${times} times`)
          expect(Object.keys(makings(home)).length).toBe(Object.keys(clean).length + (count > 6 ? 0 : 1))
          found.push(...(await broken({ clean, finished: Object.keys(clean), runner: sound, request })))
        }
        expect(found).toEqual([])
      } finally {
        await Promise.all(runners.map((runner) => runner.close()))
      }
    }
  )
})

describe.skipIf(!("path" in shim))(`a run that is stopped (SIGSTOP)${without}`, () => {
  it("at any call makes another wait, or end on its own; both end right once it continues (SIGCONT)", { timeout: hour }, async () => {
    const found: Array<string> = []
    const home = join(folder, "stopped")
    const request = requestOf(folder, home)
    const first = new Runner({ below: folder })
    const second = new Runner()
    try {
      await Promise.all([first.ready(), second.ready()])
      const { count } = await first.run(requestOf(folder, join(folder, "counted")), { mode: mode.nothing, mask: changing })
      let [tried, waited, refused] = [0, 0, 0]
      const chosen = numbers(count, 4).filter((at) => !everything || at % 8 === 0)
      for (const at of chosen) {
        rmSync(home, { recursive: true, force: true })
        const stopped = first.run(request, { mode: mode.stop, mask: changing, at })
        await first.stopped(stopped)
        tried++
        let other: Outcome | undefined
        const running = second.run(request).then((outcome) => (other = outcome))
        // Sometimes longer than SQLite waits for a lock; otherwise not long.
        await Promise.race([running, sleep(tried % 10 === 1 ? 12_000 : 700)])
        if (other === undefined) waited++
        first.process.kill("SIGCONT")
        const outcome = await stopped
        await running
        for (const [who, { end }] of [
          ["it", outcome],
          ["the other", other as unknown as Outcome]
        ] as const) {
          if (end.type === "done" && end.status === "succeeded") continue
          // Nobody can continue while a stopped process holds SQLite's lock; that is reported.
          if (who === "the other" && /is locked.*kill -CONT/.test(JSON.stringify(end))) refused++
          else found.push(`call ${at}: ${who} ends with ${JSON.stringify(end)}`)
        }
        for (const [node, times] of Object.entries(makings(home)))
          if (times !== 1) found.push(`call ${at}: ${node} was made ${times} times`)
        found.push(...(await broken({ clean, finished: Object.keys(clean), runner: sound, request })).map((what) => `call ${at}: ${what}`))
      }
      console.log(`stopped at ${tried} of ${count} calls: the other waited ${waited} times, was refused ${refused} times`)
      expect(found).toEqual([])
    } finally {
      first.process.kill("SIGCONT")
      await Promise.all([first.close(), second.close()])
    }
  })
})
