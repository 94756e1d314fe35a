import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, describe, expect, it } from "vitest"
import type { ArtifactError, ArtifactType } from "../../schemas/artifact.ts"
import { report } from "../../schemas/report.ts"
import { HelpfulnessReward, Policy, Reward, SafetyReward, Value } from "../../schemas/checkpoint.ts"
import { readContent, writeContent } from "../../schemas/report.ts"
import { checkSafetensors } from "../../schemas/safetensors.ts"
import { TokenizerModel } from "../../schemas/tokenizer.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-checkpoint-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "c-"))
const messageOf = async <A>(effect: Effect.Effect<A, ArtifactError>) => (await Effect.runPromise(Effect.flip(effect))).message

/** A safetensors file with this header and this many bytes of data. */
const safetensors = (header: unknown, dataBytes: number): Buffer => {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)])
}
const tensor = (shape: ReadonlyArray<number>, from: number, to: number, dtype = "F32") => ({ dtype, shape, data_offsets: [from, to] })
const file = (bytes: Buffer): string => {
  const path = join(folder(), "model.safetensors")
  writeFileSync(path, bytes)
  return path
}

describe("a safetensors header", () => {
  const good = { __metadata__: { format: "pt" }, a: tensor([2, 3], 0, 24), b: tensor([0, 5], 24, 24), c: tensor([], 24, 26, "BF16") }

  it("gives each tensor's position in the file", async () => {
    const bytes = safetensors(good, 26)
    const entries = await Effect.runPromise(checkSafetensors(file(bytes)))
    const start = bytes.length - 26
    expect(entries.get("a")).toEqual({ name: "a", dtype: "F32", shape: [2, 3], start, end: start + 24 })
    expect([...entries.keys()]).toEqual(["a", "b", "c"])
  })

  const claiming = (length: bigint) => {
    const bytes = safetensors(good, 26)
    bytes.writeBigUInt64LE(length)
    return bytes
  }
  it.each([
    ["is truncated within its length field", Buffer.alloc(5), /at least 8 bytes, found 5/],
    ["claims more than the file", claiming(10_000n), /claims 10000 bytes/],
    ["claims 2^63 bytes", claiming(2n ** 63n), /claims 9223372036854775808 bytes/],
    ["is not JSON", safetensors("{", 0), /a JSON header/],
    ["is a list", safetensors("[]", 0), /a JSON object/],
    ["has a tensor past the end of the file", safetensors(good, 20), /the file is truncated/],
    [
      "has a tensor of fewer bytes than its shape",
      safetensors({ a: tensor([2, 3], 0, 20) }, 20),
      /24 bytes for tensor a of F32 \(2, 3\), found 20/
    ],
    ["has an unknown dtype", safetensors({ a: tensor([1], 0, 4, "F99") }, 4), /a dtype, shape and offsets for tensor a/],
    ["has a negative size", safetensors({ a: tensor([-1, -4], 0, 16) }, 16), /for tensor a/],
    ["has a size beyond safe integers", safetensors({ a: tensor([2 ** 53, 2 ** 53], 0, 16) }, 16), /for tensor a/],
    ["has offsets that run backwards", safetensors({ a: tensor([1], 4, 0) }, 4), /tensor a/],
    ["has null instead of a tensor", safetensors({ a: null }, 0), /for tensor a/],
    ["has tensors that overlap", safetensors({ a: tensor([2], 0, 8), b: tensor([2], 4, 12) }, 12), /tensor b at byte/],
    [
      "has two tensors in one place",
      safetensors({ a: tensor([1], 0, 4), b: tensor([1], 0, 4) }, 4),
      /tensor b at byte \d+, directly after the previous/
    ],
    ["has a tensor before its data", safetensors({ a: tensor([1], -4, 0) }, 4), /a dtype, shape and offsets for tensor a/],
    ["has a tensor that begins past its end", safetensors({ a: tensor([1], 1 << 30, (1 << 30) + 4) }, 4), /the file is truncated/],
    ["has offsets that are not whole numbers", safetensors({ a: tensor([1], 0.5, 4.5) }, 5), /a dtype, shape and offsets for tensor a/],
    ["has a gap", safetensors({ a: tensor([1], 0, 4), b: tensor([1], 8, 12) }, 12), /tensor b at byte/],
    ["leaves bytes at the end", safetensors({ a: tensor([1], 0, 4) }, 12), /up to the end of the file/]
  ])("that %s is rejected", async (_, bytes, message) => {
    expect(await messageOf(checkSafetensors(file(bytes)))).toMatch(message)
  })

  it("of a folder or a missing file is rejected", async () => {
    expect(await messageOf(checkSafetensors(folder()))).toMatch(/found/)
    expect(await messageOf(checkSafetensors(join(folder(), "none")))).toMatch(/expected a file .*none, found none/)
  })
})

const checkpoint = (role: string, files: Readonly<Record<string, string | Buffer>> = {}) => {
  const directory = folder()
  const all = {
    "config.json": "{}",
    "caravan.json": JSON.stringify({ format: 1, role }),
    "model.safetensors": safetensors({ a: tensor([1], 0, 4) }, 4),
    ...files
  }
  for (const [name, content] of Object.entries(all)) writeFileSync(join(directory, name), content)
  return directory
}

describe("a checkpoint", () => {
  const types: Readonly<Record<string, ArtifactType<unknown>>> = {
    policy: Policy,
    "helpfulness-reward": HelpfulnessReward,
    "safety-reward": SafetyReward,
    value: Value
  }

  it("is valid for its role and for no other", async () => {
    for (const role of Object.keys(types)) {
      for (const [other, type] of Object.entries(types)) {
        const exit = await Effect.runPromise(Effect.exit(type.validate(checkpoint(role))))
        expect(exit._tag).toBe(role === other ? "Success" : "Failure")
      }
    }
    expect(await messageOf(Policy.validate(checkpoint("value")))).toMatch(/expected a checkpoint with the role policy, found "value"/)
  })

  it("of either reward model matches a port for a reward, and no other does", async () => {
    expect(
      ["checkpoint:helpfulness-reward", "checkpoint:safety-reward", "checkpoint:policy", "checkpoint:value"].map(Reward.accepts)
    ).toEqual([true, true, false, false])
    await Effect.runPromise(Reward.validate(checkpoint("safety-reward")))
    expect(await messageOf(Reward.validate(checkpoint("policy")))).toMatch(/helpfulness-reward or safety-reward/)
  })

  it("needs its files", async () => {
    expect(await messageOf(Policy.validate(folder()))).toMatch(/a folder with config\.json, found none/)
    expect(await messageOf(Policy.validate(checkpoint("policy", { "config.json": "{" })))).toMatch(/JSON object in .*config\.json/)
    expect(await messageOf(Policy.validate(checkpoint("policy", { "caravan.json": "[]" })))).toMatch(/caravan\.json/)
    const without = checkpoint("policy")
    rmSync(join(without, "model.safetensors"))
    expect(await messageOf(Policy.validate(without))).toMatch(/model\.safetensors, found none/)
  })

  const index = (...names: ReadonlyArray<unknown>) => ({
    "model.safetensors.index.json": JSON.stringify({ weight_map: Object.fromEntries(names.map((name, i) => [`t${i}`, name])) })
  })

  it("may be in shards, each of which must be valid", async () => {
    const shard = safetensors({ b: tensor([1], 0, 4) }, 4)
    await Effect.runPromise(
      Policy.validate(
        checkpoint("policy", { ...index("one.safetensors", "two.safetensors"), "one.safetensors": shard, "two.safetensors": shard })
      )
    )
    expect(
      await messageOf(Policy.validate(checkpoint("policy", { ...index("one.safetensors", "two.safetensors"), "one.safetensors": shard })))
    ).toMatch(/two\.safetensors, found none/)
    expect(
      await messageOf(Policy.validate(checkpoint("policy", { ...index("one.safetensors"), "one.safetensors": shard.subarray(0, -1) })))
    ).toMatch(/truncated/)
  })

  it("whose index names a file outside of its folder is rejected", async () => {
    mkdirSync(join(root, "sub"), { recursive: true })
    for (const name of [
      "../secret.safetensors",
      "/etc/passwd",
      "sub/x.safetensors",
      "..\\x.safetensors",
      "..",
      ".",
      "",
      "\0.safetensors",
      7,
      null
    ]) {
      expect(await messageOf(Policy.validate(checkpoint("policy", index(name))))).toMatch(/names of \.safetensors files in the same folder/)
    }
    expect(await messageOf(Policy.validate(checkpoint("policy", { "model.safetensors.index.json": "{}" })))).toMatch(
      /a weight_map object, found none/
    )
  })
})

describe("a tokenizer", () => {
  it("needs its model", async () => {
    expect(await messageOf(TokenizerModel.validate(folder()))).toMatch(/tokenizer\.model, found none/)
  })
})

describe("a report", () => {
  const Accuracy = report(
    Schema.Struct({ b: Schema.Number, a: Schema.Struct({ d: Schema.String, c: Schema.Array(Schema.Number) }) }),
    "accuracy/1"
  )
  const content = { b: 0.5, a: { d: "x", c: [1, 2] } }

  it("is read as it was written", async () => {
    const directory = folder()
    await Effect.runPromise(writeContent(directory, Accuracy, content))
    expect(await Effect.runPromise(readContent(directory, Accuracy))).toEqual(content)
  })

  it("is rejected if it does not match its schema, or contains values that JSON can't represent", async () => {
    expect(await messageOf(writeContent(folder(), Accuracy, { b: "x" }))).toMatch(/Writing a report:accuracy\/1/)
    expect(await messageOf(writeContent(folder(), Accuracy, { ...content, b: NaN }))).toMatch(/finite numbers, found report\.b is NaN/)
    expect(await messageOf(writeContent(folder(), Accuracy, { ...content, a: { d: "", c: [1, Infinity] } }))).toMatch(
      /report\.a\.c\.1 is Infinity/
    )
  })

  it("that is missing or damaged is rejected", async () => {
    const directory = folder()
    expect(await messageOf(Accuracy.validate(directory))).toMatch(/a file report\.json, found none/)
    writeFileSync(join(directory, "report.json"), '{"b": 1')
    expect(await messageOf(Accuracy.validate(directory))).toMatch(/expected JSON/)
    writeFileSync(join(directory, "report.json"), '{"b": 1}')
    expect(await messageOf(Accuracy.validate(directory))).toMatch(/the schema of report:accuracy\/1/)
  })
})
