/** What a run records and when, what it holds while it waits, and which failures are a node's or the run's. */
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { pathToFileURL } from "node:url"
import { afterEach, beforeEach, describe, expect, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { claimKey, releaseClaims } from "../../../runtime/store/in-flight.ts"
import { compareRuns } from "../../../runtime/inspect/history.ts"
import { Leases } from "../../../runtime/store/leases.ts"
import { type AnyNode, fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import type { AnyStage } from "../../../runtime/define/stage.ts"
import { removeFolder } from "../../cli/caravan.ts"
import { fixtureFolder, loadFixture, type Opened, openHome, opening, services, statuses } from "../fixture.ts"
import { count, lines, wait } from "../fixtures/stages.ts"

let folder: string
let home: string
beforeEach(() => {
  folder = fixtureFolder()
  home = join(folder, "home")
})
afterEach(() => removeFolder(folder))

/** Well below a test's own limit, and far above the time of anything here. */
const patience = 50_000
const waitFor = (what: () => boolean) => Effect.sleep("20 millis").pipe(Effect.repeat({ until: what }), Effect.timeout(patience))
const words = () => fileAt(join(folder, "words.txt"))
const working = (
  nodes: () => Readonly<Record<string, AnyNode>>,
  onEvent: (event: RunEvent) => void = () => undefined,
  options: Partial<RunOptions> = {}
) =>
  run(
    Pipeline.make("made here", { params: Schema.Struct({}) }, () => nodes()),
    {},
    { onEvent, ...options }
  ).pipe(Effect.provide(services(home)))
const recorded = ({ journal }: Opened) =>
  journal.executionsOf(journal.runs({ limit: 1 })[0]!.id).map(({ node, status }) => `${node} ${status}`)

describe("the results that a run found", { timeout: 60_000 }, () => {
  const long = (steps = 1_000_000) => ({ words: lines({ file: words() }), slow: wait({ texts: lines({ file: words() }) }, { steps }) })

  it.live("are recorded during the run, for gc to see", () =>
    Effect.gen(function* () {
      yield* working(() => ({ words: lines({ file: words() }) }))
      const opened = yield* opening(home)
      yield* Effect.forkChild(working(long))
      yield* waitFor(() => opened.journal.runs().length === 2 && recorded(opened).includes("lines hit"))
      expect(opened.journal.runs()[0]!.status).toBe("running")
    })
  )

  it.live("are also recorded if it is interrupted before that", () =>
    Effect.gen(function* () {
      yield* working(() => ({ words: lines({ file: words() }) }))
      const started = Deferred.makeUnsafe<void>()
      const fiber = yield* Effect.forkChild(
        working(long, (event) => event.type === "node-started" && event.node === "wait" && Deferred.doneUnsafe(started, Effect.void))
      )
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      const opened = yield* opening(home)
      expect([recorded(opened), opened.journal.runs()[0]!.status]).toEqual([["lines hit"], "interrupted"])
    })
  )
})

describe("nodes that wait for a permit", { timeout: 60_000 }, () => {
  it.live("do not prevent others from running, however many they are", () =>
    Effect.gen(function* () {
      const texts = lines({ file: words() })
      // One holds the only permit for tensors forever; more than two hundred wait for it.
      const nodes = () => ({
        ...Object.fromEntries(Array.from({ length: 250 }, (_, i) => [`slow${i}`, wait({ texts }, { steps: 1_000_000 + i })])),
        // Queued behind all of them.
        after: count({ sets: [texts] }).named("after")
      })
      const done = new Set<string>()
      yield* Effect.forkChild(working(nodes, (event) => event.type === "node-finished" && done.add(event.node.id)))
      yield* waitFor(() => done.has("after"))
      expect([...done].filter((id) => id.startsWith("wait"))).toEqual([])
    })
  )
})

describe("a damaged result", { timeout: 60_000 }, () => {
  it("that another run has made again meanwhile stays, and is used", async () => {
    const fixture = await loadFixture(folder)
    const first = await fixture.run()
    const made = first.nodes.find(({ id }) => id === "lines")!
    const file = join(home, "objects", made.digest!.slice(0, 2), made.digest!, "data.arrow")
    const sound = readFileSync(file)
    const damaged = Buffer.from(sound)
    damaged[damaged.length >> 1]! ^= 1
    chmodSync(file, 0o644)
    writeFileSync(file, damaged)
    // Another run is making it again while this one waits.
    const leases = new Leases(home)
    const holder = leases.hold("another run")
    const claimed = claimKey(leases, holder.id, made.key!)
    if (!claimed.mine) throw new Error("nobody else makes anything here")
    const second = await fixture.run({ times: "2" }, {}, (event) => {
      if (event.type !== "node-waiting" || event.node !== "lines") return
      writeFileSync(file, sound)
      releaseClaims(leases, [claimed.claim])
    })
    holder.release()
    leases.close()
    expect(second.events.some((event) => event.type === "node-waiting" && event.node === "lines")).toBe(true)
    expect(statuses(second)).toEqual({ lines: "hit", shout: "ran", wait: "hit", counts: "ran" })
    expect([existsSync(join(home, "quarantine")), readFileSync(file).equals(sound)]).toEqual([false, true])
  })
})

describe("a run whose journal breaks", { timeout: 60_000 }, () => {
  it.live("fails with the store's error, as a value", () =>
    Effect.gen(function* () {
      const onEvent = (event: RunEvent) => {
        if (event.type !== "run-started") return
        const database = new DatabaseSync(join(home, "journal.db"))
        database.exec("drop table executions")
        database.close()
      }
      const { _tag, message } = yield* Effect.flip(working(() => ({ words: lines({ file: words() }) }), onEvent))
      expect([_tag, message]).toEqual([
        "StoreError",
        expect.stringMatching(/^Using the journal .*no such table: executions\. It is damaged/)
      ])
    })
  )
})

describe("a fault of one node", { timeout: 60_000 }, () => {
  it("caused by a stage that interrupts itself is that node's failure", async () => {
    writeFileSync(
      join(folder, "selfish.ts"),
      `import { afterEach, beforeEach, describe, expect, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stage from "../../../runtime/define/stage.ts"
import { Texts } from "../../../schemas/rows.ts"
export const selfish = Stage.make("selfish", { config: Schema.Struct({}), inputs: {}, output: Texts, run: () => Effect.interrupt })
`
    )
    const { selfish } = (await import(pathToFileURL(join(folder, "selfish.ts")).href)) as { readonly selfish: AnyStage }
    const result = await Effect.runPromise(
      working(() => ({ selfish: (selfish as unknown as (inputs: object) => AnyNode)({}), words: lines({ file: words() }) }))
    )
    expect(statuses(result)).toEqual({ selfish: "failed", lines: "ran" })
    expect(result.nodes[0]!.error).toMatch(/^Stage selfish interrupted itself: .* Fix its code/)
  })

  it("caused by an unreadable input stops its dependents, and nothing else", async () => {
    mkdirSync(join(folder, "broken"))
    symlinkSync("nowhere", join(folder, "broken/link"))
    const result = await Effect.runPromise(
      working(() => ({
        words: lines({ file: words() }),
        broken: wait({ texts: lines({ file: fileAt(join(folder, "broken")) }).named("broken") })
      }))
    )
    expect(statuses(result)).toEqual({ lines: "ran", broken: "failed", wait: "skipped" })
    expect(result.nodes.find(({ id }) => id === "broken")!.error).toMatch(/^Reading the input .*broken: /)
  })

  it("is in the journal with the nodes skipped because of it; diff reports the change of status and nothing unknown", async () => {
    const fixture = await loadFixture(folder)
    const failed = await fixture.run({ "shout.refuse": "true" })
    const whole = await fixture.run()
    const opened = openHome(home)
    const { journal } = opened
    const [before, after] = [failed, whole].map(({ run: id }) => journal.runsLike(id)[0]!)
    expect(before!.nodes).toEqual({ ran: 2, failed: 1, skipped: 1 })
    const counts = opened.now(compareRuns(before!, after!)).nodes.find(({ node }) => node === "counts")!
    expect(counts).toMatchObject({ only: null, code: [], inputs: [], status: { before: "skipped", after: "ran" } })
    opened.close()
  })
})
