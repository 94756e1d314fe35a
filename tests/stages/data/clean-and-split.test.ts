/** Cleaning and splitting data: removed rows are counted by rule, and no prompt of the test rows is among the others. */
import { describe, expect, it } from "vitest"
import type { Message, Preference, Prompt } from "../../../schemas/rows.ts"
import { Demonstrations, Preferences, Prompts, Texts } from "../../../schemas/rows.ts"
import { cleanDemonstrations, cleanPreferences, cleanPrompts, cleanTexts } from "../../../stages/data/clean.ts"
import { cappedRows, mixPreferences } from "../../../stages/data/mix.ts"
import { groupOf, splitDemonstrations, splitPreferences, splitPrompts, testRows } from "../../../stages/data/split.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"

const asked = (content: string): ReadonlyArray<Message> => [{ role: "user", content }]
const pair = (id: string, prompt: string, chosen: string, rejected: string, more: Partial<Preference> = {}): Preference => ({
  ...{ id, prompt: asked(prompt), chosen, rejected },
  ...{ rating: null, chosenSafe: null, rejectedSafe: null, source: "a" },
  ...more
})
const promptRow = (id: string, content: string, more: Partial<Prompt> = {}): Prompt => ({
  ...{ id, messages: asked(content), safety: false, category: null, followUps: [] },
  ...more
})
const words = (from: number, count: number) => Array.from({ length: count }, (_, i) => `word${from + i}`).join(" ")

describe("pairs are cleaned", () => {
  it("of exact duplicates, empty prompts and answers, and equal answers: each counted by its rule, the others in order", async () => {
    const rows = [
      pair("1", "q", "yes", "no"),
      pair("2", "q", "yes", "no", { source: "b", rating: 1 }),
      pair("3", "q", "no", "yes"),
      pair("4", "q", "yes", " yes\n"),
      pair("5", "q", " ", "no"),
      pair("6", "r", "yes", "no"),
      pair("7", "  ", "yes", "no")
    ]
    const result = await runStage(cleanPreferences, { rows: await rowsArtifact(Preferences, rows), others: [], evaluation: [] })
    expect((await rowsIn(result, Preferences)).map(({ id }) => id)).toEqual(["1", "3", "6"])
    expect(result.metrics).toEqual({ rows: 3, empty: 2, same: 1, contaminated: 0, duplicates: 1, nearDuplicates: 0 })
  })

  it("of near-duplicates, on request", async () => {
    const rows = [
      pair("1", words(0, 100), "yes", "no"),
      pair("2", `${words(0, 99)} other`, "yes", "no"),
      pair("3", words(500, 100), "yes", "no")
    ]
    const given = { rows: await rowsArtifact(Preferences, rows), others: [], evaluation: [] }
    expect((await runStage(cleanPreferences, given)).metrics).toMatchObject({ rows: 3, nearDuplicates: 0 })
    const near = await runStage(cleanPreferences, given, { nearDuplicates: 0.8 })
    expect([(await rowsIn(near, Preferences)).map(({ id }) => id), near.metrics.nearDuplicates]).toEqual([["1", "3"], 1])
  })

  it("of rows in other datasets", async () => {
    const others = [await rowsArtifact(Preferences, [pair("o", "q", "yes", "no"), pair("p", words(0, 100), "yes", "no")])]
    const rows = [
      pair("1", "q", "yes", "no", { source: "b" }),
      pair("2", `${words(0, 99)} other`, "yes", "no"),
      pair("3", "r", "yes", "no")
    ]
    const result = await runStage(
      cleanPreferences,
      { rows: await rowsArtifact(Preferences, rows), others, evaluation: [] },
      { nearDuplicates: 0.8 }
    )
    expect(result.metrics).toMatchObject({ rows: 1, duplicates: 1, nearDuplicates: 1 })
  })

  it("of rows in evaluation sets: a run of 13 words anywhere, a follow-up, or all of a shorter prompt", async () => {
    const evaluation = [
      await rowsArtifact(Prompts, [
        promptRow("e1", `Please: ${words(0, 13)}`),
        promptRow("e2", "How are you?", { followUps: ["And your dog?"] })
      ])
    ]
    const rows = [
      pair("run in the answer", "q", `He said: ${words(0, 13).toUpperCase()}!`, "no"),
      pair("twelve words only", "q", words(0, 12), "no"),
      pair("asked", "how are  you", "Well.", "no"),
      pair("asked within more", "So, how are you?", "Well.", "no"),
      pair("the follow-up", "And your dog?", "Well.", "no"),
      pair("in an answer", "q", "How are you?", "no")
    ]
    const given = { rows: await rowsArtifact(Preferences, rows), others: [], evaluation }
    const result = await runStage(cleanPreferences, given)
    expect((await rowsIn(result, Preferences)).map(({ id }) => id)).toEqual(["twelve words only", "asked within more", "in an answer"])
    expect(result.metrics.contaminated).toBe(3)
    // Only complete prompts.
    expect((await runStage(cleanPreferences, given, { sharedWords: 0 })).metrics.contaminated).toBe(2)
    expect((await runStage(cleanPreferences, given, { sharedWords: 12 })).metrics.contaminated).toBe(4)
  })
})

it("demonstrations, prompts and texts are cleaned by the same rules", async () => {
  const dialogue = (id: string, question: string, answer: string) => ({
    ...{ id, loss: "answers" as const },
    messages: [...asked(question), { role: "assistant" as const, content: answer }]
  })
  const evaluation = [await rowsArtifact(Prompts, [promptRow("e", "Secret question")])]
  const demonstrations = [dialogue("1", "q", "a"), dialogue("2", "q", "a"), dialogue("3", "q", ""), dialogue("4", "secret question", "a")]
  expect(
    (await runStage(cleanDemonstrations, { rows: await rowsArtifact(Demonstrations, demonstrations), others: [], evaluation })).metrics
  ).toEqual({
    ...{ rows: 1, empty: 1, same: 0, contaminated: 1, duplicates: 1, nearDuplicates: 0 }
  })
  const prompts = [promptRow("1", "q"), promptRow("2", "q"), promptRow("3", "Secret question?")]
  expect((await runStage(cleanPrompts, { rows: await rowsArtifact(Prompts, prompts), others: [], evaluation })).metrics).toMatchObject({
    rows: 1,
    contaminated: 1,
    duplicates: 1
  })
  const texts = [{ text: "a b" }, { text: "a b" }, { text: " " }, { text: "c" }]
  expect((await runStage(cleanTexts, { rows: await rowsArtifact(Texts, texts), others: [], evaluation })).metrics).toMatchObject({
    rows: 2,
    empty: 1,
    duplicates: 1
  })
})

describe("a split", () => {
  // 600 pairs with 200 prompts, from three sources of different sizes.
  const rows = Array.from({ length: 600 }, (_, i) => {
    const prompt = (i * 7) % 200
    return pair(`${i}`, `Question ${prompt}${i % 2 === 0 ? "?" : " !"}`, `yes ${i}`, "no", {
      source: prompt < 20 ? "small" : prompt < 80 ? "middle" : "large",
      rating: i % 4
    })
  })
  const partsOf = async (config: object, seed = 1) => {
    const given = { rows: await rowsArtifact(Preferences, rows) }
    const parts = await Promise.all(
      (["train", "test"] as const).map(async (part) =>
        rowsIn(await runStage(splitPreferences, given, { ...config, part }, seed), Preferences)
      )
    )
    return { train: parts[0]!, test: parts[1]! }
  }

  it("has every row once, in order, and no prompt in both parts, however it is written", async () => {
    const { test, train } = await partsOf({ share: 0.1 })
    expect([...train, ...test].map(({ id }) => Number(id)).sort((a, b) => a - b)).toEqual(rows.map((_, i) => i))
    for (const part of [train, test])
      expect(part.map(({ id }) => Number(id))).toEqual(part.map(({ id }) => Number(id)).toSorted((a, b) => a - b))
    const prompts = (part: ReadonlyArray<Preference>) => new Set(part.map(({ prompt }) => groupOf(prompt)))
    expect([...prompts(test)].filter((prompt) => prompts(train).has(prompt))).toEqual([])
    // Shares that no number of complete groups gives.
    for (const share of [0.07, 0.113, 0.5]) {
      const parts = await partsOf({ share })
      expect([...prompts(parts.test)].filter((prompt) => prompts(parts.train).has(prompt))).toEqual([])
    }
  })

  it("has the same share of every source, except for a prompt's rows", async () => {
    const { test } = await partsOf({ share: 0.1 })
    const counts = Object.fromEntries([...Map.groupBy(test, ({ source }) => source)].map(([source, of]) => [source, of.length]))
    // 60, 180 and 360 rows: a tenth is 6, 18, 36; a prompt has three.
    expect(counts).toEqual({ small: 6, middle: 18, large: 36 })
  })

  it("depends only on the rows and the seed", async () => {
    const ids = async (seed: number) => (await partsOf({ share: 0.1 }, seed)).test.map(({ id }) => id)
    expect(await ids(1)).toEqual(await ids(1))
    expect(await ids(2)).not.toEqual(await ids(1))
  })

  it("keeps dialogues with the same first question together, with any system message and continuation", () => {
    const begun = asked("Hello, you!")
    expect(groupOf([{ role: "system", content: "s" }, ...begun, { role: "assistant", content: "a" }, ...asked("more")])).toBe(
      groupOf(asked("hello  YOU"))
    )
    expect(groupOf(asked("?!"))).not.toBe(groupOf(asked("!!")))
  })

  it("takes complete groups of each kind until its share is reached, as computed by hand", () => {
    // Positions: three rows of one group at 1, then 2, 3, 4, 5 alone; kinds 0 and 1.
    const places = Float64Array.of(1, 1, 1, 2, 3, 4, 5)
    const kinds = Uint16Array.of(0, 1, 0, 1, 0, 1, 0)
    // Kind 0 has the group of three (its first row is of kind 0) and two rows: half is 2.5, rounded 3. Kind 1 has two rows: 1.
    expect([...testRows(places, kinds, 0.5)]).toEqual([1, 1, 1, 1, 0, 0, 0])
    expect([...testRows(places, kinds, 0)]).toEqual([0, 0, 0, 0, 0, 0, 0])
    // Kind 0 has five rows, of which a fifth is one: its first group has three. Kind 1 has two: 0.4, rounded 0.
    expect([...testRows(places, Uint16Array.of(0, 0, 0, 1, 0, 1, 0), 0.2)]).toEqual([1, 1, 1, 0, 0, 0, 0])
  })

  it("of demonstrations and prompts has the same kind; without rows it is rejected", async () => {
    const prompts = Array.from({ length: 100 }, (_, i) => promptRow(`${i}`, `Question ${i}`, { safety: i % 4 === 0 }))
    const test = await rowsIn(
      await runStage(splitPrompts, { rows: await rowsArtifact(Prompts, prompts) }, { part: "test", share: 0.2 }),
      Prompts
    )
    expect([test.length, test.filter(({ safety }) => safety).length]).toEqual([20, 5])
    const dialogues = prompts.map(({ id, messages }) => ({
      id,
      loss: "answers" as const,
      messages: [...messages, { role: "assistant" as const, content: "a" }]
    }))
    const given = { rows: await rowsArtifact(Demonstrations, dialogues) }
    expect((await runStage(splitDemonstrations, given, { part: "train", share: 0.2 })).metrics).toMatchObject({ rows: 80, ofRows: 100 })
    expect(await failureOf(splitPreferences, { rows: await rowsArtifact(Preferences, []) })).toMatch(/an empty dataset/)
  })
})

describe("a mixture", () => {
  const set = (name: string, count: number) =>
    rowsArtifact(
      Preferences,
      Array.from({ length: count }, (_, i) => pair(`${name}${i}`, name, `${i}`, "no", { source: name }))
    )
  const counts = async (config: Record<string, unknown>, seed = 1) => {
    const result = await runStage(mixPreferences, { datasets: [await set("a", 100), await set("b", 40), await set("c", 10)] }, config, seed)
    const mixed = await rowsIn(result, Preferences)
    return {
      ids: mixed.map(({ id }) => id),
      metrics: result.metrics,
      sources: Object.fromEntries([...Map.groupBy(mixed, ({ source }) => source)].map(([name, of]) => [name, of.length]))
    }
  }

  it("reports how many rows came from which dataset", async () => {
    const { metrics, sources } = await counts({ weights: [0.5, 2, 0] })
    expect(metrics).toMatchObject({ rows: 130, from1: 50, from2: 80 })
    expect(sources).toEqual({ a: 50, b: 80 })
  })

  it("has at most a given number of different rows of each, and the weights apply to those", async () => {
    const { ids, metrics } = await counts({ weights: [2, 1, 1], caps: [30, 0, 50] })
    expect(metrics).toMatchObject({ rows: 110, from1: 60, from2: 40, from3: 10 })
    expect(new Set(ids.filter((id) => id.startsWith("a"))).size).toBe(30)
  })

  it("by shares is as large as possible without repeating a row", async () => {
    // Halves of 100 and 40 rows: the 40 run out first; a quarter of b's share is c's.
    const { ids, metrics } = await counts({ by: "shares", weights: [2, 2, 0] })
    expect(metrics).toMatchObject({ rows: 80, from1: 40, from2: 40 })
    expect(new Set(ids).size).toBe(80)
    expect((await counts({ by: "shares", weights: [0.6, 0.2, 0.2] })).metrics).toMatchObject({ rows: 50, from1: 30, from2: 10, from3: 10 })
  })

  it("has an order that depends only on the seed", async () => {
    const config = { weights: [1, 1, 1], caps: [50, 0, 0] }
    expect((await counts(config)).ids).toEqual((await counts(config)).ids)
    expect((await counts(config, 2)).ids).not.toEqual((await counts(config)).ids)
    // All rows, once each: the choice of rows does not depend on the seed, but the order does.
    const [whole, other] = [(await counts({ weights: [1, 1, 1] })).ids, (await counts({ weights: [1, 1, 1] }, 2)).ids]
    expect(whole).not.toEqual(other)
    expect(whole.toSorted()).toEqual(other.toSorted())
    // Mixed: the first ten rows include some of each of the larger sets.
    expect(new Set(whole.slice(0, 10).map((id) => id[0])).size).toBeGreaterThan(1)
  })

  it("takes a random choice of a capped set, in order, and of a fraction of one", async () => {
    const rows = Array.from({ length: 50 }, (_, i) => i)
    const [chosen, other] = [1, 2].map((seed) => cappedRows([rows], [20], seed)[0]!)
    expect(chosen).toEqual(chosen!.toSorted((a, b) => a - b))
    expect([chosen!.length, new Set(chosen).size]).toEqual([20, 20])
    expect(chosen).not.toEqual(other)
    const half = async (seed: number) => (await counts({ weights: [0.5, 0, 0] }, seed)).ids.toSorted()
    expect(await half(1)).not.toEqual(await half(2))
  })

  it("rejects impossible caps and shares", async () => {
    const given = { datasets: [await set("a", 2), await set("b", 2)] }
    expect(await failureOf(mixPreferences, given, { weights: [1, 1], caps: [1] })).toMatch(
      /caps must be empty or have one number per dataset, 0 for no cap; got 1 \(\[1\]\)/
    )
    expect(await failureOf(mixPreferences, given, { weights: [0, 0], by: "shares" })).toMatch(/needs at least one weight above 0/)
  })
})
