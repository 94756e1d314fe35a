/** Where two artifacts differ. Files are written by hand here; the expected positions are those that were changed. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import { dataset } from "../../schemas/dataset.ts"
import { report } from "../../schemas/report.ts"
import { Policy } from "../../schemas/checkpoint.ts"
import { writeRows } from "../../schemas/dataset-file.ts"
import { allDifferences, artifactDifferences, firstDifference } from "../../schemas/difference.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-difference-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "d-"))
const differences = (before: string, after: string, type: Parameters<typeof artifactDifferences>[2]) =>
  Effect.runPromise(artifactDifferences(before, after, type))

describe("two values", () => {
  it("differ first where their first differing leaf is", () => {
    expect(firstDifference({ a: [1, { b: "x" }] }, { a: [1, { b: "x" }] })).toBeUndefined()
    expect(firstDifference({ a: [1, { b: "x" }], c: 1 }, { a: [1, { b: "y" }], c: 2 })).toBe('a[1].b: "x" -> "y"')
    expect(firstDifference([1], [1, 2])).toBe("[1]: nothing -> 2")
    expect(firstDifference({ a: {} }, { a: [] })).toBe("a: {} -> []")
    expect(allDifferences({ a: 1, b: { c: 2 }, d: 3 }, { a: 2, b: { c: 2 } })).toEqual(["a: 1 -> 2", "d: 3 -> nothing"])
  })
  it("are compared by bits: NaN equals NaN, 0 differs from -0", () => {
    expect(firstDifference(Number.NaN, Number.NaN)).toBeUndefined()
    expect(firstDifference(0, -0)).toBe("0 -> -0")
    expect(firstDifference(1, Number.NaN)).toBe("1 -> NaN")
  })
  it("that are long texts are shown from the first difference on", () => {
    expect(firstDifference("x".repeat(100), `${"x".repeat(98)}yz`)).toBe('from character 99: "xxxxxxxxxxxx" -> "xxxxxxxxxxyz"')
  })
})

describe("two datasets", () => {
  const Row = dataset(Schema.Struct({ text: Schema.String, scores: Schema.Array(Schema.Number) }), "row/1")
  const rows = (count: number, change: (i: number) => object = () => ({})) =>
    Array.from({ length: count }, (_, i) => ({ text: `row ${i + 1}`, scores: [i, 0.5], ...change(i) }))
  const written = async (list: ReadonlyArray<object>) => {
    const directory = folder()
    await writeRows(directory, Row, list)
    return directory
  }

  it("differ in a row and field, beyond the first record batch too", async () => {
    const [before, after] = [
      await written(rows(5000)),
      await written(rows(5000, (i) => (i === 4200 ? { scores: [4200, 0.25] } : i === 4999 ? { text: "last" } : {})))
    ]
    expect(await differences(before, after, Row)).toEqual(["data.arrow: row 4201, scores[1]: 0.5 -> 0.25 (2 of 5000 rows differ)"])
    expect(await differences(before, before, Row)).toEqual([])
  })
  it("differ in their number of rows", async () => {
    const [before, after] = [await written(rows(3)), await written(rows(2))]
    expect(await differences(before, after, Row)).toEqual(["data.arrow: 3 -> 2 rows; the first 2 rows are equal"])
    expect(await differences(after, before, Row)).toEqual(["data.arrow: 2 -> 3 rows; the first 2 rows are equal"])
  })
})

describe("two checkpoints", () => {
  interface Tensor {
    readonly dtype: string
    readonly shape: ReadonlyArray<number>
    readonly bytes: Buffer
  }
  const f32 = (shape: ReadonlyArray<number>, values: ReadonlyArray<number>): Tensor => ({
    dtype: "F32",
    shape,
    bytes: Buffer.from(new Uint8Array(Float32Array.from(values).buffer))
  })
  const u16 = (dtype: string, values: ReadonlyArray<number>): Tensor => ({
    dtype,
    shape: [values.length],
    bytes: Buffer.from(new Uint8Array(Uint16Array.from(values).buffer))
  })
  const written = (tensors: Readonly<Record<string, Tensor>>, others: Readonly<Record<string, string>> = {}) => {
    const directory = folder()
    let end = 0
    const header: Record<string, unknown> = {}
    for (const [name, { dtype, shape, bytes }] of Object.entries(tensors))
      header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] }
    const json = Buffer.from(JSON.stringify(header))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(json.length))
    writeFileSync(join(directory, "model.safetensors"), Buffer.concat([length, json, ...Object.values(tensors).map(({ bytes }) => bytes)]))
    for (const [name, text] of Object.entries(others)) {
      mkdirSync(join(directory, name, ".."), { recursive: true })
      writeFileSync(join(directory, name), text)
    }
    return directory
  }
  const same = f32([2], [1, 2])

  it("differ in a tensor and element: reports the first, the number, and the largest difference", async () => {
    const before = written({ same, "layers.0.weight": f32([2, 3], [0, 1, 2, 3, 4, 5]), "layers.1.weight": f32([1], [7]) })
    const after = written({ same, "layers.0.weight": f32([2, 3], [0, 1, 2, 3, 4.5, 5.25]), "layers.1.weight": f32([1], [8]) })
    expect(await differences(before, after, Policy)).toEqual([
      "model.safetensors: tensor layers.0.weight: element [1, 1]: 4 -> 4.5; 2 of 6 elements differ, by at most 0.500 (2 of 3 tensors differ)"
    ])
  })
  it("are also read in half precision", async () => {
    // bfloat16 1 is 0x3f80, 1.5 is 0x3fc0; float16 1 is 0x3c00, 1.5 is 0x3e00, the smallest above 0 is 0x0001 = 2^-24.
    for (const [dtype, a, b, told] of [
      ["BF16", 0x3f80, 0x3fc0, "1 -> 1.5"],
      ["F16", 0x3c00, 0x3e00, "1 -> 1.5"],
      ["F16", 0x0001, 0x8001, `${2 ** -24} -> -${2 ** -24}`],
      ["F16", 0x7c00, 0x7e00, "Infinity -> NaN"]
    ] as const) {
      const [before, after] = [written({ w: u16(dtype, [0, a]) }), written({ w: u16(dtype, [0, b]) })]
      expect((await differences(before, after, Policy))[0]).toContain(`tensor w: element [1]: ${told}; 1 of 2 elements`)
    }
  })
  it("differ if one has a tensor of another shape, or one more; or in their other files", async () => {
    const before = written({ same, w: f32([2, 1], [1, 2]) }, { "config.json": '{"layers": 2, "x": 1}', "tokenizer.model": "abc" })
    const after = written({ same, w: f32([1, 2], [1, 2]), v: f32([0], []) }, { "config.json": '{"layers": 3}', "tokenizer.model": "abd" })
    expect(await differences(before, after, Policy)).toEqual([
      "config.json: layers: 2 -> 3 (2 fields differ)",
      "model.safetensors: tensor w: F32 [2, 1] -> F32 [1, 2] (2 of 3 tensors differ)",
      "tokenizer.model: differs from byte 2"
    ])
    expect(await differences(before, written({ same, w: f32([2, 1], [1, 2]) }), Policy)).toEqual([
      "config.json is missing",
      "tokenizer.model is missing"
    ])
  })
  it("with the same contents in different bytes are reported as such", async () => {
    const before = written({ same }, { "config.json": '{"a": 1}' })
    const after = written({ same }, { "config.json": '{"a":  1}' })
    expect(await differences(before, after, Policy)).toEqual(["config.json: equal content in different bytes, from byte 6 (8 -> 9 bytes)"])
  })
})

describe("two reports", () => {
  it("differ in a field", async () => {
    const Loss = report(Schema.Struct({ loss: Schema.Number }), "loss/1")
    const [before, after] = [folder(), folder()]
    writeFileSync(join(before, "report.json"), '{"loss": 0.5}')
    writeFileSync(join(after, "report.json"), '{"loss": 0.25}')
    expect(await differences(before, after, Loss)).toEqual(["report.json: loss: 0.5 -> 0.25"])
  })
})
