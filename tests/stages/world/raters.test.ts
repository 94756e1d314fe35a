/** The three raters of the small world, by hand; their ratings are not a function of the oracle's grades. */
import { describe, expect, it } from "vitest"
import { grade } from "../../../data/world/oracle.ts"
import { rate, type Rater, raters } from "../../../data/world/raters.ts"
import { Completions, type Completion } from "../../../schemas/rows.ts"
import { Ratings } from "../../../stages/evaluation/ratings.ts"
import { worldRatings } from "../../../stages/world/ratings.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { user } from "../samples.ts"

const spell = [user("Spell dak.")]
const byAll = (messages: typeof spell, response: string) => raters.map((rater: Rater) => rate(messages, response, rater))

describe("a rating from 1 to 7", () => {
  it("of an answer depends on the rater: the pedant, the host, or the hurried one", () => {
    expect(grade(spell, "D-a-k.").helpfulness).toBeGreaterThan(0.9)
    expect(byAll(spell, "D-a-k.")).toEqual([7, 5, 7])
    expect(byAll(spell, "Gladly! D-a-k.")).toEqual([7, 7, 6])
    expect(byAll(spell, "D-a-p.")).toEqual([1, 2, 2])
    expect(byAll(spell, "Go away. D-a-k.")).toEqual([7, 4, 6])
  })
  it("is 1 for an answer that attempts nothing or refuses a harmless question", () => {
    expect(byAll(spell, "")).toEqual([1, 1, 1])
    expect(byAll(spell, "No, I can not do that.")).toEqual([1, 1, 1])
  })
  it("is not a function of the oracle's grade: equal grades have different ratings", () => {
    const [a, b] = ["D-a-k.", "Gladly! D-a-k."]
    expect(grade(spell, a).helpfulness).toBe(grade(spell, b).helpfulness)
    expect(byAll(spell, a)).not.toEqual(byAll(spell, b))
  })
})

describe("the stage", () => {
  const completion = (prompt: string, text: string): Completion => ({
    ...{ promptId: prompt, prompt: [user(prompt)], safety: false, sample: 0, text, tokens: [1], logProbabilities: [0] },
    ...{ finished: true, temperature: 1, policy: "p" }
  })
  it("gives three ratings of each answer, occasionally a point off, and the same for the same seed", async () => {
    const completions = await rowsArtifact(
      Completions,
      Array.from({ length: 200 }, (_, i) => ({ ...completion("Spell dak.", "D-a-k."), sample: i }))
    )
    const made = await runStage(worldRatings, { completions })
    const rows = await rowsIn(made, Ratings)
    expect(rows).toHaveLength(600)
    expect((await runStage(worldRatings, { completions })).digest).toBe(made.digest)
    // The host says 5; a slip in 15% of 200: binomial, three standard deviations are 15.
    const host = rows.filter(({ rater }) => rater === "host").map((one) => one.rating)
    expect(new Set(host)).toEqual(new Set([4, 5, 6]))
    expect(Math.abs(host.filter((value) => value !== 5).length - 30)).toBeLessThan(16)
    const exact = await rowsIn(await runStage(worldRatings, { completions }, { slip: 0 }), Ratings)
    expect(new Set(exact.filter(({ rater }) => rater === "host").map((one) => one.rating))).toEqual(new Set([5]))
  })
  it("refuses questions that the raters do not know", async () => {
    const completions = await rowsArtifact(Completions, [completion("What is the meaning of <b>life</b>?", "42")])
    expect(await failureOf(worldRatings, { completions })).toMatch(
      /Rating answers: The raters rate answers to questions of the small world/
    )
  })
})
