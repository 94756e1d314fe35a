/** Garbage collection: what it deletes, what it never deletes, and what it may run next to. */
import { spawn } from "node:child_process"
import { mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { gc, type GcPolicy, planGc } from "../../../runtime/store/gc.ts"
import { claimKey } from "../../../runtime/store/in-flight.ts"
import { Leases } from "../../../runtime/store/leases.ts"
import { makings } from "../../../runtime/inspect/lineage.ts"
import { Shards } from "../../../runtime/store/shards.ts"
import { processSpace } from "../../../runtime/store/process-identity.ts"
import type { StoreOperations } from "../../../runtime/store/store.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { anything, digests, fixtureFolder, loadFixture, type Opened, openHome, statuses } from "../fixture.ts"

const everything: GcPolicy = { maxSize: 0, keep: 0 }
const day = 86_400_000

let folder: string
let home: string
let opened: Opened
let { journal, store }: Pick<Opened, "journal" | "store"> = {} as Opened
beforeEach(() => {
  folder = fixtureFolder()
  home = join(folder, "home")
  opened = openHome(home)
  ;({ journal, store } = opened)
})
afterEach(() => {
  opened.close()
  removeFolder(folder)
})

const commit = async (text: string, into: StoreOperations = store) => {
  const directory = await Effect.runPromise(into.temporary)
  writeFileSync(join(directory, "a.txt"), text)
  return (await Effect.runPromise(into.commit(directory, anything))).digest
}
/** An object named by a key: a result. */
const result = async (text: string) => {
  const digest = await commit(text)
  journal.recordTrace({ key: text, digest, contentDigest: digest, type: anything.name, metrics: {} }, {})
  return digest
}
const planned = (policy: GcPolicy, now?: number) => opened.later(planGc(policy, now))
const collect = async (policy: GcPolicy, now?: number) => opened.later(gc(await planned(policy, now)))
const left = async () => new Set((await Effect.runPromise(store.objects)).map(({ digest }) => digest))

describe("gc deletes", () => {
  it("by default what no trace names; nothing without --yes", async () => {
    const [kept, orphan] = [await result("kept"), await commit("orphan")]
    const collection = await planned({ keep: 0 })
    expect(collection.objects.map(({ digest, why }) => [digest, why])).toEqual([[orphan, "unreachable"]])
    expect(await left()).toEqual(new Set([kept, orphan]))
    const collected = await opened.later(gc(collection))
    expect(collected).toMatchObject({ objects: 1, stayed: [] })
    expect(await left()).toEqual(new Set([kept]))
    expect(readdirSync(join(home, "trash"))).toEqual([])
  })

  it("by age what no run has made or found for that long", async () => {
    const [old, young] = [await result("old"), await result("young")]
    const later = Date.now() + 31 * day
    expect((await planned({ olderThan: 30 * day, keep: 0 })).objects).toEqual([])
    expect((await planned({ olderThan: 30 * day, keep: 0 }, later)).objects.map(({ why }) => why)).toEqual(["old", "old"])
    expect((await planned({ olderThan: 32 * day, keep: 0 }, later)).objects).toEqual([])
    expect(await left()).toEqual(new Set([old, young]))
  })

  it("by size the least recently used first, and no more than necessary", async () => {
    const made: Array<string> = []
    for (const text of ["first", "second", "third"]) {
      made.push(await result(text.padEnd(100, ".")))
      await sleep(5)
    }
    const [first, second, third] = made as [string, string, string]
    // All have the same size; a run finds the first again.
    const { size } = (await Effect.runPromise(store.objects))[0]!
    await sleep(5)
    journal.recordExecution({
      run: "r",
      pipeline: "p",
      node: "first",
      stage: "s",
      key: "first",
      parts: { stage: "s", code: "", config: {}, seed: null, inputs: {}, numerics: null },
      files: {},
      status: "hit",
      milliseconds: 0,
      digest: first,
      error: null
    })
    expect((await planned({ maxSize: 3 * size, keep: 0 })).objects).toEqual([])
    expect((await planned({ maxSize: 3 * size - 1, keep: 0 })).objects.map(({ digest }) => digest)).toEqual([second])
    expect((await planned({ maxSize: 2 * size - 1, keep: 0 })).objects.map(({ digest }) => digest).sort()).toEqual([second, third].sort())
    expect((await planned({ maxSize: size / 2, keep: 0 })).over).toBe(0)
    // Objects within the window stay whatever the size, and are reported.
    expect(await planned({ maxSize: size, keep: day })).toMatchObject({ objects: [], over: 2 * size })
  })

  it("also quarantined results, leftovers of killed runs, an interrupted gc's trash, and logs of the same age", async () => {
    const digest = await result("damaged")
    await Effect.runPromise(store.quarantine(digest))
    mkdirSync(join(home, `tmp/4194305-${processSpace()}-left`), { recursive: true })
    mkdirSync(join(home, "trash/x-1-2"), { recursive: true })
    mkdirSync(join(home, "logs/a-run"), { recursive: true })
    const whats = async (policy: GcPolicy, now?: number) => (await planned(policy, now)).leftovers.map(({ what }) => what)
    expect(await whats({ keep: day })).toEqual(["tmp", "trash"])
    expect(await whats({ olderThan: 30 * day, keep: day }, Date.now() + 31 * day)).toEqual(["quarantine", "tmp", "trash", "log"])
    await collect({ olderThan: 30 * day, keep: day }, Date.now() + 31 * day)
    for (const name of ["quarantine", "tmp", "logs", "trash"]) expect(readdirSync(join(home, name))).toEqual([])
  })
})

describe("logs", () => {
  const month: GcPolicy = { olderThan: 30 * day, keep: 0 }
  const later = Date.now() + 31 * day
  const logs = async (now?: number) =>
    (await planned(month, now)).leftovers.flatMap(({ what, path }) => (what === "log" ? [basename(path)] : []))

  it("of an active run stay, however long ago it started; those of a killed run are deleted by their last write", async () => {
    const leases = new Leases(home)
    const holder = leases.hold("a run")
    journal.startRun("long", "p", { settings: {}, holder: holder.id })
    mkdirSync(join(home, "logs/long"), { recursive: true })
    writeFileSync(join(home, "logs/long/a.log"), "on and on")
    expect(await logs(later)).toEqual([])
    // As the kernel does when its process ends.
    holder.release()
    leases.close()
    expect(await logs(later)).toEqual(["long"])
    utimesSync(join(home, "logs/long/a.log"), later / 1000, later / 1000)
    expect(await logs(later)).toEqual([])
    journal.finishRun("long", "failed")
    expect(await logs(later)).toEqual(["long"])
  })

  it("that another collection deletes meanwhile cause no error", async () => {
    mkdirSync(join(home, "logs"), { recursive: true })
    // Listed, but deleted before it is read.
    symlinkSync("nowhere", join(home, "logs/gone"))
    await collect(month, later)
    expect(readdirSync(join(home, "logs"))).toEqual([])
  })
})

describe("checkpoints and shards", () => {
  const whats = async (policy: GcPolicy, now?: number) =>
    (await planned(policy, now)).leftovers.map(({ what, path }) => [what, basename(path)])
  const month: GcPolicy = { olderThan: 30 * day, keep: 0 }
  const later = Date.now() + 31 * day
  const checkpoint = (key: string) => {
    mkdirSync(join(home, "checkpoints", key, "000000000005"), { recursive: true })
    writeFileSync(join(home, "checkpoints", key, "000000000005", "state"), "half done")
  }
  const shards = () => {
    const made = new Shards(join(home, "shards", "base.db"))
    made.put("a", Buffer.from("x".repeat(5000)))
    made.close()
  }

  it("are deleted if unused for the given time, and not otherwise", async () => {
    checkpoint("unfinished")
    shards()
    expect(await whats({ keep: 0 })).toEqual([])
    expect(await whats(everything)).toEqual([])
    expect(await whats(month)).toEqual([])
    expect(await whats(month, later)).toEqual([
      ["checkpoint", "unfinished"],
      ["shards", "base.db"]
    ])
    // One was written since.
    utimesSync(join(home, "checkpoints", "unfinished", "000000000005"), later / 1000, later / 1000)
    expect(await whats(month, later)).toEqual([["shards", "base.db"]])
    const freed = (await collect(month, later)).size
    expect(freed).toBeGreaterThan(5000)
    expect([readdirSync(join(home, "checkpoints")), readdirSync(join(home, "shards")), readdirSync(join(home, "trash"))]).toEqual([
      ["unfinished"],
      [],
      []
    ])
  })

  it("of a node with a result are deleted immediately, unless its result is missing", async () => {
    const digest = await result("finished")
    checkpoint("finished")
    expect(await whats({ keep: 0 })).toEqual([["checkpoint", "finished"]])
    expect(await whats({ keep: day })).toEqual([])
    await Effect.runPromise(store.quarantine(digest))
    expect(await whats({ keep: 0 })).toEqual([["quarantine", expect.any(String)]])
  })

  it("of a node that is being made stay, also if it started after the plan was made", async () => {
    checkpoint("making")
    const leases = new Leases(home)
    const holder = leases.hold("a run")
    const plan = await planned(month, later)
    expect(plan.leftovers.map(({ what }) => what)).toEqual(["checkpoint"])
    claimKey(leases, holder.id, "making")
    expect(await whats(month, later)).toEqual([])
    expect(await opened.later(gc(plan))).toMatchObject({ size: 0 })
    expect(readdirSync(join(home, "checkpoints"))).toEqual(["making"])
    // Its maker died silently.
    holder.release()
    leases.exclusive((database) => database.prepare("insert into flights values ('making', ?, 'dead')").run(holder.id))
    leases.close()
    expect(await whats(month, later)).toEqual([["checkpoint", "making"]])
  })
})

describe("gc never deletes", () => {
  it("what is pinned, until it is unpinned, whatever happens to the journal", async () => {
    const digest = await result("pinned")
    await Effect.runPromise(store.pin(digest, "the one we released"))
    expect(Effect.runSync(store.pins)).toMatchObject([{ digest, note: "the one we released" }])
    journal.forgetTrace("pinned")
    await collect({ ...everything, unreachable: true })
    expect(await left()).toEqual(new Set([digest]))
    // A pin that can't be read counts too.
    writeFileSync(join(home, "pins", digest), "")
    await collect({ ...everything, unreachable: true })
    expect(await left()).toEqual(new Set([digest]))
    expect([Effect.runSync(store.unpin(digest)), Effect.runSync(store.unpin(digest))]).toEqual([true, false])
    await collect({ ...everything, unreachable: true })
    expect(await left()).toEqual(new Set())
    await expect(Effect.runPromise(store.pin(digest, ""))).rejects.toThrow(/no longer in the store; only its record remains/)
  })

  it("what came into use after the plan was made: pinned, found by an active run, or used by one that ended", async () => {
    const [pinned, found, used, free] = [await result("pinned"), await result("found"), await result("used"), await result("free")]
    const collection = await planned(everything)
    expect(collection.objects.length).toBe(4)
    await Effect.runPromise(store.pin(pinned, ""))
    const running = opened.hold("a run")
    expect(Effect.runSync(running.present(found))).toBe(true)
    await sleep(5)
    // A run that had made this object again has ended.
    journal.forgetTrace("used")
    await result("used")
    const { stayed } = await opened.later(gc(collection))
    expect(new Map(stayed.map(({ digest, why }) => [digest, why]))).toEqual(
      new Map([
        [pinned, "pinned"],
        [found, expect.stringMatching(/^in use by a run \(process \d+\)$/)],
        [used, "used by a run since"]
      ])
    )
    expect(await left()).toEqual(new Set([pinned, found, used]))
    expect(free).not.toBe(found)
    running.letGo()
    expect((await planned(everything)).objects.map(({ digest }) => digest).sort()).toEqual([found, used].sort())
  })

  it("what a run has committed but not recorded yet", async () => {
    const running = opened.hold("a run")
    const digest = await commit("fresh", running)
    await collect({ unreachable: true, keep: 0 })
    expect(await left()).toEqual(new Set([digest]))
    running.letGo()
    await collect({ unreachable: true, keep: 0 })
    expect(await left()).toEqual(new Set())
  })

  it("what a living process holds: a stopped process holds it, a killed one does not", async () => {
    const digest = await result("held")
    const script = `import { Store } from ${JSON.stringify(new URL("../../../runtime/store/store.ts", import.meta.url).href)}
import * as Effect from "effect/Effect"
const holding = Effect.gen(function* () {
  const store = yield* (yield* Store).hold("a run")
  yield* store.present(${JSON.stringify(digest)})
  console.log("holding")
  yield* Effect.never
})
setInterval(() => {}, 1000)
await Effect.runPromise(holding.pipe(Effect.scoped, Effect.provide(Store.layer(${JSON.stringify(home)}))))`
    const child = spawn(process.execPath, ["--input-type=module-typescript", "-e", script], { stdio: ["ignore", "pipe", "inherit"] })
    const closed = new Promise((resolve) => child.on("close", resolve))
    await new Promise((resolve) => child.stdout.once("data", resolve))
    expect((await planned(everything)).objects).toEqual([])
    child.kill("SIGSTOP")
    expect((await planned(everything)).objects).toEqual([])
    child.kill("SIGKILL")
    await closed
    expect((await planned(everything)).objects.map((object) => object.digest)).toEqual([digest])
    expect(readdirSync(join(home, "leases"))).toEqual([])
  })
})

describe("gc during a run", () => {
  it("deletes nothing that the run found or made; the run ends undisturbed, and the next finds everything", async () => {
    const fixture = await loadFixture(folder)
    const first = await fixture.run()
    let collecting: Promise<unknown> | undefined
    const second = await fixture.run({ steps: "8" }, {}, (event) => {
      if (event.type === "progress" && event.node === "wait") collecting ??= collect(everything)
    })
    await collecting
    // The run had not reached the counts, and makes them again.
    expect(statuses(second)).toEqual({ lines: "hit", shout: "hit", wait: "ran", counts: "ran" })
    // The same rows after more steps: the same digest.
    expect(digests(second)).toEqual(digests(first))
    expect(await left()).toEqual(new Set(Object.values(digests(first))))
    expect(statuses(await fixture.run({ steps: "8" }))).toEqual({ lines: "hit", shout: "hit", wait: "hit", counts: "hit" })
  })

  it("deletes the rest once it has ended; the journal still has its origin, and a run makes the same again", async () => {
    const fixture = await loadFixture(folder)
    const first = await fixture.run()
    await collect(everything)
    expect(await left()).toEqual(new Set())
    expect(opened.now(makings(digests(first).shout!))).toMatchObject([{ run: first.run, node: "shout", config: { times: 1 } }])
    expect((await fixture.plan()).lines).toEqual(["run", "its result is no longer in the store"])
    expect(digests(await fixture.run())).toEqual(digests(first))
  })

  it("never comes between a check and a read, in a hundred tries", async () => {
    // One process checks for objects and reads them, or makes them again; this one collects all the while.
    const script = `import * as Effect from "effect/Effect"
import { mkdirSync, writeFileSync } from "node:fs"
import { Store } from ${JSON.stringify(new URL("../../../runtime/store/store.ts", import.meta.url).href)}
const type = { kind: "report", name: "report:anything/1", accepts: () => true, validate: () => Effect.void }
let [found, made, lost] = [0, 0, 0]
const digests = new Map()
const round = (number) => Effect.gen(function* () {
  const store = yield* (yield* Store).hold("a run")
  for (const text of ["a", "b", "c", "d"]) {
    const known = digests.get(text)
    if (known !== undefined && (yield* store.present(known))) found++
    else {
      const directory = yield* store.temporary
      writeFileSync(directory + "/a.txt", text)
      digests.set(text, (yield* store.commit(directory, type)).digest)
      made++
    }
    yield* Effect.sleep(number % 3)
    if ((yield* store.damage(digests.get(text))) !== undefined) lost++
  }
}).pipe(Effect.scoped, Effect.provide(Store.layer(${JSON.stringify(home)})))
// As many tries as it takes until both sides have conflicted, however busy the machine is.
for (let i = 0; i < 30 || ((found < 6 || made < 16) && i < 3000); i++) await Effect.runPromise(round(i))
console.log(JSON.stringify({ found, made, lost }))`
    const path = join(folder, "race.ts")
    writeFileSync(path, script)
    const child = spawn(process.execPath, [path], { stdio: ["ignore", "pipe", "inherit"] })
    let text = ""
    child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()))
    const closed = new Promise((resolve) => child.on("close", resolve))
    let collected = 0
    while (child.exitCode === null) {
      collected += (await collect({ unreachable: true, keep: 0 })).objects
      await sleep(2)
    }
    await closed
    const { found, made, lost } = JSON.parse(text) as { found: number; made: number; lost: number }
    expect(lost).toBe(0)
    expect(found + made).toBeGreaterThanOrEqual(120)
    expect(Math.min(found, made, collected)).toBeGreaterThan(5)
  })
})

describe("two concurrent collections", () => {
  it("delete each object once, and neither fails", async () => {
    for (let i = 0; i < 40; i++) await commit(`orphan ${i}`)
    const other = openHome(home)
    try {
      const plans = await Promise.all([planned({ keep: 0 }), other.later(planGc({ keep: 0 }))])
      expect(plans.map(({ objects }) => objects.length)).toEqual([40, 40])
      await Promise.all([opened.later(gc(plans[0])), other.later(gc(plans[1]))])
      expect([await left(), readdirSync(join(home, "trash"))]).toEqual([new Set(), []])
    } finally {
      other.close()
    }
  })
})

describe("leases", () => {
  it("are listed by holder while it lives, and end with it", () => {
    const leases = new Leases(home)
    const [a, b] = [leases.hold("a run"), leases.hold("caravan verify")]
    a.lease(["1"])
    b.lease(["2"])
    b.lease(["2"])
    const named = () => [...leases.withLeasesLocked((leased) => leased)].map(([digest, what]) => `${digest} ${what.split(" (")[0]}`).sort()
    expect(named()).toEqual(["1 a run", "2 caravan verify"])
    expect([leases.isAlive(a.id), leases.isAlive("nobody")]).toEqual([true, false])
    a.release()
    a.release()
    expect(named()).toEqual(["2 caravan verify"])
    expect(leases.isAlive(a.id)).toBe(false)
    b.release()
    expect([named(), readdirSync(join(home, "leases"))]).toEqual([[], []])
    leases.close()
  })
})
