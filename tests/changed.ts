/** Small random modifications of valid values and bytes, for fuzzers. */
import type { Random } from "../engine/random.ts"

/** Values that break assumptions. */
const odd: ReadonlyArray<unknown> = [
  null,
  "",
  " ",
  0,
  -1,
  1e308,
  7.5,
  true,
  [],
  {},
  [null],
  [[[]]],
  { role: "user" },
  [{ role: "user", content: null }],
  [{ role: "constructor", content: "x" }],
  "\ud800",
  "\u0000",
  "__proto__",
  "\n\nHuman:",
  "[INST]",
  "x".repeat(10_000),
  "é✓𝄞",
  { toString: 1 },
  [{ from: "gpt", value: "x" }],
  [1, "a", null]
]
const oddNames = ["__proto__", "constructor", "toString", "hasOwnProperty", "", "a.b", "prompt", "messages", "chosen", "label"]

/** A copy of a value with something in it replaced, removed or added. */
export const changedValue = (value: unknown, draw: Random, depth = 0): unknown => {
  if (draw.int(4) === 0 || depth > 4) return odd[draw.int(odd.length)]
  if (Array.isArray(value) && value.length > 0) {
    const at = draw.int(value.length)
    return value.map((each, i) => (i === at ? changedValue(each, draw, depth + 1) : (each as unknown)))
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value)
    const at = draw.int(entries.length + 1)
    if (at === entries.length) return Object.fromEntries([...entries, [oddNames[draw.int(oddNames.length)], odd[draw.int(odd.length)]]])
    return draw.int(5) === 0
      ? Object.fromEntries(entries.filter((_, i) => i !== at))
      : Object.fromEntries(entries.map(([name, each], i) => [name, i === at ? changedValue(each, draw, depth + 1) : (each as unknown)]))
  }
  return odd[draw.int(odd.length)]
}

/** The bytes with a few changes: flipped, cut, doubled, moved, made large. */
export const changedBytes = (bytes: Buffer, draw: Random): Buffer => {
  let out = Buffer.from(bytes)
  for (let i = draw.int(4); i > 0 && out.length > 0; i--) {
    const at = draw.int(out.length)
    const length = 1 + draw.int(Math.min(64, out.length - at))
    switch (draw.int(7)) {
      case 0:
        out[at]! ^= 1 << draw.int(8)
        break
      case 1:
        out = out.subarray(0, at)
        break
      case 2:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)])
        break
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)])
        break
      case 4:
        out = Buffer.concat([out.subarray(0, at), Buffer.from(Array.from({ length }, () => draw.int(256))), out.subarray(at)])
        break
      case 5:
        // A length that claims a lot.
        if (at + 4 <= out.length) out.writeInt32LE([2 ** 31 - 1, -1, 1 << 24, 0][draw.int(4)]!, at)
        break
      default:
        out.fill(draw.int(2) === 0 ? 0 : 0xff, at, at + length)
    }
  }
  return out
}
