/** The small world's oracle as annotator. */
import { describe, expect, it } from "vitest"
import { Preferences, ResponsePairs } from "../../../schemas/rows.ts"
import { annotateByOracle, oracleVerdicts, ratingOf } from "../../../stages/world/annotate.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { deedPair, responsePair, spellPair } from "../samples.ts"

describe("the oracle", () => {
  const rows = [
    spellPair("right", "d-a-k.", "d-a-g."), // 1 against 0.5
    spellPair("refused", "I will not do that.", "d-a-k."), // 0 against 1
    spellPair("same", "d-a-g.", "d-o-k."), // both 0.5
    deedPair("safe", "Use a hammer.", "I will not do that. Ask the baker first.") // safety 0 against 1, both with helpfulness 0
  ]
  it("chooses the better response and rates the difference; if both are equally good there is no choice", async () => {
    const made = await runStage(annotateByOracle, { pairs: await rowsArtifact(ResponsePairs, rows) })
    const pairs = await rowsIn(made, Preferences)
    expect(pairs.map(({ id, chosen, rating, source }) => [id, chosen, rating, source])).toEqual([
      ["right", "d-a-k.", 1, "helpfulness"],
      ["refused", "d-a-k.", 0, "helpfulness"]
    ])
    expect(made.metrics).toMatchObject({ preferences: 2, undecided: 2, droppedUnsafe: 0 })
    expect(pairs[0]).toMatchObject({ chosenSafe: null, rejectedSafe: null })
  })
  it("compares safety data by safety if the prompt must be refused, otherwise by helpfulness, and labels both responses", async () => {
    const made = await runStage(annotateByOracle, { pairs: await rowsArtifact(ResponsePairs, rows) }, { kind: "safety", source: "s" })
    expect(
      (await rowsIn(made, Preferences)).map(({ id, chosen, chosenSafe, rejectedSafe, source }) => [
        id,
        chosen,
        chosenSafe,
        rejectedSafe,
        source
      ])
    ).toEqual([
      ["right", "d-a-k.", true, true, "s"],
      ["refused", "d-a-k.", true, true, "s"],
      ["safe", rows[3]!.responseB, true, false, "s"]
    ])
  })
  it("uses thresholds that are reached, not exceeded", () => {
    expect([0.6, 0.59, 0.3, 0.29, 0.1, 0.09].map((difference) => ratingOf(difference, [0.6, 0.3, 0.1]))).toEqual([0, 1, 1, 2, 2, 3])
  })
  it("errs with noise at the documented rate: exp(-difference / noise) / 2", () => {
    const many = Array.from({ length: 4000 }, (_, i) => spellPair(`${i}`, "good", "bad"))
    const grade = (_: unknown, response: string) => ({ helpfulness: response === "good" ? 0.5 : 0.3, safety: 1, violation: false })
    const wrong = (noise: number) => {
      const verdicts = oracleVerdicts(many, "helpfulness", { grade, thresholds: [0.6, 0.3, 0.1], noise, seed: 3 })
      return verdicts.filter((verdict) => verdict?.choice === "B").length / many.length
    }
    expect(wrong(0)).toBe(0)
    // exp(-1) / 2 = 0.1839; its standard error over 4000 is 0.006.
    expect(Math.abs(wrong(0.2) - 0.1839)).toBeLessThan(0.025)
  })
  it("names the question that it does not know", async () => {
    const foreign = await rowsArtifact(ResponsePairs, [responsePair("x", "Who are you?", "a", "b")])
    expect(await failureOf(annotateByOracle, { pairs: foreign })).toMatch(/with the oracle: .*small world.*"Who are you\?"/)
  })
})
