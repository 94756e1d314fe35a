/** Event files for TensorBoard, read back according to the formats' own definitions. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { folderOf } from "../../cli/export/curve-events.ts"
import { crc32c, scalar } from "../../cli/export/tensorboard.ts"
import { fixtureFolder } from "../runtime/fixture.ts"
import { caravan, removeFolder, runJson } from "./caravan.ts"

describe("crc32c", () => {
  it("gives the values of RFC 3720, appendix B.4", () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43)
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e)
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283)
  })
})

/** Records of a file; their checksums are verified by the definition, bit by bit: no table, no shared code. */
const recordsOf = (bytes: Buffer): Array<Buffer> => {
  const sum = (data: Buffer) => {
    let crc = 0xffffffff
    for (const byte of data) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0x82f63b78 & -(crc & 1))
    }
    crc = (crc ^ 0xffffffff) >>> 0
    return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
  }
  const records: Array<Buffer> = []
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at))
    expect(bytes.readUInt32LE(at + 8)).toBe(sum(bytes.subarray(at, at + 8)))
    const data = bytes.subarray(at + 12, at + 12 + length)
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(sum(data))
    records.push(data)
    at += 16 + length
  }
  return records
}

/** The fields of a protocol buffer message by number. */
const fieldsOf = (bytes: Buffer): Map<number, Buffer | number | bigint> => {
  const fields = new Map<number, Buffer | number | bigint>()
  let at = 0
  const varint = (): bigint => {
    let [value, shift] = [0n, 0n]
    for (;;) {
      const byte = bytes[at++]!
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
      shift += 7n
    }
  }
  while (at < bytes.length) {
    const key = Number(varint())
    const [number, wire] = [key >> 3, key & 7]
    if (wire === 0) fields.set(number, varint())
    else if (wire === 1) fields.set(number, bytes.readDoubleLE((at += 8) - 8))
    else if (wire === 5) fields.set(number, bytes.readFloatLE((at += 4) - 4))
    else if (wire === 2) {
      const length = Number(varint())
      fields.set(number, bytes.subarray(at, (at += length)))
    } else throw new Error(`wire type ${wire}`)
  }
  return fields
}

const scalarsOf = (file: string) =>
  recordsOf(readFileSync(file)).map((data) => {
    const event = fieldsOf(data)
    const summary = event.get(5)
    if (summary === undefined) return { version: String(event.get(3)) }
    const value = fieldsOf(fieldsOf(summary as Buffer).get(1) as Buffer)
    return { at: event.get(1) as number, step: Number(event.get(2) ?? 0n), tag: String(value.get(1)), value: value.get(2) as number }
  })

describe("scalar", () => {
  it("supports steps beyond 32 bits, names in any script, NaN and infinities", () => {
    for (const [step, tag, value] of [
      [0, "loss", 0.5],
      [2 ** 40 + 1, "größe/損失", -1e-30],
      [1, "a", NaN],
      [2, "b", Infinity]
    ] as const) {
      const [data] = recordsOf(scalar(1234.5, step, tag, value))
      const event = fieldsOf(data!)
      const held = fieldsOf(fieldsOf(event.get(5) as Buffer).get(1) as Buffer)
      expect([event.get(1), event.get(2), String(held.get(1)), held.get(2)]).toEqual([1234.5, BigInt(step), tag, Math.fround(value)])
    }
  })
})

describe("caravan curves --tensorboard", () => {
  let folder: string
  beforeAll(() => {
    folder = fixtureFolder()
    writeFileSync(
      join(folder, "descending-pipeline.ts"),
      `import * as Schema from "effect/Schema"
import { fileAt } from "../../../runtime/define/node.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import { descend } from "./descending.ts"
import { lines } from "./mapped.ts"
export default Pipeline.make("descending", { params: Schema.Struct({}) }, () => {
  const texts = lines({ file: fileAt("words.txt") })
  return { result: descend({ texts }, { steps: 3 }).named("../up/and out"), other: descend({ texts }, { steps: 4, divergesAt: 2 }).named("other") }
})
`
    )
    runJson(folder, "descending-pipeline.ts")
  })
  afterAll(() => removeFolder(folder))

  it("writes a file for each node with a curve, with every value, its step and its time", () => {
    const { stdout } = caravan(folder, "curves", "latest", "--tensorboard", "events", "--json")
    const { files } = JSON.parse(stdout) as { files: ReadonlyArray<{ node: string; path: string; scalars: number }> }
    expect(files.map(({ node }) => node).sort()).toEqual(["../up/and out", "other"])
    const { path, scalars } = files.find(({ node }) => node === "../up/and out")!
    expect(path).toMatch(/^events\/descending-[0-9a-f]{8}\/%2E%2E%2Fup%2Fand%20out\/events\.out\.tfevents\.\d{10}\.caravan$/)
    const [version, ...events] = scalarsOf(join(folder, path))
    expect(version).toEqual({ version: "brain.Event:2" })
    expect(events).toHaveLength(scalars)
    const losses = events.filter(({ tag }) => tag === "loss")
    expect(losses.map(({ step, value }) => [step, value])).toEqual([
      [1, 0.5],
      [2, 0.25],
      [3, 0.125]
    ])
    expect(Math.abs(losses[0]!.at! - Date.now() / 1000)).toBeLessThan(600)
    const other = scalarsOf(join(folder, files.find(({ node }) => node === "other")!.path))
    expect(other.find(({ step, tag }) => tag === "loss" && step === 2)!.value).toBe(NaN)
  })

  it("writes those of one node, again to the same path; and reports where it can't", () => {
    const once = caravan(folder, "curves", "latest", "other", "--tensorboard", "one")
    expect(once.stdout).toMatch(/\n1 event file\. To view them: tensorboard --logdir one\n$/)
    expect(caravan(folder, "curves", "latest", "other", "--tensorboard", "one").stdout).toBe(once.stdout)
    mkdirSync(join(folder, "taken"))
    writeFileSync(join(folder, "taken/file"), "")
    expect(caravan(folder, "curves", "latest", "--tensorboard", "taken/file")).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^Writing event files to taken\/file: .*Choose a writable folder/)
    })
  })
})

describe("folderOf", () => {
  it("never leaves its folder", () => {
    for (const name of ["..", ".", "../../x", "/etc", "a/b", "\0", "x".repeat(400)]) expect(folderOf(name)).toMatch(/^(?!\.)[^/\0]{1,200}$/)
  })
})
