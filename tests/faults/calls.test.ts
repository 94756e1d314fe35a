/** Every file system call, failed in turn: the process killed before and after it, an error, a short write. */
import { cpSync, rmSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  call,
  changing,
  digestsOf,
  errno,
  everything,
  type Fault,
  faultFolder,
  mode,
  numbers,
  type Outcome,
  remove,
  requestOf,
  Runner,
  shim,
  without,
  withRunner
} from "./harness.ts"
import { broken, type Clean } from "./invariants.ts"

const hour = 3_600_000
const folder = faultFolder()
const shimmed = { below: folder }
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

/** Number of calls in a run. */
const countOf = async (runner: Runner, fault: Omit<Fault, "mode">, home: string): Promise<number> => {
  const outcome = await runner.run(requestOf(folder, home), { ...fault, mode: mode.nothing })
  expect(outcome.end).toMatchObject({ type: "done", status: "succeeded" })
  return outcome.count
}

describe.skipIf(!("path" in shim))(`kill -9${without}`, () => {
  const kills = [
    ["before", mode.killBefore, {}, {}],
    ["after", mode.killAfter, {}, {}],
    // Several are committed together.
    ["before (six stages at once)", mode.killBefore, { pieces: "6" }, { jobs: 6 }]
  ] as const
  for (const [title, when, settings, options] of kills.slice(0, everything ? undefined : 2))
    it(`${title} each call that changes a file or folder, in a run with an empty store`, { timeout: hour }, async () => {
      const home = join(folder, "killed")
      const request = { ...requestOf(folder, home, settings), options }
      const { count, end } = await withRunner(shimmed, (runner) =>
        runner.run({ ...request, home: join(folder, `counted ${title}`) }, { mask: changing, mode: mode.nothing })
      )
      expect(end).toMatchObject({ type: "done", status: "succeeded" })
      const expected = digestsOf(await sound.run({ ...request, home: join(folder, `clean ${title}`) }))
      const found: Array<string> = []
      let [tried, fired] = [0, 0]
      // Each starts while the previous one is checked.
      let next = new Runner(shimmed)
      for (const at of numbers(count, 2)) {
        const runner = next
        next = new Runner(shimmed)
        rmSync(home, { recursive: true, force: true })
        await runner.ready()
        const outcome = await runner.run(request, { mode: when, mask: changing, at })
        await runner.close()
        tried++
        fired += outcome.fired
        if (outcome.fired === 0) continue
        expect(outcome.end).toEqual({ type: "died", code: null, signal: "SIGKILL" })
        const left = { finished: Object.keys(outcome.finished), step: outcome.steps.at(-1) }
        for (const wrong of await broken({ clean: expected, ...left, runner: sound, request })) found.push(`call ${at}: ${wrong}`)
      }
      await next.close()
      console.log(`kill -9 ${title}: ${fired} of ${tried} calls tried (of ${count})`)
      expect(found).toEqual([])
      // The number of calls differs slightly from run to run.
      expect(fired).toBeGreaterThan(tried * 0.9)
    })
})

/** Allowed outcomes of a run with an error: the right digests, or a failure that says what to do. */
const unacceptable = ({ end }: Outcome, expected: Clean): Array<string> => {
  if (end.type === "died") return [`the process ended with ${end.code ?? end.signal}`]
  if (end.type === "refused") return end.tag === "StoreError" || end.tag === "PipelineError" ? [] : [`a ${end.tag}: ${end.message}`]
  const wrong: Array<string> = []
  for (const { id, status, digest, error } of end.nodes) {
    if (status === "failed" && !/ENOSPC|EIO|EMFILE|disk is full|disk I\/O error|unable to open|malformed|JSON/.test(error!))
      wrong.push(`${id} failed without saying of what: ${error}`)
    if (digest !== null && digest !== expected[id]) wrong.push(`${id} is said to be ${digest}`)
  }
  if (end.status === "succeeded" && end.nodes.some(({ status }) => status === "failed" || status === "skipped"))
    wrong.push("a run is said to have succeeded whose nodes have not")
  return wrong
}

interface Sweep {
  readonly title: string
  readonly fault: Omit<Fault, "at">
  /** How many of them the ordinary suite tries. */
  readonly sample: number
}
const sweeps: ReadonlyArray<Sweep> = [
  {
    title: "a full disk (ENOSPC) from each write on",
    fault: { mode: mode.refuseFrom, error: errno.ENOSPC, mask: call.openWrite | call.write | call.mkdir | call.link },
    sample: 2
  },
  {
    title: "ENOSPC at each write alone",
    fault: { mode: mode.refuseOnce, error: errno.ENOSPC, mask: call.openWrite | call.write | call.mkdir | call.link },
    sample: 2
  },
  { title: "EIO at each call that changes something", fault: { mode: mode.refuseOnce, error: errno.EIO, mask: changing }, sample: 2 },
  { title: "EIO at each call that reads", fault: { mode: mode.refuseOnce, error: errno.EIO, mask: call.openRead | call.read }, sample: 2 },
  {
    title: "too many open files (EMFILE) at each open",
    fault: { mode: mode.refuseOnce, error: errno.EMFILE, mask: call.openRead | call.openWrite },
    sample: 2
  },
  {
    title: "too many open files (EMFILE) from each open on",
    fault: { mode: mode.refuseFrom, error: errno.EMFILE, mask: call.openRead | call.openWrite },
    sample: 2
  },
  { title: "each fsync failing (EIO)", fault: { mode: mode.refuseOnce, error: errno.EIO, mask: call.sync }, sample: 2 },
  { title: "each write cut short", fault: { mode: mode.short, mask: call.write }, sample: 2 },
  { title: "each read cut short", fault: { mode: mode.short, mask: call.read }, sample: 2 }
]

/** The ordinary suite tries a few of some. */
const usual = (...titles: ReadonlyArray<RegExp>) =>
  sweeps.filter(({ title }) => everything || titles.some((pattern) => pattern.test(title)))

describe.skipIf(!("path" in shim))(`in a run with an empty store,${without}`, () => {
  it.each(usual(/full disk/, /fsync/))(
    "$title may stop it, but no wrong result is kept",
    { timeout: hour },
    async ({ title, fault, sample }) => {
      const found: Array<string> = []
      const home = join(folder, "refused")
      await withRunner(shimmed, async (runner) => {
        // The first run loads what later ones have loaded.
        await runner.run(requestOf(folder, join(folder, `loaded ${title}`)))
        const count = await countOf(runner, fault, join(folder, `counted ${title}`))
        let [tried, stopped] = [0, 0]
        for (const at of numbers(count, sample)) {
          rmSync(home, { recursive: true, force: true })
          const outcome = await runner.run(requestOf(folder, home), { ...fault, at })
          if (outcome.fired === 0) continue
          tried++
          const wrong = unacceptable(outcome, clean)
          if (outcome.end.type !== "done" || outcome.end.status !== "succeeded") stopped++
          wrong.push(...(await broken({ clean, finished: Object.keys(outcome.finished), runner: sound, request: requestOf(folder, home) })))
          found.push(...wrong.map((what) => `call ${at}: ${what}`))
          if (outcome.end.type === "died") break
        }
        console.log(`${title}: ${tried} of ${count} calls; ${stopped} runs were stopped by it, ${tried - stopped} went on to the right end`)
        expect(tried).toBeGreaterThan(0)
      })
      expect(found).toEqual([])
    }
  )
})

describe.skipIf(!("path" in shim))(`in a run that finds one result and makes two,${without}`, () => {
  it.each(usual(/EMFILE.*from/, /EIO.*reads/))("$title loses no existing result", { timeout: hour }, async ({ title, fault, sample }) => {
    const found: Array<string> = []
    const home = join(folder, "warm")
    const changed = { times: "2" }
    await withRunner(shimmed, async (runner) => {
      // As after a run with other settings; its code is cached, so that few calls remain.
      const before = join(folder, `before ${title}`)
      const made = digestsOf(await runner.run(requestOf(folder, before)))
      const counted = join(folder, `counted warm ${title}`)
      cpSync(before, counted, { recursive: true })
      const outcome = await runner.run(requestOf(folder, counted, changed), { ...fault, mode: mode.nothing })
      const after = digestsOf(outcome)
      let [tried, stopped] = [0, 0]
      for (const at of numbers(outcome.count, sample)) {
        rmSync(home, { recursive: true, force: true })
        cpSync(before, home, { recursive: true })
        const met = await runner.run(requestOf(folder, home, changed), { ...fault, at })
        if (met.fired === 0) continue
        tried++
        if (met.end.type !== "done" || met.end.status !== "succeeded") stopped++
        const wrong = unacceptable(met, after)
        wrong.push(
          ...(await broken({
            clean: after,
            finished: ["read", ...Object.keys(met.finished)],
            runner: sound,
            request: requestOf(folder, home, changed)
          })),
          ...(await broken({ clean: made, finished: Object.keys(made), runner: sound, request: requestOf(folder, home) }))
        )
        found.push(...wrong.map((what) => `call ${at}: ${what}`))
        if (met.end.type === "died") break
      }
      console.log(`warm, ${title}: ${tried} of ${outcome.count} calls; ${stopped} runs were stopped by it`)
      expect(tried).toBeGreaterThan(0)
    })
    expect(found).toEqual([])
  })
})
