/** Selecting rows: the best completions, mixtures, folds. */
import { describe, expect, it } from "vitest"
import {
  Completions,
  type Message,
  type Preference,
  Preferences,
  Prompts,
  type ScoredCompletion,
  ScoredCompletions
} from "../../../schemas/rows.ts"
import { foldOf, preferencePrompts } from "../../../stages/data/derive.ts"
import { keepBest } from "../../../stages/rejection-sampling/keep-best.ts"
import { mixPrompts, mixRows } from "../../../stages/data/mix.ts"
import { bestOf, selectBest, selectRandom } from "../../../stages/rejection-sampling/select-best.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, completion as answer } from "../samples.ts"

const completion = (promptId: string, sample: number, reward: number, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  promptId,
  safety: false,
  helpfulnessScore: null,
  safetyScore: null,
  prompt: [{ role: "user", content: promptId }],
  sample,
  text: `${promptId}${sample}`,
  tokens: [1],
  logProbabilities: [-1],
  finished: true,
  temperature: 1,
  policy: "p",
  reward,
  ...over
})

describe("the best completion of each prompt", () => {
  const texts = (sets: ReadonlyArray<ReadonlyArray<ScoredCompletion>>, unfinished: "drop" | "keep" = "drop") =>
    bestOf(sets, { unfinished }).map(({ text }) => text)

  it("has the highest reward, including negative ones, in the order in which prompts appear", () => {
    expect(texts([[completion("b", 0, -3), completion("a", 0, 1), completion("b", 1, -2), completion("a", 1, 0)]])).toEqual(["b1", "a0"])
  })
  it("is selected over several sets: earlier versions' samples compete with the newest", () => {
    const old = [completion("a", 0, 5, { policy: "old" }), completion("b", 0, 0)]
    const now = [completion("a", 1, 4), completion("b", 1, 1), completion("c", 0, 9)]
    expect(texts([old, now])).toEqual(["a0", "b1", "c0"])
  })
  it("is the first among equals", () => {
    expect(texts([[completion("a", 0, 1), completion("a", 1, 1)], [completion("a", 2, 1)]])).toEqual(["a0"])
  })
  it("is never a truncated one, unless these are kept", () => {
    const set = [completion("a", 0, 9, { finished: false }), completion("a", 1, 1), completion("b", 0, 2, { finished: false })]
    expect(texts([set])).toEqual(["a1"])
    expect(texts([set], "keep")).toEqual(["a0", "b0"])
  })
  it("without completions is none", () => {
    expect(texts([])).toEqual([])
    expect(texts([[]])).toEqual([])
  })
})

describe("an id shared by two prompts", () => {
  const scored = (rows: ReadonlyArray<ScoredCompletion>) => rowsArtifact(ScoredCompletions, rows)
  const other = completion("a", 1, 2, { prompt: [{ role: "user", content: "another" }] })
  it("is rejected when the best are chosen or kept: one prompt would be lost", async () => {
    const wrong =
      /expected each id to identify one prompt, found two different prompts with the id "a", "a" .* and "another" .*distinct ids/
    const sets = [await scored([completion("a", 0, 1)]), await scored([other])]
    expect(await failureOf(selectBest, { scored: sets })).toMatch(wrong)
    expect(await failureOf(keepBest, { scored: await scored([completion("a", 0, 1), other]) })).toMatch(wrong)
    const completions = [await rowsArtifact(Completions, [completion("a", 0, 1), other])]
    expect(await failureOf(selectRandom, { completions })).toMatch(wrong)
    const same = [await scored([completion("a", 0, 1)]), await scored([completion("a", 1, 2)])]
    expect((await runStage(selectBest, { scored: same })).metrics).toMatchObject({ prompts: 1, selected: 1 })
  })
  it("is rejected in a mixture, also for a difference of the safety tag; a prompt in two sets counts once", async () => {
    const mix = async (...sets: ReadonlyArray<ReadonlyArray<ReturnType<typeof ask>>>) => ({
      datasets: await Promise.all(sets.map((set) => rowsArtifact(Prompts, set)))
    })
    const weights = { weights: [1, 1] }
    expect(await failureOf(mixPrompts, await mix([ask("1", "hello")], [ask("1", "bye")]), weights)).toMatch(
      /^Mixing prompts: .*the id "1", "hello" \(safety false\) and "bye"/
    )
    expect(await failureOf(mixPrompts, await mix([ask("1", "hello")], [ask("1", "hello", { safety: true })]), weights)).toMatch(
      /two different prompts/
    )
    const once = await runStage(mixPrompts, await mix([ask("1", "hello")], [ask("1", "hello")]), weights)
    expect(await rowsIn(once, Prompts)).toHaveLength(1)
    expect([once.metrics.repeated, once.skipped]).toEqual([1, []])
  })
  it("does not arise from pairs of several files: different prompts get different ids", async () => {
    const pair = (id: string, content: string): Preference => ({
      ...{ id, prompt: [{ role: "user", content }], chosen: "yes", rejected: "no", rating: null },
      ...{ chosenSafe: null, rejectedSafe: null, source: "s" }
    })
    const preferences = await rowsArtifact(Preferences, [pair("1", "one"), pair("1", "uno"), pair("2", "two"), pair("2", "two")])
    const ids = (await rowsIn(await runStage(preferencePrompts, { preferences }), Prompts)).map(({ id }) => id)
    expect(new Set(ids).size).toBe(3)
    expect(ids).toContain("2")
  })
})

it("choosing at random reports the number of prompts, and how many had a candidate", async () => {
  const completions = [answer("a", 0, "x"), answer("b", 0, ""), answer("c", 0, "y", { finished: false })]
  const made = await runStage(selectRandom, { completions: [await rowsArtifact(Completions, completions)] })
  expect([made.metrics, made.skipped]).toEqual([{ rows: 1, prompts: 3, selected: 1 }, []])
})

describe("sets of scored completions", () => {
  it("are united if the same kinds of reward models scored them, and otherwise not", async () => {
    const set = (...scores: ReadonlyArray<Partial<ScoredCompletion>>) =>
      rowsArtifact(
        ScoredCompletions,
        scores.map((over, i) => completion("a", i, i, over))
      )
    const [helpful, both] = [{ helpfulnessScore: 0.5 }, { helpfulnessScore: 0.5, safetyScore: 0.4 }]
    expect(await failureOf(selectBest, { scored: [await set(helpful), await set(both)] })).toMatch(
      /expected rewards from the same reward models, found set 1 scored by a helpfulness reward model, set 2 scored by both .*\. Score every set/
    )
    expect((await runStage(selectBest, { scored: [await set(both), await set(both, both)] })).metrics).toMatchObject({ selected: 1 })
  })
})

describe("a mixture", () => {
  const a = Array.from({ length: 10 }, (_, i) => `a${i}`)
  const b = Array.from({ length: 7 }, (_, i) => `b${i}`)
  const counts = (rows: ReadonlyArray<string>) =>
    rows.reduce((seen, row) => seen.set(row, (seen.get(row) ?? 0) + 1), new Map<string, number>())

  it("with weights 1 has every row once, shuffled", () => {
    const mixed = mixRows([a, b], [1, 1], 3)
    expect(mixed.toSorted()).toEqual([...a, ...b])
    expect(mixed).not.toEqual([...a, ...b])
  })
  it("mixes more rows than fit in a call's arguments", () => {
    const many = Array.from({ length: 300_000 }, (_, i) => i)
    expect(new Set(mixRows([many, [-1]], [1.5, 1], 1)).size).toBe(300_001)
  })
  it("up-samples: at weight 2.5 every row occurs twice, and half of them a third time", () => {
    const seen = counts(mixRows([a], [2.5], 3))
    expect([...seen.values()].toSorted((x, y) => x - y)).toEqual([2, 2, 2, 2, 2, 3, 3, 3, 3, 3])
  })
  it("samples a share without repeating a row, and nothing at weight 0", () => {
    const mixed = mixRows([a, b], [0.3, 0], 3)
    expect(mixed).toHaveLength(3)
    expect(new Set(mixed).size).toBe(3)
    expect(mixed.every((row) => a.includes(row))).toBe(true)
  })
  it("is the same for the same seed, another for another", () => {
    expect(mixRows([a, b], [1.5, 0.5], 3)).toEqual(mixRows([a, b], [1.5, 0.5], 3))
    expect(mixRows([a, b], [1.5, 0.5], 4)).not.toEqual(mixRows([a, b], [1.5, 0.5], 3))
    // The sampled rows, and not only their order.
    expect(mixRows([a], [0.5], 4).toSorted()).not.toEqual(mixRows([a], [0.5], 3).toSorted())
  })
  it("samples each dataset's share independently: the same rows whatever else is mixed", () => {
    const fromA = (rows: ReadonlyArray<string>) => rows.filter((row) => row.startsWith("a")).toSorted()
    expect(fromA(mixRows([a, b], [0.5, 1], 3))).toEqual(fromA(mixRows([a], [0.5], 3)))
  })
})

describe("folds", () => {
  const pair = (prompt: ReadonlyArray<Message>, id = ""): Preference => ({
    id,
    prompt,
    chosen: "yes",
    rejected: "no",
    rating: null,
    chosenSafe: null,
    rejectedSafe: null,
    source: "test"
  })
  const question = (content: string): Message => ({ role: "user", content })

  it("partition the pairs: each is in one fold, and folds are of similar size", () => {
    const sizes = [0, 0, 0, 0]
    for (let i = 0; i < 4000; i++) sizes[foldOf(pair([question(`question ${i}`)]), 4)]!++
    expect(sizes.reduce((sum, size) => sum + size)).toBe(4000)
    // 1000 each; five deviations of a binomial with n = 4000, p = 1/4 are 137.
    for (const size of sizes) expect(Math.abs(size - 1000)).toBeLessThan(137)
  })
  it("keep dialogues with the same first question together, with any continuation and system prompt", () => {
    for (const first of ["how", "why", "who", "when"]) {
      const alone = foldOf(pair([question(first)]), 16)
      const longer = pair([question(first), { role: "assistant", content: "so" }, question("and?")], "another")
      expect(foldOf(longer, 16)).toBe(alone)
      expect(foldOf(pair([{ role: "system", content: "be kind" }, question(first)]), 16)).toBe(alone)
    }
  })
})
