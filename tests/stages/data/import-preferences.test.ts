/** Importing preference pairs of users' files. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import * as arrow from "apache-arrow"
import { afterAll, describe, expect, it } from "vitest"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Demonstrations, Preferences } from "../../../schemas/rows.ts"
import { importDemonstrations } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { removeFolder, workFolder } from "../../cli/caravan.ts"
import { failureOf, rowsIn, runStage } from "../running.ts"

const folder = workFolder()
afterAll(() => removeFolder(folder))
let files = 0
const file = (rows: ReadonlyArray<unknown>) => {
  const path = join(folder, `${files++}.jsonl`)
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
  return { path, type: "file", digest: "", contentDigest: "" }
}
const pair = (over: Record<string, unknown> = {}) => ({ prompt: "q", chosen: "a", rejected: "b", ...over })
const shape = "prompt-chosen-rejected"

const judged = { rating: 1, chosenSafe: true, rejectedSafe: false }
const labelsOf = async (ref: ArtifactRef<any>) =>
  (await rowsIn(ref, Preferences)).map(({ id, rating, chosenSafe, rejectedSafe }) => [id, rating, chosenSafe, rejectedSafe])

it("pairs of a file keep their rating and labels; a file without any is accepted", async () => {
  const whole = await runStage(
    importPreferences,
    { file: file([pair(judged), pair({ ...judged, rating: 3, rejectedSafe: true })]) },
    { shape }
  )
  expect(await labelsOf(whole)).toEqual([
    ["1", 1, true, false],
    ["2", 3, true, true]
  ])
  const rated = await runStage(importPreferences, { file: file([pair({ rating: 0 }), pair({ rating: 2 })]) }, { shape })
  expect(await labelsOf(rated)).toEqual([
    ["1", 0, null, null],
    ["2", 2, null, null]
  ])
  const plain = await runStage(importPreferences, { file: file([pair(), pair({ rating: null })]) }, { shape })
  const transcripts = ["hello", "go away"].map((answer) => `\n\nHuman: hi\n\nAssistant: ${answer}`)
  const hh = await runStage(importPreferences, { file: file([{ chosen: transcripts[0], rejected: transcripts[1] }]) }, { shape: "hh-rlhf" })
  for (const { metrics } of [whole, rated, plain, hh])
    expect(metrics).toMatchObject({ withoutRating: 0, withoutLabels: 0, droppedUnsafe: 0, rowsSkipped: 0 })
})

describe("a pair whose chosen response is unsafe while the other is safe (§3.2.1)", () => {
  it("is dropped and counted, and no other is", async () => {
    const rows = [
      [false, true],
      [true, false],
      [false, false],
      [true, true],
      [false, true]
    ].map(([chosenSafe, rejectedSafe]) => pair({ chosenSafe, rejectedSafe }))
    const made = await runStage(importPreferences, { file: file(rows) }, { shape })
    expect((await labelsOf(made)).map(([id]) => id)).toEqual(["2", "3", "4"])
    expect(made.metrics).toMatchObject({ rows: 3, rowsRead: 5, rowsSkipped: 0, droppedUnsafe: 2 })
  })
  it("is decided by both labels: if one is missing the pair stays", async () => {
    const rows = [pair({ chosenSafe: false }), pair({ rejectedSafe: true })]
    const made = await runStage(importPreferences, { file: file(rows) }, { shape, unlabelled: "keep" })
    expect(made.metrics).toMatchObject({ rows: 2, droppedUnsafe: 0, withoutLabels: 2 })
  })
})

describe("required labels", () => {
  const required = { shape, labels: "required" as const }
  it("stop the run if no pair has one, and say how many pairs there are", async () => {
    const message = await failureOf(importPreferences, { file: file([pair(), pair({ rating: null })]) }, required)
    expect(message).toMatch(/expected safety labels.*found 2 pairs without any safety label.*in pipelines\/rlhf\.ts --set safety=false/)
  })
  it("exist if one answer has one: the metric unlabelled counts the others", async () => {
    const rows = [pair({ chosenSafe: true }), pair()]
    const made = await runStage(importPreferences, { file: file(rows) }, { ...required, unlabelled: "keep" })
    expect(made.metrics).toMatchObject({ rows: 2, withoutLabels: 2 })
    expect(await failureOf(importPreferences, { file: file(rows) }, required)).toMatch(/2 of 2 pairs without one or both/)
  })
})

describe("a partially judged file", () => {
  const failure = async (rows: ReadonlyArray<unknown>, config: object = {}) =>
    failureOf(importPreferences, { file: file(rows) }, { shape, ...config })

  it("with ratings stops the run: how many lack one, the first lines, and what to do", async () => {
    const message = await failure([pair({ rating: 1 }), pair(), pair({ rating: 2 }), pair({ rating: null })])
    expect(message).toMatch(
      /^Importing the pairs of .*\.jsonl: expected a rating for every pair, or for none, found 2 of 4 pairs without one, on lines 2, 4\. /
    )
    expect(message).toContain('Rate them or remove them. To train on them with margin 0, set unrated to "keep".')
    expect(await failure([pair({ rating: 1 }), ...Array.from({ length: 6 }, () => pair())])).toContain(
      "6 of 7 pairs without one, first on lines 2, 3, 4, 5, 6."
    )
    // Allowing missing labels does not allow missing ratings.
    expect(await failure([pair({ rating: 1 }), pair()], { unlabelled: "keep" })).toContain("1 of 2 pairs without one, on line 2.")
  })
  it.each([
    ["some pairs have both labels, others none", [judged, judged, { rating: 1 }]],
    ["a pair has only the first of its two labels", [judged, judged, { ...judged, rejectedSafe: null }]],
    ["a pair has only the second of its two labels", [judged, judged, { ...judged, chosenSafe: null }]]
  ])("with safety labels stops the run: %s", async (_, rows) => {
    const message = await failure(rows.map(pair))
    expect(message).toContain(
      "expected chosenSafe and rejectedSafe for every pair, or for none, found 1 of 3 pairs without one or both, on line 3. Label them"
    )
    expect(message).toContain('set unlabelled to "keep"')
    expect(await failure(rows.map(pair), { unrated: "keep" })).toBe(message.replace(/\d+\.jsonl/, `${files - 1}.jsonl`))
  })
  it("with safety labels stops the run if every pair has one label of two: the safety rule can't be applied", async () => {
    expect(await failure([pair({ chosenSafe: false }), pair({ chosenSafe: true })])).toContain(
      "2 of 2 pairs without one or both, on lines 1, 2."
    )
  })
  it("is accepted on request, and counted", async () => {
    const rows = [pair(judged), pair({ rating: 0 }), pair()]
    const made = await runStage(importPreferences, { file: file(rows) }, { shape, unrated: "keep", unlabelled: "keep" })
    expect(await labelsOf(made)).toEqual([
      ["1", 1, true, false],
      ["2", 0, null, null],
      ["3", null, null, null]
    ])
    expect(made.metrics).toMatchObject({ withoutRating: 1, withoutLabels: 2 })
  })
})

describe("a rating or label outside the set", () => {
  const many = (bad: unknown) => Array.from({ length: 500 }, (_, i) => (i === 320 ? bad : pair({ rating: 1 })))
  it.each([
    [{ rating: 4 }, /field rating: expected 0 \(significantly better\), 1 .*, 3 .* or null, found 4\./],
    [{ rating: "better" }, /field rating: expected .*, found "better"\./],
    [{ rating: 1, chosenSafe: "yes" }, /field chosenSafe: expected true, false or null, found "yes"\./],
    [{ rating: 1, rejectedSafe: 1 }, /field rejectedSafe: expected true, false or null, found 1\./]
  ])("is never skipped, even one in five hundred: %j", async (over, message) => {
    const found = await failureOf(importPreferences, { file: file(many(pair(over))) }, { shape })
    expect(found).toMatch(/^Importing the pairs of .*\.jsonl, line 321, field/)
    expect(found).toMatch(message)
    expect(found).toContain("Rows with an invalid value are never skipped")
  })
  it("among invalid rows, which are skipped as before", async () => {
    const made = await runStage(importPreferences, { file: file(many({ prompt: "q", rating: 1 })) }, { shape })
    expect(made.metrics).toMatchObject({ rows: 499, rowsSkipped: 1 })
  })
  it("in a Parquet file is reported by row", async () => {
    const path = join(folder, `${files++}.parquet`)
    const columns = { prompt: ["q", "q"], chosen: ["a", "a"], rejected: ["b", "b"], rating: Int32Array.of(1, 9) }
    const { Table, writeParquet } = await import("parquet-wasm/node")
    writeFileSync(path, writeParquet(Table.fromIPCStream(arrow.tableToIPC(arrow.tableFromArrays(columns), "stream"))))
    const from = { path, type: "file", digest: "", contentDigest: "" }
    expect(await failureOf(importPreferences, { file: from }, { shape })).toMatch(/\.parquet, row 2, field rating: expected .*, found 9\./)
  })
})

describe("rows that can't be used", () => {
  const tagged = "what does [INST] mean?"
  it("are skipped with file, line, field, reason and the row", async () => {
    const given = [{ prompt: "q", chosen: "a" }, pair({ chosen: tagged }), ...Array.from({ length: 8 }, () => pair())]
    const { metrics, skipped, skippedRows } = await runStage(importPreferences, { file: file(given) }, { shape })
    const path = join(folder, `${files - 1}.jsonl`)
    expect(metrics).toMatchObject({ rows: 8, rowsRead: 10, rowsSkipped: 2 })
    const tag = "with a tag of the chat format in the text"
    expect(skipped).toEqual([{ what: "rows", of: 10, skipped: 2, reasons: { "field rejected: missing": 1, [tag]: 1 } }])
    expect(skippedRows).toEqual([
      {
        ...{ what: "rows", reason: "field rejected: missing", found: "missing; there are prompt, chosen" },
        ...{ file: path, line: 1, field: "rejected", row: given[0] }
      },
      {
        ...{ what: "rows", reason: tag, found: 'the text contains the tag [INST] of the chat format (chatTags "escape" keeps such rows)' },
        ...{ file: path, line: 2, field: "chosen", row: given[1] }
      }
    ])
  })

  it("above a fifth stop the stage, and the message says which, how many, and where the first is", async () => {
    const given = [...Array.from({ length: 7 }, () => pair()), { prompt: "q" }, 1]
    const message = await failureOf(importPreferences, { file: file(given) }, { shape }, null)
    expect(message).toBe(
      `Stage import-preferences skipped 2 of 9 rows (22.2%): 1 field chosen: missing, 1 not an object. The first: line 8 of ${join(folder, `${files - 1}.jsonl`)}, field chosen: missing; there are prompt. At most 20% may be skipped.`
    )
  })

  it("are too many if no row can be used, whatever the limit", async () => {
    expect(await failureOf(importPreferences, { file: file([pair()]) }, { shape: "hh-rlhf" })).toContain(
      String.raw`found none in the first 1 rows; line 1, field chosen: expected a transcript that begins with "\n\nHuman:" or "\n\nAssistant:". Set the correct shape, or fix the file.`
    )
  })

  it.each(["prompt", "chosen", "rejected"])("contain a tag of the chat format in the %s, unless it is to be escaped", async (name) => {
    const given = [pair({ [name]: tagged }), pair()]
    const refused = await runStage(importPreferences, { file: file(given) }, { shape })
    expect(refused.skippedRows).toMatchObject([{ line: 1, reason: "with a tag of the chat format in the text" }])
    const kept = await runStage(importPreferences, { file: file(given) }, { shape, chatTags: "escape" })
    expect(kept.skipped).toEqual([])
    const texts = (await rowsIn(kept, Preferences)).map(({ chosen, prompt, rejected }) => [prompt[0]!.content, chosen, rejected])
    const escaped = { ...pair(), [name]: "what does [\\INST] mean?" }
    expect(texts).toEqual([
      [escaped.prompt, escaped.chosen, escaped.rejected],
      ["q", "a", "b"]
    ])
  })

  it("of demonstrations are handled the same: 90 of 101 dialogues with a tag stop the stage, or are escaped", async () => {
    const dialogue = (content: string) => ({
      messages: [
        { role: "user", content },
        { role: "assistant", content: "Yes." }
      ]
    })
    const given = Array.from({ length: 101 }, (_, i) => dialogue(i < 90 ? tagged : "Well?"))
    expect(await failureOf(importDemonstrations, { file: file(given) }, {}, null)).toContain(
      "skipped 90 of 101 rows (89.1%): 90 with a tag of the chat format in the text."
    )
    const kept = await runStage(importDemonstrations, { file: file(given) }, { chatTags: "escape" })
    expect(new Set((await rowsIn(kept, Demonstrations)).map(({ messages }) => messages[0]!.content))).toEqual(
      new Set(["what does [\\INST] mean?", "Well?"])
    )
  })
})
