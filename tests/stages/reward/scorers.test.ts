/** Scorers instead of a reward model: how stages use their numbers, and the errors if there is none. */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, symlinkSync, writeFileSync } from "node:fs"
import { createServer, type Server } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { readRows } from "../../../data/dataset.ts"
import type { ArtifactRef, ExternalFile } from "../../../schemas/artifact.ts"
import { type Completion, Completions, type Preference, Preferences, PairScores, ScoredCompletions } from "../../../schemas/rows.ts"
import { readGrade } from "../../../stages/common/scorer.ts"
import { generalScorer, helpfulnessScorer, safetyScorer } from "../../../stages/reward/scorers.ts"
import { evaluateReward, scorePairs } from "../../../stages/reward/evaluate-reward.ts"
import { score } from "../../../stages/reward/score.ts"
import { scoreCombined } from "../../../stages/reward/score-combined.ts"
import * as Effect from "effect/Effect"
import { failureOf, rowsArtifact, runStage } from "../running.ts"

const path = (name: string) => fileURLToPath(new URL(`scorers/${name}`, import.meta.url))
const file = (name: string): ArtifactRef<ExternalFile> => ({ path: path(name), type: "file", digest: name, contentDigest: name })
const code = file("sums.ts")
const byFunction = (config = {}) => runStage(helpfulnessScorer, { code }, config)
const command = `${process.execPath} program.mjs`
const byProgram = (config = {}) => runStage(helpfulnessScorer, { code: file("program.mjs") }, { kind: "program", command, ...config })

const answer = (text: string, over: Partial<Completion> = {}): Completion => ({
  ...{ promptId: "p7", prompt: [{ role: "user", content: "What is 3 + 4?" }], safety: false, sample: 0, text },
  ...{ tokens: [5], logProbabilities: [-1], finished: true, temperature: 1, policy: "p", ...over }
})
const completions = (...texts: ReadonlyArray<string>) =>
  rowsArtifact(
    Completions,
    texts.map((text, sample) => answer(text, { sample }))
  )
const rewardsOf = async (ref: ArtifactRef<any>) => (await Effect.runPromise(readRows(ref, ScoredCompletions))).map(({ reward }) => reward)

describe.each([
  ["a function", byFunction],
  ["a program", byProgram]
] as const)("%s", (_, make) => {
  it("scores completions instead of a reward model, and leaves out blank ones", async () => {
    const made = await runStage(score, { reward: await make(), completions: await completions("7", "8", " ", "7") }, { batchSize: 2 })
    expect(await rewardsOf(made)).toEqual([1, 0, 1])
    expect(made.metrics).toMatchObject({ scored: 3, empty: 1, unfit: 0 })
    expect(made.skippedRows.map(({ reason, id }) => [reason, id])).toEqual([["without a word", "p7#2"]])
  })
  it("judges pairs", async () => {
    const pair = (id: string, chosen: string, rejected: string): Preference => ({
      ...{ id, prompt: [{ role: "user", content: "2 + 2 =" }], chosen, rejected },
      ...{ rating: 0, chosenSafe: null, rejectedSafe: null, source: "test" }
    })
    const pairs = await rowsArtifact(Preferences, [pair("a", "4", "5"), pair("b", "5", "4"), pair("c", "4", "3")])
    const scores = await runStage(scorePairs, { reward: await make(), pairs })
    expect((await Effect.runPromise(readRows(scores, PairScores))).map((row) => [row.chosenReward, row.rejectedReward])).toEqual([
      [1, 0],
      [0, 1],
      [1, 0]
    ])
    expect((await runStage(evaluateReward, { scores: [scores] })).type).toBe("report:reward-accuracy/2")
  })
})

describe("two scorers", () => {
  it("are combined by their roles: a safety score below -1.73 decides alone", async () => {
    const roles = { helpfulness: await byFunction(), safety: await runStage(safetyScorer, { code: file("constant.mjs") }) }
    const rows = await rowsArtifact(Completions, [
      answer("7"),
      answer("7", { sample: 1, text: "unsafe" }),
      answer("7", { sample: 2, safety: true })
    ])
    const rewards = await rewardsOf(await runStage(scoreCombined, { completions: rows, ...roles }))
    const wanted = [1, -3, 2]
    rewards.forEach((reward, i) => expect(reward).toBeCloseTo(wanted[i]!, 9))
  })
  it("of another role are rejected", async () => {
    const general = await runStage(generalScorer, { code })
    expect(general.type).toBe("checkpoint:general-reward")
    await expect(Effect.runPromise(helpfulnessScorer.stage.output.validate(general.path))).rejects.toThrow(
      'expected a checkpoint with the role helpfulness-reward, found "general-reward"'
    )
  })
})

describe("a function's result", () => {
  it("depends on its code, so that it changes with the code", async () => {
    const made = await byFunction()
    expect(readdirSync(made.path).sort()).toEqual(["caravan.json", "code", "scorer.json"])
    expect((await byFunction()).digest).toBe(made.digest)
    expect((await runStage(helpfulnessScorer, { code: file("constant.mjs") })).digest).not.toBe(made.digest)
  })
  it("contains the files to which links in its code lead", async () => {
    const folder = mkdtempSync(join(tmpdir(), "caravan-linked-"))
    mkdirSync(join(folder, "code/.bin"), { recursive: true })
    copyFileSync(path("constant.mjs"), join(folder, "code/index.mjs"))
    symlinkSync("../index.mjs", join(folder, "code/.bin/tool"))
    symlinkSync("code/index.mjs", join(folder, "link.mjs"))
    const files = async (name: string) => {
      const made = await runStage(helpfulnessScorer, { code: { ...file(name), path: join(folder, name) } })
      return readdirSync(join(made.path, "code"), { recursive: true, withFileTypes: true })
        .filter((entry) => !entry.isDirectory())
        .map((entry) => [entry.name, entry.isFile()])
        .toSorted(([a], [b]) => (a! < b! ? -1 : 1))
    }
    expect(await files("link.mjs")).toEqual([["link.mjs", true]])
    expect(await files("code")).toEqual([
      ["index.mjs", true],
      ["tool", true]
    ])
  })
  it("can't be modified by the function: it runs in a copy", async () => {
    const made = await runStage(helpfulnessScorer, { code: file("writing.mjs") })
    await runStage(score, { reward: made, completions: await completions("7") })
    expect(readdirSync(join(made.path, "code"))).toEqual(["writing.mjs"])
  })
})

describe("a scorer that gives no number reports it", () => {
  const failure = async (text: string, make = byFunction, config: Record<string, unknown> = {}) =>
    failureOf(score, { reward: await make(config), completions: await completions("7", text) })
  const doing = (n: number, of = "the function sums.ts") =>
    `Scoring answer ${n} of 2 (to prompt p7#1) with ${of}: expected a number from -16 to 16, found`
  it.each([
    ["throw", "that it threw RangeError: no such answer. Fix it and run again."],
    ["exit", "that it ended with code 3 after printing: looking at 7. Fix it and run again."],
    ["nan", '"NaN". Return a number in that range for each answer, for example 1 for correct and 0 for wrong.'],
    ["text", '"1". Return a number in that range for each answer, for example 1 for correct and 0 for wrong.'],
    ["large", "100. Return a number in that range for each answer, for example 1 for correct and 0 for wrong."],
    ["nothing", "undefined. Return a number in that range for each answer, for example 1 for correct and 0 for wrong."]
  ])("if it does this: %s", async (text, found) => {
    expect(await failure(text)).toBe(`${doing(2)} ${found}`)
  })
  it("if it never ends", async () => {
    expect(await failure("never", byFunction, { timeout: 2 })).toBe(
      `${doing(2)} nothing within 2 seconds. It does not finish for this answer, or needs longer: fix it, or raise timeout.`
    )
  })
  it("if a program exits, or answers nothing", async () => {
    const program = "the program program.mjs"
    expect(await failure("die", byProgram)).toBe(
      `${doing(2, program)} that it ended with code 4 after printing: can't go on. Fix it and run again.`
    )
    expect(await failure("silent", byProgram, { timeout: 2 })).toBe(
      `${doing(2, program)} nothing within 2 seconds. It must write one line for each line that it reads, immediately (flush the output). Fix it, or raise timeout.`
    )
  })
  it("if a program gives more numbers than there are answers", async () => {
    const rows = await completions("twice", "7", "7")
    expect(await failureOf(score, { reward: await byProgram(), completions: rows })).toMatch(
      /^Scoring answer [23] of 3 \(to prompt p7#[12]\) with the program program\.mjs: .* found an extra line: "(0\.5|1)"\. It must write exactly one line for each/
    )
  })
  it("if there is no such program", async () => {
    const none = await byProgram({ command: "no-such-program sums" })
    expect(await failureOf(score, { reward: none, completions: await completions("7") })).toContain(
      "that there is no program no-such-program"
    )
  })
  it("if a module has no function, or can't be read", async () => {
    const of = async (name: string) =>
      failureOf(score, { reward: await runStage(helpfulnessScorer, { code: file(name) }), completions: await completions("7") })
    expect(await of("no-function.mjs")).toContain("its default export is missing")
    const broken = join(mkdtempSync(join(tmpdir(), "caravan-scorer-test-")), "broken.mjs")
    writeFileSync(broken, "export default (")
    const reward = await runStage(helpfulnessScorer, { code: { ...file("broken.mjs"), path: broken } })
    expect(await failureOf(score, { reward, completions: await completions("7") })).toContain("SyntaxError")
  })
})

describe("a scorer is rejected", () => {
  it.each([
    [
      {},
      undefined,
      'Creating a scorer of kind function: expected its code, found none. Connect the input code, for example fileAt("check.ts").'
    ],
    [{ kind: "program" }, "program.mjs", "Creating a scorer of kind program: expected a command, found none."],
    [{ command: "node" }, "sums.ts", "Creating a scorer of kind function: expected no command, found node."],
    [{}, "text.txt", "Creating a scorer of kind function: expected a module (.ts, .js, .mjs), found text.txt."],
    [{ kind: "judge" }, "sums.ts", "Creating a scorer of kind judge: expected no code"]
  ])("with %j and the code %s", async (config, name, message) => {
    expect(await failureOf(helpfulnessScorer, name === undefined ? {} : { code: file(name) }, config)).toContain(message)
  })
})

describe("a judge", () => {
  let server: Server
  let asked: Array<{ readonly model: string; readonly messages: ReadonlyArray<{ readonly content: string }> }>
  let url: string
  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = ""
      request.on("data", (text: string) => (body += text))
      request.on("end", () => {
        const question = JSON.parse(body) as (typeof asked)[number]
        asked.push(question)
        const { content } = question.messages[0]!
        const said = content.endsWith("odd") ? "I'd rather not" : `{"grade": ${content.endsWith("good") ? 10 : 0}}`
        response.end(JSON.stringify({ choices: [{ message: { content: said } }] }))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, resolve))
    url = `http://localhost:${(server.address() as { readonly port: number }).port}/v1`
  })
  afterAll(() => new Promise((resolve) => server.close(resolve)))

  it("grades each answer by the guideline; an answer without a grade is skipped", async () => {
    asked = []
    const reward = await runStage(helpfulnessScorer, {}, { kind: "judge", url, model: "m", guideline: "Be strict." })
    const made = await runStage(score, { reward, completions: await completions("good", "bad", "odd") })
    const top = Math.log(10.5 / 0.5)
    expect(await rewardsOf(made)).toEqual([expect.closeTo(top, 9), expect.closeTo(-top, 9)])
    expect(made.metrics).toMatchObject({ scored: 2, empty: 0, unfit: 1 })
    expect(made.skippedRows.map(({ reason }) => reason)).toEqual(["of which m gave no grade"])
    expect(asked[0]!.model).toBe("m")
    expect(asked[0]!.messages[0]!.content).toContain("Be strict.")
    expect(asked[0]!.messages[0]!.content).toContain("user: What is 3 + 4?")
  })
  it("is rejected without an address, and if its key is not set", async () => {
    const of = async (config: Record<string, unknown>) =>
      failureOf(score, {
        reward: await runStage(helpfulnessScorer, {}, { kind: "judge", ...config }),
        completions: await completions("good")
      })
    expect(await of({})).toContain("A judge needs an endpoint: set url (for example https://host/v1) and model.")
    expect(await of({ url, model: "m", keyVariable: "NO_SUCH_KEY" })).toContain("environment variable NO_SUCH_KEY, which is not set")
  })
  it.each([
    ['{"grade": 3}', Math.log(3.5 / 7.5)],
    ['```json\n{"grade": 5}\n```', 0]
  ])("that answers %s gave %s", (said, wanted) => {
    expect(readGrade(said)).toBeCloseTo(wanted, 12)
  })
  it.each(['{"grade": 11}', '{"grade": 2.5}', "null", "ten"])("that answers %s gave no grade", (said) => {
    expect(readGrade(said)).toBeUndefined()
  })
})
