/** The two mixtures of preference data (§3.2.2): what is taken completely, what is sampled, how much. */
import { describe, expect, it } from "vitest"
import { type Preference, Preferences } from "../../../schemas/rows.ts"
import { drawMixture, helpfulnessMixture, pairsForShare, safetyMixture } from "../../../stages/reward/reward-mixture.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"

const pair = (id: string, source: string): Preference => ({
  id,
  prompt: [{ role: "user", content: id }],
  chosen: "yes",
  rejected: "no",
  rating: 1,
  chosenSafe: true,
  rejectedSafe: null,
  source
})
const set = (source: string, count: number) =>
  rowsArtifact(
    Preferences,
    Array.from({ length: count }, (_, i) => pair(`${source}${i}`, source))
  )
const bySource = (rows: ReadonlyArray<Preference>): Record<string, number> => {
  const out: Record<string, number> = {}
  for (const { source } of rows) out[source] = (out[source] ?? 0) + 1
  return out
}
const ids = (rows: ReadonlyArray<Preference>) => rows.map(({ id }) => id)

describe("sampling a mixture", () => {
  it("takes each pair of the pool with equal probability, from any part", () => {
    // 200 draws of 4 from 2 + 8: each is taken with probability 0.4, 80 times; five deviations are 5 sqrt(200 . 0.24) = 35.
    const times = new Map<string, number>()
    const pool = [
      ["a", "b"],
      ["c", "d", "e", "f", "g", "h", "i", "j"]
    ]
    for (let seed = 0; seed < 200; seed++) for (const row of drawMixture([], pool, 4, seed).rows) times.set(row, (times.get(row) ?? 0) + 1)
    expect(times.size).toBe(10)
    for (const count of times.values()) expect(Math.abs(count - 80)).toBeLessThan(35)
  })
  it("keeps the kept rows, samples none twice, and counts the rows of each part", () => {
    const { rows, drawn, missing } = drawMixture(["x", "y"], [["a", "b"], ["c"]], 2, 3)
    expect(rows).toEqual(expect.arrayContaining(["x", "y"]))
    expect(new Set(rows).size).toBe(4)
    expect(drawn[0]! + drawn[1]!).toBe(2)
    expect(missing).toBe(0)
  })
  it("takes the complete pool if it is too small, and says how many are missing", () => {
    expect(drawMixture(["x"], [["a"], []], 5, 3)).toMatchObject({ drawn: [1, 0], missing: 4 })
    expect(drawMixture(["x"], [], 2, 3)).toEqual({ rows: ["x"], drawn: [], missing: 2 })
  })
})

describe("the helpfulness mixture", () => {
  it("is all of helpfulness and an equal amount of safety and open source together", async () => {
    const helpfulness = [await set("h", 12), await set("i", 8)]
    const out = await runStage(helpfulnessMixture, { helpfulness, safety: [await set("s", 15)], openSource: [await set("o", 30)] })
    const rows = await rowsIn(out, Preferences)
    const counts = bySource(rows)
    expect([counts["h"], counts["i"], counts["s"]! + counts["o"]!]).toEqual([12, 8, 20])
    expect(new Set(ids(rows)).size).toBe(40)
    expect(out.metrics).toMatchObject({ rows: 40, helpfulness: 20, safety: counts["s"], openSource: counts["o"], missing: 0 })
  })
  it("is shuffled; the seed determines the sample reproducibly", async () => {
    const inputs = { helpfulness: [await set("h", 20)], safety: [await set("s", 30)], openSource: [] }
    const rows = async (seed: number) => ids(await rowsIn(await runStage(helpfulnessMixture, inputs, {}, seed), Preferences))
    const [one, again, other] = [await rows(1), await rows(1), await rows(2)]
    expect(again).toEqual(one)
    expect(other.toSorted()).not.toEqual(one.toSorted())
    expect(one.slice(0, 20).every((id) => id.startsWith("h"))).toBe(false)
  })
  it("says how many pairs the others are short of, and accepts missing sources", async () => {
    const inputs = { helpfulness: [await set("h", 6)], safety: [], openSource: [await set("o", 2)] }
    const out = await runStage(helpfulnessMixture, inputs)
    expect(out.metrics).toMatchObject({ rows: 8, helpfulness: 6, safety: 0, openSource: 2, missing: 4 })
    const alone = await runStage(helpfulnessMixture, { ...inputs, openSource: [] })
    expect(alone.metrics).toMatchObject({ rows: 6, missing: 6 })
    const none = await runStage(helpfulnessMixture, inputs, { others: 0 })
    expect(none.metrics).toMatchObject({ rows: 6, missing: 0 })
  })
  it("without helpfulness pairs is an error: there is nothing to set the amount by", async () => {
    const inputs = { helpfulness: [], safety: [await set("s", 2)], openSource: [] }
    expect(await failureOf(helpfulnessMixture, inputs)).toContain("no helpfulness pairs")
  })
})

describe("the safety mixture", () => {
  it("is all of safety and harmlessness, with helpfulness and open source as a tenth of the total", async () => {
    const out = await runStage(safetyMixture, {
      safety: [await set("s", 30), await set("t", 15)],
      harmless: [await set("n", 45)],
      helpfulness: [await set("h", 20)],
      openSource: [await set("o", 20)]
    })
    const rows = await rowsIn(out, Preferences)
    const counts = bySource(rows)
    expect([counts["s"], counts["t"], counts["n"]]).toEqual([30, 15, 45])
    expect((counts["h"] ?? 0) + (counts["o"] ?? 0)).toBe(10) // 10 of 100
    expect(out.metrics).toMatchObject({ rows: 100, safety: 45, harmless: 45, missing: 0 })
    expect(
      ids(rows)
        .slice(0, 90)
        .some((id) => id.startsWith("h") || id.startsWith("o"))
    ).toBe(true)
  })
  it("says how many helpfulness pairs are missing", async () => {
    const out = await runStage(safetyMixture, {
      safety: [await set("s", 90)],
      harmless: [],
      helpfulness: [await set("h", 3)],
      openSource: []
    })
    expect(out.metrics).toMatchObject({ rows: 93, helpfulness: 3, openSource: 0, missing: 7 })
  })
  it.each([
    [0.1, 90, 10],
    [0.1, 9, 1],
    [0.1, 4, 0], // 0.44
    [0.5, 7, 7],
    [0, 90, 0]
  ])("a share of %f next to %i pairs is %i", (share, others, wanted) => {
    expect(pairsForShare(share, others)).toBe(wanted)
  })
  it("without safety and harmlessness pairs is an error", async () => {
    expect(await failureOf(safetyMixture, { safety: [], harmless: [], helpfulness: [await set("h", 2)], openSource: [] })).toContain(
      "no safety or harmlessness pairs"
    )
  })
})
