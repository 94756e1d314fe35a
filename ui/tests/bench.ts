/**
 * The live page's speed (docs/performance.md): first paint with a thousand runs in the journal, ten updates a second on 2,000 nodes, a curve of 100,000 points, and what watching takes of a core.
 *
 *     node ui/tests/bench.ts [out.json]
 *
 * It makes a journal of its own in a temporary folder, as runs would have, and drives Debian's Chromium (ui/tests/browser.ts).
 */
import { type ChildProcess, spawn } from "node:child_process"
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type { Browser, Page } from "playwright-core"
import { Curve } from "../../runtime/run/curve.ts"
import { curvesPath, logPath, stepsPath } from "../../runtime/run/node-log.ts"
import { Journal, type JournalTables } from "../../runtime/store/journal.ts"
import { Store } from "../../runtime/store/store.ts"
import { storeAt } from "../../cli/open-store.ts"
import { launch } from "./browser.ts"

const nodes = 2000
const runs = 1000
const nodesOfRun = 185
const points = 100_000

const idOf = (n: number): string => `${n.toString(16).padStart(8, "0")}-0000-4000-8000-000000000000`
const hex = (n: number, length = 64): string => n.toString(16).padStart(length, "0")

const graphOf = (count: number) => ({
  stages: { step: { description: "", fields: {} } },
  nodes: Array.from({ length: count }, (_, n) => ({
    id: `part-${Math.floor(n / 100)}-${n % 100}`,
    stage: "step",
    type: "dataset:text/1",
    inputs: { texts: n < 100 ? [] : [`part-${Math.floor(n / 100) - 1}-${n % 100}`, `part-${Math.floor(n / 100) - 1}-${(n * 7) % 100}`] }
  }))
})

const askedFor = (graph: string, holder: string, rate: number) => ({
  params: {},
  settings: { "sft.learningRate": String(rate) },
  seed: rate % 3,
  device: "cpu",
  threads: 1,
  selection: {},
  outputs: {},
  holder,
  process: { pid: process.pid, node: process.version },
  graph
})

const execution = (run: string, node: string, n: number) => ({
  run,
  pipeline: "study",
  node,
  stage: "step",
  key: hex(n),
  parts: { stage: "step", code: hex(1), config: { steps: n }, seed: null, inputs: {}, numerics: null },
  files: {},
  status: "ran" as const,
  milliseconds: 1000,
  digest: null,
  error: null
})

/** A thousand runs that are over, one of 2,000 nodes that goes on, one with a long curve. */
const fill = (tables: JournalTables, holder: string): void => {
  const small = tables.recordListing(graphOf(nodesOfRun))
  for (let n = 0; n < runs; n++) {
    const run = idOf(n)
    tables.startRun(run, "study", askedFor(small, "00000000-0000-4000-8000-000000000000", n))
    tables.recordExecutions(
      Array.from({ length: nodesOfRun }, (_, i) => execution(run, `part-${Math.floor(i / 100)}-${i % 100}`, n * nodesOfRun + i))
    )
    tables.finishRun(run, n % 9 === 0 ? "failed" : "succeeded")
  }
  tables.startRun(idOf(runs), "large", askedFor(tables.recordListing(graphOf(nodes)), holder, 0))
  tables.startRun(
    idOf(runs + 1),
    "long",
    askedFor(tables.recordListing({ stages: {}, nodes: [{ id: "sft", stage: "sft", type: "checkpoint:policy", inputs: {} }] }), holder, 0)
  )
  tables.recordExecution({ ...execution(idOf(runs + 1), "sft", 1e9), status: "failed", error: "for its curve" })
  tables.finishRun(idOf(runs + 1), "failed")
}

const longCurve = async (home: string): Promise<void> => {
  const curve = new Curve()
  for (let step = 1; step <= points; step++)
    curve.add({
      step,
      total: points,
      loss: 3 * Math.exp(-step / 20_000) + 0.3 * Math.sin(step / 37) * Math.random(),
      learningRate: 1e-3 * (1 - step / points),
      gradientNorm: Math.random()
    })
  mkdirSync(join(home, "logs", idOf(runs + 1)), { recursive: true })
  writeFileSync(curvesPath(home, idOf(runs + 1), "sft"), await curve.parquet())
}

const serve = (home: string): Promise<{ readonly child: ChildProcess; readonly url: string }> => {
  const child = spawn(process.execPath, [new URL("../../cli/caravan.js", import.meta.url).pathname, "ui", "--json"], {
    env: { ...process.env, CARAVAN_HOME: home },
    stdio: ["ignore", "pipe", "inherit"]
  })
  return new Promise((resolve) =>
    child.stdout.once("data", (chunk: Buffer) => resolve({ child, url: (JSON.parse(chunk.toString()) as { url: string }).url }))
  )
}

/** Seconds of processor time that a process has taken. */
const cpuOf = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")
  return (Number(fields[11]) + Number(fields[12])) / 100
}
const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]!

/** Milliseconds from the navigation to the first paint that has what is looked for. */
const firstPaint = async (
  browser: Browser,
  url: string,
  selector: string
): Promise<{ readonly paint: number; readonly content: number }> => {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
  await page.goto(url)
  await page.locator(selector).first().waitFor()
  const content = await page.evaluate(
    () => new Promise<number>((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now()))))
  )
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN)
  await page.close()
  return { paint, content }
}

/** Milliseconds that the page's thread was busy for at once, at most, and between two frames; while ten updates a second come. */
const updates = async (page: Page, seconds: number, tick: () => void) => {
  await page.evaluate(() => {
    const seen = { frames: [] as Array<number>, tasks: [] as Array<number>, last: performance.now() }
    ;(globalThis as unknown as { seen: typeof seen }).seen = seen
    new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map(({ duration }) => duration))).observe({
      entryTypes: ["longtask" as "mark"]
    })
    const frame = () => {
      const now = performance.now()
      seen.frames.push(now - seen.last)
      seen.last = now
      requestAnimationFrame(frame)
    }
    requestAnimationFrame(frame)
  })
  const until = performance.now() + 1000 * seconds
  while (performance.now() < until) {
    tick()
    await sleep(100)
  }
  const { frames, tasks } = await page.evaluate(
    () => (globalThis as unknown as { seen: { frames: Array<number>; tasks: Array<number> } }).seen
  )
  const sorted = frames.slice(2).toSorted((a, b) => a - b)
  return {
    frames: sorted.length,
    longest: sorted.at(-1)!,
    p99: sorted[Math.floor(0.99 * sorted.length)]!,
    longTasks: tasks.length,
    longestTask: Math.max(0, ...tasks)
  }
}

const main = async (out: string | undefined): Promise<void> => {
  const home = mkdtempSync(join(tmpdir(), "caravan-bench-ui-"))
  const results: Record<string, unknown> = { node: process.version, runs, nodesOfRun, nodes, points }
  await Effect.runPromise(
    Effect.gen(function* () {
      const journal = yield* Journal
      const held = yield* (yield* Store).hold("a run")
      yield* journal.transaction((tables) => fill(tables, held.holder))
      yield* Effect.promise(() => longCurve(home))
      const record = (from: number, to: number) =>
        Effect.runPromise(
          journal.transaction((tables) =>
            tables.recordExecutions(
              Array.from({ length: to - from }, (_, i) =>
                execution(idOf(runs), `part-${Math.floor((from + i) / 100)}-${(from + i) % 100}`, 2e9 + from + i)
              )
            )
          )
        )
      yield* Effect.promise(async () => {
        const { child, url } = await serve(home)
        const browser = await launch()
        try {
          const paints = []
          for (let i = 0; i < 5; i++) paints.push(await firstPaint(browser, url, ".runs tbody tr"))
          results.firstPaint = {
            paint: median(paints.map(({ paint }) => paint)),
            runsShown: median(paints.map(({ content }) => content)),
            cold: paints[0]
          }

          const logs = join(home, "logs", idOf(runs))
          mkdirSync(logs, { recursive: true })
          for (const [view, hash] of [
            ["table", "nodes"],
            ["graph, folded", "graph"],
            ["graph, unfolded", "graph"]
          ] as const) {
            const page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
            await page.goto(`${url}#/run/${idOf(runs)}/${hash}`)
            await page.locator(hash === "nodes" ? "table.virtual" : ".graph svg").waitFor()
            if (view === "graph, unfolded") {
              await page.getByRole("button", { name: "Unfold all" }).click()
              await page.locator(".node:not(.group)").nth(50).waitFor({ state: "attached", timeout: 60_000 })
            }
            await sleep(1500)
            // Nodes begin, report and end as in a run: each tick one ends, one begins, and five report.
            let [next, step] = [Number(results.recorded ?? 0), 0]
            const running = Array.from({ length: 5 }, (_, i) => `part-19-${60 + i}`)
            for (const node of running)
              writeFileSync(logPath(home, idOf(runs), node), `${new Date().toISOString()} stage step starts: it has never run here\n`)
            const before = cpuOf(child.pid!)
            const began = performance.now()
            const measured = await updates(page, 8, () => {
              step++
              for (const node of running)
                appendFileSync(
                  stepsPath(home, idOf(runs), node),
                  `{"at":${Date.now()},"step":${step},"total":1000,"loss":${1 / step},"tokens":64}\n`
                )
              void record(next, ++next)
            })
            results.recorded = next
            results[`ten updates a second, ${view}`] = {
              ...measured,
              serverShareOfACore: (cpuOf(child.pid!) - before) / ((performance.now() - began) / 1000)
            }
            await page.close()
          }

          const page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
          await page.goto(`${url}#/run/${idOf(runs + 1)}/nodes?node=sft`)
          await page.locator(".uplot canvas").first().waitFor({ timeout: 60_000 })
          await sleep(500)
          const drawn = []
          for (let i = 0; i < 5; i++) {
            // Smoothing makes every point anew, and each figure is drawn again.
            drawn.push(
              await page.evaluate(
                async (value) => {
                  const input = document.querySelector<HTMLInputElement>(".tools input[type=range]")!
                  const began = performance.now()
                  input.value = String(value)
                  input.dispatchEvent(new Event("input", { bubbles: true }))
                  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))
                  return performance.now() - began
                },
                0.5 + i / 20
              )
            )
          }
          results.curve = {
            figures: await page.locator(".uplot").count(),
            allFiguresSmoothedAndDrawn: median(drawn),
            each: median(drawn) / (await page.locator(".uplot").count())
          }
          await page.close()

          // Somebody looks at a run that goes on and at the list, and nothing happens; then at a run whose node reports once a second.
          const idle = await browser.newPage()
          await idle.goto(`${url}#/run/${idOf(runs)}/graph`)
          await idle.locator(".graph svg").waitFor()
          const list = await browser.newPage()
          await list.goto(url)
          await sleep(3000)
          const share = async (seconds: number, tick: () => void) => {
            const before = cpuOf(child.pid!)
            for (let i = 0; i < seconds; i++) {
              tick()
              await sleep(1000)
            }
            return (cpuOf(child.pid!) - before) / seconds
          }
          results.watching = {
            nothingHappens: await share(20, () => undefined),
            aReportASecond: await share(20, () =>
              appendFileSync(stepsPath(home, idOf(runs), "part-19-60"), `{"at":${Date.now()},"step":1,"total":1000,"loss":1,"tokens":64}\n`)
            )
          }
        } finally {
          await browser.close()
          child.kill()
        }
      })
    }).pipe(Effect.scoped, Effect.provide(storeAt(home)))
  )
  rmSync(home, { recursive: true, force: true })
  delete results.recorded
  const text = `${JSON.stringify(results, undefined, 2)}\n`
  process.stdout.write(text)
  if (out !== undefined) writeFileSync(out, text)
}

await main(process.argv[2])
