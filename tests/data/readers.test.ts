import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import * as arrow from "apache-arrow"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import { BadLabel } from "../../data/shapes/fields.ts"
import { parseMessages } from "../../data/shapes/messages.ts"
import { parseHhRlhf, parsePromptChosenRejected, splitTranscript } from "../../data/shapes/pairs.ts"
import { BadRow, newCounts, readParsed, readRecords } from "../../data/records.ts"
import { arrowSchema, columnsOf } from "../../schemas/arrow.ts"
import { toBatch } from "../../schemas/arrow-rows.ts"
import type { ArtifactError } from "../../schemas/artifact.ts"
import type { Message } from "../../schemas/rows.ts"
import { all, jsonl, parquetOf } from "./read/files.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-readers-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let files = 0
const file = (content: string | Uint8Array, name = "rows"): string => {
  const path = join(root, `${files++}-${name}`)
  writeFileSync(path, content)
  return path
}

/** The inverse of splitTranscript. */
const joinTranscript = (turns: ReadonlyArray<Message>): string =>
  turns.map((turn) => `\n\n${turn.role === "user" ? "Human" : "Assistant"}:${turn.content}`).join("")

/** A Parquet file with these rows, in row groups of the given size. */
const parquet = (row: Schema.Top, rows: ReadonlyArray<unknown>, rowGroup?: number): Promise<Uint8Array> => {
  const kind = columnsOf(row)
  return parquetOf(new arrow.Table([toBatch(kind, arrowSchema(kind), rows)]), rowGroup)
}

const errorOf = async (rows: AsyncIterable<unknown>): Promise<ArtifactError> => {
  try {
    await all(rows)
  } catch (cause) {
    return cause as ArtifactError
  }
  throw new Error("nothing failed")
}
const badRow = (parse: () => unknown): { field: string; message: string } => {
  try {
    parse()
  } catch (cause) {
    expect(cause).toBeInstanceOf(BadRow)
    return cause as BadRow
  }
  throw new Error("nothing failed")
}
const badLabel = (parse: () => unknown): BadLabel => {
  try {
    parse()
  } catch (cause) {
    expect(cause).toBeInstanceOf(BadLabel)
    expect(cause).not.toBeInstanceOf(BadRow)
    return cause as BadLabel
  }
  throw new Error("nothing failed")
}

describe("records of a file", () => {
  const rows = [
    { a: 1, b: "é" },
    { a: 2, b: "\n" },
    { a: 3, b: "" }
  ]
  const values = async (path: string) => (await all(readRecords(path))).map(({ value }) => value)

  it("are the same plain, gzipped or in several gzip members, whatever the file's name", async () => {
    const text = jsonl(rows)
    expect(await values(file(text, "x.gz"))).toEqual(rows)
    expect(await values(file(gzipSync(text), "x.jsonl"))).toEqual(rows)
    expect(await values(file(Buffer.concat([gzipSync(text.slice(0, 20)), gzipSync(text.slice(20))])))).toEqual(rows)
  })

  it("are read from Parquet with nulls and lists, across row groups", async () => {
    const Row = Schema.Struct({
      text: Schema.NullOr(Schema.String),
      messages: Schema.Array(Schema.Struct({ role: Schema.String, n: Schema.Number.annotate({ arrow: "int32" }) }))
    })
    const many = Array.from({ length: 2500 }, (_, i) => ({
      text: i % 3 === 0 ? null : `é${i}`,
      messages: Array.from({ length: i % 4 }, (_, n) => ({ role: "user", n }))
    }))
    const path = file(await parquet(Row, many), "x.jsonl")
    expect(await values(path)).toEqual(many)
    expect((await all(readRecords(path))).at(-1)).toMatchObject({ line: 2500, unit: "row" })
  })

  it("are all read from Parquet, however busy the process is when the decoder ends", async () => {
    const path = file(await parquet(Schema.Struct({ text: Schema.String }), [{ text: "a" }, { text: "b" }]))
    const busy = setInterval(() => {
      const end = Date.now() + 200
      while (Date.now() < end);
    })
    try {
      for (let i = 0; i < 5; i++) expect(await values(path)).toEqual([{ text: "a" }, { text: "b" }])
    } finally {
      clearInterval(busy)
    }
  })

  it("may end without a line feed, and have CRLF, empty lines and a byte order mark; all lines are counted", async () => {
    const found = await all(readRecords(file('\ufeff{"a":1}\r\n\n  \n{"a":2}')))
    expect(found).toEqual([
      { line: 1, unit: "line", value: { a: 1 } },
      { line: 4, unit: "line", value: { a: 2 } }
    ])
  })

  it("keep line separators other than line feeds within their line", async () => {
    expect(await values(file('{"a":"\u2028\u2029\u0085"}\n'))).toEqual([{ a: "\u2028\u2029\u0085" }])
  })

  it("may be longer than a chunk of the file", async () => {
    const long = { a: "é".repeat(600_000) }
    expect(await values(file(jsonl([long, { a: "" }, long])))).toEqual([long, { a: "" }, long])
  })

  it("that are not JSON or not UTF-8 are bad rows, and reading continues", async () => {
    const path = file(Buffer.concat([Buffer.from('{"a":\n'), Buffer.from([0x22, 0xff, 0x22, 10]), Buffer.from("1\n")]))
    expect((await all(readRecords(path))).map(({ fault, value }) => [value, fault?.reason])).toEqual([
      ['{"a":', "not JSON"],
      ['"\ufffd"', "not UTF-8"],
      [1, undefined]
    ])
  })

  it("of a missing file, a folder or a damaged file give one error message", async () => {
    expect((await errorOf(readRecords(join(root, "none")))).message).toMatch(
      /none: expected a file of rows .*, found no such file\. Check the path\./
    )
    expect((await errorOf(readRecords(mkdtempSync(join(root, "empty-"))))).message).toMatch(/found a folder without data files/)
    const gzip = gzipSync(jsonl(Array.from({ length: 1000 }, (_, i) => ({ i, text: Math.sin(i).toString() }))))
    expect((await errorOf(readRecords(file(gzip.subarray(0, -100))))).message).toMatch(
      /expected gzipped lines of text, found unexpected end of file/
    )
    gzip[gzip.length >> 1]! ^= 0xff
    expect((await errorOf(readRecords(file(gzip))))._tag).toBe("ArtifactError")
  })

  it("of a damaged Parquet file give one error message, and the process survives", async () => {
    const Row = Schema.Struct({ text: Schema.String })
    const bytes = await parquet(
      Row,
      Array.from({ length: 300 }, (_, i) => ({ text: `row ${i}` })),
      100
    )
    for (const cut of [4, 8, 100, bytes.length - 1]) {
      expect((await errorOf(readRecords(file(bytes.subarray(0, cut))))).message).toMatch(
        /expected a Parquet file, found .* damaged or truncated/
      )
    }
    const ends: Array<string> = []
    for (const at of [40, 100, 500, bytes.length - 200, bytes.length - 100, bytes.length - 60]) {
      const damaged = Uint8Array.from(bytes)
      for (let i = 0; i < 8; i++) damaged[at + i]! ^= 0xff
      await all(readRecords(file(damaged))).catch((cause: ArtifactError) => ends.push(cause._tag))
    }
    expect(new Set(ends)).toEqual(new Set(["ArtifactError"]))
    expect(ends.length).toBeGreaterThan(2)
    expect(await values(file(bytes))).toHaveLength(300)
  })

  it("of an endless line stop before they fill memory", { timeout: 60_000 }, async () => {
    expect((await errorOf(readRecords(file(gzipSync(Buffer.alloc(80 << 20, 0x20)))))).message).toMatch(/found a longer one, line 1\./)
  })

  it("may be read partially", async () => {
    for await (const { value } of readRecords(file(jsonl(rows)))) {
      expect(value).toEqual(rows[0])
      break
    }
    for await (const { value } of readRecords(file(await parquet(Schema.Struct({ a: Schema.String }), [{ a: "x" }, { a: "y" }])))) {
      expect(value).toEqual({ a: "x" })
      break
    }
  })
})

describe("invalid rows", () => {
  const parse = (value: unknown) => {
    if (value === 0) throw new BadRow("a", "is zero")
    return value as number
  }
  const numbers = (n: number, bad: ReadonlyArray<number>) => jsonl(Array.from({ length: n }, (_, i) => (bad.includes(i) ? 0 : i + 1)))

  const noted = () => {
    const told: Array<string> = []
    const skip: Parameters<typeof readParsed>[3] = ({ line, unit }, { field, message, reason }) =>
      void told.push(`${unit} ${line}, field ${field}: ${message} (${reason})`)
    return { told, skip }
  }

  it("are skipped and counted, with line, field and reason", async () => {
    const counts = newCounts()
    const { skip, told } = noted()
    const rows = await all(readParsed(file(numbers(200, [6, 9])), parse, counts, skip))
    expect(rows).toHaveLength(198)
    expect(counts).toEqual({ rows: 200, bad: 2 })
    expect(told).toEqual(["line 7, field a: is zero (field a: is zero)", "line 10, field a: is zero (field a: is zero)"])
  })

  it("stop reading early if none of the first thousand fits, but not if one does", async () => {
    const zeros = Array.from({ length: 2000 }, () => 0)
    const counts = newCounts()
    expect(await all(readParsed(file(jsonl(zeros)), parse, counts, noted().skip))).toEqual([])
    expect(counts).toEqual({ rows: 1000, bad: 1000 })
    const mixed = newCounts()
    expect(await all(readParsed(file(jsonl([...zeros.slice(0, 999), 5, ...zeros])), parse, mixed, noted().skip))).toEqual([5])
    expect(mixed).toEqual({ rows: 3000, bad: 2999 })
  })

  it("are grouped by kind of fault, without indices or values", () => {
    expect(badRow(() => parseMessages({ messages: [{ role: "user" }] }, 1))).toMatchObject({ reason: "field messages[].content: missing" })
    const messages = [{ role: "poet", content: "x" }]
    expect(badRow(() => parseMessages({ messages }, 1))).toMatchObject({ reason: "field messages[].role: not system, user or assistant" })
    expect(badRow(() => parseMessages(1, 1))).toMatchObject({ reason: "not an object" })
  })

  it("of a Parquet file are reported by row number", async () => {
    const path = file(await parquet(Schema.Struct({ a: Schema.String }), [{ a: "x" }]))
    const never = () => {
      throw new BadRow("a", "no")
    }
    const { skip, told } = noted()
    await all(readParsed(path, never, newCounts(), skip))
    expect(told).toEqual(["row 1, field a: no (field a: no)"])
  })

  it("are distinguished from a bug in the parser, which is not swallowed", async () => {
    const broken = () => {
      throw new TypeError("a mistake")
    }
    expect((await errorOf(readParsed(file("1\n"), broken, newCounts(), noted().skip))).message).toBe("a mistake")
  })

  it("of an empty file give an error that there is nothing to read", async () => {
    for (const content of ["", "\n\n", gzipSync("")])
      expect((await errorOf(readParsed(file(content), parse, newCounts(), noted().skip))).message).toMatch(
        /at least one row, found an empty file/
      )
  })
})

describe("an HH-RLHF pair", () => {
  const parse = (chosen: unknown, rejected: unknown) => parseHhRlhf({ chosen, rejected }, 7, "test")
  const asked = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is 1 + 1?"

  it("has the turns that both share as prompt, with unchanged texts", () => {
    expect(parse(`${asked}\n\nAssistant: 2 `, `${asked}\n\nAssistant: 3\n\nSo?`)).toEqual({
      id: "7",
      prompt: [
        { role: "user", content: " Hi" },
        { role: "assistant", content: " Hello." },
        { role: "user", content: " What is 1 + 1?" }
      ],
      chosen: " 2 ",
      rejected: " 3\n\nSo?",
      rating: null,
      chosenSafe: null,
      rejectedSafe: null,
      source: "test"
    })
  })

  it("has a prompt of complete turns: a common beginning of the answers stays in the answers", () => {
    const { prompt, chosen, rejected } = parse(`${asked}\n\nAssistant: It is 2`, `${asked}\n\nAssistant: It is 3`)
    expect([prompt.length, chosen, rejected]).toEqual([3, " It is 2", " It is 3"])
  })

  it.each([
    [
      "differs before its last turn",
      "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
      "\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: d",
      "chosen",
      /differ from turn 2 on, but this one continues to turn 4/
    ],
    ["is longer on one side", `${asked}\n\nAssistant: 2`, `${asked}\n\nAssistant: 3\n\nHuman: no`, "rejected", /continues to turn 5/],
    ["has an empty answer", `${asked}\n\nAssistant: `, `${asked}\n\nAssistant: 3`, "chosen", /the response is empty/],
    ["has an empty bad answer", `${asked}\n\nAssistant: 2`, `${asked}\n\nAssistant:`, "rejected", /the response is empty/],
    ["has two equal dialogues", `${asked}\n\nAssistant: 2`, `${asked}\n\nAssistant: 2`, "rejected", /the same as chosen/],
    ["has no prompt", "\n\nAssistant: 2", "\n\nAssistant: 3", "chosen", /there is no prompt/],
    ["ends with the user", "\n\nHuman: a", "\n\nHuman: b", "chosen", /is not the assistant's/],
    [
      "does not begin with a turn of the user",
      "Human: a\n\nAssistant: 2",
      `${asked}\n\nAssistant: 3`,
      "chosen",
      /expected a transcript that begins with/
    ],
    ["lacks a field", undefined, "x", "chosen", /^null$|missing; there are rejected/],
    ["has a number instead of text", 7, "x", "chosen", /expected text, found number/],
    ["has half of a surrogate pair", `${asked}\n\nAssistant: \ud800`, `${asked}\n\nAssistant: 3`, "chosen", /surrogate/]
  ])("that %s is invalid", (_, chosen, rejected, field, message) => {
    const bad = badRow(() => parse(chosen, rejected))
    expect(bad.field).toBe(field)
    expect(bad.message).toMatch(message)
  })

  it("that is not an object is invalid", () => {
    for (const [row, found] of [
      [null, "null"],
      [[], "a list"],
      ["x", "string"],
      [1, "number"]
    ] as const) {
      expect(badRow(() => parseHhRlhf(row, 1, "test"))).toMatchObject({ field: "(the row)", message: `expected an object, found ${found}` })
    }
  })

  it("can be converted back to its transcripts", () => {
    for (const text of ["\n\nHuman: a\n\nAssistant: b", "\n\nHuman:\n\nHuman:x\n\nAssistant:\n\n\n", "\n\nAssistant: a\n\nHuman b: c"]) {
      expect(joinTranscript(splitTranscript(text, "text"))).toBe(text)
    }
  })
})

describe("a row of messages", () => {
  const question = { role: "user", content: "q" }
  const answer = { role: "assistant", content: "a" }

  it("is a demonstration", () => {
    expect(parseMessages({ messages: [{ role: "system", content: "s" }, question, answer] }, 3)).toEqual({
      loss: "answers",
      id: "3",
      messages: [{ role: "system", content: "s" }, question, answer]
    })
  })

  it.each([
    ["something that is not a list", "x", "messages", /expected a list/],
    ["an empty list", [], "messages", /at least one/],
    ["a question at the end", [question], "messages", /not the assistant's/],
    ["an unknown role", [question, { role: "tool", content: "" }], "messages[1].role", /found "tool"/],
    ["a role named like an object's property", [{ role: "constructor", content: "" }, answer], "messages[0].role", /found "constructor"/],
    ["a message without content", [{ role: "user" }, answer], "messages[0].content", /missing; there are role/],
    ["a message that is text", ["hi", answer], "messages[0].role", /expected an object, found string/],
    ["content that is a list", [question, { role: "assistant", content: ["a"] }], "messages[1].content", /expected text, found a list/]
  ])("with %s is invalid", (_, messages, field, message) => {
    const bad = badRow(() => parseMessages({ messages }, 1))
    expect(bad.field).toBe(field)
    expect(bad.message).toMatch(message)
  })
})

describe("a row of prompt, chosen and rejected", () => {
  const parse = (row: object) => parsePromptChosenRejected(row, 1, "test")
  const question = { role: "user", content: "q" }
  const answer = (content: string) => ({ role: "assistant", content })

  it("may have text, messages, or complete dialogues", () => {
    const expected = parse({ prompt: "q", chosen: "a", rejected: "b" })
    expect(expected).toMatchObject({ prompt: [question], chosen: "a", rejected: "b", rating: null })
    expect(parse({ prompt: [question], chosen: [answer("a")], rejected: "b" })).toEqual(expected)
    expect(parse({ prompt: "q", chosen: [question, answer("a")], rejected: [question, answer("b")] })).toEqual(expected)
  })

  it("may have one of four ratings", () => {
    for (const rating of [0, 1, 2, 3]) expect(parse({ prompt: "q", chosen: "a", rejected: "b", rating }).rating).toBe(rating)
    for (const rating of [4, -1, 0.5, "1", true, NaN])
      expect(badLabel(() => parse({ prompt: "q", chosen: "a", rejected: "b", rating }))).toMatchObject({
        ...{ line: 1, field: "rating", found: typeof rating === "string" ? `"${rating}"` : `${rating}` },
        expected: "0 (significantly better), 1 (better), 2 (slightly better), 3 (negligibly better or unsure) or null"
      })
  })

  it("is checked for its rating and labels first, so that other faults of the row do not hide theirs", () => {
    for (const row of [{}, { prompt: "q", chosen: "a", rejected: "a" }, { prompt: "q", chosen: "", rejected: "b" }]) {
      expect(badLabel(() => parse({ ...row, rating: 7 })).field).toBe("rating")
      expect(badLabel(() => parse({ ...row, rejectedSafe: "no" })).field).toBe("rejectedSafe")
    }
    expect(badRow(() => parse([]))).toMatchObject({ field: "(the row)", message: "expected an object, found a list" })
  })

  it("may have a safety label for each response", () => {
    const row = { prompt: "q", chosen: "a", rejected: "b" }
    expect(parse({ ...row, chosenSafe: true, rejectedSafe: false })).toMatchObject({ chosenSafe: true, rejectedSafe: false })
    expect(parse({ ...row, rejectedSafe: true, chosenSafe: null })).toMatchObject({ chosenSafe: null, rejectedSafe: true })
    expect(parse(row)).toMatchObject({ chosenSafe: null, rejectedSafe: null })
    for (const name of ["chosenSafe", "rejectedSafe"])
      for (const label of ["yes", 1, 0, "true", []]) {
        const bad = badLabel(() => parse({ ...row, [name]: label }))
        expect([bad.field, bad.message]).toEqual([name, `expected true, false or null, found ${JSON.stringify(label)}`])
      }
  })

  it.each([
    ["a prompt that ends with the assistant", { prompt: [question, answer("x")], chosen: "a", rejected: "b" }, "prompt", /not the user's/],
    ["an answer by the user", { prompt: "q", chosen: [question], rejected: "b" }, "chosen", /not the assistant's/],
    [
      "an answer to another prompt",
      { prompt: "q", chosen: [{ role: "user", content: "other" }, answer("a")], rejected: "b" },
      "chosen",
      /are not the prompt/
    ],
    ["an empty answer", { prompt: "q", chosen: "a", rejected: " \n" }, "rejected", /empty/],
    ["two equal answers", { prompt: "q", chosen: "a", rejected: "a" }, "rejected", /the same/],
    ["no prompt", { chosen: "a", rejected: "b" }, "prompt", /missing; there are chosen, rejected/]
  ])("with %s is invalid", (_, row, field, message) => {
    const bad = badRow(() => parse(row))
    expect(bad.field).toBe(field)
    expect(bad.message).toMatch(message)
  })
})

const hhFile = join(process.env.CARAVAN_TEST_DATA ?? "", "hh-rlhf/harmless-base-test.jsonl.gz")

describe.skipIf(process.env.CARAVAN_TEST_DATA === undefined || !existsSync(hhFile))(
  "the 2,312 HH-RLHF pairs of the folder CARAVAN_TEST_DATA",
  () => {
    it("are all valid except 5 that differ early and 4 with an empty answer, and can be converted back to transcripts", async () => {
      let kept = 0
      let rebuilt = 0
      const why: Record<string, number> = {}
      for await (const { line, value } of readRecords(hhFile)) {
        try {
          const { prompt, chosen, rejected } = parseHhRlhf(value, line, "hh")
          const whole = (answer: string) => joinTranscript([...prompt, { role: "assistant", content: answer }])
          const row = value as { readonly chosen: string; readonly rejected: string }
          kept++
          if (whole(chosen) === row.chosen && whole(rejected) === row.rejected && prompt.at(-1)!.role === "user") rebuilt++
        } catch (cause) {
          const reason = (cause as BadRow).message.replaceAll(/\d+/g, "N")
          why[reason] = (why[reason] ?? 0) + 1
        }
      }
      expect([kept, rebuilt]).toEqual([2303, 2303])
      expect(why).toEqual({ "the response is empty": 4, "the transcripts differ from turn N on, but this one continues to turn N": 5 })
    })

    it("are read with 9 rows skipped", async () => {
      const counts = newCounts()
      const rows = await all(
        readParsed(
          hhFile,
          (value, line) => parseHhRlhf(value, line, "hh"),
          counts,
          () => undefined
        )
      )
      expect([rows.length, counts.rows, counts.bad]).toEqual([2303, 2312, 9])
    })
  }
)

describe("rows with column names that every object has", () => {
  const pair = '"prompt": [{"role": "user", "content": "hi"}], "chosen": "hello", "rejected": "go away"'
  it("are read like any others; a value under __proto__ is not a field of the row", async () => {
    const names = '"__proto__": {"chosen": "x"}, "constructor": 1, "toString": null, "hasOwnProperty": "x"'
    const [plain, decorated] = await all(readRecords(file(`{${pair}}\n{${pair}, ${names}}\n`)))
    const parse = (value: unknown) => parsePromptChosenRejected(value, 1, "rows")
    expect(parse(decorated!.value)).toEqual(parse(plain!.value))
    const [hollow] = await all(readRecords(file(`{"__proto__": {${pair}}}\n`)))
    expect(badRow(() => parse(hollow!.value))).toMatchObject({ message: expect.stringMatching(/missing/) })
    expect(({} as { readonly chosen?: unknown }).chosen).toBeUndefined()
  })
})
