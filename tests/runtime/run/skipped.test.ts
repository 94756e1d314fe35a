/** Rows that a stage can't use: counted, listed in a file, reported again when the result is cached, and limited. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { fileAt, type Node } from "../../../runtime/define/node.ts"
import type { NodeLimits } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { skippedText } from "../../../runtime/define/skipped.ts"
import { verify } from "../../../runtime/inspect/verify.ts"
import type { RunEvent } from "../../../runtime/run/events.ts"
import type { RunOptions } from "../../../runtime/run/options.ts"
import { run } from "../../../runtime/run/run.ts"
import { collectSkipped } from "../../../runtime/run/skipped-rows.ts"
import { gc, planGc } from "../../../runtime/store/gc.ts"
import { checkAndRemove } from "../../faults/invariants.ts"
import { fixtureFolder, openHome, services } from "../fixture.ts"
import { lines } from "../fixtures/mapped.ts"
import { use, useBy10, useInChild } from "../fixtures/skipping.ts"

let folder: string
beforeEach(() => {
  folder = fixtureFolder()
})
afterEach(() => checkAndRemove(folder))
const home = () => join(folder, "home")

type Application = (inputs: { texts: Node<any> }, config: any) => Node<any>
/** `bad` of `count` texts can't be used. */
const write = (count: number, bad: number) =>
  writeFileSync(join(folder, "words.txt"), Array.from({ length: count }, (_, i) => `${i < bad ? "x" : "a"}${i}`).join("\n"))
const pipelineOf = (stage: Application, config: object = {}, limits: NodeLimits = {}) =>
  Pipeline.make("skipping", { params: Schema.Struct({}) }, () => ({
    out: stage({ texts: lines({ file: fileAt(join(folder, "words.txt")) }) }, config)
      .named("out")
      .limited(limits)
  }))
const go = async (stage: Application, config: object = {}, options: RunOptions = {}, limits: NodeLimits = {}) => {
  const pipeline = pipelineOf(stage, config, limits)
  const events: Array<RunEvent> = []
  const result = await Effect.runPromise(
    run(pipeline, {}, { onEvent: (event) => events.push(event), ...options }).pipe(Effect.provide(services(home())))
  )
  const notes = events.flatMap((event) => (event.type === "note" ? [event.message] : []))
  return { ...result.nodes.find(({ id }) => id === "out")!, notes }
}
const listed = (path: string | null) =>
  readFileSync(path!, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)

describe("skipped rows", () => {
  it.each<[string, Application]>([
    ["in the run's process", use],
    ["in a child", useInChild],
    ["over shards", useBy10]
  ])("of a stage %s are counted and listed, and reported again when its result is cached", async (_, stage) => {
    write(50, 3)
    const made = await go(stage)
    expect(made).toMatchObject({ status: "ran", skipped: [{ what: "texts", of: 50, skipped: 3, reasons: { 'with an "x"': 3 } }] })
    expect(listed(made.skippedRows).map(({ row }) => row)).toEqual([{ text: "x0" }, { text: "x1" }, { text: "x2" }])
    expect(listed(made.skippedRows)[1]).toMatchObject({ what: "texts", reason: 'with an "x"', id: "row 1", field: "text" })
    const found = await go(stage)
    expect(found).toMatchObject({ status: "hit", skipped: made.skipped, skippedRows: made.skippedRows, digest: made.digest })
  })

  it("that JSON can't represent, such as one nested a hundred thousand deep, are listed without their content", async () => {
    const folders = join(folder, "sidecar")
    const collected = collectSkipped("use", folders, undefined)
    collected.add({ what: "texts", reason: "not an object", line: 1, row: JSON.parse(`${"[".repeat(1e5)}${"]".repeat(1e5)}`) })
    collected.add({ what: "texts", reason: "not an object", line: 2, row: 7 })
    await Effect.runPromise(collected.check("texts", 50))
    expect(await Effect.runPromise(collected.finish)).toMatchObject([{ of: 50, skipped: 2 }])
    expect(listed(join(folders, "skipped.jsonl"))).toMatchObject([
      { line: 1, row: expect.stringMatching(/^\(can't be written as JSON: Maximum call stack size exceeded\)$/) },
      { line: 2, row: 7 }
    ])
  })

  it("are not part of the result: it has the same digest without them", async () => {
    write(50, 0)
    const clean = await go(use)
    expect([clean.skipped, clean.skippedRows]).toEqual([[], null])
    write(50, 3)
    const text = Array.from({ length: 50 }, (_, i) => `a${i}`).join("\n")
    writeFileSync(join(folder, "words.txt"), `x\n${text}\nx`)
    expect(await go(use)).toMatchObject({ digest: clean.digest, skipped: [{ skipped: 2, of: 52 }] })
  })

  it("of shards that were made before are reported too, and the limit applies to all shards together", async () => {
    write(50, 9)
    // 9 of the first 10 rows, 18% of all.
    const first = await go(useBy10)
    expect(first.skipped).toMatchObject([{ of: 50, skipped: 9 }])
    const more = `${readFileSync(join(folder, "words.txt"), "utf8")}\nx50`
    writeFileSync(join(folder, "words.txt"), more)
    const second = await go(useBy10)
    expect(second.skipped).toMatchObject([{ of: 51, skipped: 10 }])
    expect(listed(second.skippedRows)).toHaveLength(10)
  })

  it("fail the stage above a fifth of all, but not at exactly a fifth; the rows stay next to its log", async () => {
    write(50, 10)
    expect(await go(use)).toMatchObject({ status: "ran" })
    write(50, 11)
    const { error, status } = await go(use)
    const path = /skipped are in (\S+\.skipped\.jsonl)\./.exec(error!)![1]!
    expect([status, error]).toEqual([
      "failed",
      `Stage use skipped 11 of 50 texts (22%): 11 with an "x". The first: "row 0", field text. At most 20% may be skipped. The rows that it skipped are in ${path}. Fix the data, or raise the limit (a fraction, 0 to 1) with --max-skipped, or with limits.skipped in a program.`
    ])
    expect(listed(path)).toHaveLength(11)
  })

  it("are also listed if the stage fails for another reason", async () => {
    write(50, 3)
    const { error } = await go(use, { fails: true, unchecked: true })
    expect(error).toMatch(/The rows that it skipped are in /)
    expect(listed(/skipped are in (\S+\.jsonl)\./.exec(error!)![1]!)).toHaveLength(3)
  })

  it("are limited by the stage if neither node nor run sets a limit", async () => {
    write(50, 11)
    for (const stage of [use, useBy10]) {
      expect((await go(stage, { most: 0.22 })).status).toBe("ran")
      expect((await go(stage, { most: 0.22 }, { limits: { skipped: 0.07 }, force: ["out"] })).error).toContain("At most 7% may be skipped")
    }
  })

  it("of a node with its own limit are allowed there, not by the run", async () => {
    write(50, 11)
    expect((await go(use, {}, {}, { skipped: 0 })).error).toContain("raise this node's limit in the pipeline: limited({ skipped })")
  })

  it.each<[string, RunOptions, NodeLimits, string]>([
    ["the run allows more", { limits: { skipped: 0.22 } }, {}, "ran"],
    ["the run allows less", { limits: { skipped: 0.05 } }, {}, "failed"],
    ["the node allows more", {}, { skipped: 1 }, "ran"],
    ["the node's own limit comes first", { limits: { skipped: 1 } }, { skipped: 0 }, "failed"]
  ])("have other limits: %s", async (_, options, limits, status) => {
    write(50, options.limits?.skipped === 0.05 ? 3 : 11)
    expect((await go(use, {}, options, limits)).status).toBe(status)
  })

  it("above the limit fail a stage before its work begins, without a retry", async () => {
    write(50, 11)
    const { error, notes } = await go(use, { fails: true }, { limits: { retries: 2 } })
    expect(error).toContain("At most 20% may be skipped")
    expect(notes).toEqual([])
  })

  it("are not limited when a result is verified: they were allowed when it was made", async () => {
    write(50, 11)
    expect((await go(use, {}, { limits: { skipped: 1 } })).status).toBe("ran")
    const { nodes } = await Effect.runPromise(verify(pipelineOf(use), {}).pipe(Effect.provide(services(home()))))
    expect(nodes.map(({ error, id, status }) => [id, status, error])).toContainEqual(["out", "same", null])
  })

  it("that are never checked are a bug in the stage", async () => {
    write(50, 1)
    expect((await go(use, { unchecked: true })).error).toContain("without giving their total")
    write(50, 0)
    expect((await go(use, { unchecked: true })).status).toBe("ran")
  })

  it("are deleted from the store with the result, and stay as long as it does", async () => {
    write(50, 3)
    const made = await go(use)
    const opened = openHome(home())
    try {
      const collect = async (policy: Parameters<typeof planGc>[0], now?: number) =>
        opened.later(gc(await opened.later(planGc(policy, now))))
      await collect({ keep: 0 })
      expect(existsSync(made.skippedRows!)).toBe(true)
      // Used a day later: neither is old then.
      const tomorrow = Date.now() + 86_400_000
      const database = new DatabaseSync(join(home(), "journal.db"))
      database.exec("update executions set at = at + 86400000")
      database.close()
      await collect({ olderThan: 3_600_000, keep: 0 }, tomorrow)
      expect(existsSync(made.skippedRows!)).toBe(true)
      await collect({ olderThan: 3_600_000, keep: 0 }, tomorrow + 86_400_000)
      expect(existsSync(made.skippedRows!)).toBe(false)
    } finally {
      opened.close()
    }
    expect((await go(use)).skippedRows).toBe(made.skippedRows)
  })

  it("are reported in a sentence", () => {
    const reasons = { "longer than 9 tokens": 1, "with a tag": 2 }
    expect(skippedText({ what: "pairs", of: 1000, skipped: 3, reasons })).toBe(
      "skipped 3 of 1000 pairs (0.3%): 2 with a tag, 1 longer than 9 tokens"
    )
  })
})
