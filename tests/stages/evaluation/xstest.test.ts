/** XSTest: refusals of safe and of unsafe prompts by type, worked out by hand. Files in the published format: tests/stages/data/import-shapes.test.ts. */
import { describe, expect, it } from "vitest"
import { type Completion, Completions, type Prompt, Prompts } from "../../../schemas/rows.ts"
import { xsTest, XsTestReport } from "../../../stages/evaluation/xstest.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { completion } from "../samples.ts"

const [refuses, gives] = ["I can't help with that.", "Gladly: here it is."]
const prompt = (id: string, category: string | null, safety = false): Prompt => ({
  ...{ id, messages: [{ role: "user", content: id }], safety, category, followUps: [] }
})
/** Four safe prompts of two types, two unsafe ones of one. */
const prompts = [
  ...[prompt("h1", "homonyms"), prompt("h2", "homonyms"), prompt("f1", "figures"), prompt("f2", "figures")],
  ...[prompt("u1", "contrast_homonyms", true), prompt("u2", "contrast_homonyms", true)]
]
/** Answers by id of the prompt. */
const answersOf = (texts: Record<string, string>): Array<Completion> =>
  Object.entries(texts).map(([id, text]) => completion(id, 0, text, { safety: id.startsWith("u") }))
const timid = answersOf({ h1: refuses, h2: refuses, f1: gives, f2: "", u1: refuses, u2: refuses })
/** One prompt left no space for an answer. */
const bold = answersOf({ h1: gives, h2: gives, f1: gives, u1: refuses, u2: gives })

const inputsOf = async (...sets: ReadonlyArray<ReadonlyArray<Completion>>) => ({
  completions: await Promise.all(sets.map((rows) => rowsArtifact(Completions, rows))),
  prompts: await rowsArtifact(Prompts, prompts)
})
const found = async (config: Record<string, unknown> = {}) =>
  reportIn(await runStage(xsTest, await inputsOf(timid, bold), { names: ["timid", "bold"], ...config }), XsTestReport)

describe("XSTest", () => {
  it("has false refusals of safe prompts and refusals of unsafe ones, in total and by type, in the order of the prompts", async () => {
    const { prompts: counts, versions } = await found()
    expect(counts).toEqual({ safe: 4, unsafe: 2 })
    expect(versions.map(({ name, safe, unsafe }) => [name, safe!.refusals, safe!.prompts, unsafe!.refusals, unsafe!.prompts])).toEqual([
      ["timid", 2, 4, 2, 2],
      ["bold", 0, 3, 1, 2]
    ])
    // Wilson's interval of 2 of 4.
    expect([versions[0]!.safe!.rate.low, versions[0]!.safe!.rate.high].map((value) => value.toFixed(3))).toEqual(["0.150", "0.850"])
    expect(versions[0]!.byCategory.map(({ category, refusals, safe }) => [category, safe, refusals.refusals, refusals.prompts])).toEqual([
      ["homonyms", true, 2, 2],
      ["figures", true, 0, 2],
      ["contrast_homonyms", false, 2, 2]
    ])
  })
  it("counts empty answers, which refuse nothing, and prompts that left no space for one", async () => {
    const { versions } = await found()
    expect(versions.map(({ empty, unanswered }) => [empty, unanswered])).toEqual([
      [1, 0],
      [0, 1]
    ])
  })
  it("says how much more often the last version refuses, paired by the prompts that both answered", async () => {
    const { change } = await found()
    // Safe: of h1, h2 and f1 two fewer of three; f2 has no answer of bold's. Unsafe: one fewer of two.
    expect(change).toMatchObject([{ over: "timid", safe: { mean: expect.closeTo(-2 / 3, 10) }, unsafe: { mean: -0.5 } }])
    expect(change[0]!.safe!.high).toBeLessThanOrEqual(0)
    const reversed = await reportIn(await runStage(xsTest, await inputsOf(bold, timid), { names: ["bold", "timid"] }), XsTestReport)
    expect(reversed.change).toMatchObject([{ over: "bold", safe: { mean: expect.closeTo(2 / 3, 10) as number }, unsafe: { mean: 0.5 } }])
  })
  it("is corrected by the known errors of the grammar, or by labelled answers of your own model", async () => {
    const labelled = { labelledRefusals: 100, refusalsTold: 80, labelledCompliances: 100, falseAlarms: 10 }
    const { errors, versions } = await found(labelled)
    // Rogan and Gladen: (0.5 + 0.9 - 1) / (0.8 + 0.9 - 1).
    expect(versions[0]!.safe!.corrected!.mean).toBeCloseTo(0.4 / 0.7, 10)
    expect(errors).toEqual({ positives: 100, told: 80, negatives: 100, falseAlarms: 10 })
    expect((await found()).errors).toEqual({ positives: 240, told: 195, negatives: 210, falseAlarms: 10 })
    expect((await found({ openings: ["Gladly"] })).errors).toBeNull()
  })
  it("rejects answers to other prompts, names that do not match, and sets without answers", async () => {
    const stray = [...bold, completion("x", 0, gives)]
    const names = ["timid", "bold"]
    expect(await failureOf(xsTest, await inputsOf(timid, stray), { names })).toMatch(/found an answer to another prompt, "x"/)
    expect(await failureOf(xsTest, await inputsOf(timid, bold), { names: ["one"] })).toMatch(/found 2 sets and the names \["one"\]/)
    expect(await failureOf(xsTest, await inputsOf(timid, []), { names })).toMatch(/count refusals of bold in: got no completions/)
    const other = answersOf({ u1: gives }).map((row) => ({ ...row, safety: false }))
    expect(await failureOf(xsTest, await inputsOf(timid, other), { names })).toMatch(/two different prompts with the id "u1"/)
  })
})
