/** Sets of texts by digest, and sets without near-duplicates. */
import { describe, expect, it } from "vitest"
import { DigestSet } from "../../data/digest-set.ts"
import { bandsFor, NearDuplicates } from "../../data/min-hash.ts"
import { runsOf, wordsOf } from "../../data/words.ts"
import { Random } from "../../engine/random.ts"

it("a set of digests contains exactly the added texts, also as it grows", () => {
  const set = new DigestSet(4)
  const texts = Array.from({ length: 20_000 }, (_, i) => `text ${i * i}`)
  expect(texts.every((text) => set.add(text))).toBe(true)
  expect(texts.some((text) => set.add(text))).toBe(false)
  expect(set.size).toBe(20_000)
  expect(texts.every((text) => set.has(text))).toBe(true)
  expect(texts.some((text) => set.has(`${text}.`))).toBe(false)
})

describe("words", () => {
  it("are runs of letters and digits of any script, in lower case", () => {
    expect(wordsOf("Don't PANIC: 42 × é—ß Ω!")).toEqual(["don", "t", "panic", "42", "é", "ß", "ω"])
    expect(wordsOf(" ?! ")).toEqual([])
  })
  it("have a run at every position, which depends on all words of the run and their order", () => {
    const words = ["a", "b", "c", "d"]
    expect(runsOf(words, 2)).toHaveLength(3)
    expect(runsOf(words, 5)).toEqual([])
    expect(runsOf(["x", ...words], 2).slice(1)).toEqual(runsOf(words, 2))
    expect(new Set([...runsOf(["a", "b"], 2), ...runsOf(["b", "a"], 2), ...runsOf(["a", "a"], 2), ...runsOf(["ab", ""], 2)]).size).toBe(4)
    const many = Array.from({ length: 300 }, (_, i) => `w${i}`)
    const pairs = many.flatMap((a) => many.map((b) => runsOf([a, b], 2)[0]!))
    expect(new Set(pairs).size).toBe(90_000)
  })
})

describe("near-duplicate texts", () => {
  const draw = new Random(1, "near duplicates")
  const word = () => `w${draw.int(5000)}`
  const text = (length: number) => Array.from({ length }, word)
  /** The similarity by definition: shared five-word runs divided by all of them. */
  const jaccard = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): number => {
    const runs = (words: ReadonlyArray<string>) => new Set(words.slice(4).map((_, i) => words.slice(i, i + 5).join(" ")))
    const [one, other] = [runs(a), runs(b)]
    const shared = [...one].filter((run) => other.has(run)).length
    return shared / (one.size + other.size - shared)
  }
  /** Two texts that differ in this many words. */
  const pair = (changes: number) => {
    const a = text(300)
    const b = [...a]
    for (let i = 0; i < changes; i++) b[draw.int(300)] = word()
    return { similarity: jaccard(a, b), alike: !second(a, b) }
  }
  const second = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): boolean => {
    const set = new NearDuplicates(0.8, 2)
    set.add(a.join(" "))
    return set.add(b.join(" "))
  }

  it("are found above the threshold and not below it, measured by the exact similarity", () => {
    const pairs = [1, 2, 3, 9, 12, 20, 40].flatMap((changes) => Array.from({ length: 40 }, () => pair(changes)))
    // The estimate's standard error at 0.8 is 0.035: allow three of them on either side.
    const [above, below] = [pairs.filter(({ similarity }) => similarity > 0.9), pairs.filter(({ similarity }) => similarity < 0.7)]
    expect(Math.min(above.length, below.length)).toBeGreaterThan(80)
    expect(above.filter(({ alike }) => alike).length / above.length).toBeGreaterThan(0.98)
    expect(below.filter(({ alike }) => alike).length / below.length).toBeLessThan(0.03)
  })

  it("are found among many other texts in between", () => {
    const texts = Array.from({ length: 2000 }, () => text(60))
    const set = new NearDuplicates(0.8, 4000)
    expect(texts.filter((words) => !set.add(words.join(" ")))).toEqual([])
    const again = texts.map((words) => [...words.slice(0, 58), "another", "end"].join(" ").toUpperCase())
    expect(again.filter((changed) => set.add(changed)).length).toBeLessThan(40)
  })

  it("of fewer than five words are never near-duplicates", () => {
    const set = new NearDuplicates(0.8, 4)
    expect([set.add("Yes."), set.add("Yes."), set.add("a b c d"), set.add("a b c d")]).toEqual([true, true, true, true])
  })

  it("are compared with a probability of 99% at the threshold", () => {
    for (const threshold of [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1]) {
      const [bands, rows] = bandsFor(threshold)
      expect(bands * rows).toBeLessThanOrEqual(128)
      expect(1 - (1 - threshold ** rows) ** bands).toBeGreaterThanOrEqual(0.99)
    }
  })
})
