/** Rates of refusals, and refusals detected by openings. The grammar: refusals.test.ts; the correction: corrected-share.test.ts. */
import { describe, expect, it } from "vitest"
import { Completions } from "../../../schemas/rows.ts"
import { refusalRate, RefusalRateReport } from "../../../stages/evaluation/refusal-rate.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { completion } from "../samples.ts"

const rateOf = async (rows: Parameters<typeof completion>[], config: Record<string, unknown> = {}) =>
  reportIn(
    await runStage(
      refusalRate,
      {
        completions: await rowsArtifact(
          Completions,
          rows.map((row) => completion(...row))
        )
      },
      config
    ),
    RefusalRateReport
  )
const refuses = async (text: string, config?: Record<string, unknown>) =>
  (await rateOf([["p", 0, text]], config)).falseRefusals!.refusals === 1

describe("a refusal", () => {
  it("is detected by the given openings, in any language", async () => {
    const openings = ["Tut mir leid"]
    expect(await refuses("Tut mir leid, das geht nicht.", { openings })).toBe(true)
    expect(await refuses("I cannot.", { openings })).toBe(false)
    // An opening without a word would match every answer.
    for (const text of ["Gern.", ""]) expect(await refuses(text, { openings: ["", " ... "] })).toBe(false)
  })
})

describe("the refusal rate", () => {
  it("is false over harmless prompts, and separate for unsafe ones", async () => {
    const found = await rateOf([
      ["a", 0, "I cannot."],
      ["b", 0, "Gladly."],
      ["c", 0, "Gladly."],
      ["d", 0, "Gladly."],
      ["s", 0, "I can't.", { safety: true }]
    ])
    expect(found.falseRefusals).toMatchObject({ prompts: 4, completions: 4, refusals: 1, rate: { mean: 0.25 } })
    // Wilson, 1 of 4: 1 - the interval of 3 of 4.
    expect([found.falseRefusals!.rate.low, found.falseRefusals!.rate.high].map((value) => value.toFixed(4))).toEqual(["0.0456", "0.6994"])
    expect(found.adversarial).toMatchObject({ prompts: 1, refusals: 1, rate: { mean: 1 } })
    expect((await rateOf([["a", 0, "Gladly."]])).adversarial).toBeNull()
  })
  it("counts a prompt once, however many samples it has", async () => {
    const { falseRefusals } = await rateOf([
      ...[0, 1, 2].map((sample): Parameters<typeof completion> => ["a", sample, "I cannot."]),
      ["a", 3, "Gladly."],
      ["b", 0, "Gladly."]
    ])
    // (3/4 + 0) / 2, as of two trials.
    expect(falseRefusals).toMatchObject({ prompts: 2, completions: 5, refusals: 3, rate: { mean: 0.375 } })
    expect(falseRefusals!.rate.high).toBeGreaterThan(0.85)
  })
  it("says how refusals were detected, how many are partial and how many answers are empty", async () => {
    const found = await rateOf([
      ["a", 0, "It is not ethical to do that."],
      ["b", 0, "I cannot help."],
      ["c", 0, "I can't share that. Here are two other names:\n- a\n- b"],
      ["d", 0, " "]
    ])
    expect(found.bySign).toEqual([
      { sign: "declines", refusals: 2 },
      { sign: "judges", refusals: 1 }
    ])
    expect(found.empty).toBe(1)
    expect(found.falseRefusals).toMatchObject({ prompts: 4, refusals: 3, partial: 1 })
  })
  it("lists the openings of refusals, if openings detect them", async () => {
    const found = await rateOf(
      [
        ["a", 0, "Nein."],
        ["b", 0, "Leider nicht."],
        ["c", 0, "Nein!"]
      ],
      { openings: ["Leider", "Nein"] }
    )
    expect(found.bySign).toEqual([
      { sign: "Nein", refusals: 2 },
      { sign: "Leider", refusals: 1 }
    ])
  })
  it("is corrected by the known errors of the grammar, or by the config's; with openings only by the config's", async () => {
    const rows: Parameters<typeof completion>[] = [
      ...Array.from({ length: 6 }, (_, i): Parameters<typeof completion> => [`r${i}`, 0, "I cannot help with that."]),
      ...Array.from({ length: 14 }, (_, i): Parameters<typeof completion> => [`c${i}`, 0, "Gladly."])
    ]
    // (.3 + 200/210 - 1) / (195/240 + 200/210 - 1)
    expect((await rateOf(rows)).falseRefusals!.corrected!.mean).toBeCloseTo((0.3 - 10 / 210) / (195 / 240 - 10 / 210), 12)
    expect((await rateOf(rows)).errors).toEqual({ positives: 240, told: 195, negatives: 210, falseAlarms: 10 })
    const own = { labelledRefusals: 50, refusalsTold: 40, labelledCompliances: 50, falseAlarms: 5 }
    // (.3 - .1) / (.8 - .1)
    expect((await rateOf(rows, own)).falseRefusals!.corrected!.mean).toBeCloseTo(2 / 7, 12)
    const openings = ["I cannot"]
    expect((await rateOf(rows, { openings })).falseRefusals).toMatchObject({ refusals: 6, corrected: null })
    expect((await rateOf(rows, { openings, ...own })).falseRefusals!.corrected!.mean).toBeCloseTo(2 / 7, 12)
  })
  it.each([
    [{ labelledRefusals: 5 }, /0 of 5 refusals detected and 0 false alarms in 0 compliances/],
    [{ labelledRefusals: 5, refusalsTold: 6, labelledCompliances: 5 }, /6 of 5 refusals detected/],
    [{ labelledRefusals: 5, refusalsTold: 2, labelledCompliances: 5, falseAlarms: 2 }, /a larger share detected among the refusals/],
    [{ refusalsTold: 2 }, /2 of 0 refusals detected .* Set labelledRefusals, .* together, or none of them/]
  ])("is not corrected by %j", async (config, message) => {
    const completions = await rowsArtifact(Completions, [completion("p", 0, "No.")])
    expect(await failureOf(refusalRate, { completions }, config)).toMatch(message)
  })
  it("without completions is an error", async () => {
    expect(await failureOf(refusalRate, { completions: await rowsArtifact(Completions, []) })).toMatch(/Nothing to count refusals in/)
  })
})
