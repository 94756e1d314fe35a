/** Text from outside: no control character or override of the writing direction remains in the output. */
import { describe, expect, it } from "vitest"
import { redact, redactPieces } from "../../schemas/secrets.ts"
import { visible, visibleJson } from "../../schemas/visible.ts"

/** Every character below U+2100 except harmless letters: those that a terminal interprets as commands, or that change the writing direction. */
const all = Array.from({ length: 0x2100 }, (_, code) => String.fromCharCode(code)).join("")
// oxlint-disable-next-line no-control-regex -- what must not be there
const unsafe = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/

describe("visible", () => {
  it("escapes control characters and direction overrides, and leaves everything else", () => {
    expect(visible("a\u001b[31mred\u0007\u007f\u009b2J\u202e\u2066")).toBe("a\\x1b[31mred\\x07\\x7f\\x9b2J\\u202e\\u2066")
    expect(visible("tab\tline\nmeßbar العربية 日本 👩‍👩‍👧")).toBe("tab\tline\nmeßbar العربية 日本 👩‍👩‍👧")
    expect(visible(all)).not.toMatch(unsafe)
    expect(
      visible(all)
        .split("")
        .filter((character) => !all.includes(character))
    ).toEqual([])
  })
  it("keeps lines that end with CR LF, but no carriage return that would overwrite its line", () => {
    expect(visible("one\r\ntwo\rthree")).toBe("one\ntwo\\x0dthree")
  })
})

describe("visibleJson", () => {
  it("is JSON of the same value, without such characters", () => {
    const value = { [all]: all, list: [all] }
    const text = visibleJson(value, 2)
    expect(text).not.toMatch(unsafe)
    expect(JSON.parse(text)).toEqual(value)
  })
})

describe("redact", () => {
  const key = 'sk-"1234/5+6'
  it("removes a key in plain text, inside JSON, inside a URL and trimmed", () => {
    expect(redact(`${key} ${JSON.stringify({ key })} ?key=${encodeURIComponent(key)}`, [key])).toBe(
      '[secret] {"key":"[secret]"} ?key=[secret]'
    )
    expect(redact("Bearer sk-1234 is refused", ["sk-1234\n"])).toBe("Bearer [secret] is refused")
    expect(redact("a, b and c", ["a", ""])).toBe("a, b and c")
  })
  it("removes a key that arrives in pieces, and does not hold back other text forever", () => {
    for (let size = 1; size <= 20; size++) {
      const text = `before ${key} between sk- ${key}${key} sk-"12`
      const { add, end } = redactPieces([key])
      let out = ""
      for (let at = 0; at < text.length; at += size) out += add(text.slice(at, at + size))
      expect(out + end()).toBe('before [secret] between sk- [secret][secret] sk-"12')
    }
  })
})
