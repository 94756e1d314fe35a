/** Recall of facts: of models whose weights are set by hand; the mixture of sources; the small world's facts. */
import { describe, expect, it } from "vitest"
import { facts, factTexts, maxFacts, questionAbout, towns } from "../../../data/world/facts.ts"
import { Random } from "../../../engine/random.ts"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama } from "../../../models/llama.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
import { Texts } from "../../../schemas/rows.ts"
import { epochsOf, mixSources } from "../../../stages/data/mix-sources.ts"
import { factRecall, FactQuestions, FactRecallReport } from "../../../stages/evaluation/fact-recall.ts"
import { factRecallFigure, factRecallTable, type Mixed, overSeeds } from "../../../stages/report/chapter-pretraining.ts"
import { worldFactQuestions, worldFactTexts } from "../../../stages/world/facts.ts"
import { artifact, failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { talkingPolicy, tokenizer as small } from "../talking.ts"

const question = (text: string, answer: string, ...others: ReadonlyArray<string>) => ({ question: text, answer, others })
const recallOf = async (policy: ArtifactRef<any>, rows: ReadonlyArray<ReturnType<typeof question>>, texts?: ReadonlyArray<string>) => {
  const given =
    texts === undefined
      ? {}
      : {
          texts: await rowsArtifact(
            Texts,
            texts.map((text) => ({ text }))
          )
        }
  const made = await runStage(factRecall, { policy, questions: await rowsArtifact(FactQuestions, rows), ...given })
  return { ...(await reportIn(made, FactRecallReport)), skipped: made.skipped }
}

describe("recall", () => {
  it("is of what a model says after the question, and not of what it says after another", async () => {
    // Every block adds nothing, so that the last token alone decides: "a" follows "x", "b" follows "y".
    const model = initLlama(
      llamaConfig({ vocabSize: small.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 64 }),
      { seed: 1 }
    )
    const { parameters } = model
    const embeddings = parameters["model.embed_tokens.weight"]!.toNumbers() // (V, D)
    const head = new Float32Array(embeddings.length)
    const tokenOf = (text: string) => small.encode(text).at(-1)!
    for (const [last, next] of [
      ["x", "xa"],
      ["y", "yb"]
    ] as const) {
      const row = embeddings.slice(16 * tokenOf(last), 16 * tokenOf(last) + 16)
      const size = Math.hypot(...row)
      row.forEach((value, i) => (head[16 * tokenOf(next) + i] = (3 * value) / size))
    }
    scoped(() =>
      noGrad(() => {
        for (const [name, weight] of Object.entries(parameters)) if (/(o_proj|down_proj)\.weight$/.test(name)) weight.mul_(0)
        parameters["lm_head.weight"]!.copy_(tensor(head, { shape: [small.vocabSize, 16] }))
      })
    )
    const policy = await artifact(Policy, (slot) => saveCheckpoint(slot, { model, tokenizer: small }))
    const found = await recallOf(policy, [
      question("x", "a", "b"),
      question("y", "b", "a"),
      question("x", "b", "a"),
      question("y", "a", "b")
    ])
    expect(found).toMatchObject({ facts: 4, recalled: { mean: 0.5 }, chance: 0.5, loss: null })
    expect((await recallOf(policy, [question("x", "a", "b"), question("y", "b", "a")])).recalled.mean).toBe(1)
  })
  it("of a model with a uniform distribution depends on length alone, a tie does not count as recall, and its loss is log V", async () => {
    const model = initLlama(
      llamaConfig({ vocabSize: small.vocabSize, dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 64 }),
      { seed: 1 }
    )
    scoped(() => noGrad(() => void model.parameters["lm_head.weight"]!.mul_(0)))
    const policy = await artifact(Policy, (slot) => saveCheckpoint(slot, { model, tokenizer: small }))
    const rows = [question("x", "a", "bbbbbbbb zzz"), question("x", "bbbbbbbb zzz", "a"), question("x", "a", "b")]
    const { facts: count, loss, recalled, skipped } = await recallOf(policy, rows, ["ab ba", "x ".repeat(400)])
    expect([count, recalled.mean]).toEqual([3, expect.closeTo(1 / 3, 12)])
    expect(loss!.mean).toBeCloseTo(Math.log(small.vocabSize), 4)
    expect(skipped).toMatchObject([{ what: "texts", of: 2, reasons: { "longer than the context of 64 tokens": 1 } }])
  })
  it("skips questions without an alternative continuation, and fails if there is no question left", async () => {
    const policy = await talkingPolicy(1)
    const found = await recallOf(policy, [question("x", "a", "b"), question("x", "a"), question("x", "a", "a", "b")])
    expect([found.facts, found.loss, found.skipped.length]).toEqual([1, null, 1])
    const none = await rowsArtifact(FactQuestions, [question("x", "a")])
    expect(await failureOf(factRecall, { policy, questions: none })).toMatch(
      /Nothing to recall: got 1 questions with a right and a wrong continuation/
    )
  })
})

describe("a mixture of named sources", () => {
  const source = (name: string, count: number) =>
    rowsArtifact(
      Texts,
      Array.from({ length: count }, (_, i) => ({ text: `${name}${i}` }))
    )
  const mixed = async (config: Record<string, unknown>) => {
    const made = await runStage(mixSources, { sources: [await source("d", 100), await source("r", 4)] }, config)
    const texts = (await rowsIn(made, Texts)).map(({ text }) => text)
    return { texts, metrics: made.metrics, count: (name: string) => texts.filter((text) => text.startsWith(name)).length }
  }
  it("has each source's share of the rows; a small source with a large share is repeated", async () => {
    const { count, metrics, texts } = await mixed({ names: ["d", "r"], shares: [0.8, 0.2], rows: 50 })
    expect([count("d"), count("r")]).toEqual([40, 10])
    // Each of the four texts twice, and half of them a third time.
    expect(
      [
        ...Map.groupBy(
          texts.filter((text) => text.startsWith("r")),
          (text) => text
        ).values()
      ]
        .map(({ length }) => length)
        .toSorted((a, b) => a - b)
    ).toEqual([2, 2, 3, 3])
    expect(new Set(texts.filter((text) => text.startsWith("d"))).size).toBe(40)
    expect(metrics).toMatchObject({ "d epochs": 0.4, "r epochs": 2.5 })
  })
  it("has as many rows as the sources unless specified, and normalises the shares", async () => {
    const { count, texts } = await mixed({ names: ["d", "r"], shares: [1, 1] })
    expect([texts.length, count("r")]).toEqual([104, 52])
    expect(epochsOf([100, 4], [3, 1], 104)).toEqual([0.78, 6.5])
    expect((await mixed({ names: ["d", "r"], shares: [1, 0] })).count("r")).toBe(0)
  })
  it("refuses invalid shares, and a share of a source without texts", async () => {
    const sources = [await source("d", 3), await rowsArtifact(Texts, [])]
    const failure = (config: Record<string, unknown>) => failureOf(mixSources, { sources }, config)
    expect(await failure({ names: ["d"], shares: [1] })).toMatch(/expected at least one set, and a distinct name for each/)
    expect(await failure({ names: ["d", "r"], shares: [1] })).toMatch(
      /expected a share for each of d, r, at least one above 0, found \[1\]/
    )
    expect(await failure({ names: ["d", "r"], shares: [0, 0] })).toMatch(/at least one above 0/)
    expect(await failure({ names: ["d", "r"], shares: [1, 1] })).toMatch(/expected texts of "r", whose share is 1, found none/)
    expect(await failure({ names: ["d", "r"], shares: [1, -1] })).toMatch(/shares/)
  })
})

describe("the small world's facts", () => {
  it("are stated about equally often, and each question offers every town as a choice", async () => {
    const known = facts(new Random(1, "x"), 20)
    expect(new Set(known.map(({ person }) => person)).size).toBe(20)
    const texts = Array.from(factTexts(new Random(1, "y"), known, 40))
    const stated = known.map(({ person }) => texts.join(" ").split(`${person} `).length - 1)
    // 200 statements of 20 facts; a third name the person last.
    const all = known.map(
      ({ person, town }) =>
        texts.join(" ").match(new RegExp(`(${person} lives in|home of ${person} is|${person} has a house in) ${town}\\.`, "g"))!.length
    )
    expect([new Set(all).size, all[0]]).toEqual([1, 10])
    expect(stated.every((count) => count > 0)).toBe(true)
  })
  it("have the same texts and questions for the same seed", async () => {
    const [made, asked] = [
      await runStage(worldFactTexts, {}, { facts: 5, count: 5 }, 7),
      await runStage(worldFactQuestions, {}, { facts: 5 }, 7)
    ]
    const text = (await rowsIn(made, Texts)).map((one) => one.text).join(" ")
    const questions = await rowsIn(asked, FactQuestions)
    expect(questions).toHaveLength(5)
    for (const { answer, others, question: asks } of questions) {
      expect([...others, answer].map((one) => one.slice(1, -1)).sort()).toEqual([...towns].sort())
      const person = asks.replace(" lives in", "")
      expect(text).toMatch(new RegExp(`(${asks}|home of ${person} is|${person} has a house in)${answer.replace(".", "\\.")}`))
    }
    expect(questionAbout({ person: "Ann", town: "Varn" })).toBe("Ann lives in")
    expect(await failureOf(worldFactQuestions, {}, { facts: maxFacts + 1 }).catch(String)).toMatch(/facts/)
  })
})

describe("recall in the report", () => {
  const model = (share: number, recalled: number, loss: number | null = 1): Mixed => ({
    ...{ share, epochs: share * 100, chance: 0.1, facts: 10, recalled: { mean: recalled, low: recalled - 0.2, high: recalled + 0.2 } },
    loss: loss === null ? null : { mean: loss, low: loss - 0.1, high: loss + 0.1 }
  })
  it("has a mean over seeds with Student's interval", () => {
    // Mean 0.2, standard error 0.1 / sqrt 3, t with two degrees of freedom 4.303.
    const found = overSeeds([0.1, 0.2, 0.3].map((mean) => ({ mean, low: 0, high: 1 })))
    expect([found.mean, found.high - found.mean]).toEqual([expect.closeTo(0.2, 12), expect.closeTo((4.303 * 0.1) / Math.sqrt(3), 10)])
    expect(overSeeds([{ mean: 0.5, low: 0.4, high: 0.7 }])).toEqual({ mean: 0.5, low: 0.4, high: 0.7 })
    // 30 degrees of freedom: 2.042.
    const many = Array.from({ length: 31 }, (_, i) => ({ mean: i, low: 0, high: 0 }))
    expect((overSeeds(many).high - 15) / (Math.sqrt((31 * 32) / 12) / Math.sqrt(31))).toBeCloseTo(2.042, 2)
  })
  it("is shown as a plot of recall and loss by share, and a table with each model", () => {
    const models = [model(0.4, 1), model(0.01, 0.1), model(0.01, 0.3), model(0.4, 0.9)]
    const rows = factRecallFigure("reference", models)!.rows
    expect(rows.map(({ measure, models: count, share, value }) => [share, measure, count, value])).toEqual([
      [0.01, "facts recalled", 2, expect.closeTo(0.2, 12)],
      [0.01, "loss on other text, nats per token", 2, 1],
      [0.4, "facts recalled", 2, expect.closeTo(0.95, 12)],
      [0.4, "loss on other text, nats per token", 2, 1]
    ])
    // A share stays within 0 and 1, whatever the interval.
    expect(rows[0]).toMatchObject({ low: 0, high: 1 })
    expect(factRecallTable("reference", models).rows[0]).toMatchObject({
      share: "1%",
      read: "1.0 times",
      models: 2,
      facts: 20,
      "each model": "0.10, 0.30"
    })
    expect(factRecallFigure("reference", [model(0.4, 1)])).toBeUndefined()
    expect(factRecallFigure("reference", [model(0.4, 1, null), model(0.1, 1, null)])!.rows).toHaveLength(2)
  })
})
