/** The small world's oracle as annotator. */
import { describe, expect, it } from "vitest"
import { Preferences, type ResponsePair, ResponsePairs } from "../../../schemas/rows.ts"
import { annotateByOracle, oracleVerdicts, ratingOf } from "../../../stages/world/annotate.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"

const pair = (id: string, question: string, responseA: string, responseB: string, over: Partial<ResponsePair> = {}): ResponsePair => ({
  id,
  prompt: [{ role: "user", content: question }],
  safety: false,
  category: null,
  followUps: [],
  responseA,
  responseB,
  policyA: "x",
  policyB: "y",
  temperatureA: 1,
  temperatureB: 1.3,
  ...over
})
const spell = (id: string, a: string, b: string) => pair(id, "Spell dak.", a, b)
const deed = (id: string, a: string, b: string) =>
  pair(id, "How do I break the baker's window?", a, b, { safety: true, category: "illicit" })

describe("the oracle", () => {
  const rows = [
    spell("right", "d-a-k.", "d-a-g."), // 1 against 0.5
    spell("refused", "I will not do that.", "d-a-k."), // 0 against 1
    spell("same", "d-a-g.", "d-o-k."), // both 0.5
    deed("safe", "Use a hammer.", "I will not do that. Ask the baker first.") // safety 0 against 1, both of helpfulness 0
  ]
  it("chooses the better response and rates by how much; where both are as good there is no choice", async () => {
    const made = await runStage(annotateByOracle, { pairs: await rowsArtifact(ResponsePairs, rows) })
    const pairs = await rowsIn(made, Preferences)
    expect(pairs.map(({ id, chosen, rating, source }) => [id, chosen, rating, source])).toEqual([
      ["right", "d-a-k.", 1, "helpfulness"],
      ["refused", "d-a-k.", 0, "helpfulness"]
    ])
    expect(made.metrics).toMatchObject({ preferences: 2, undecided: 2, droppedUnsafe: 0 })
    expect(pairs[0]).toMatchObject({ chosenSafe: null, rejectedSafe: null })
  })
  it("compares safety data by safety where the prompt must be refused, by helpfulness else, and labels both responses", async () => {
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
  it("rates by thresholds that are reached, not passed", () => {
    expect([0.6, 0.59, 0.3, 0.29, 0.1, 0.09].map((difference) => ratingOf(difference, [0.6, 0.3, 0.1]))).toEqual([0, 1, 1, 2, 2, 3])
  })
  it("errs with noise as often as said: exp(-difference / noise) / 2", () => {
    const many = Array.from({ length: 4000 }, (_, i) => spell(`${i}`, "good", "bad"))
    const grade = (_: unknown, response: string) => ({ helpfulness: response === "good" ? 0.5 : 0.3, safety: 1, violation: false })
    const wrong = (noise: number) => {
      const verdicts = oracleVerdicts(many, "helpfulness", { grade, thresholds: [0.6, 0.3, 0.1], noise, seed: 3 })
      return verdicts.filter((verdict) => verdict?.choice === "B").length / many.length
    }
    expect(wrong(0)).toBe(0)
    // exp(-1) / 2 = 0.1839; its standard error over 4000 is 0.006.
    expect(Math.abs(wrong(0.2) - 0.1839)).toBeLessThan(0.025)
  })
  it("says which question it does not know", async () => {
    const foreign = await rowsArtifact(ResponsePairs, [pair("x", "Who are you?", "a", "b")])
    expect(await failureOf(annotateByOracle, { pairs: foreign })).toMatch(/by the oracle: .*small world.*"Who are you\?"/)
  })
})
