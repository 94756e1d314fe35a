/** Rows are the same in every file format, and faults are reported with file, line and reason. */
import { Buffer } from "node:buffer"
import { mkdirSync, readFileSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { constants, gzipSync, zstdCompressSync } from "node:zlib"
import * as arrow from "apache-arrow"
import { describe, expect, it } from "vitest"
import { readRecords, recordBatches } from "../../../data/records.ts"
import { arrowFile, arrowStream, errorOf, folder, jsonl, parquetOf, recordsOf, valuesOf } from "./files.ts"
import { tableOf } from "./table.ts"

const { put, root } = folder("formats")
let files = 0
const file = (content: string | Uint8Array, ending = "jsonl") => put(`${files++}.${ending}`, content)

const rows = [
  { prompt: "What is 1 + 1?", answer: 'It is "2",\nsurely\\', score: 1.5, safe: true },
  { prompt: "é\u2028, ✓ 𝄞", answer: "", score: -2, safe: false },
  { prompt: "[INST] {", answer: "}]", score: 0, safe: true }
]

describe("rows of every format", () => {
  it("are the same from JSONL, a JSON list, Arrow files and streams, Parquet; plain, gzip and zst", async () => {
    const lines = jsonl(rows)
    const contents: ReadonlyArray<readonly [string, string | Uint8Array]> = [
      ["jsonl", lines],
      ["json", lines],
      ["jsonl.gz", gzipSync(lines)],
      ["jsonl.zst", zstdCompressSync(lines)],
      ["json", JSON.stringify(rows)],
      ["json", JSON.stringify(rows, undefined, 2)],
      ["json.gz", gzipSync(`\ufeff  ${JSON.stringify(rows)}\n`)],
      ["arrow", arrowFile(rows)],
      ["arrow", arrowStream(rows)],
      ["parquet", await parquetOf(tableOf(rows))]
    ]
    for (const [ending, content] of contents) expect([ending, await valuesOf(file(content, ending))]).toEqual([ending, rows])
  })

  it("of a table are texts: fields may contain quotes, separators, line feeds and doubled quotes; an empty cell is null unless it is quoted", async () => {
    const table = 'prompt,answer,note\r\n"a, ""b""\r\nc",plain "text",\r\n\r\n,"",x\ty\n'
    const found = await recordsOf(file(table, "csv"))
    expect(found).toEqual([
      { line: 2, unit: "line", value: { prompt: 'a, "b"\r\nc', answer: 'plain "text"', note: null } },
      { line: 5, unit: "line", value: { prompt: null, answer: "", note: "x\ty" } }
    ])
    expect(await valuesOf(file('\ufeffa\tb\n1\t"2\t3"\n', "tsv"))).toEqual([{ a: "1", b: "2\t3" }])
    expect(await valuesOf(file("a;b\n1;2\n", "csv"))).toEqual([{ a: "1", b: "2" }])
    expect(await valuesOf(file('a,b\nx""y,z', "csv.gz"))).toEqual([{ a: 'x""y', b: "z" }])
  })

  it("of a table are the same wherever the file's chunks end", async () => {
    const record = `"${'é,""\n'.repeat(37)}",${"x".repeat(61)}\n`
    const path = file(`a,b\n${record.repeat(4000)}`, "csv")
    const found = await recordsOf(path)
    expect(found).toHaveLength(4000)
    expect(new Set(found.map(({ value }) => JSON.stringify(value)))).toEqual(
      new Set([JSON.stringify({ a: 'é,"\n'.repeat(37), b: "x".repeat(61) })])
    )
    expect(found.at(-1)!.line).toBe(2 + 3999 * 38)
  })

  it("of a JSON list are the same wherever chunks end, and are numbered by the line on which they begin", async () => {
    const row = { text: 'é\\"]},{[' + "x".repeat(997), inner: [[{ a: [] }], "]"] }
    const path = file(`[\n${Array.from({ length: 1500 }, () => JSON.stringify(row, undefined, 1)).join(",\n")}\n]\n`, "json")
    const found = await recordsOf(path)
    expect(found).toHaveLength(1500)
    for (const { value } of found) expect(value).toEqual(row)
    expect(found.map(({ line }) => line).slice(0, 3)).toEqual([2, 13, 24])
  })

  it("of plain text are lines, paragraphs or the complete text", async () => {
    const path = file("\ufeffone\r\ntwo\n\n \nthree\n", "txt")
    const texts = async (documents: "line" | "paragraph" | "file") => {
      const out: Array<unknown> = []
      for await (const { line, value } of readRecords(path, { documents })) out.push([line, (value as { text: string }).text])
      return out
    }
    expect(await texts("line")).toEqual([
      [1, "one"],
      [2, "two"],
      [5, "three"]
    ])
    expect(await texts("paragraph")).toEqual([
      [1, "one\ntwo"],
      [5, "three"]
    ])
    expect(await texts("file")).toEqual([[1, "one\ntwo\n\n \nthree"]])
  })

  it("of Arrow convert every column type to JSON values: dictionaries, wide integers, dates, lists, structs, nulls", async () => {
    const utf8 = new arrow.Utf8()
    const columns = {
      dictionary: arrow.vectorFromArray(["a", null, "a"], new arrow.Dictionary(utf8, new arrow.Int32())),
      wide: arrow.vectorFromArray([1n, null, 9007199254740993n], new arrow.Int64()),
      small: arrow.vectorFromArray([1, 2, 255], new arrow.Uint8()),
      half: arrow.vectorFromArray([0.5, 1, -2], new arrow.Float16()),
      day: arrow.vectorFromArray([new Date(0), null, new Date(86_400_000)], new arrow.DateMillisecond()),
      large: arrow.vectorFromArray(["x", null, "é"], new arrow.LargeUtf8()),
      nothing: arrow.vectorFromArray([null, null, null], new arrow.Null()),
      list: arrow.vectorFromArray([["a"], null, []], new arrow.List(new arrow.Field("item", utf8, true))),
      struct: arrow.vectorFromArray([{ role: "user" }, null, { role: null }], new arrow.Struct([new arrow.Field("role", utf8, true)]))
    }
    const table = new arrow.Table(columns as never)
    const expected = [
      { dictionary: "a", wide: 1, small: 1, half: 0.5, day: 0, large: "x", nothing: null, list: ["a"], struct: { role: "user" } },
      { dictionary: null, wide: null, small: 2, half: 1, day: null, large: null, nothing: null, list: null, struct: null },
      {
        dictionary: "a",
        wide: "9007199254740993",
        small: 255,
        half: -2,
        day: 86_400_000,
        large: "é",
        nothing: null,
        list: [],
        struct: { role: null }
      }
    ]
    for (const format of ["file", "stream"] as const)
      expect(await valuesOf(file(arrow.tableToIPC(table, format), "arrow"))).toEqual(expected)
  })

  it("of pyarrow's files are what it wrote, in every compression, also if dictionaries change between batches", async () => {
    const golden = (name: string) => new URL(`../../golden/arrow/${name}`, import.meta.url).pathname
    // Values that a double can't hold are text.
    const expected = (JSON.parse(readFileSync(golden("rows.json"), "utf8")) as Array<{ id: number | null }>).map((row) => ({
      ...row,
      id: row.id !== null && row.id > 2 ** 53 ? "1152921504606846976" : row.id
    }))
    for (const name of ["stream.arrow", "snappy.parquet", "gzip.parquet", "zstd.parquet", "brotli.parquet", "lz4.parquet", "none.parquet"])
      expect([name, await valuesOf(golden(name))]).toEqual([name, expected])
  })

  it("of Parquet have only the requested columns", async () => {
    const path = file(await parquetOf(tableOf(rows)), "parquet")
    const found: Array<unknown> = []
    for await (const { records } of recordBatches(path, { columns: ["score", "prompt", "not there"] }))
      found.push(...records.map(({ value }) => value))
    expect(found).toEqual(rows.map(({ prompt, score }) => ({ prompt, score })))
  })

  it("may have column names that every object has, such as constructor", async () => {
    const named = '{"__proto__":{"a":1},"constructor":"x"}'
    for (const path of [file(named), file(`[${named}]`, "json"), file("__proto__,constructor\ny,x\n", "csv")]) {
      const [value] = (await valuesOf(path)) as [object]
      expect(Object.keys(value).sort()).toEqual(["__proto__", "constructor"])
      expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
    }
  })
})

describe("several files", () => {
  const many = (name: string) => {
    put(`${name}/b/2.jsonl`, jsonl([{ a: 3 }]))
    put(`${name}/1.jsonl`, jsonl([{ a: 1 }, { a: 2 }]))
    put(`${name}/README.md`, "# no data")
    put(`${name}/dataset_info.json`, "{}")
    put(`${name}/.hidden.jsonl`, jsonl([{ a: 9 }]))
    return join(root, name)
  }

  it("of a folder are read in the order of their names; files without data are ignored", async () => {
    expect(await valuesOf(many("folder"))).toEqual([{ a: 1 }, { a: 2 }, { a: 3 }])
  })

  it("of a pattern are those that match, including links to files", async () => {
    const path = many("pattern")
    symlinkSync(join(path, "1.jsonl"), join(path, "b/3.jsonl"))
    expect(await valuesOf(join(path, "**/*.jsonl"))).toEqual([{ a: 1 }, { a: 2 }, { a: 3 }, { a: 1 }, { a: 2 }])
    expect(await valuesOf(join(path, "b/{2,3}.jsonl"))).toEqual([{ a: 3 }, { a: 1 }, { a: 2 }])
  })

  it("of a folder with a broken link are rejected, because its rows would be missing", async () => {
    const path = many("dangling")
    symlinkSync(join(path, "gone.txt.bak"), join(path, "b/notes.bak"))
    expect(await valuesOf(path)).toEqual([{ a: 1 }, { a: 2 }, { a: 3 }])
    symlinkSync(join(path, "gone.jsonl"), join(path, "b/4.jsonl"))
    expect(await errorOf(readRecords(path))).toMatch(/4\.jsonl: expected a file that exists, found a broken link.*\(ENOENT\)/)
  })

  it("with a name that looks like a pattern are read as that file", async () => {
    expect(await valuesOf(put("odd/[1]*.jsonl", jsonl(rows)))).toEqual(rows)
  })

  it("are rejected if the pattern matches none, or the folder has no data", async () => {
    expect(await errorOf(readRecords(join(root, "none-*.jsonl")))).toMatch(/expected files that match, found none\. Check the pattern/)
    mkdirSync(join(root, "empty"))
    expect(await errorOf(readRecords(join(root, "empty")))).toMatch(/a folder without data files/)
  })

  it("of two splits are rejected with the pattern of one, so that nobody trains on test data", async () => {
    put("hub/data/train-00000-of-00002.parquet", "")
    put("hub/data/train-00001-of-00002.parquet", "")
    put("hub/data/test-00000-of-00001.parquet", "")
    expect(await errorOf(readRecords(join(root, "hub")))).toMatch(
      /expected files of one split, found 1 of test, 2 of train\. Select one split, such as test: .*hub\/data\/test\*\.parquet/
    )
  })

  it("with different columns are rejected with both names", async () => {
    put("types/1.parquet", await parquetOf(tableOf([{ a: "x", b: 1 }])))
    put("types/2.parquet", await parquetOf(tableOf([{ a: 1, b: 1 }])))
    expect(await errorOf(readRecords(join(root, "types")))).toMatch(/column "a": text in 1\.parquet, int in 2\.parquet/)
    put("names/1.csv", "a,b\n1,2\n")
    put("names/2.csv", "a,c\n1,2\n")
    expect(await errorOf(readRecords(join(root, "names")))).toMatch(/column "b": text in 1\.csv, missing in 2\.csv/)
    // Columns that are not read may differ.
    const read: Array<unknown> = []
    for await (const { records } of recordBatches(join(root, "types"), { columns: ["b"] })) read.push(...records.map(({ value }) => value))
    expect(read).toEqual([{ b: 1 }, { b: 1 }])
  })
})

describe("zst files", () => {
  const lines = jsonl(Array.from({ length: 5000 }, (_, i) => ({ i, text: Math.sin(i).toString() })))
  const whole = zstdCompressSync(lines)
  const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])

  it("with several frames, and skippable frames between them, are read to the end", async () => {
    expect(await valuesOf(file(Buffer.concat([whole, whole]), "zst"))).toHaveLength(10_000)
    expect(await valuesOf(file(Buffer.concat([skippable, whole, skippable, whole, skippable]), "zst"))).toHaveLength(10_000)
    const checked = zstdCompressSync(lines, { params: { [constants.ZSTD_c_checksumFlag]: 1, [constants.ZSTD_c_contentSizeFlag]: 0 } })
    expect(await valuesOf(file(Buffer.concat([checked, whole]), "zst"))).toHaveLength(10_000)
  })

  it("that are truncated, damaged or followed by something else are rejected, whatever they contained before", async () => {
    for (const cut of [5, 10, whole.length >> 1, whole.length - 1])
      expect(await errorOf(readRecords(file(whole.subarray(0, cut), "jsonl.zst"))), `${cut}`).toMatch(/found unexpected end of file/)
    const damaged = Buffer.from(whole)
    damaged[whole.length >> 1]! ^= 0xff
    expect(await errorOf(readRecords(file(damaged, "zst")))).toMatch(/expected zst lines of text/)
    expect(await errorOf(readRecords(file(Buffer.concat([whole, Buffer.from("and more")]), "zst")))).toMatch(
      /found bytes that are not a zst frame/
    )
  })
})

describe("damaged files", () => {
  it.each([
    ["[1, 2", "json", /a complete JSON list, found the end of the file on line 1, within element 2/],
    ["[1,\n2,\n", "json", /the end of the file on line 3, after 2 elements/],
    ["[1] 2", "json", /text after the end of the list, on line 1/],
    ["[1,,2]", "json", /two commas in a row/],
    ["[1,]", "json", /a trailing comma before the end of the list/],
    ['a,b\n1,"2\n3,4\n', "csv", /closed quotes, found an unclosed quote in the record on line 2/],
    ["a,a\n1,2\n", "csv", /two columns named "a"/],
    ["\u00ff\u00fea\u0000", "csv", /UTF-16 text\. Convert it: iconv/],
    ["PK\u0003\u0004xxxx", "jsonl", /a zip archive\. Unpack it first/],
    ["\u00fd7zXZ\u0000", "jsonl.xz", /found xz\. Decompress it first/],
    ["version https://git-lfs.github.com/spec/v1\n", "parquet", /an LFS pointer\. Download the file itself/],
    ["\0\0\0\0 a hole", "parquet", /a Parquet file, which begins with PAR1, found other bytes at its beginning\. The file is damaged/],
    ["\u0080 text in Latin-1", "feather", /an Arrow file, found other bytes/],
    ["<!DOCTYPE html>", "jsonl", /an HTML page/],
    ["PAR1", "parquet", /a Parquet file, found/],
    ["ARROW1\0\0", "arrow", /an Arrow file, found 8 bytes that do not end with ARROW1/]
  ])("%j are rejected", async (content, ending, message) => {
    expect(await errorOf(readRecords(file(Buffer.from(content, "latin1"), ending)))).toMatch(message)
  })

  it("JSONL is read whatever its extension, also if its first 4,096 bytes end within a character", async () => {
    const line = `{"a":"${"x".repeat(4089)}\u00e9"}\n`
    expect(Buffer.from(line).subarray(4094, 4098)).toEqual(Buffer.from('x\u00e9"').subarray(0, 4))
    expect(await recordsOf(file(line, "parquet"))).toHaveLength(1)
  })

  it("rows of a table that do not fit it are reported with line and reason, and reading continues", async () => {
    const table = Buffer.concat([Buffer.from('a,b\n1\n"x"y,2\n'), Buffer.from([0x66, 0xff, 0x2c, 0x31, 10]), Buffer.from("3,4\n")])
    expect((await recordsOf(file(table, "csv"))).map(({ fault, line }) => [line, fault?.reason])).toEqual([
      [2, "a different number of fields than the header"],
      [3, "text after a closing quote"],
      [4, "not UTF-8"],
      [5, undefined]
    ])
  })

  it("a table's record of nothing but separators is a bad row and needs little memory; such a header is rejected", async () => {
    const many = ",".repeat(4 << 20)
    const before = process.memoryUsage().heapUsed
    const found = []
    for await (const { fault, line } of readRecords(file(`a,b\n${many}\n1,2\n`, "csv"))) found.push([line, fault?.message])
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(200 << 20)
    expect(found).toEqual([
      [2, "more than 10000 fields where the header has 2"],
      [3, undefined]
    ])
    expect(await errorOf(readRecords(file(`${many}\n1\n`, "csv")))).toMatch(/expected at most 10000 columns, found more in the first line/)
  })

  it("an element of a JSON list that is only white space to other programs is a bad row too", async () => {
    const found = []
    for await (const { fault, line } of readRecords(file(Buffer.from('[{"a":1},\n\u00a0,\u{feff}]'), "json")))
      found.push([line, fault?.reason])
    expect(found).toEqual([
      [1, undefined],
      [2, "not JSON"],
      [2, "not JSON"]
    ])
  })

  it("an invalid element of a JSON list is a bad row, and reading continues", async () => {
    expect((await recordsOf(file('[{"a":1},\n{a:2},\n3]', "json"))).map(({ fault, line }) => [line, fault?.reason])).toEqual([
      [1, undefined],
      [2, "not JSON"],
      [3, undefined]
    ])
  })

  it("an Arrow file with a changed byte is rejected or gives rows, and never hangs or fills memory", async () => {
    const bytes = arrowFile(rows)
    let refusals = 0
    for (let at = 8; at < bytes.length; at += 3) {
      const damaged = Uint8Array.from(bytes)
      damaged[at]! ^= 0xff
      refusals += await valuesOf(file(damaged, "arrow")).then(
        () => 0,
        (cause: { _tag: string; message: string }) => {
          expect(cause._tag, `byte ${at}: ${cause.message}`).toBe("ArtifactError")
          return 1
        }
      )
    }
    expect(refusals).toBeGreaterThan(50)
  })

  it("Arrow compressed with LZ4 is rejected with a hint; zst is read", async () => {
    expect(await errorOf(readRecords(new URL("../../golden/arrow/lz4.arrow", import.meta.url).pathname))).toMatch(
      /LZ4; write them with zstd/
    )
    expect(await valuesOf(new URL("../../golden/arrow/zstd.arrow", import.meta.url).pathname)).toEqual([
      { a: "x".repeat(100), b: [1, 2] },
      { a: null, b: [] }
    ])
  })
})
