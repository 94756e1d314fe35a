/** Safety context distillation (§4.2.4): which prompts get which preprompt, what is removed again, what is kept; and that none of the preprompt is trained on. */
import { describe, expect, it } from "vitest"
import {
  type Completion,
  Completions,
  Demonstrations,
  type Message,
  Preferences,
  type Prompt,
  Prompts,
  type ScoredCompletion,
  ScoredCompletions
} from "../../../schemas/rows.ts"
import { distil, distilledAnswers } from "../../../stages/safety/distil.ts"
import { distillationGain, DistillationGainReport, gainOf } from "../../../stages/safety/distillation-gain.ts"
import { unitHistogram } from "../../../stages/common/statistics.ts"
import { preprompt, prepromptOf, withoutPreprompt, withPreprompt } from "../../../stages/safety/preprompt.ts"
import { mixDemonstrations } from "../../../stages/data/mix.ts"
import { safeDemonstrations } from "../../../stages/safety/safety-sft.ts"
import { encodeDemonstrations, packExamples } from "../encoded.ts"
import { smallTokenizer } from "../../models/small.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { assistant, user } from "../samples.ts"

const system = (content: string): Message => ({ role: "system", content })
const prompt = (id: string, over: Partial<Prompt> = {}): Prompt => ({
  id,
  messages: [user(`how to ${id}`)],
  safety: true,
  category: null,
  followUps: ["and then?"],
  ...over
})
const completion = (promptId: string, over: Partial<Completion> = {}): Completion => ({
  promptId,
  prompt: [user(`how to ${promptId}`)],
  safety: true,
  sample: 0,
  text: "no",
  tokens: [5, 2],
  logProbabilities: [-1, -0.5],
  finished: true,
  temperature: 1,
  policy: "p",
  ...over
})
const scored = (promptId: string, safetyScore: number | null, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  ...completion(promptId),
  // No order can be derived from it: only the safety score counts.
  reward: -(safetyScore ?? 0),
  helpfulnessScore: null,
  safetyScore,
  ...over
})

const prepromptsOf = async (prompts: ReadonlyArray<Prompt>, config: Record<string, unknown> = {}, seed = 1) => {
  const result = await runStage(preprompt, { prompts: await rowsArtifact(Prompts, prompts) }, config, seed)
  return { rows: await rowsIn(result, Prompts), metrics: result.metrics }
}

describe("a safety preprompt", () => {
  it("is added to adversarial prompts only; others are left out and counted", async () => {
    const { rows, metrics } = await prepromptsOf([prompt("a"), prompt("b", { safety: false }), prompt("c")])
    expect(rows.map((row) => row.id)).toEqual(["a", "c"])
    expect(metrics).toMatchObject({ rows: 2, notAdversarial: 1, withoutTemplate: 0 })
    for (const row of rows) expect(row).toMatchObject({ safety: true, category: null, followUps: [] })
  })
  it("is a system message by default, placed before an existing one's text", async () => {
    const given = prompt("b", { messages: [system("be brief"), user("how to b")] })
    const config = { templates: ["Be {adjective}."], adjectives: ["safe"] }
    const { rows } = await prepromptsOf([prompt("a"), given], config)
    expect(rows.map((row) => row.messages)).toEqual([
      [system("Be safe."), user("how to a")],
      [system("Be safe.\n\nbe brief"), user("how to b")]
    ])
  })
  it("may be placed before the last question instead", async () => {
    const given = prompt("a", { messages: [user("hello"), assistant("hi"), user("how to a")] })
    const { rows } = await prepromptsOf([given], { templates: ["Be kind."], adjectives: [], place: "user" })
    expect(rows[0]!.messages).toEqual([user("hello"), assistant("hi"), user("Be kind.\n\nhow to a")])
  })
  it("uses template and adjectives chosen by seed for each prompt, never one adjective twice, independent of other prompts", async () => {
    const config = { templates: ["{adjective} and {adjective}", "only {adjective}"], adjectives: ["safe", "wise", "wise", "kind"] }
    const prompts = Array.from({ length: 60 }, (_, i) => prompt(`${i}`))
    const texts = async (some: ReadonlyArray<Prompt>, seed = 1) =>
      (await prepromptsOf(some, config, seed)).rows.map((row) => row.messages[0]!.content)
    const all = await texts(prompts)
    const words = ["safe", "wise", "kind"]
    const wanted = [
      ...words.map((word) => `only ${word}`),
      ...words.flatMap((a) => words.filter((b) => b !== a).map((b) => `${a} and ${b}`))
    ]
    // 60 draws of 2 templates: each of the nine texts is missed with a probability of at most (1 - 1/12)^60 = 0.5%.
    expect([...new Set(all)].sort()).toEqual(wanted.sort())
    expect(await texts(prompts)).toEqual(all)
    expect(await texts(prompts.toReversed())).toEqual(all.toReversed())
    expect(await texts(prompts, 2)).not.toEqual(all)
  })
  it("follows the risk category's answer template on request; without one it is generic, or the prompt is left out", async () => {
    const prompts = [
      prompt("a", { category: "hateful" }),
      prompt("b", { category: "new" }),
      prompt("c"),
      prompt("d", { category: "toString" })
    ]
    const config = { kind: "category", templates: ["Be kind."], categoryTemplates: { hateful: "Say why it hurts." } }
    const generic = await prepromptsOf(prompts, config)
    expect(generic.rows.map((row) => row.messages[0]!.content)).toEqual(["Say why it hurts.", "Be kind.", "Be kind.", "Be kind."])
    expect(generic.metrics).toMatchObject({ byCategory: 1, withoutTemplate: 0 })
    const dropped = await prepromptsOf(prompts, { ...config, otherCategories: "drop" })
    expect(dropped.rows.map((row) => row.id)).toEqual(["a"])
    expect(dropped.metrics).toMatchObject({ byCategory: 1, withoutTemplate: 3 })
    expect(
      await failureOf(preprompt, { prompts: await rowsArtifact(Prompts, prompts.slice(1)) }, { ...config, otherCategories: "drop" })
    ).toMatch(/expected prompts with a category that has a template \(hateful\), found none among 3 adversarial prompts/)
  })
  it("has a template for each of §4.2's three categories by default, and names no category when it is generic", async () => {
    const prompts = ["illicit", "hateful", "advice"].map((category) => prompt(category, { category }))
    const { rows } = await prepromptsOf(prompts, { kind: "category", otherCategories: "drop" })
    const texts = rows.map((row) => row.messages[0]!.content)
    expect(new Set(texts).size).toBe(3)
    // The paper's template: immediate safety, more information.
    for (const text of texts) expect(text).toMatch(/immediate safety/)
    for (const row of (await prepromptsOf(prompts)).rows)
      expect(row.messages[0]!.content).toMatch(/^You are a [a-z]+( and [a-z]+)? assistant/)
  })
  it.each([
    [{ templates: ["{adjective}, {adjective}"], adjectives: ["safe", "safe"] }, "expected 2 different adjectives for a template, found 1"],
    [{ templates: [] }, "expected generic templates, found none"],
    [{ templates: ["[INST] be safe"] }, "without tags of the chat format"],
    [{ adjectives: ["a", "b", " "] }, "found an empty one"],
    [{ kind: "category", categoryTemplates: {} }, "a template for at least one risk category"],
    [{ kind: "category", categoryTemplates: { advice: "<<SYS>>" } }, "without tags of the chat format"]
  ])("is rejected for %j", async (config, message) => {
    expect(await failureOf(preprompt, { prompts: await rowsArtifact(Prompts, [prompt("a")]) }, config)).toContain(message)
  })
})

describe("the preprompt of a prompt", () => {
  const originals = [
    [user("q")],
    [system("s"), user("q")],
    [user("p"), assistant("a"), user("q")],
    [system("s"), user("p"), assistant("a"), user("q")]
  ]
  it.each(originals.flatMap((original) => (["system", "user"] as const).map((place) => ({ original, place }))))(
    "is detected again, at the $place of $original",
    ({ original, place }) => {
      expect(prepromptOf(withPreprompt(original, "Be safe.\n\nBe wise.", place), original)).toBe("Be safe.\n\nBe wise.")
    }
  )
  it("is not detected if there is none, or if something else differs", () => {
    const original = [user("p"), assistant("a"), user("q")]
    expect(prepromptOf(original, original)).toBeUndefined()
    expect(prepromptOf([user("Be safe.\n\np"), assistant("a"), user("q")], original)).toBeUndefined()
    expect(prepromptOf([system("Be safe."), user("p"), assistant("b"), user("q")], original)).toBeUndefined()
    expect(prepromptOf([user("p"), assistant("b"), user("Be safe.\n\nq")], original)).toBeUndefined()
    expect(prepromptOf([user("Be safe.\n\nq")], original)).toBeUndefined()
  })
})

describe("completions without the preprompt", () => {
  const run = async (completions: ReadonlyArray<Completion>, prompts: ReadonlyArray<Prompt>) =>
    runStage(withoutPreprompt, { completions: await rowsArtifact(Completions, completions), prompts: await rowsArtifact(Prompts, prompts) })

  it("are answers to the original prompts, and otherwise unchanged", async () => {
    const prefixed = completion("a", { prompt: [system("Be safe."), user("how to a")], text: "it is safer not to", sample: 3 })
    const result = await run([prefixed], [prompt("b"), prompt("a")])
    expect(await rowsIn(result, Completions)).toEqual([{ ...prefixed, prompt: [user("how to a")] }])
  })
  it("never repeat its words: those that do are counted", async () => {
    const prefixed = (text: string) => completion("a", { prompt: [system("Be safe."), user("how to a")], text })
    const result = await run([prefixed("Be safe. No."), prefixed("No.")], [prompt("a")])
    expect((await rowsIn(result, Completions)).map((row) => row.text)).toEqual(["No."])
    expect(result.metrics).toMatchObject({ echoed: 1 })
  })
  it("are rejected if the original is missing, different, or given twice", async () => {
    const inputs = async (completions: ReadonlyArray<Completion>, prompts: ReadonlyArray<Prompt>) => ({
      completions: await rowsArtifact(Completions, completions),
      prompts: await rowsArtifact(Prompts, prompts)
    })
    const prefixed = completion("a", { prompt: [system("Be safe."), user("how to a")] })
    expect(await failureOf(withoutPreprompt, await inputs([prefixed], [prompt("b")]))).toContain("found no prompt with that id")
    expect(await failureOf(withoutPreprompt, await inputs([completion("a")], [prompt("a")]))).toContain("or not at all")
    const other = prompt("a", { messages: [user("something else")] })
    expect(await failureOf(withoutPreprompt, await inputs([prefixed], [other]))).toContain("differs by more than a preprompt")
    expect(await failureOf(withoutPreprompt, await inputs([prefixed], [prompt("a"), other]))).toContain('two different prompts for "a"')
  })
})

describe("the distilled answer", () => {
  const pick = (original: ReadonlyArray<ScoredCompletion>, ...prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
    distilledAnswers(original, prefixed, { unfinished: "drop" })
  const kept = (original: ReadonlyArray<ScoredCompletion>, ...prefixed: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
    pick(original, ...prefixed)
      .answers.filter((answer) => answer.kept)
      .map((answer) => answer.text)

  it("is scored above the original by the safety reward model: an equal one is not kept, whatever the reward", () => {
    const original = [scored("a", 0.5), scored("b", 0.5), scored("c", 0.5)]
    expect(kept(original, [scored("a", 0.51, { text: "better" }), scored("b", 0.5), scored("c", 0.49, { reward: 99 })])).toEqual(["better"])
  })
  it("is the best of a prompt's samples, over several kinds of preprompt, compared with the best of the original's", () => {
    const original = [scored("a", 0.1), scored("a", 0.6, { sample: 1 })]
    const generic = [scored("a", 0.2), scored("a", 0.7, { sample: 1, text: "good" })]
    const template = [scored("a", 0.9, { text: "best" })]
    expect(kept(original, generic)).toEqual(["good"])
    expect(kept(original, generic, template)).toEqual(["best"])
    expect(pick(original, generic, template).answers[0]).toMatchObject({ set: 1, original: 0.6, distilled: 0.9 })
    expect(kept([...original, scored("a", 0.95, { sample: 2 })], generic, template)).toEqual([])
  })
  it("is the first of a prompt's equally good samples, in the order of the sets", () => {
    const first = [scored("a", 0.7, { text: "first" }), scored("a", 0.7, { sample: 1, text: "second" })]
    expect(kept([scored("a", 0.1)], first, [scored("a", 0.7, { text: "third" })])).toEqual(["first"])
    expect(kept([scored("a", 0.1)], [scored("a", 0.7, { text: "third" })], first)).toEqual(["third"])
  })
  it("is never a truncated answer, nor one to a prompt that is not adversarial", () => {
    const original = [scored("a", 0.1), scored("b", 0.1, { safety: false })]
    expect(kept(original, [scored("a", 0.9, { finished: false }), scored("b", 0.9, { safety: false })])).toEqual([])
    expect(distilledAnswers(original, [[scored("a", 0.9, { finished: false })]], { unfinished: "keep" }).answers[0]!.kept).toBe(true)
    // Prompts that are not adversarial are not included, on either side.
    const harmless = scored("c", 0.9, { safety: false })
    expect(pick(original, [harmless])).toEqual({ answers: [], withoutOriginal: 0, withoutDistilled: 1 })
  })
  it("is compared with the original answer even if that was truncated", () => {
    expect(kept([scored("a", 0.8, { finished: false })], [scored("a", 0.7)])).toEqual([])
  })
  it("leaves out prompts answered on one side only, and counts them", () => {
    const found = pick([scored("a", 0.1), scored("b", 0.1)], [scored("b", 0.2), scored("c", 0.2), scored("c", 0.3)], [scored("d", 0.2)])
    expect(found).toMatchObject({ withoutOriginal: 2, withoutDistilled: 1 })
    expect(found.answers.map((answer) => answer.promptId)).toEqual(["b"])
  })
  it("is rejected if the preprompt is still there, or without the safety reward model's scores", () => {
    const prefixed = scored("a", 0.9, { prompt: [system("Be safe."), user("how to a")] })
    expect(() => kept([scored("a", 0.1)], [prefixed])).toThrow("Remove preprompts with withoutPreprompt")
    expect(() => kept([scored("a", 0.1)], [scored("a", null)])).toThrow("no safety score")
    expect(() => kept([scored("a", null)], [scored("a", 0.1)])).toThrow("no safety score")
  })
})

describe("the stage distil", () => {
  it("writes demonstrations and reports the gain, over the kept ones", async () => {
    const original = [scored("a", 0.25), scored("b", 0.5), scored("c", 0.75)]
    const prefixed = [scored("a", 0.75, { text: "yes" }), scored("b", 0.625, { text: "so" }), scored("c", 0.5)]
    const result = await runStage(distil, {
      original: await rowsArtifact(ScoredCompletions, original),
      prefixed: [await rowsArtifact(ScoredCompletions, prefixed)]
    })
    expect(await rowsIn(result, Demonstrations)).toEqual([
      { id: "a", messages: [user("how to a"), assistant("yes")], loss: "answers" },
      { id: "b", messages: [user("how to b"), assistant("so")], loss: "answers" }
    ])
    // (0.25 + 0.5) / 2 -> (0.75 + 0.625) / 2
    expect(result.metrics).toEqual({
      rows: 2,
      prompts: 3,
      kept: 2,
      withoutOriginal: 0,
      withoutDistilled: 0,
      before: 0.375,
      after: 0.6875,
      gain: 0.3125
    })
  })
  it("writes none if none is better, and fails if nothing can be compared", async () => {
    const of = async (original: ReadonlyArray<ScoredCompletion>, prefixed: ReadonlyArray<ScoredCompletion>) => ({
      original: await rowsArtifact(ScoredCompletions, original),
      prefixed: [await rowsArtifact(ScoredCompletions, prefixed)]
    })
    const none = await runStage(distil, await of([scored("a", 0.9)], [scored("a", 0.2)]))
    expect(none.metrics).toEqual({ rows: 0, prompts: 1, kept: 0, withoutOriginal: 0, withoutDistilled: 0 })
    expect(await failureOf(distil, await of([scored("a", 0.9)], [scored("b", 0.2)]))).toContain("without a common adversarial prompt")
  })
})

describe("from a prompt to training", () => {
  // The tokenizer spells every letter: the preprompt's word has letters that nothing else has.
  const marker = "ZQXJ"
  const tokenizer = smallTokenizer()
  const answers = (prompts: ReadonlyArray<Prompt>, text: (id: string) => string): Array<Completion> =>
    prompts.map((row) => completion(row.id, { prompt: row.messages, text: text(row.id) }))

  it.each(["system", "user"] as const)("no token of a preprompt at the %s gets through, masked or not", async (place) => {
    const prompts = [
      prompt("a"),
      prompt("b", { messages: [system("be brief"), user("hello"), assistant("hi"), user("how to b")] }),
      prompt("c")
    ]
    const { rows } = await prepromptsOf(prompts, { templates: [`Be ${marker}.`], adjectives: [], place })
    const lettersOf = (dialogues: ReadonlyArray<ReadonlyArray<Message>>) => {
      const { examples, tooLong } = encodeDemonstrations(
        tokenizer,
        dialogues.map((messages) => ({ messages, loss: "answers" as const })),
        400
      )
      expect(tooLong).toBe(0)
      const packed = packExamples(examples, { length: 400, padId: tokenizer.padId })
      return packed.map((row) => tokenizer.decode([...row.tokens].filter((id) => id !== tokenizer.padId))).join("")
    }
    // It would be detected: with the preprompt, its letters are among the tokens.
    expect(lettersOf(rows.map((row) => [...row.messages, assistant("no")]))).toContain(marker)

    const drawn = answers(rows, (id) => (id === "c" ? `As I am to be ${marker}: Be ${marker}.` : "no, that is unsafe"))
    const restored = await runStage(withoutPreprompt, {
      completions: await rowsArtifact(Completions, drawn),
      prompts: await rowsArtifact(Prompts, prompts)
    })
    expect(restored.metrics).toMatchObject({ rows: 2, echoed: 1 })
    const score = async (completions: ReadonlyArray<Completion>, safetyScore: number) =>
      rowsArtifact(
        ScoredCompletions,
        completions.map((row) => ({ ...row, reward: 0, helpfulnessScore: null, safetyScore }))
      )
    const distilled = await runStage(distil, {
      original: await score(
        answers(prompts, () => "sure"),
        0.2
      ),
      prefixed: [await score(await rowsIn(restored, Completions), 0.8)]
    })
    const demonstrations = await rowsIn(distilled, Demonstrations)
    expect(demonstrations.map((row) => row.id)).toEqual(["a", "b"])
    const trained = lettersOf(demonstrations.map((row) => row.messages))
    expect(trained).toContain("no, that is unsafe")
    for (const letter of marker) expect(trained).not.toContain(letter)
  })
})

describe("the gain of distillation", () => {
  const original = [scored("a", 0.25), scored("b", 0.5), scored("c", 0.75)]
  const generic = [scored("a", 0.5), scored("b", 0.25), scored("c", 0.5)]
  const template = [scored("a", 0.375), scored("b", 0.75), scored("c", 0.25)]
  const report = gainOf(original, [generic, template], ["generic", "template"], { unfinished: "drop", bins: 4 }, 1)!

  it("is reported prompt by prompt: both scores, the kind of the better preprompt, whether it is kept (figure 16b)", () => {
    expect(report.byPrompt).toEqual([
      { promptId: "a", kind: "generic", original: 0.25, distilled: 0.5, kept: true },
      { promptId: "b", kind: "template", original: 0.5, distilled: 0.75, kept: true },
      { promptId: "c", kind: "generic", original: 0.75, distilled: 0.5, kept: false }
    ])
  })
  it("has means over all prompts, and over those kept", () => {
    expect([report.prompts, report.kept]).toEqual([3, 2])
    expect([report.original.mean, report.distilled.mean]).toEqual([0.5, 1.75 / 3])
    // a: 0.25 -> 0.5, b: 0.5 -> 0.75
    expect(report.keptScores!.before.mean).toBe(0.375)
    expect(report.keptScores!.after.mean).toBe(0.625)
    expect(report.keptScores!.gain).toEqual({ mean: 0.25, low: 0.25, high: 0.25 })
  })
  it("separates the kinds: what each would keep alone, and the distribution of its scores (figure 16a)", () => {
    expect(report.kinds.map(({ kind, prompts, kept }) => [kind, prompts, kept])).toEqual([
      ["generic", 3, 1],
      ["template", 3, 2]
    ])
    // generic: 0.25 - 0.25 - 0.25; template: 0.125 + 0.25 - 0.5
    expect(report.kinds[0]!.gain.mean).toBeCloseTo(-0.25 / 3, 12)
    expect(report.kinds[1]!.gain.mean).toBeCloseTo(-0.125 / 3, 12)
    expect(report.distributions.map(({ kind, completions, histogram }) => [kind, completions, histogram])).toEqual([
      ["without preprompt", 3, [0, 1, 1, 1]],
      ["generic", 3, [0, 1, 2, 0]],
      ["template", 3, [0, 2, 0, 1]]
    ])
  })
  it("is null over kept prompts if there are none", () => {
    const none = gainOf(original, [original], ["same"], { unfinished: "drop", bins: 4 }, 1)!
    expect([none.kept, none.keptScores]).toEqual([0, null])
  })
  it("is a report, with a name for each kind", async () => {
    const inputs = {
      original: await rowsArtifact(ScoredCompletions, original),
      prefixed: [await rowsArtifact(ScoredCompletions, generic), await rowsArtifact(ScoredCompletions, template)]
    }
    const result = await runStage(distillationGain, inputs, { kinds: ["generic", "template"], bins: 4 })
    expect(await reportIn(result, DistillationGainReport)).toEqual(report)
    const numbered = await reportIn(await runStage(distillationGain, inputs), DistillationGainReport)
    expect(numbered.kinds.map(({ kind }) => kind)).toEqual(["preprompt 1", "preprompt 2"])
    expect(await failureOf(distillationGain, inputs, { kinds: ["generic"] })).toContain("expected 2 names")
  })
})

describe("a histogram", () => {
  it("counts each score once: a boundary belongs to the bin above it, 1 to the last", () => {
    expect(unitHistogram([0, 0.1, 0.25, 0.5, 0.99, 1], 4)).toEqual([2, 1, 1, 2])
  })
})

describe("safety SFT", () => {
  const pair = (id: string, chosenSafe: boolean | null, chosen = "no") => ({
    id,
    prompt: [user(`how to ${id}`)],
    chosen,
    rejected: "sure",
    rating: null,
    chosenSafe,
    rejectedSafe: null,
    source: "test"
  })
  it("uses the chosen answers that were labelled safe, and no others", async () => {
    const preferences = await rowsArtifact(Preferences, [pair("a", true), pair("b", false), pair("c", null), pair("d", true, "")])
    const result = await runStage(safeDemonstrations, { preferences })
    expect(await rowsIn(result, Demonstrations)).toEqual([{ id: "a", messages: [user("how to a"), assistant("no")], loss: "answers" }])
    expect(result.metrics).toEqual({ rows: 1, unlabelled: 1, unsafe: 1, unusable: 1 })
  })
  it("mixes them into the other demonstrations, with a separate weight", async () => {
    const safe = await runStage(safeDemonstrations, { preferences: await rowsArtifact(Preferences, [pair("a", true)]) })
    const helpful = { id: "h", messages: [user("hello"), assistant("hi")], loss: "last-answer" as const }
    const mixed = await runStage(
      mixDemonstrations,
      { datasets: [await rowsArtifact(Demonstrations, [helpful]), safe] },
      { weights: [1, 2] }
    )
    expect((await rowsIn(mixed, Demonstrations)).map((row) => `${row.id} ${row.loss}`).sort()).toEqual([
      "a answers",
      "a answers",
      "h last-answer"
    ])
  })
})
