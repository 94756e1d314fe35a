/** Text is read the same however its chunks are cut: byte by byte, at random positions, in one piece. */
import { zstdCompressSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import { openTable } from "../../../data/read/csv.ts"
import { jsonArray } from "../../../data/read/json-array.ts"
import { jsonLines, plainTexts } from "../../../data/read/lines.ts"
import type { Record } from "../../../data/read/record.ts"
import { inflateZstd } from "../../../data/read/zstd.ts"
import { Random } from "../../../engine/random.ts"

async function* cut(bytes: Buffer, sizeOf: () => number): AsyncGenerator<Buffer> {
  // Copies: a reader that keeps a chunk too long must not find the next one behind it in memory.
  for (let at = 0; at < bytes.length;) {
    const size = sizeOf()
    yield Buffer.from(bytes.subarray(at, at + size))
    at += size
  }
}
const collected = async (batches: AsyncIterable<ReadonlyArray<Record>>): Promise<Array<unknown>> => {
  const out: Array<unknown> = []
  for await (const batch of batches) out.push(...batch.map(({ fault, line, value }) => [line, value, fault?.reason]))
  return out
}

const readers: Readonly<globalThis.Record<string, (chunks: AsyncGenerator<Buffer>) => Promise<Array<unknown>>>> = {
  table: async (chunks) => collected((await openTable("x", chunks, false)).batches()),
  list: (chunks) => collected(jsonArray("x", chunks)),
  lines: (chunks) => collected(jsonLines("x", chunks)),
  paragraphs: (chunks) => collected(plainTexts("x", chunks, "paragraph")),
  zst: (chunks) => collected(jsonLines("x", inflateZstd(chunks)))
}

const pieces = ["é✓𝄞", '"', '""', ",", "\n", "\r\n", "\\", '\\"', "{", "}", "[", "]", " ", "word", "", "12"]
/** Texts with difficult pieces, in each format. */
const content = (draw: Random): Readonly<globalThis.Record<string, Buffer>> => {
  const text = () => Array.from({ length: draw.int(12) }, () => pieces[draw.int(pieces.length)]).join("")
  const rows = Array.from({ length: 1 + draw.int(20) }, () => ({ a: text(), b: text(), c: [text(), { d: text() }] }))
  const cell = (value: string) => (draw.int(2) === 0 || /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value)
  const lines = Buffer.from(rows.map((row) => JSON.stringify(row)).join("\n"))
  return {
    // Unquoted values that begin with a quote may be torn: those are rows with a fault.
    table: Buffer.from(
      `a,b\n${rows.map(({ a, b }) => `${cell(a)},${draw.int(8) === 0 ? `"x"${a.replaceAll(/["\r\n,]/g, "")}` : cell(b)}`).join("\n")}\n`
    ),
    list: Buffer.from(JSON.stringify(rows, undefined, draw.int(3))),
    lines,
    paragraphs: Buffer.from(rows.map(({ a }) => a).join("\n")),
    zst: Buffer.concat([
      zstdCompressSync(lines),
      Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]),
      zstdCompressSync(Buffer.from(`\n${lines.toString()}`))
    ])
  }
}

describe.each(Object.keys(readers))("rows of a %s", (name) => {
  const read = readers[name]!
  it("are the same for any chunk sizes", async () => {
    for (let seed = 0; seed < 60; seed++) {
      const draw = new Random(seed, "chunks")
      const bytes = content(draw)[name]!
      const whole = await read(cut(bytes, () => bytes.length))
      expect(whole.length).toBeGreaterThan(0)
      const sizes = [() => 1, () => 1 + draw.int(3), () => 1 + draw.int(40), () => (draw.int(10) === 0 ? 1 : 200)]
      for (const [i, size] of sizes.entries()) expect([seed, i, await read(cut(bytes, size))]).toEqual([seed, i, whole])
    }
  })
})
