/** Rows, answers side by side and tokens, which the server of `caravan ui` reads from datasets. */
import { renameSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import type { ResultLine } from "../../../cli/ui/api.ts"
import { caravan, removeFolder, runJson, workFolder } from "../caravan.ts"
import { serve, type Served } from "./server.ts"

let folder: string
let served: Served
let run: string
let results: Map<string, ResultLine>

const source = `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { writeDataset } from "../../../data/dataset.ts"
import * as Pipeline from "../../../runtime/define/pipeline.ts"
import * as Stage from "../../../runtime/define/stage.ts"
import { hyper, hyperInt } from "../../../schemas/hyper.ts"
import { readRows } from "../../../data/dataset.ts"
import { Completions, Demonstrations, Prompts, ScoredCompletions, Texts } from "../../../schemas/rows.ts"
import { pretrain } from "../../../stages/training/pretrain.ts"
import { tokenizer } from "../../../stages/training/tokenizer.ts"

const made = { inputs: {}, seeded: false, resources: { inProcess: true } } as const
export const texts = Stage.make("some-texts", { ...made, config: Schema.Struct({}), output: Texts, run: Effect.fn("texts")(function* ({ output }) {
  return yield* writeDataset(output, Array.from({ length: 10000 }, (_, i) => ({ text: "the cat number " + i + (i === 9999 ? " is a NEEDLE" : " sat on the mat") })))
}) })
export const demonstrations = Stage.make("some-demonstrations", { ...made, config: Schema.Struct({}), output: Demonstrations, run: Effect.fn("d")(function* ({ output }) {
  const messages = [{ role: "user", content: "the cat" }, { role: "assistant", content: "sat" }, { role: "user", content: "on" }, { role: "assistant", content: "the mat" }] as const
  return yield* writeDataset(output, [{ id: "all", messages, loss: "answers" }, { id: "last", messages, loss: "last-answer" }])
}) })
export const prompts = Stage.make("some-prompts", { ...made, config: Schema.Struct({ words: hyper("", "before the id"), category: hyper("illicit", "of b") }), output: Prompts, run: Effect.fn("p")(function* ({ config, output }) {
  return yield* writeDataset(output, ["a", "b"].map((id) => ({ id, messages: [{ role: "user", content: config.words + id } as const], safety: id === "b", category: id === "b" ? config.category : null, followUps: [] })))
}) })
export const answers = Stage.make("some-answers", { ...made, config: Schema.Struct({ which: hyper("first", "of two"), rows: hyperInt(2, "n") }), output: ScoredCompletions, run: Effect.fn("a")(function* ({ config, output }) {
  const text = { a: { first: "the cat sat", second: "the cat" }, b: { first: "I can't help with that.", second: "on the mat" } } as Record<string, Record<string, string>>
  return yield* writeDataset(output, ["a", "b"].map((id, i) => ({
    promptId: id, prompt: [{ role: "user" as const, content: id }], safety: id === "b", sample: 0, text: text[id]![config.which]!, tokens: [5, 6, 2], logProbabilities: [-0.5, -1, -2],
    finished: i === 0, temperature: 1, policy: "0", reward: i === 0 ? 1.5 : NaN, helpfulnessScore: 0.25, safetyScore: null
  })))
}) })
export const sampled = Stage.make("some-samples", { ...made, config: Schema.Struct({}), output: Completions, run: Effect.fn("s")(function* ({ output }) {
  return yield* writeDataset(output, ["a", "b", "c"].map((id) => ({
    promptId: id, prompt: [{ role: "user" as const, content: id }], safety: false, sample: 0, text: id === "b" ? "" : "said " + id, tokens: [5, 2], logProbabilities: [-1, -2],
    finished: true, temperature: 1, policy: "0"
  })))
}) })
export const scores = Stage.make("some-scores", { ...made, inputs: { completions: Completions }, config: Schema.Struct({}), output: ScoredCompletions, run: Effect.fn("sc")(function* ({ inputs, output }) {
  const rows = yield* readRows(inputs.completions, Completions)
  return yield* writeDataset(output, rows.filter(({ promptId }) => promptId === "c").map((row) => ({ ...row, reward: 2, helpfulnessScore: 0.5, safetyScore: null })))
}) })

const sizes = { dim: 8, layers: 1, heads: 2, kvHeads: 2, ffn: 16, contextLength: 64, sequenceLength: 32, steps: 1, batchSize: 2, microBatchSize: 2, warmupSteps: 1 }
export default Pipeline.make("reading", { params: Schema.Struct({}) }, () => {
  const lines = texts({}).named("texts")
  const words = tokenizer({ texts: lines }, { vocabSize: 300 }).named("words")
  const said = sampled({}).named("sampled")
  const policy = (learningRate: number) => pretrain({ tokenizer: words, texts: lines }, { ...sizes, learningRate })
  return {
    demonstrations: demonstrations({}).named("demonstrations"), prompts: prompts({}).named("prompts"),
    others: prompts({}, { words: "other ", category: "of another prompt" }).named("prompts-of-the-same-ids"),
    first: answers({}, { which: "first" }).named("answers-first"), second: answers({}, { which: "second" }).named("answers-second"),
    sampled: said, scored: scores({ completions: said }).named("scored"),
    policy: policy(1e-3).named("policy"), reference: policy(1e-2).named("reference")
  }
})
`

beforeAll(async () => {
  folder = workFolder()
  writeFileSync(join(folder, "reading.ts"), source)
  const document = runJson(folder, "reading.ts")
  expect(document.status).toBe("succeeded")
  run = (JSON.parse(document.stdout) as { run: string }).run
  served = await serve(join(folder, "home"))
  results = new Map(((await served.get(`/api/results?run=${run}`)).json as ReadonlyArray<ResultLine>).map((line) => [line.node, line]))
}, 180_000)
afterAll(async () => {
  await served.close()
  removeFolder(folder)
})

const digest = (node: string) => results.get(node)!.digest
const ask = async (path: string) => (await served.get(path)).json

describe("rows", () => {
  it("come in pages, in order", async () => {
    const part = await ask(`/api/rows?digest=${digest("texts")}&from=4095&limit=3`)
    expect(part).toMatchObject({ name: "texts", type: "text/1", total: 10_000, next: 4098 })
    expect(part.rows).toEqual([4095, 4096, 4097].map((index) => ({ index, row: { text: `the cat number ${index} sat on the mat` } })))
    expect(await ask(`/api/rows?digest=${digest("texts")}&from=9999&limit=5`)).toMatchObject({ rows: [{ index: 9999 }], next: null })
    expect(await ask(`/api/rows?digest=${digest("texts")}&from=10000`)).toMatchObject({ rows: [], next: null })
  })

  it("are searched, ignoring case, in the complete file", async () => {
    expect(await ask(`/api/rows?digest=${digest("texts")}&search=needle`)).toMatchObject({ rows: [{ index: 9999 }], next: null })
    const some = await ask(`/api/rows?digest=${digest("texts")}&search=NUMBER%2012&limit=2`)
    expect(some.rows.map(({ index }: { index: number }) => index)).toEqual([12, 120])
    expect((await ask(`/api/rows?digest=${digest("texts")}&search=NUMBER%2012&limit=1&from=${some.next}`)).rows[0].index).toBe(121)
  })

  it("have NaN as text, and lists and dialogues unchanged", async () => {
    const { rows } = await ask(`/api/rows?digest=${digest("answers-first")}`)
    expect(rows[1].row).toMatchObject({ reward: "NaN", safetyScore: null, tokens: [5, 6, 2], prompt: [{ role: "user", content: "b" }] })
  })

  it("of something that is not a dataset, unknown, missing or truncated are reported", async () => {
    const of = async (name: string) => {
      const { json, status } = await served.get(`/api/rows?digest=${name}`)
      return [status, json.message] as const
    }
    expect(await of(digest("words"))).toEqual([404, expect.stringContaining("has no rows")])
    expect(await of("0".repeat(64))).toEqual([404, expect.stringContaining("No run here made")])
    expect((await of("../../../etc/passwd"))[0]).toBe(400)
    const place = (JSON.parse(caravan(folder, "show", "latest:prompts", "--json").stdout) as { nodes: ReadonlyArray<{ path: string }> })
      .nodes[0]!.path
    renameSync(place, `${place}-away`)
    expect(await of(digest("prompts"))).toEqual([404, expect.stringContaining("no longer in the store")])
    renameSync(`${place}-away`, place)
    const { path } = JSON.parse(runJson(folder, "reading.ts").stdout).outputs.demonstrations as { path: string }
    renameSync(join(path, "data.arrow"), join(path, "whole"))
    writeFileSync(join(path, "data.arrow"), "")
    truncateSync(join(path, "data.arrow"), 2000)
    // The manifest has another size: it counts as missing.
    expect((await of(digest("demonstrations")))[0]).toBe(404)
    renameSync(join(path, "whole"), join(path, "data.arrow"))
  })
})

describe("answers", () => {
  const sets = () => `${digest("answers-first")},${digest("answers-second")}`
  it("are next to each other, with rewards, refusals and the categories of their own prompts", async () => {
    const { categories, prompts, total } = await ask(`/api/answers?run=${run}&sets=${sets()}`)
    expect([total, categories]).toEqual([2, ["illicit"]])
    expect(prompts.map(({ answers, category, id }: any) => [id, category, answers.map((one: any) => one.text)])).toEqual([
      ["a", null, ["the cat sat", "the cat"]],
      ["b", "illicit", ["I can't help with that.", "on the mat"]]
    ])
    expect(prompts[0].answers[0]).toMatchObject({ reward: 1.5, helpfulness: 0.25, safety: null, refusal: null, finished: true })
    expect(prompts[1].answers[0]).toMatchObject({ reward: "NaN", refusal: expect.any(String), finished: false })
  })

  it("are filtered by words, category and refusal", async () => {
    const ids = async (query: string) => (await ask(`/api/answers?run=${run}&sets=${sets()}&${query}`)).prompts.map((one: any) => one.id)
    expect(await ids("search=SAT")).toEqual(["a"])
    expect(await ids("category=illicit")).toEqual(["b"])
    expect(await ids("refusal=refused")).toEqual(["b"])
    expect(await ids("refusal=differing")).toEqual(["b"])
    expect(await ids("refusal=answered")).toEqual(["a"])
    expect(await ids("from=1&limit=1")).toEqual(["b"])
  })

  it("that scoring skipped are shown without a score, after the others", async () => {
    const { prompts, total } = await ask(`/api/answers?run=${run}&sets=${digest("scored")},${digest("sampled")}`)
    expect(total).toBe(3)
    expect(prompts.map(({ answers, id }: any) => [id, answers[0].text, answers[0].reward, answers[0].isUnscored])).toEqual([
      ["c", "said c", 2, false],
      ["a", "said a", null, true],
      ["b", "", null, true]
    ])
    // A set without any scores has none missing.
    expect(prompts.map(({ answers }: any) => [answers[1].reward, answers[1].isUnscored])).toEqual(Array(3).fill([null, false]))
  })

  it("that scoring skipped are omitted if the answers that were scored have been deleted", async () => {
    const place = join(folder, "home", "objects", digest("sampled").slice(0, 2), digest("sampled"))
    renameSync(place, `${place}-away`)
    const other = await serve(join(folder, "home"))
    const { json } = await other.get(`/api/answers?run=${run}&sets=${digest("scored")}`)
    await other.close()
    renameSync(`${place}-away`, place)
    expect(json.prompts.map(({ id }: any) => id)).toEqual(["c"])
  })

  it("of datasets without answers, or of too many sets, are rejected", async () => {
    for (const some of [digest("texts"), "x", Array(7).fill(digest("answers-first")).join(",")])
      expect((await served.get(`/api/answers?run=${run}&sets=${some}`)).status).toBe(400)
  })
})

describe("tokens", () => {
  const words = (view: any, trained: boolean) =>
    view.tokens
      .filter((token: any) => token.trained === trained)
      .map((token: any) => token.text)
      .join("")

  it("show which carry loss: all answers, or only the last", async () => {
    const of = (row: number) => ask(`/api/tokens?digest=${digest("demonstrations")}&row=${row}&model=${digest("words")}`)
    // Llama 2's format: each answer and the token that ends it.
    expect(words(await of(0), true)).toBe(" sat </s> the mat </s>")
    expect(words(await of(1), true)).toBe(" the mat </s>")
    expect(words(await of(1), false)).toBe("<s> [INST] the cat [/INST] sat </s><s> [INST] on [/INST]")
  })

  it("of an answer have the log-probabilities with which it was sampled", async () => {
    const { tokens } = await ask(`/api/tokens?digest=${digest("answers-first")}&row=0&model=${digest("words")}`)
    expect(tokens.slice(-3).map(({ logProbability }: any) => logProbability)).toEqual([-0.5, -1, -2])
    expect(tokens.slice(0, -3).every(({ logProbability, trained }: any) => logProbability === null && !trained)).toBe(true)
  })

  it("have those of a checkpoint and of a reference, from caravan logprobs", async () => {
    const { tokens } = await ask(
      `/api/tokens?digest=${digest("demonstrations")}&row=0&model=${digest("policy")}&score=yes&reference=${digest("reference")}`
    )
    expect(tokens[0]).toMatchObject({ logProbability: null, reference: null })
    // A model after one step: every token is about equally likely among 300.
    const mean = tokens.slice(1).reduce((sum: number, token: any) => sum + token.logProbability, 0) / (tokens.length - 1)
    expect(Math.abs(mean + Math.log(300))).toBeLessThan(0.7)
    expect(tokens.slice(1).some((token: any) => token.logProbability !== token.reference)).toBe(true)
  }, 60_000)

  it("without a row, a dialogue or a model are rejected with a message", async () => {
    const of = async (query: string) => {
      const { json, status } = await served.get(`/api/tokens?${query}`)
      return [status, json.message] as const
    }
    expect(await of(`digest=${digest("demonstrations")}&row=2&model=${digest("words")}`)).toEqual([
      400,
      "Row 2 does not exist: the dataset has 2 rows."
    ])
    expect((await of(`digest=${digest("texts")}&row=0&model=${digest("words")}`))[1]).toContain("not dialogues")
    expect((await of(`digest=${digest("demonstrations")}&row=0&model=${digest("texts")}`))[0]).toBe(400)
    expect((await of(`digest=${digest("demonstrations")}&row=0&model=${digest("words")}&score=yes`))[1]).toContain("Choose a policy")
  })
})
