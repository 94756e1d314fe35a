/** Bad user files of each kind, imported as in a run: the result is one exact error with nothing kept, or exact counts and a side file of the rows left out. */
import { spawnSync } from "node:child_process"
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import { gzipSync, zstdCompressSync } from "node:zlib"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { noCheckpoints } from "../../../runtime/define/resume-points.ts"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { Demonstrations, Preferences } from "../../../schemas/rows.ts"
import { importDemonstrations, importTexts } from "../../../stages/data/import-demonstrations.ts"
import { importPreferences } from "../../../stages/data/import-preferences.ts"
import { arrowFile, folder, jsonl, parquetOf } from "../../data/read/files.ts"
import { tableOf } from "../../data/read/table.ts"
import { failureOf, rowsIn, runStage } from "../running.ts"

const { put, root } = folder("bad-input")
const at = (path: string) => ({ file: { path, type: "file", digest: "", contentDigest: "" } })
const pair = (prompt: unknown, more: object = {}) => ({ prompt, chosen: "Yes.", rejected: "No.", ...more })
const pairs = (count: number) => Array.from({ length: count }, (_, i) => pair(`Question ${i}, of ${Math.sin(i)}?`))
const damaged = "The file is damaged or truncated: download or copy it again."
/** The error with which the import of pairs ends. */
const error = (path: string, config: Record<string, unknown> = {}) => failureOf(importPreferences, at(path), config)
/** The kept rows, and for skipped ones line, field, reason, and the value found. */
const skips = async (path: string) => {
  const result = await runStage(importPreferences, at(path))
  return {
    rows: (await rowsIn(result, Preferences)).length,
    read: result.metrics["rowsRead"],
    skipped: result.skippedRows.map(({ field, found, line, reason }) => [line, field, reason, ...(found === undefined ? [] : [found])])
  }
}

describe("truncated files", () => {
  const lines = Buffer.from(jsonl(pairs(500)))
  const table = parquetOf(tableOf(pairs(500)), 100)
  it("gzip", async () => {
    for (const share of [0.3, 0.9, 0.999]) {
      const bytes = gzipSync(lines)
      const path = put("cut.jsonl.gz", bytes.subarray(0, Math.floor(share * bytes.length)))
      expect(await error(path)).toBe(`Reading ${path}: expected gzipped lines of text, found unexpected end of file. ${damaged}`)
    }
  })
  it("zst", async () => {
    for (const share of [0.3, 0.9, 0.999]) {
      const bytes = zstdCompressSync(lines)
      const path = put("cut.jsonl.zst", bytes.subarray(0, Math.floor(share * bytes.length)))
      expect(await error(path)).toBe(`Reading ${path}: expected zst lines of text, found unexpected end of file. ${damaged}`)
    }
  })
  it("Parquet: its footer is at the end", async () => {
    for (const share of [0.3, 0.9, 0.999]) {
      const bytes = await table
      const path = put("cut.parquet", bytes.subarray(0, Math.floor(share * bytes.length)))
      expect(await error(path)).toBe(
        `Reading ${path}: expected a Parquet file, found Parquet error: Invalid Parquet file. Corrupt footer. ${damaged}`
      )
    }
  })
  it("Parquet with overwritten pages", async () => {
    const bytes = Buffer.from(await table)
    bytes.fill(0xff, 200, 1000)
    const path = put("holes.parquet", bytes)
    expect(await error(path)).toBe(`Reading ${path}: expected a Parquet file, found data that the decoder failed on. ${damaged}`)
  })
})

describe("columns", () => {
  it("with other types than the shape's, in Parquet: every row is reported, by field", async () => {
    const path = put("types.parquet", await parquetOf(tableOf(pairs(3).map((row, i) => ({ ...row, chosen: i })))))
    expect(await error(path)).toBe(
      `Reading ${path}: expected rows of the shape prompt-chosen-rejected (prompt, chosen, rejected (text or messages); optional: rating (0 to 3), chosenSafe, rejectedSafe), found none in the first 3 rows; row 1, field chosen: expected text or a list with at least one message, found number. Set the correct shape, or fix the file.`
    )
  })
  it("with other types than the shape's, a rating as text", async () => {
    const path = put("rating.parquet", await parquetOf(tableOf(pairs(3).map((row) => ({ ...row, rating: "1" })))))
    expect(await error(path)).toBe(
      `Importing the pairs of ${path}, row 1, field rating: expected 0 (significantly better), 1 (better), 2 (slightly better), 3 (negligibly better or unsure) or null, found "1". Rows with an invalid value are never skipped: fix the value, or convert the field of every row to this scale, and run again.`
    )
  })
  it("with different types in two files, or missing in one", async () => {
    const place = join(root, "disagree")
    put("disagree/1.parquet", await parquetOf(tableOf(pairs(3))))
    put("disagree/2.parquet", await parquetOf(tableOf([{ prompt: "q", chosen: 1, rejected: 2 }])))
    expect(await error(place)).toBe(
      `Reading ${place}: expected files with the same columns, found column "chosen": text in 1.parquet, int in 2.parquet. Use files of one kind, or select them with a pattern.`
    )
    const lacking = join(root, "lacking")
    put("lacking/1.arrow", arrowFile(pairs(3)))
    put("lacking/2.arrow", arrowFile([{ prompt: "q", chosen: "a" }]))
    expect(await error(lacking)).toBe(
      `Reading ${lacking}: expected files with the same columns, found column "rejected": text in 1.arrow, missing in 2.arrow. Use files of one kind, or select them with a pattern.`
    )
  })
  it("in no row, because no line is JSON", async () => {
    const path = put("prose.jsonl", "Hello.\nWorld.\n")
    expect(await error(path)).toMatch(/prose\.jsonl: expected rows of a known shape, found no valid row; line 1: not JSON: .*Fix the file/)
  })
  it("in no row, because the file is empty", async () => {
    const path = put("empty.jsonl", "")
    expect(await error(path)).toBe(
      `Reading ${path}: expected rows of a known shape, found no row with columns. Check that this is the right file: is it empty?`
    )
  })
  it("named like every object's properties", async () => {
    const path = put(
      "names.jsonl",
      jsonl([
        JSON.parse('{"__proto__": {"prompt": "x"}, "constructor": "y", "toString": 1, "prompt": "q", "chosen": "a", "rejected": "b"}')
      ])
    )
    expect(await skips(path)).toEqual({ rows: 1, read: 1, skipped: [] })
    const only = put("only.jsonl", '{"__proto__": {"prompt": "q", "chosen": "a", "rejected": "b"}, "constructor": 1}\n')
    expect(await error(only)).toBe(
      `Reading ${only}: expected rows of a known shape, found the columns __proto__ (object), constructor (number). Map your columns, such as map: { prompt: "question" }, or name the shape. caravan data inspect shows the file's columns.`
    )
  })
})

describe("text", () => {
  it("in Latin-1 among UTF-8: only those lines are skipped", async () => {
    const latin = Buffer.from('{"prompt": "Caf\u00e9?", "chosen": "a", "rejected": "b"}\n', "latin1")
    const path = put("mixed.jsonl", Buffer.concat([Buffer.from(jsonl(pairs(5))), latin, Buffer.from(jsonl([pair("Café?")]))]))
    expect(await skips(path)).toEqual({ rows: 6, read: 7, skipped: [[6, "(the line)", "not UTF-8"]] })
  })
  it("in UTF-16", async () => {
    const path = put("wide.jsonl", Buffer.from(`\ufeff${jsonl(pairs(2))}`, "utf16le"))
    expect(await error(path)).toBe(
      `Reading ${path}: expected text in UTF-8, Parquet or Arrow, plain, gzipped or zst, found UTF-16 text. Convert it: iconv -f UTF-16 -t UTF-8.`
    )
  })
  it("with a byte order mark, also in the middle, where files were joined", async () => {
    const path = put("mark.jsonl", `\ufeff${jsonl(pairs(2))}\ufeff${jsonl([pair("after a mark")])}`)
    expect(await skips(path)).toEqual({ rows: 3, read: 3, skipped: [] })
  })
  it("with half of a surrogate pair: only those rows are skipped, by field", async () => {
    const path = put(
      "halves.jsonl",
      '{"prompt": "\\ud800?", "chosen": "a", "rejected": "b"}\n{"prompt": "\\ud834\\udd1e?", "chosen": "a", "rejected": "b\\udc00"}\n'.concat(
        jsonl(pairs(3))
      )
    )
    expect(await skips(path)).toEqual({
      rows: 3,
      read: 5,
      skipped: [
        [1, "prompt", "field prompt: text with half of a surrogate pair"],
        [2, "rejected", "field rejected: text with half of a surrogate pair"]
      ]
    })
  })
})

describe("rows", () => {
  it("of 100 MB stop the import, in every text format, before they fill memory", { timeout: 120_000 }, async () => {
    const long = Buffer.alloc(100 << 20, "x")
    const gzipped = (before: string, after: string) =>
      gzipSync(Buffer.concat([Buffer.from(before), long, Buffer.from(after)]), { level: 1 })
    for (const [name, content, found] of [
      [
        "long.jsonl.gz",
        gzipped(`${jsonl(pairs(2))}{"prompt": "`, '", "chosen": "a", "rejected": "b"}\n'),
        "expected lines of text of at most 67108864 bytes, found a longer one, line 3. Remove or split that row. A file without line feeds does not consist of lines."
      ],
      [
        "long.json.gz",
        gzipped(`[${JSON.stringify(pair("q"))},\n{"prompt": "`, '", "chosen": "a", "rejected": "b"}]'),
        "expected elements of at most 67108864 bytes, found a longer one from line 2 on. Remove or split it."
      ],
      [
        "long.csv.gz",
        gzipped('prompt,chosen,rejected\nq,a,b\n"', '",a,b\n'),
        "expected records of a table, found a record of more than 67108864 bytes from line 3 on. Check for an unclosed quote."
      ]
    ] as const) {
      const path = put(name, content)
      expect(await error(path)).toBe(`Reading ${path}: ${found}`)
    }
  })
  it("with nulls within lists and objects are skipped, by field", async () => {
    const path = put(
      "nulls.jsonl",
      jsonl([
        pair(null),
        pair([null]),
        pair([{ role: "user", content: null }]),
        pair([{ role: null, content: "x" }]),
        pair("q", { chosen: null }),
        pair("q", { chosen: [{ role: "assistant", content: [null] }] }),
        null,
        [null],
        ...pairs(3)
      ])
    )
    expect(await skips(path)).toEqual({
      rows: 3,
      read: 11,
      skipped: [
        [1, "prompt", "field prompt: missing", "null"],
        [2, "prompt[0].role", "field prompt[].role: not an object", "expected an object, found null"],
        [3, "prompt[0].content", "field prompt[].content: missing", "null"],
        [4, "prompt[0].role", "field prompt[].role: missing", "null"],
        [5, "chosen", "field chosen: missing", "null"],
        [6, "chosen[0].content", "field chosen[].content: not text", "expected text, found a list"],
        [7, "(the row)", "not an object", "expected an object, found null"],
        [8, "(the row)", "not an object", "expected an object, found a list"]
      ]
    })
  })
  it("with nulls within the lists of a Parquet file", async () => {
    const message = (role: string | null, content: string | null) => ({ role, content })
    const rows = [
      { messages: [message("user", "q"), message("assistant", "a")] },
      { messages: [message("user", null), message("assistant", "a")] },
      { messages: [null, message("assistant", "a")] },
      { messages: null }
    ]
    const path = put("nulls.parquet", await parquetOf(tableOf(rows)))
    const result = await runStage(importDemonstrations, at(path))
    expect((await rowsIn(result, Demonstrations)).length).toBe(1)
    expect(result.skippedRows.map(({ field, line, reason }) => [line, field, reason])).toEqual([
      [2, "messages[0].content", "field messages[].content: missing"],
      [3, "messages[0].role", "field messages[].role: not an object"],
      [4, "messages", "field messages: missing"]
    ])
  })
})

describe("a full disk", () => {
  const place = join(root, "full")
  mkdirSync(place)
  const mounted = () => spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", place]).status === 0
  const unmount = () => spawnSync("umount", ["-l", place])
  const isAllowed = mounted()
  unmount()
  afterAll(() => void unmount())

  it.skipIf(!isAllowed)(`ends the import, with a hint${isAllowed ? "" : " (skipped: mounting is not allowed here)"}`, async () => {
    expect(mounted()).toBe(true)
    const { stage } = importPreferences
    const program = Effect.gen(function* () {
      return yield* stage.run({
        config: yield* decodeConfig(stage.config, {}, stage.name),
        inputs: { file: at(put("many.jsonl", jsonl(pairs(20_000)))).file },
        output: { path: place, type: stage.output },
        ...{ seed: 0, device: "cpu" as const, threads: 1, progress: () => Effect.void, checkpoints: noCheckpoints },
        skipped: { add: () => undefined, check: () => Effect.void }
      } as never)
    })
    expect((await Effect.runPromise(Effect.flip(program))).message).toBe(
      `Writing a dataset:preference/1 to ${place}/data.arrow: expected a writable folder with enough free space for the rows, found ENOSPC: no space left on device, write. Free some space (for example with caravan gc --yes) or set CARAVAN_HOME to a folder on another disk, then run again.`
    )
  })
})

it("a pattern without a match", async () => {
  const path = join(root, "none-*.jsonl")
  expect(await error(path)).toBe(`Reading ${path}: expected files that match, found none. Check the pattern.`)
  expect(await failureOf(importTexts, at(path))).toBe(`Reading ${path}: expected files that match, found none. Check the pattern.`)
})
