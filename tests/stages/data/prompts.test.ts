/** Prompts by round, continued dialogues, held-out pairs; filters of demonstrations; kept samples. */
import { describe, expect, it } from "vitest"
import { type Demonstration, Demonstrations, type Preference, Preferences, Prompts, type ScoredCompletion } from "../../../schemas/rows.ts"
import { demonstrationSubset, filterDemonstrations, letterShare, repeatedShare } from "../../../stages/data/filter-demonstrations.ts"
import { keepBestOf } from "../../../stages/rejection-sampling/keep-best.ts"
import { continueDialogues, heldOutPairs, holdOutPreferences, promptBatch } from "../../../stages/data/prompts.ts"
import { randomOf } from "../../../stages/rejection-sampling/select-best.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask } from "../samples.ts"

const pairOf = (id: string, question: string): Preference => ({
  ...{ id, prompt: [{ role: "user", content: question }], chosen: `yes ${id}`, rejected: "no", rating: null },
  ...{ chosenSafe: null, rejectedSafe: null, source: "s" }
})

describe("batches of prompts", () => {
  const prompts = Array.from({ length: 23 }, (_, i) => ask(`${i}`, `q${i}`))
  it("share none and leave none out; sizes differ by at most one", async () => {
    const given = await rowsArtifact(Prompts, prompts)
    const batches = await Promise.all(
      [0, 1, 2, 3, 4].map(async (batch) => rowsIn(await runStage(promptBatch, { prompts: given }, { batches: 5, batch }), Prompts))
    )
    expect(batches.map((batch) => batch.length)).toEqual([5, 5, 5, 4, 4])
    expect(batches.flatMap((batch) => batch.map(({ id }) => Number(id))).toSorted((a, b) => a - b)).toEqual(prompts.map((_, i) => i))
  })
  it("are counted from 0: one beyond the last is an error", async () => {
    const given = await rowsArtifact(Prompts, prompts)
    expect(await failureOf(promptBatch, { prompts: given }, { batches: 5, batch: 5 })).toMatch(/batch 5 of 5: batches are numbered from 0/)
  })
})

it("a dialogue is continued with the chosen response and the user's next message, until there are no more messages", async () => {
  const prompts = await rowsArtifact(Prompts, [
    ask("a", "one", { followUps: ["two", "three"], safety: true }),
    ask("b", "x"),
    ask("c", "y", { followUps: ["z"] })
  ])
  const preferences = await rowsArtifact(Preferences, [pairOf("a", "one"), pairOf("b", "x")])
  const made = await runStage(continueDialogues, { prompts, preferences })
  expect(await rowsIn(made, Prompts)).toEqual([
    ask("a+", "", {
      messages: [
        { role: "user", content: "one" },
        { role: "assistant", content: "yes a" },
        { role: "user", content: "two" }
      ],
      followUps: ["three"],
      safety: true
    })
  ])
  expect(made.metrics).toMatchObject({ grown: 1, ended: 2 })
})

it("a dialogue is not continued with the answer to another prompt with its id", async () => {
  const prompts = await rowsArtifact(Prompts, [ask("a", "one", { followUps: ["two"] })])
  const preferences = await rowsArtifact(Preferences, [pairOf("a", "uno")])
  expect(await failureOf(continueDialogues, { prompts, preferences })).toMatch(
    /^Extending dialogues: expected preferences for these prompts, found a different prompt with the id "a"/
  )
})

describe("held-out pairs", () => {
  const pairs = Array.from({ length: 200 }, (_, i) => pairOf(`${i}`, `question ${i % 50}`))
  it("and the rest are all pairs, and share no first question", async () => {
    const preferences = await rowsArtifact(Preferences, pairs)
    const part = async (which: string) =>
      rowsIn(await runStage(holdOutPreferences, { preferences }, { count: 40, part: which }), Preferences)
    const [train, test] = [await part("train"), await part("test")]
    expect(train.length + test.length).toBe(200)
    expect(test.length).toBe(40)
    const asked = new Set(train.map(({ prompt }) => prompt[0]!.content))
    expect(test.some(({ prompt }) => asked.has(prompt[0]!.content))).toBe(false)
  })
  it("are at most half of a small batch", () => {
    expect(heldOutPairs(pairs.slice(0, 10), 1000).size).toBe(5)
    expect(heldOutPairs([], 1000).size).toBe(0)
  })
})

describe("public demonstrations", () => {
  const row = (id: string, answer: string, question = "q"): Demonstration => ({
    id,
    messages: [
      { role: "user", content: question },
      { role: "assistant", content: answer }
    ],
    loss: "answers"
  })
  it("lose malformed, too short, too long, wordless, repetitive and duplicate ones; each rule is counted", async () => {
    const rows = [
      row("good", "A fine answer."),
      row("twice", "a fine   ANSWER."),
      row("other question", "A fine answer.", "r"),
      row("short", "no"),
      row("long", "x".repeat(101)),
      row("tag", "[INST] a [/INST]"),
      row("signs", "=== *** !!! a"),
      row("repeats", "the same line\nthe same line\nthe same line"),
      {
        ...row("turns", "fine enough"),
        messages: Array.from({ length: 6 }, (_, i) => ({
          role: i % 2 === 0 ? ("user" as const) : ("assistant" as const),
          content: `m${i} fine`
        }))
      }
    ]
    const made = await runStage(
      filterDemonstrations,
      { demonstrations: await rowsArtifact(Demonstrations, rows) },
      { minCharacters: 3, maxCharacters: 100, maxTurns: 2 }
    )
    expect((await rowsIn(made, Demonstrations)).map(({ id }) => id)).toEqual(["good", "other question"])
    expect(made.metrics).toMatchObject({ kept: 2, format: 1, short: 1, long: 1, turns: 1, letters: 1, repeated: 1, duplicate: 1 })
  })
  it("are measured as computed by hand: 3 of 4 characters are letters, 2 of 3 lines are new; other scripts have letters too", () => {
    expect(letterShare("ab c!")).toBe(0.75)
    expect(letterShare("こんにちは")).toBe(1)
    expect(repeatedShare("a\nb\n\nA ")).toBeCloseTo(1 / 3, 12)
  })
  it("come in nested subsets", async () => {
    const demonstrations = await rowsArtifact(
      Demonstrations,
      Array.from({ length: 30 }, (_, i) => row(`${i}`, `answer ${i}`))
    )
    const ids = async (count: number) =>
      (await rowsIn(await runStage(demonstrationSubset, { demonstrations }, { count }), Demonstrations)).map(({ id }) => id)
    const [few, more] = [await ids(5), await ids(12)]
    expect(more.slice(0, 5)).toEqual(few)
    expect(few).not.toEqual(["0", "1", "2", "3", "4"])
    expect(await ids(99)).toHaveLength(30)
  })
})

describe("samples", () => {
  const sample = (promptId: string, reward: number, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
    ...{
      promptId,
      prompt: [],
      safety: false,
      sample: reward,
      text: `${promptId}${reward}`,
      tokens: [],
      logProbabilities: [],
      finished: true
    },
    ...{ temperature: 1, policy: "p", reward, helpfulnessScore: 0.5, safetyScore: null },
    ...over
  })
  const scored = [
    sample("a", 1),
    sample("b", 5),
    sample("a", 3),
    sample("a", 2),
    sample("b", 9, { finished: false }),
    sample("c", 0, { finished: false })
  ]
  it("that are kept are the best few of each prompt, without their scores, in order", () => {
    const kept = (count: number, unfinished: "drop" | "keep" = "drop") => keepBestOf(scored, { count, unfinished }).map(({ text }) => text)
    expect(kept(1)).toEqual(["b5", "a3"])
    expect(kept(2)).toEqual(["b5", "a3", "a2"])
    expect(kept(1, "keep")).toEqual(["a3", "b9", "c0"])
    expect(keepBestOf(scored, { count: 1, unfinished: "drop" })[0]).not.toHaveProperty("reward")
  })
  it("at random are one of each prompt's finished ones, with equal probability, whatever their reward", () => {
    const counts = new Map<string, number>()
    for (let seed = 0; seed < 600; seed++)
      for (const { text } of randomOf(scored, { unfinished: "drop", seed })) counts.set(text, (counts.get(text) ?? 0) + 1)
    expect([...counts.keys()].toSorted()).toEqual(["a1", "a2", "a3", "b5"])
    // Binomial(600, 1/3): three deviations are 35.
    for (const text of ["a1", "a2", "a3"]) expect(Math.abs(counts.get(text)! - 200)).toBeLessThan(35)
  })
})
