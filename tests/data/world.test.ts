import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { parseHhRlhf } from "../../data/dialects.ts"
import { newCounts, readParsed } from "../../data/records.ts"
import { worldPairs, writeWorldPairs } from "../../data/world/small.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-world-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const parsed = (pairs: number, seed: number) => [...worldPairs({ pairs, seed })].map((row, i) => parseHhRlhf(row, i + 1, "world"))

describe("the small world", () => {
  it("is the same for the same seed, another for another, and the first rows of a longer one", () => {
    const first = [...worldPairs({ pairs: 50, seed: 1 })]
    expect([...worldPairs({ pairs: 50, seed: 1 })]).toEqual(first)
    expect([...worldPairs({ pairs: 80, seed: 1 })].slice(0, 50)).toEqual(first)
    expect([...worldPairs({ pairs: 50, seed: 2 })]).not.toEqual(first)
  })

  it("has distinct pairs, each of which fits, with prompts that differ", () => {
    const rows = parsed(800, 3)
    expect(new Set(rows.map(({ prompt, chosen, rejected }) => JSON.stringify([prompt, chosen, rejected]))).size).toBe(800)
    expect(new Set(rows.map(({ prompt }) => JSON.stringify(prompt))).size).toBeGreaterThan(300)
  })

  it("says nothing by length: neither the shorter nor the longer answer is chosen more often, nor does any threshold tell", () => {
    const rows = parsed(4000, 4)
    // A fair coin of 4000 throws: 0.5 +- 4 standard deviations of 0.0079.
    expect(Math.abs(rows.filter(({ chosen, rejected }) => chosen.length < rejected.length).length / 4000 - 0.5)).toBeLessThan(0.032)
    for (let threshold = 10; threshold < 200; threshold += 5) {
      const longer = (text: string) => (text.length > threshold ? 1 : 0)
      const edge = rows.reduce((sum, { chosen, rejected }) => sum + longer(chosen) - longer(rejected), 0) / 4000 / 2
      expect(Math.abs(edge)).toBeLessThan(0.06)
    }
  })

  it("can be learned from its words: naive Bayes over words, fitted on half, prefers the chosen answer in 4 of 5 other pairs", () => {
    const rows = parsed(1200, 5)
    const words = (text: string) => text.toLowerCase().match(/[a-z]+/g) ?? []
    const counts = new Map<string, [number, number]>()
    for (const row of rows.slice(0, 600)) {
      ;[row.chosen, row.rejected].forEach((text, side) => {
        for (const word of words(text)) {
          const both = counts.get(word) ?? [1, 1]
          both[side]!++
          counts.set(word, both)
        }
      })
    }
    const score = (text: string) => {
      const all = words(text)
      return all.reduce((sum, word) => sum + Math.log((counts.get(word)?.[0] ?? 1) / (counts.get(word)?.[1] ?? 1)), 0) / all.length
    }
    const right = rows.slice(600).filter(({ chosen, rejected }) => score(chosen) > score(rejected)).length
    expect(right / 600).toBeGreaterThan(0.8)
  })

  it("is written as HH-RLHF has its pairs, and read as such", async () => {
    const path = join(root, "world.jsonl")
    writeWorldPairs(path, { pairs: 300, seed: 6 })
    expect(readFileSync(path, "utf8").split("\n")).toHaveLength(301)
    const counts = newCounts()
    for await (const row of readParsed(path, (value, line) => parseHhRlhf(value, line, "world"), counts))
      expect(row.prompt.at(-1)!.role).toBe("user")
    expect(counts).toEqual({ rows: 300, bad: 0, examples: [] })
  })

  it("refuses a number of pairs that it can't have", () => {
    for (const pairs of [0, -1, 1.5, 1e9, NaN])
      expect(() => [...worldPairs({ pairs, seed: 1 })]).toThrow(/pairs must be a whole number from 1 to/)
  })
})
