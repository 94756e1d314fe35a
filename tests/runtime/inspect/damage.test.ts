/** Damage found outside of a run: the result is moved aside, and the next run makes it again. */
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { describeDamage, findDamage } from "../../../runtime/inspect/damage.ts"
import { verifyStore } from "../../../runtime/inspect/verify-store.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import {
  anything,
  digests,
  type Fixture,
  fixtureFolder,
  invert,
  loadFixture,
  objectFile,
  type Opened,
  openHome,
  statuses
} from "../fixture.ts"

let fixture: Fixture
let home: string
let opened: Opened
let first: Awaited<ReturnType<Fixture["run"]>>
beforeEach(async () => {
  fixture = await loadFixture(fixtureFolder())
  home = join(fixture.folder, "home")
  first = await fixture.run({}, { until: "shout" })
  opened = openHome(home)
})
afterEach(async () => {
  opened.close()
  await checkAndRemove(fixture.folder)
})

const digestOf = (node: string): string => digests(first)[node]!
const damage = (node: string) => invert(objectFile(fixture.folder, digestOf(node)), { count: 20, times: "keep" })
const chosen = (ran: typeof first) => {
  const { lines, shout } = statuses(ran)
  return { lines, shout }
}
const run = async () => chosen(await fixture.run({}, { until: "shout" }))

describe("a damaged result", () => {
  it("is moved aside when it is found, and the next run makes an equal result", async () => {
    damage("shout")
    // No stage reads it, and its times show nothing.
    expect(await run()).toEqual({ lines: "hit", shout: "hit" })
    const found = (await opened.later(findDamage(digestOf("shout"))))!
    expect(found).toEqual({ digest: digestOf("shout"), what: "data.arrow has changed", quarantined: expect.any(String), left: null })
    expect([dirname(found.quarantined!), existsSync(found.quarantined!)]).toEqual([join(home, "quarantine"), true])
    expect(describeDamage("It", found)).toBe(
      `It is damaged (data.arrow has changed). It was moved to ${found.quarantined}: run the pipeline to recompute it.`
    )
    const second = await fixture.run({}, { until: "shout" })
    expect(chosen(second)).toEqual({ lines: "hit", shout: "ran" })
    expect(digests(second)).toEqual(digests(first))
  })

  it("is not assumed for intact results: they are read and left alone", async () => {
    expect(await opened.later(findDamage(digestOf("shout")))).toBeUndefined()
    expect(await run()).toEqual({ lines: "hit", shout: "hit" })
    expect(existsSync(join(home, "quarantine"))).toBe(false)
  })

  it("stays in place while a run makes it again: the new result is not mistaken for it", async () => {
    damage("shout")
    const { key } = first.nodes.find(({ id }) => id === "shout")!
    const running = opened.hold("caravan run")
    expect(opened.now(running.claim(key!))).toMatchObject({ mine: true })
    const found = (await opened.later(findDamage(digestOf("shout"))))!
    expect(describeDamage("It", found)).toMatch(/^It is damaged .* It was left in its place: caravan run in process \d+ is computing it\.$/)
    expect(existsSync(join(home, "quarantine"))).toBe(false)
    running.letGo()
    expect((await opened.later(findDamage(digestOf("shout"))))?.quarantined).toMatch(/quarantine/)
  })

  it("that was made again since it was read is left alone", async () => {
    damage("shout")
    const sound = await opened.later(opened.store.damage(digestOf("shout")))
    expect(sound).toBe("data.arrow has changed")
    // Between the first check and the one under the claim.
    let looks = 0
    const remade = findDamage(digestOf("shout"), () => {
      if (looks++ === 0) damage("shout")
    })
    // The first check reads the damaged bytes; they are restored while it reports them.
    expect(await opened.later(remade)).toBeUndefined()
    expect(existsSync(join(home, "quarantine"))).toBe(false)
  })
})

describe("verifying a store", () => {
  it("reads every byte of every object, and first says how many there are", async () => {
    const calls: Array<string> = []
    let read = 0
    const verified = await opened.later(
      verifyStore({ onStart: (size) => calls.push(`start ${size}`), onBytes: (count) => (read += count) })
    )
    expect(verified).toMatchObject({ ok: true, objects: 2, damaged: [], unknown: [], strays: [] })
    expect(calls).toEqual([`start ${verified.size}`])
    // All but the manifests, which are read to list the objects.
    const manifests = ["lines", "shout"].map((node) => objectFile(fixture.folder, digestOf(node), "artifact.json"))
    expect(read).toBe(verified.size - manifests.reduce((sum, file) => sum + statSync(file).size, 0))
  })

  it("reports damage by node and run, moves it aside, and finds nothing the next time", async () => {
    damage("lines")
    const path = opened.store.path(digestOf("lines"))
    expect(await opened.later(verifyStore())).toMatchObject({
      ok: false,
      damaged: [
        {
          digest: digestOf("lines"),
          path,
          type: "dataset:text/1",
          what: "data.arrow has changed",
          made: { pipeline: "fixture", node: "lines", run: first.run },
          quarantined: expect.stringContaining(join(home, "quarantine"))
        }
      ]
    })
    expect(await opened.later(verifyStore())).toMatchObject({ ok: true, objects: 1 })
    expect(await run()).toEqual({ lines: "ran", shout: "hit" })
  })

  it("reports objects without a record, folders that are not objects, and files that belong to none", async () => {
    const directory = opened.now(opened.store.temporary)
    writeFileSync(join(directory, "a.txt"), "alpha")
    const { digest } = await opened.later(opened.store.commit(directory, anything))
    const root = join(home, "objects")
    const strays = [
      join(root, "notes.txt"),
      join(root, "backup"),
      join(root, digestOf("shout").slice(0, 2), "shout.old"),
      join(opened.store.path(digestOf("shout")), "extra.txt")
    ]
    writeFileSync(strays[0]!, "mine")
    mkdirSync(strays[1]!)
    mkdirSync(strays[2]!)
    writeFileSync(strays[3]!, "more")
    try {
      const verified = await opened.later(verifyStore())
      expect(verified).toMatchObject({ ok: true, objects: 3, damaged: [], unknown: [{ digest, path: opened.store.path(digest) }] })
      expect([...verified.strays].sort()).toEqual([...strays].sort())
      expect(readdirSync(root)).toContain("backup")
    } finally {
      for (const path of strays) rmSync(path, { recursive: true })
    }
  })
})
