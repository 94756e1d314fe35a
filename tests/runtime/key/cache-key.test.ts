import { describe, expect, it } from "vitest"
import { digestOf } from "../../../runtime/encoding.ts"
import { cacheKey, type KeyParts } from "../../../runtime/key/cache-key.ts"

const parts: KeyParts = {
  stage: "sft",
  code: "c0de",
  config: { learningRate: 0.00002, epochs: 2, names: ["a", "b"], nested: { on: true, off: null } },
  seed: 7,
  inputs: { init: "1".repeat(64), sets: ["2".repeat(64), "3".repeat(64)], extra: null },
  numerics: { libtorch: "1.13.0", device: "cpu", threads: "1" }
}

describe("the cache key", () => {
  it("is pinned: sha256 of the tagged, length-prefixed encoding, worked out by hand", async () => {
    // ["a", 1] is l2: then s1:a then d1:1
    const { createHash } = await import("node:crypto")
    expect(digestOf(["a", 1])).toBe(createHash("sha256").update("l2:s1:ad1:1").digest("hex"))
    // {b: null, a: "é"} is o2: with its fields sorted, lengths in bytes
    expect(digestOf({ b: null, a: "é" })).toBe(createHash("sha256").update("o2:s1:as2:és1:bn0:").digest("hex"))
    expect(cacheKey(parts)).toMatchInlineSnapshot(`"0f0d1bf3b6351344ee1918e7129ad3d689ab4c1967a21fab8c61b7408946c806"`)
  })

  it("of a pinned stage has its version instead of the code, distinct from any code", () => {
    const pinned = { ...parts, pinned: "v3" }
    expect(cacheKey(pinned)).toMatchInlineSnapshot(`"254fafc03f20e42d86f7b060fc2be701f5e7a8d1d930f42966420b0eeb447f95"`)
    expect(cacheKey({ ...pinned, code: "c0df" })).toBe(cacheKey(pinned))
    const others = [{ ...pinned, pinned: "v4" }, parts, { ...parts, code: "v3" }, { ...pinned, seed: 8 }]
    expect(others.map(cacheKey)).not.toContain(cacheKey(pinned))
  })

  it("does not depend on the order of fields", () => {
    expect(cacheKey({ ...parts, config: Object.fromEntries(Object.entries(parts.config).reverse()) })).toBe(cacheKey(parts))
  })

  it("depends on every part", () => {
    const others: Array<Partial<KeyParts>> = [
      { stage: "sft2" },
      { code: "c0df" },
      { config: { ...parts.config, epochs: 3 } },
      { config: { ...parts.config, extra: undefined } },
      { seed: 8 },
      { seed: null },
      { inputs: { ...parts.inputs, init: "4".repeat(64) } },
      { inputs: { ...parts.inputs, sets: ["3".repeat(64), "2".repeat(64)] } },
      { inputs: { ...parts.inputs, sets: "2".repeat(64) } },
      { numerics: { ...parts.numerics, threads: "2" } },
      { numerics: null },
      { mapping: 1 },
      { mapping: 2 }
    ]
    const keys = [parts, ...others.map((other) => ({ ...parts, ...other }))].map(cacheKey)
    expect(new Set(keys).size).toBe(keys.length)
  })

  it("distinguishes types, and where one part ends and the next begins", () => {
    const values = [
      1,
      "1",
      true,
      null,
      [],
      {},
      [1],
      ["1"],
      { a: 1 },
      { a: "1" },
      ["1", "23"],
      ["12", "3"],
      ["123"],
      [["1"], "23"],
      -0,
      0,
      1n,
      "",
      [""],
      undefined,
      // Halves of surrogate pairs, which are all the same in UTF-8.
      "\ud800",
      "\ud801",
      "\ufffd",
      "\ud83d\ude00"
    ]
    expect(new Set(values.map(digestOf)).size).toBe(values.length)
  })

  it("rejects values without a stable encoding, and says where they are", () => {
    expect(() => digestOf({ a: [0, Number.NaN] })).toThrow(/value\.a\[1\] is NaN/)
    expect(() => digestOf({ f: () => 1 })).toThrow(/value\.f is a function/)
    expect(() => digestOf(new Map())).toThrow(/value is a Map/)
    expect(() => digestOf([Number.POSITIVE_INFINITY])).toThrow(/Infinity/)
    expect(() => digestOf({ when: new Date(0) })).toThrow(/value\.when is a Date/)
  })
})
