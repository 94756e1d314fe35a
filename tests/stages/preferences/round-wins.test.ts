/** The win rate computed from each round's pairs, compared with counts by hand. */
import { describe, expect, it } from "vitest"
import { type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../../schemas/rows.ts"
import { roundWins, roundWinsOf, RoundWinsReport } from "../../../stages/preferences/round-wins.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy } from "../talking.ts"

const prompt = [{ role: "user" as const, content: "Spell dak." }]
/** The newer model's answer is "new", on either side; the newer one is at temperature 1, the other at 1.3. */
const pair = (id: string, newerIs: "A" | "B", newer = "new-model"): ResponsePair => {
  const [mine, other] = [
    { response: "new", policy: newer, temperature: 1 },
    { response: "old", policy: "old-model", temperature: 1.3 }
  ]
  const [a, b] = newerIs === "A" ? [mine, other] : [other, mine]
  return {
    ...{ id, prompt, safety: false, category: null, followUps: [], responseA: a.response, responseB: b.response },
    ...{ policyA: a.policy, policyB: b.policy, temperatureA: a.temperature, temperatureB: b.temperature }
  }
}
const chose = (id: string, chosen: "new" | "old", rating: Preference["rating"]): Preference => ({
  ...{ id, prompt, chosen, rejected: chosen === "new" ? "old" : "new", rating, source: "x", chosenSafe: null, rejectedSafe: null }
})
/** Three wins, two of them clear, one on each side; a clear loss; and a pair without a choice. */
const pairsOf = (newer?: string) => [
  pair("a", "A", newer),
  pair("b", "B", newer),
  pair("c", "A", newer),
  pair("d", "B", newer),
  pair("e", "A", newer)
]
const choices = [chose("a", "new", 0), chose("b", "new", 1), chose("c", "new", 3), chose("d", "old", 1)]

describe("wins from a round's pairs", () => {
  it("are the choices of the newer model's answer, on whichever side it was shown", () => {
    const found = roundWinsOf("v2 over v1", "new-model", pairsOf(), choices)
    expect(found).toMatchObject({ name: "v2 over v1", comparisons: 4, wins: 3, clearWins: 2, clearLosses: 1, leftOut: 1 })
    expect(found.temperatures).toEqual({ newer: 1, older: 1.3 })
    // Wilson's interval of 3 of 4.
    expect(found.rate).toMatchObject({ mean: 0.75, low: expect.closeTo(0.3006, 3) as number, high: expect.closeTo(0.9544, 3) as number })
  })
  it("are none if nothing was chosen", () => {
    expect(roundWinsOf("v1", "new-model", pairsOf(), [])).toMatchObject({ comparisons: 0, wins: 0, leftOut: 5, rate: null })
  })
  it("are reported round by round by the stage, which uses the models' digests", async () => {
    const policy = await talkingPolicy(1)
    const pairs = await rowsArtifact(ResponsePairs, pairsOf(policy.contentDigest))
    const inputs = {
      newer: [policy, policy],
      pairs: [pairs, pairs],
      preferences: [await rowsArtifact(Preferences, choices), await rowsArtifact(Preferences, [])]
    }
    const { rounds } = await reportIn(await runStage(roundWins, inputs, { names: ["one", "two"] }), RoundWinsReport)
    expect(rounds.map(({ name, wins }) => [name, wins])).toEqual([
      ["one", 3],
      ["two", 0]
    ])
  })
  it("reject pairs without an answer of the newer model, or a number of names that differs from the rounds", async () => {
    const policy = await talkingPolicy(1)
    const inputs = {
      newer: [policy],
      pairs: [await rowsArtifact(ResponsePairs, pairsOf())],
      preferences: [await rowsArtifact(Preferences, choices)]
    }
    expect(await failureOf(roundWins, inputs, { names: ["one"] })).toMatch(
      /expected pairs with one answer from the newer model and one from another, found "a", with no answer from it/
    )
    expect(await failureOf(roundWins, inputs, { names: ["one", "two"] })).toMatch(/expected at least one set, and a distinct name for each/)
  })
})
