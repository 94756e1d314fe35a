/** Similarity of a model's answers: by hand, and for a small policy. BLEU itself: statistics.test.ts. */
import { describe, expect, it } from "vitest"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { type Completion, Completions, Prompts } from "../../../schemas/rows.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { diversityOf, selfBleu, SelfBleuReport } from "../../../stages/evaluation/self-bleu.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { ask, completion } from "../samples.ts"
import { talkingPolicy } from "../talking.ts"

const answers = (promptId: string, temperature: number, ...texts: ReadonlyArray<string>): Array<Completion> =>
  texts.map((text, i) => completion(promptId, i, text, { temperature }))

describe("diversity", () => {
  it("is the mean over prompts of Self-BLEU, at each temperature from the lowest, with its interval over prompts", () => {
    const rows = [
      ...answers("a", 1.5, "yes", "no"), // nothing in common: 0
      ...answers("b", 1.5, "it is red .", "it is red ."), // the same: 1
      ...answers("a", 0.5, "yes", "Yes") // words are lower-case: the same
    ]
    expect(diversityOf(rows, 1)).toEqual([
      { temperature: 0.5, prompts: 1, leftOut: 0, completions: 2, selfBleu: { mean: 1, low: 1, high: 1 } },
      { temperature: 1.5, prompts: 2, leftOut: 0, completions: 4, selfBleu: { mean: 0.5, low: 0, high: 1 } }
    ])
  })
  it("of three answers is the mean of each compared with the other two", () => {
    // Unigrams and bigrams only, as the answers have two words: (1 x 1)^(1/2) for both of "x y"; "x z" has one word of two, and 0.1 of one pair.
    const [found] = diversityOf(answers("a", 1, "x y", "x y", "x z"), 1)
    expect(found!.selfBleu!.mean).toBeCloseTo((1 + 1 + Math.sqrt(0.5 * 0.1)) / 3, 12)
  })
  it("leaves out empty answers, and prompts with fewer than two others", () => {
    const rows = [...answers("a", 1, "x", "", "x"), ...answers("b", 1, "y", " \n"), ...answers("c", 1, "z")]
    expect(diversityOf(rows, 1)).toEqual([
      { temperature: 1, prompts: 1, leftOut: 2, completions: 2, selfBleu: { mean: 1, low: 1, high: 1 } }
    ])
    expect(diversityOf(answers("c", 1, "z"), 1)).toEqual([{ temperature: 1, prompts: 0, leftOut: 1, completions: 0, selfBleu: null }])
  })
})

describe("the stage", () => {
  const sets = (...versions: ReadonlyArray<ReadonlyArray<Completion>>) =>
    Promise.all(versions.map((rows) => rowsArtifact(Completions, rows)))
  const measured = async (names: ReadonlyArray<string>, completions: ReadonlyArray<ArtifactRef<any>>) =>
    (await reportIn(await runStage(selfBleu, { completions }, { names }), SelfBleuReport)).versions

  it("measures each version separately, under its name", async () => {
    const versions = await measured(["sft", "v1"], await sets(answers("a", 1, "x", "y"), answers("a", 1, "x", "x")))
    expect(versions.map(({ name, byTemperature }) => [name, byTemperature.map((one) => one.selfBleu!.mean)])).toEqual([
      ["sft", [0]],
      ["v1", [1]]
    ])
  })
  it("measures each type of prompts separately, by the prompts' categories", async () => {
    const prompts = await rowsArtifact(Prompts, [
      ask("a", "List.", { category: "list" }),
      ask("b", "Spell.", { category: "spell" }),
      ask("c", "Count.", { category: "count" }),
      ask("d", "Other.")
    ])
    const rows = [...answers("a", 1, "x", "y"), ...answers("b", 1, "x", "x"), ...answers("c", 1, "x", "y"), ...answers("d", 1, "z", "z")]
    const types = [
      { name: "creative", categories: ["list"] },
      { name: "factual", categories: ["spell", "count"] },
      { name: "none", categories: ["other"] }
    ]
    const completions = await sets(rows)
    const made = await runStage(selfBleu, { completions, prompts }, { names: ["v"], types })
    const [version] = (await reportIn(made, SelfBleuReport)).versions
    expect(version!.byTemperature[0]).toMatchObject({ prompts: 4, selfBleu: { mean: 0.5 } })
    expect(
      version!.byType!.map(({ byTemperature, type }) => [type, byTemperature.map(({ prompts: of, selfBleu: found }) => [of, found!.mean])])
    ).toEqual([
      ["creative", [[1, 0]]],
      ["factual", [[2, 0.5]]],
      ["none", []]
    ])
    expect(await failureOf(selfBleu, { completions }, { names: ["v"], types })).toMatch(
      /expected a different name for each type, and the prompts/
    )
    expect(await failureOf(selfBleu, { completions, prompts }, { names: ["v"], types: [types[0], types[0]] })).toMatch(
      /found the types \["creative","creative"\]/
    )
    // As before without types.
    expect((await measured(["v"], completions))[0]).not.toHaveProperty("byType")
  })
  it("keeps a version without a result next to one with a result", async () => {
    const versions = await measured(["one", "two"], await sets(answers("a", 1, "x"), answers("a", 1, "x", "x")))
    expect(versions[0]!.byTemperature[0]).toMatchObject({ prompts: 0, leftOut: 1, selfBleu: null })
  })
  it("rejects sets in which no prompt has two answers, names that do not match, and two models' answers in one set", async () => {
    const failure = async (names: ReadonlyArray<string>, ...versions: ReadonlyArray<ReadonlyArray<Completion>>) =>
      failureOf(selfBleu, { completions: await sets(...versions) }, { names })
    expect(await failure(["a"], answers("a", 1, "x"))).toMatch(/no prompt with two non-empty answers; sample with k of 2 or more/)
    expect(await failure(["a"], [])).toMatch(/no prompt with two non-empty answers/)
    // Two answers at two temperatures are one at each.
    expect(await failure(["a"], [...answers("a", 1, "x"), ...answers("a", 2, "x")])).toMatch(/no prompt with two non-empty answers/)
    expect(await failure(["a"], answers("a", 1, "x", "y"), answers("a", 1, "x", "y"))).toMatch(/found 2 sets and the names \["a"\]/)
    expect(await failure([])).toMatch(/at least one set, and a distinct name for each, found 0 sets/)
    // The same sample twice would be similar to itself.
    expect(await failure(["a"], [...answers("a", 1, "x", "y"), ...answers("a", 1, "x", "y")])).toMatch(
      /two rows for sample 0 of prompt "a"\. Pass each version's samples as a separate set/
    )
  })

  it("finds a policy's greedy answers equal, and those at a high temperature less similar", async () => {
    const policy = await talkingPolicy(1)
    const prompts = await rowsArtifact(Prompts, [ask("a", "ab"), ask("b", "ba ab"), ask("long", "xyz ".repeat(90))])
    const at = (temperature: number) => runStage(sample, { policy, prompts }, { k: 4, temperature, maxNewTokens: 24 })
    const versions = await measured(["cold", "hot"], [await at(0), await at(2)])
    const [cold, hot] = versions.map(({ byTemperature }) => byTemperature[0]!)
    expect(cold).toMatchObject({ temperature: 0, prompts: 2, completions: 8, selfBleu: { mean: 1 } })
    expect(hot!.temperature).toBe(2)
    expect(hot!.selfBleu!.mean).toBeLessThan(0.5)
  })
})
