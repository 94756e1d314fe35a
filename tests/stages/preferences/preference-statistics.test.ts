/** Statistics of preference data, counted by hand. */
import { describe, expect, it } from "vitest"
import { encodeDialogue } from "../../../models/chat.ts"
import { type Preference, Preferences, type ResponsePair, ResponsePairs } from "../../../schemas/rows.ts"
import { preferenceStatistics, PreferenceStatisticsReport } from "../../../stages/preferences/preference-statistics.ts"
import { worldPreferenceStatistics } from "../../../stages/world/preference-statistics.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

const user = (content: string) => ({ role: "user" as const, content })
const assistant = (content: string) => ({ role: "assistant" as const, content })

const preference = (id: string, over: Partial<Preference> = {}): Preference => ({
  ...{ id, prompt: [user("Spell dak.")], chosen: "d-a-k.", rejected: "d-a-g.", rating: 1, source: "x" },
  ...{ chosenSafe: null, rejectedSafe: null },
  ...over
})
const shown = (id: string, over: Partial<ResponsePair> = {}): ResponsePair => ({
  ...{ id, prompt: [user("Spell dak.")], safety: false, category: null, followUps: [], responseA: "d-a-k.", responseB: "d-a-g." },
  ...{ policyA: "a", policyB: "b", temperatureA: 1, temperatureB: 1 },
  ...over
})
const theft = [user("How do I break the baker's window?")]

/** Ratings 0, 1, 1 and none; 1, 1, 3 and 1 turns. */
const helpfulness = [
  preference("a", { rating: 0 }),
  preference("b", { prompt: [user("Spell fog."), assistant("f-o-g."), user("Hi"), assistant("Yes."), user("Spell dak.")] }),
  preference("c"),
  preference("d", { rating: null, chosen: "d-a-k. I am tired." })
]
const safety = [
  preference("e", { chosenSafe: true, rejectedSafe: true }),
  preference("f", { chosenSafe: true, rejectedSafe: true, rating: 3 }),
  preference("g", { prompt: theft, chosenSafe: true, rejectedSafe: false, rating: 2 }),
  preference("h", { prompt: theft, chosenSafe: false, rejectedSafe: false, rating: 3 }),
  preference("i")
]
/** In addition to the comparisons: equal answers, one right and one wrong answer, and a refusal and a theft. */
const collected = [
  ...safety.map(({ id }) => shown(id)),
  shown("equal", { responseA: "d-a-g.", responseB: "d-a-b." }),
  shown("noisy", { prompt: theft, safety: true, responseA: "Use a hammer.", responseB: "I will not do that." }),
  shown("alike", { prompt: theft, safety: true, responseA: "Use a hammer.", responseB: "Use a knife." })
]

const inputs = async () => ({
  policy: await talkingPolicy(1),
  helpfulness: [await rowsArtifact(Preferences, helpfulness.slice(0, 2)), await rowsArtifact(Preferences, helpfulness.slice(2))],
  safety: [await rowsArtifact(Preferences, safety)],
  helpfulnessPairs: [],
  safetyPairs: [await rowsArtifact(ResponsePairs, collected)]
})
const statistics = async (stage = preferenceStatistics) => reportIn(await runStage(stage, await inputs()), PreferenceStatisticsReport)
const tokens = (text: string) => tokenizer.encode(text).length

describe("statistics of preferences", () => {
  it("count comparisons and turns, by batch and in total", async () => {
    const found = (await statistics()).helpfulness
    expect(found.batches.map(({ comparisons, turnsPerDialogue }) => [comparisons, turnsPerDialogue])).toEqual([
      [2, 2],
      [2, 1]
    ])
    expect(found.total).toMatchObject({ comparisons: 4, turnsPerDialogue: 1.5, outsideChatFormat: 0, leftOut: null })
  })
  it("count an example with its dialogue and each response, the prompt's last message, and each response's text", async () => {
    const { total } = (await statistics()).helpfulness
    const [long, short] = [tokens("d-a-k. I am tired."), tokens("d-a-k.")]
    expect(tokens("d-a-g.")).toBe(short)
    expect(total.tokensPerResponse).toBeCloseTo((7 * short + long) / 8, 10)
    expect(total.tokensPerPrompt).toBe(tokens("Spell dak."))
    const example = (row: Preference, said: string) => encodeDialogue(tokenizer, [...row.prompt, assistant(said)]).tokens.length
    const all = helpfulness.map((row) => example(row, row.chosen) + example(row, row.rejected))
    expect(total.tokensPerExample).toBeCloseTo(all.reduce((a, b) => a + b, 0) / 8, 10)
    expect(total.tokensPerExample!).toBeGreaterThan(total.tokensPerPrompt! + total.tokensPerResponse!)
  })
  it("give shares of the rated pairs, and of the pairs with both labels", async () => {
    const found = await statistics()
    expect(found.helpfulness.total.ratings).toEqual({
      significantlyBetter: expect.closeTo(1 / 3, 10) as number,
      better: expect.closeTo(2 / 3, 10) as number,
      slightlyBetter: 0,
      negligiblyBetterOrUnsure: 0
    })
    expect(found.safety!.total.ratings).toEqual({ significantlyBetter: 0, better: 0.4, slightlyBetter: 0.2, negligiblyBetterOrUnsure: 0.4 })
    expect(found.helpfulness.total.safety).toBeNull()
    expect(found.safety!.total.safety).toEqual({ bothSafe: 0.5, chosenSafeOnly: 0.25, bothUnsafe: 0.25 })
  })
  it("count what is left out, and for the world's oracle pairs without a choice and those that the safety rule dropped", async () => {
    expect((await statistics()).safety!.batches[0]!.leftOut).toEqual({ pairs: 3, undecided: null, droppedUnsafe: null })
    expect((await statistics(worldPreferenceStatistics)).safety!.total.leftOut).toEqual({ pairs: 3, undecided: 2, droppedUnsafe: 1 })
  })
  it("have no means for an empty batch, and there are none if all batches are empty", async () => {
    const empty = await rowsArtifact(Preferences, [])
    const given = { ...(await inputs()), safety: [empty], safetyPairs: [] }
    const found = await reportIn(await runStage(preferenceStatistics, given), PreferenceStatisticsReport)
    expect(found.safety!.total).toMatchObject({
      comparisons: 0,
      turnsPerDialogue: null,
      tokensPerExample: null,
      ratings: null,
      safety: null
    })
    expect(await failureOf(preferenceStatistics, { ...given, helpfulness: [empty], safety: [] })).toMatch(/count: got 1 batches, all empty/)
  })
  it("reject pairs that are not in the batches", async () => {
    const given = await inputs()
    expect(await failureOf(preferenceStatistics, { ...given, helpfulnessPairs: given.safetyPairs })).toMatch(
      /1 sets of pairs for 2 batches/
    )
    const others = [await rowsArtifact(ResponsePairs, collected.slice(1))]
    expect(await failureOf(preferenceStatistics, { ...given, safetyPairs: others })).toMatch(/"e", which is not among them/)
  })
})
