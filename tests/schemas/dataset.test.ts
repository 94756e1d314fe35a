import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as arrow from "apache-arrow"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import { arrowSchema, columnsOf } from "../../schemas/arrow.ts"
import { toBatch } from "../../schemas/arrow-rows.ts"
import type { ArtifactError, DatasetType } from "../../schemas/artifact.ts"
import { dataset } from "../../schemas/dataset.ts"
import { datasetDigest } from "../../schemas/dataset-digest.ts"
import { openRows, validateDataset, writeRows } from "../../schemas/dataset-file.ts"
import * as Rows from "../../schemas/rows.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-dataset-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "d-"))

const write = async <Row>(type: DatasetType<Row>, rows: ReadonlyArray<Row>) => {
  const directory = folder()
  await writeRows(directory, type, rows)
  return directory
}
const read = async <Row>(directory: string, type: DatasetType<Row>): Promise<Array<Row>> => {
  const file = await Effect.runPromise(openRows(directory, type))
  try {
    const rows: Array<Row> = []
    for (let i = 0; i < file.batches; i++) rows.push(...((await file.batch(i)) as Array<Row>))
    expect(rows.length).toBe(file.rowCount)
    return rows
  } finally {
    await file.close()
  }
}
const digest = async <Row>(type: DatasetType<Row>, rows: ReadonlyArray<Row>) =>
  Effect.runPromise(datasetDigest(await write(type, rows), type))
const errorOf = <A>(effect: Effect.Effect<A, ArtifactError>) => Effect.runPromise(Effect.flip(effect))

/** Any row of a row schema: empty texts and lists, nulls, texts beyond ASCII, the bounds of the number types. */
const anyRow = (random: Random, node: any): any => {
  switch (node._tag) {
    case "String":
      return random.pick(["", "a", "two words", "\n\nHuman:", "é", "日本語", "👩‍🚀", "\u0000", "x".repeat(random.int(300))])
    case "Boolean":
      return random.int(2) === 0
    case "Number": {
      const type = node.annotations?.arrow ?? node.checks?.map((check: any) => check.annotations?.arrow).find(Boolean)
      if (type === "uint8") return random.pick([0, 1, 255])
      // Ratings range from 0 to 3.
      if (type === "int32") return random.pick(node.checks?.length > 1 ? [0, 1, 2, 3] : [0, -1, 2 ** 31 - 1, -(2 ** 31), random.int(1000)])
      return random.pick([0, -0.5, 2 ** -20, 1e30, -Infinity].map(Math.fround))
    }
    case "Literal":
      return node.literal
    case "Null":
      return null
    case "Union":
      return anyRow(random, random.pick(node.types))
    case "Arrays":
      return Array.from({ length: random.pick([0, 1, 2, 17]) }, () => anyRow(random, node.rest[0]))
    default:
      return Object.fromEntries(node.propertySignatures.map((field: any) => [field.name, anyRow(random, field.type)]))
  }
}

const types: ReadonlyArray<DatasetType<any>> = [
  Rows.Prompts,
  Rows.Demonstrations,
  Rows.Preferences,
  Rows.Completions,
  Rows.ScoredCompletions,
  Rows.PairScores,
  Rows.TokenSequences,
  Rows.Texts
]

/** A row with features that the recipe's rows do not have: nulls within lists, structs that may be null, a list of lists. */
const Odd = Schema.Struct({
  numbers: Schema.Array(Schema.NullOr(Schema.Number.annotate({ arrow: "int32" }))),
  maybe: Schema.NullOr(Schema.Struct({ inner: Schema.NullOr(Schema.String), certain: Schema.Boolean })),
  nested: Schema.Array(Schema.Array(Schema.String)),
  list: Schema.NullOr(Schema.Array(Schema.String))
})
const Odds = dataset(Odd, "odd/1")

describe("a dataset", () => {
  for (const type of [...types, Odds]) {
    it(`of ${type.name} is read as it was written`, async () => {
      const random = new Random(1, type.name)
      const rows = Array.from({ length: 60 }, () => anyRow(random, type.row.ast))
      expect(await read(await write(type, rows), type)).toEqual(rows)
    })
    it(`of ${type.name} may be empty`, async () => {
      const directory = await write(type, [])
      expect(await read(directory, type)).toEqual([])
      await Effect.runPromise(validateDataset(directory, type))
    })
  }

  it("is read correctly by the Arrow library", async () => {
    const rows = [{ id: "a", messages: [{ role: "user" as const, content: "é" }], safety: true, category: null, followUps: ["b"] }]
    const table = arrow.tableFromIPC(readFileSync(join(await write(Rows.Prompts, rows), "data.arrow")))
    expect(JSON.parse(JSON.stringify(table.toArray()))).toEqual(rows)
  })

  it("has batches of at most 4096 rows, and fewer if rows are large", async () => {
    const batches = async (rows: ReadonlyArray<{ text: string }>) => {
      const file = await Effect.runPromise(openRows(await write(Rows.Texts, rows), Rows.Texts))
      await file.close()
      return file.batches
    }
    expect(await batches(Array.from({ length: 9000 }, () => ({ text: "x" })))).toBe(3)
    expect(await batches(Array.from({ length: 10 }, () => ({ text: "x".repeat(200_000) })))).toBe(4)
  })

  const refusal = async (rows: ReadonlyArray<unknown>, type: DatasetType<any>): Promise<string> => {
    const error = (await writeRows(folder(), type, rows).catch((cause: unknown) => cause)) as ArtifactError
    return `${error._tag}: ${error.message}`
  }
  const prompt = { id: "a", messages: [], safety: true, category: "c", followUps: [] }

  it("rejects a row that does not match its schema, with the row and the reason", async () => {
    expect(await refusal([prompt, { ...prompt, id: null }], Rows.Prompts)).toMatch(
      /Writing a dataset:prompt\/2: .* row 2: id: expected string\./
    )
    const robot = { ...prompt, messages: [{ role: "robot", content: "" }] }
    expect(await refusal([robot], Rows.Prompts)).toMatch(/row 1: messages\[0\]\.role: expected .*"user"/)
    expect(await refusal([{ id: "a", messages: [] }], Rows.Prompts)).toMatch(/row 1: .*safety/)
  })

  it("rejects what a column can't represent", async () => {
    const Numbers = dataset(Schema.Struct({ n: Schema.Number.annotate({ arrow: "int32" }) }), "n/1")
    expect(await refusal([{ n: 3e9 }], Numbers)).toMatch(/rows 1 to 1: row\.n: 3000000000 does not fit int32/)
    expect(await refusal([{ n: 0.5 }], Numbers)).toMatch(/0\.5 does not fit int32/)
    expect(await refusal([{ text: "\ud800" }], Rows.Texts)).toMatch(/surrogate/)
  })

  it("drops the fields of a row that its schema does not have", async () => {
    expect(await read(await write(Rows.Texts, [{ text: "a", more: 1 } as never]), Rows.Texts)).toEqual([{ text: "a" }])
  })
})

describe("a schema of rows", () => {
  it.each([
    ["an optional field", Schema.Struct({ a: Schema.optional(Schema.String) }), /row\.a: an optional field/],
    ["a tuple", Schema.Struct({ a: Schema.Tuple([Schema.String, Schema.Number]) }), /row\.a: a tuple/],
    ["a record", Schema.Struct({ a: Schema.Record(Schema.String, Schema.Number) }), /row\.a: only structs/],
    ["a union of types", Schema.Struct({ a: Schema.Union([Schema.String, Schema.Number]) }), /row\.a: a union/],
    [
      "a union of structs",
      Schema.Struct({ a: Schema.Union([Schema.Struct({ x: Schema.String }), Schema.Struct({ y: Schema.String })]) }),
      /row\.a: a union/
    ],
    ["a date", Schema.Struct({ a: Schema.Date }), /row\.a: a Declaration/],
    ["something that is not a struct", Schema.String, /must be a Schema\.Struct/]
  ])("with %s is rejected", (_, schema, message) => {
    expect(() => columnsOf(schema)).toThrow(message)
  })
})

describe("the digest of a dataset's content", () => {
  const texts = (...rows: ReadonlyArray<string>) =>
    digest(
      Rows.Texts,
      rows.map((text) => ({ text }))
    )
  const Lists = dataset(Schema.Struct({ list: Schema.Array(Schema.String) }), "lists/1")

  it("is pinned: stored results depend on it", async () => {
    // In Python: sha256(b"caravan dataset 1\ndataset:text/1\n{text:utf8}\n2\n" + sha256(b"s1:as1:b").digest()).hexdigest()
    expect(await texts("a", "b")).toBe("524587f7c5530688efb1576397ccf49bcddde0e377e1bef48e4c00b467fe60a4")
  })

  it("does not depend on how rows were batched, over chunks of 4096 rows", async () => {
    const rows = Array.from({ length: 5000 }, (_, i) => ({ text: `row ${i}` }))
    const kind = columnsOf(Rows.Text)
    const schema = arrowSchema(kind)
    for (const size of [7, 1000, 5000]) {
      const directory = folder()
      const batches = Array.from({ length: Math.ceil(rows.length / size) }, (_, i) =>
        toBatch(kind, schema, rows.slice(i * size, (i + 1) * size))
      )
      writeFileSync(join(directory, "data.arrow"), arrow.tableToIPC(new arrow.Table(schema, batches), "file"))
      expect(await Effect.runPromise(datasetDigest(directory, Rows.Texts))).toBe(await digest(Rows.Texts, rows))
    }
  })

  it("distinguishes where one text ends and the next begins", async () => {
    expect(await texts("ab", "c")).not.toBe(await texts("a", "bc"))
    expect(await digest(Lists, [{ list: ["ab", "c"] }])).not.toBe(await digest(Lists, [{ list: ["a", "bc"] }]))
    expect(await digest(Lists, [{ list: ["a"] }, { list: [] }])).not.toBe(await digest(Lists, [{ list: [] }, { list: ["a"] }]))
    expect(await texts()).not.toBe(await texts(""))
  })

  it("distinguishes null from zero, from false, from an empty value, and a null struct from a struct of nulls", async () => {
    const odd = { numbers: [], maybe: null, nested: [], list: null }
    const digests = await Promise.all(
      [
        odd,
        { ...odd, numbers: [0] },
        { ...odd, numbers: [null] },
        { ...odd, list: [] },
        { ...odd, list: [""] },
        { ...odd, maybe: { inner: null, certain: false } },
        { ...odd, nested: [[]] }
      ].map((row) => digest(Odds, [row]))
    )
    expect(new Set(digests).size).toBe(digests.length)
    const NullOnly = dataset(Schema.Struct({ s: Schema.NullOr(Schema.Struct({ a: Schema.NullOr(Schema.String) })) }), "null-only/1")
    expect(await digest(NullOnly, [{ s: null }])).not.toBe(await digest(NullOnly, [{ s: { a: null } }]))
  })

  it("depends on the order of rows and on the type's name", async () => {
    expect(await texts("a", "b")).not.toBe(await texts("b", "a"))
    expect(await texts("a")).not.toBe(await digest(dataset(Rows.Text, "text/2"), [{ text: "a" }]))
  })
})

describe("an invalid dataset file", () => {
  const original = async () => {
    const directory = await write(
      Rows.Prompts,
      Array.from({ length: 20 }, (_, i) => ({
        id: `${i}`,
        messages: [{ role: "user" as const, content: "x".repeat(i) }],
        safety: false,
        category: null,
        followUps: []
      }))
    )
    return { directory, path: join(directory, "data.arrow"), bytes: readFileSync(join(directory, "data.arrow")) }
  }

  it("is missing: the message names the file", async () => {
    expect((await errorOf(validateDataset(folder(), Rows.Texts))).message).toMatch(/data\.arrow: expected a file data\.arrow, found none/)
  })

  it("has other rows: both schemas are reported", async () => {
    const { directory } = await original()
    const { message } = await errorOf(validateDataset(directory, Rows.Texts))
    expect(message).toContain(
      "expected the columns {text:utf8}, found {id:utf8,messages:list<{role:utf8,content:utf8}>,safety:bool,category:utf8?,followUps:list<utf8>}"
    )
  })

  it("is truncated anywhere: it is never read as complete", async () => {
    const { directory, path, bytes } = await original()
    for (let length = 0; length < bytes.length; length += 13) {
      writeFileSync(path, bytes.subarray(0, length))
      expect((await errorOf(validateDataset(directory, Rows.Prompts)))._tag).toBe("ArtifactError")
    }
  })

  it("has a footer that claims more than the file", async () => {
    const { directory, path, bytes } = await original()
    for (const claim of [0, -1, bytes.length, 2 ** 31 - 1]) {
      bytes.writeInt32LE(claim, bytes.length - 10)
      writeFileSync(path, bytes)
      expect((await errorOf(validateDataset(directory, Rows.Prompts))).message).toMatch(/a footer that claims/)
    }
  })

  it("has a batch whose header claims more than the file", async () => {
    const { directory, path, bytes } = await original()
    bytes.writeInt32LE(2 ** 31 - 1, 12)
    writeFileSync(path, bytes)
    expect((await errorOf(validateDataset(directory, Rows.Prompts))).message).toMatch(/a header at byte 8 that claims 2147483647/)
  })

  it(
    "has any one byte wrong: this gives rows or an ArtifactError, never a crash, an endless loop or exhausted memory",
    { timeout: 120_000 },
    async () => {
      const { directory, path, bytes } = await original()
      const ends: Array<string> = []
      for (let at = 0; at < bytes.length; at++) {
        const damaged = Buffer.from(bytes)
        damaged[at]! ^= at % 2 === 0 ? 0xff : 0x40
        writeFileSync(path, damaged)
        await read(directory, Rows.Prompts).catch((cause: ArtifactError) => ends.push(cause._tag))
      }
      expect(new Set(ends)).toEqual(new Set(["ArtifactError"]))
      expect(ends.length).toBeGreaterThan(bytes.length / 10)
    }
  )
})

describe("columns with names that every object has", () => {
  const names = ["constructor", "toString", "hasOwnProperty", "valueOf"]
  const Named = dataset(Schema.Struct(Object.fromEntries(names.map((name) => [name, Schema.NullOr(Schema.String)]))), "named/1")
  it("contain the row's values, and null if it has none", async () => {
    const full = Object.fromEntries(names.map((name) => [name, `the ${name}`]))
    const none = Object.fromEntries(names.map((name) => [name, null]))
    expect(await read(await write(Named, [full, none] as never), Named)).toEqual([full, none])
    // Without checking the row first.
    const { toBatch, toRows } = await import("../../schemas/arrow-rows.ts")
    const { arrowSchema, columnsOf } = await import("../../schemas/arrow.ts")
    const kind = columnsOf(Named.row)
    expect(toRows(kind, toBatch(kind, arrowSchema(kind), [full, {}]))).toEqual([full, none])
  })
})
