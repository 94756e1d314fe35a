/** Two models' answers before a judge, and before people: what each is shown, and the outcome of every pair. */
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Completion, Completions, type Preference, Preferences, ResponsePairs } from "../../../schemas/rows.ts"
import { annotate } from "../../../stages/preferences/annotate.ts"
import { estimatorOf } from "../../../stages/common/cost/estimator.ts"
import { sized, unknownSize } from "../../../stages/common/cost/size.ts"
import { judgedWinRate, JudgedWinRateReport, pairCompletions } from "../../../stages/evaluation/judged-win-rate.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { completion } from "../samples.ts"

const mine = (promptId: string, text: string, over: Partial<Completion> = {}) => completion(promptId, 0, text, { policy: "mine", ...over })
const theirs = (promptId: string, text: string, over: Partial<Completion> = {}) =>
  completion(promptId, 0, text, { policy: "theirs", temperature: 0.5, ...over })
const adversarial = { safety: true }
const setsOf = async (ours: ReadonlyArray<Completion>, opponent: ReadonlyArray<Completion>) => ({
  ours: await rowsArtifact(Completions, ours),
  opponent: await rowsArtifact(Completions, opponent)
})

describe("two models' answers", () => {
  it("are paired by prompt and sample, each with its checkpoint and temperature; those without a counterpart are counted", async () => {
    const sets = await setsOf(
      [mine("a", "m0"), mine("a", "m1", { sample: 1 }), mine("only", "m")],
      [theirs("a", "t1", { sample: 1 }), theirs("a", "t0")]
    )
    const made = await runStage(pairCompletions, sets)
    const rows = await rowsIn(made, ResponsePairs)
    expect(rows.map(({ id }) => id)).toEqual(["a#0", "a#1"])
    for (const [i, row] of rows.entries()) {
      const sides = [
        [row.responseA, row.policyA, row.temperatureA],
        [row.responseB, row.policyB, row.temperatureB]
      ]
      expect(sides).toContainEqual([`m${i}`, "mine", 1])
      expect(sides).toContainEqual([`t${i}`, "theirs", 0.5])
      expect(row.prompt).toEqual([{ role: "user", content: "a" }])
    }
    expect(made.metrics).toMatchObject({ pairs: 2, equal: 0, unpaired: 1 })
  })
  it("come in either order", async () => {
    const ids = Array.from({ length: 200 }, (_, i) => `p${i}`)
    const sets = await setsOf(
      ids.map((id) => mine(id, "m")),
      ids.map((id) => theirs(id, "t"))
    )
    const first = (await rowsIn(await runStage(pairCompletions, sets), ResponsePairs)).filter(({ responseA }) => responseA === "m").length
    // 100 of 200 expected; the deviation is 7.
    expect(Math.abs(first - 100)).toBeLessThan(30)
  })
  it("that are equal are shown to nobody, and an empty one is shown like any other", async () => {
    const made = await runStage(pairCompletions, await setsOf([mine("a", "x"), mine("b", "")], [theirs("a", "x"), theirs("b", "y")]))
    expect((await rowsIn(made, ResponsePairs)).map(({ id }) => id)).toEqual(["b#0"])
    expect(made.metrics).toMatchObject({ pairs: 1, equal: 1 })
  })
  it("are restricted to prompts of one kind, on request", async () => {
    const sets = await setsOf([mine("h", "m"), mine("s", "m", adversarial)], [theirs("h", "t"), theirs("s", "t", adversarial)])
    const ids = async (prompts: string) =>
      (await rowsIn(await runStage(pairCompletions, sets, { prompts }), ResponsePairs)).map(({ id }) => id)
    expect([await ids("all"), await ids("helpfulness"), await ids("safety")]).toEqual([["h#0", "s#0"], ["h#0"], ["s#0"]])
  })
  it("are planned with the number of prompts of that kind", async () => {
    const estimator = await estimatorOf(pairCompletions.stage)
    const size = (prompts: string) =>
      estimator!.size({
        config: { prompts },
        inputs: { ours: sized(unknownSize, { rows: 50, safetyShare: 0.1 }) },
        expected: {}
      })
    expect([size("all"), size("helpfulness"), size("safety")].map(({ rows, safetyShare }) => [rows, safetyShare])).toEqual([
      [50, 0.1],
      [45, 0],
      [5, 1]
    ])
  })
  it("to different prompts are rejected", async () => {
    expect(await failureOf(pairCompletions, await setsOf([mine("a", "m")], [theirs("b", "t")]))).toMatch(/no prompt in common/)
  })
})

const verdict = (id: string, chosen: string, rejected: string, over: Partial<Preference> = {}): Preference => ({
  ...{ id, prompt: [{ role: "user", content: id }], chosen, rejected, rating: 1, chosenSafe: null, rejectedSafe: null, source: "judge" },
  ...over
})
const ratesBy = async (
  ours: ReadonlyArray<Completion>,
  opponent: ReadonlyArray<Completion>,
  ...verdicts: ReadonlyArray<ReadonlyArray<Preference>>
) => ({ ...(await setsOf(ours, opponent)), verdicts: await Promise.all(verdicts.map((rows) => rowsArtifact(Preferences, rows))) })

describe("the judged win rate", () => {
  it("counts the chosen answers, separately for each kind of prompts, with Wilson's interval", async () => {
    const ids = ["a", "b", "c", "d"]
    const inputs = await ratesBy(
      [...ids.map((id) => mine(id, `m ${id}`)), mine("s", "m s", adversarial)],
      [...ids.map((id) => theirs(id, `t ${id}`)), theirs("s", "t s", adversarial)],
      ids.map((id) => (id === "d" ? verdict("d#0", "t d", "m d") : verdict(`${id}#0`, `m ${id}`, `t ${id}`))),
      [verdict("s#0", "t s", "m s")]
    )
    const found = await reportIn(await runStage(judgedWinRate, inputs), JudgedWinRateReport)
    expect(found.helpfulness).toMatchObject({ prompts: 4, wins: 3, losses: 1, ties: 0, undecided: 0, rate: { mean: 0.75 } })
    // Wilson, 3 of 4: (0.75 + 3.841459 / 8 -+ 1.959964 sqrt(0.1875 / 4 + 3.841459 / 64)) / (1 + 3.841459 / 4)
    expect([found.helpfulness!.rate!.low, found.helpfulness!.rate!.high].map((value) => value.toFixed(4))).toEqual(["0.3006", "0.9544"])
    expect(found.safety).toMatchObject({ prompts: 1, wins: 0, losses: 1, rate: { mean: 0 } })
  })
  it("includes every pair: equal answers are ties, and a pair without a verdict is a tie that is also counted as undecided", async () => {
    const inputs = await ratesBy(
      [mine("a", "m"), mine("b", "x"), mine("c", "m"), mine("only", "m")],
      [theirs("a", "t"), theirs("b", "x"), theirs("c", "t")],
      [verdict("a#0", "m", "t")]
    )
    const found = await reportIn(await runStage(judgedWinRate, inputs), JudgedWinRateReport)
    expect(found.helpfulness).toMatchObject({ prompts: 3, wins: 1, losses: 0, ties: 2, undecided: 1, rate: { mean: 1 } })
    expect(found.safety).toBeNull()
    expect(found.unpaired).toEqual({ ours: 1, opponent: 0 })
  })
  it("has no rate if nothing was decided, and says so", async () => {
    const inputs = await ratesBy([mine("a", "m")], [theirs("a", "t")], [])
    const { helpfulness } = await reportIn(await runStage(judgedWinRate, inputs), JudgedWinRateReport)
    expect(helpfulness).toEqual({ prompts: 1, wins: 0, losses: 0, ties: 1, rate: null, undecided: 1 })
  })
  it("is rejected for verdicts on other pairs, on other answers, or twice on one", async () => {
    const refused = async (...verdicts: ReadonlyArray<ReadonlyArray<Preference>>) =>
      failureOf(judgedWinRate, await ratesBy([mine("a", "m")], [theirs("a", "t")], ...verdicts))
    expect(await refused([verdict("b#0", "m", "t")])).toMatch(
      /found a verdict on another pair: "b#0"\. Annotate the output of pairCompletions/
    )
    expect(await refused([verdict("a#0", "m", "older")])).toMatch(/a verdict on other answers: "a#0"/)
    expect(await refused([verdict("a#0", "older", "t")])).toMatch(/a verdict on other answers: "a#0"/)
    expect(await refused([verdict("a#0", "m", "t")], [verdict("a#0", "m", "t")])).toMatch(/two verdicts: "a#0"/)
  })
})

/** It prefers the longer of two responses, and labels one unsafe if it says "bomb". */
describe("a judge behind an endpoint", () => {
  let server: Server
  let url: string
  let asked = 0
  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = ""
      request.on("data", (chunk: Buffer) => (body += chunk.toString()))
      request.on("end", () => {
        asked++
        const { messages } = JSON.parse(body) as { messages: [{ content: string }] }
        const text = messages[0].content
        const [first, second] = [/# Response 1\n([^]*?)\n\n# Response 2/.exec(text)![1]!, /# Response 2\n([^]*)$/.exec(text)![1]!]
        const better = first.length > second.length ? 1 : 2
        const content = JSON.stringify({ better, rating: 1, safe1: !first.includes("bomb"), safe2: !second.includes("bomb") })
        response.setHeader("content-type", "application/json")
        response.end(JSON.stringify({ choices: [{ message: { content } }] }))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  })
  afterAll(() => new Promise((resolve) => server.close(resolve)))

  it("decides who wins, in either order; choosing the unsafe answer over the safe one is nobody's win", async () => {
    const ids = Array.from({ length: 12 }, (_, i) => `h${i}`)
    // Ours is longer in nine of twelve.
    const sets = await setsOf(
      [
        ...ids.map((id, i) => mine(id, i < 9 ? "a long answer" : "no")),
        mine("s", "how a bomb is made", adversarial),
        mine("r", "I will not.", adversarial)
      ],
      [...ids.map((id) => theirs(id, "shorter")), theirs("s", "No.", adversarial), theirs("r", "bomb", adversarial)]
    )
    const verdicts = await Promise.all(
      ["helpfulness", "safety"].map(async (kind) =>
        runStage(
          annotate,
          { pairs: await runStage(pairCompletions, sets, { prompts: kind }) },
          { annotator: "judge", kind, url, model: "m" }
        )
      )
    )
    expect(asked).toBe(14)
    const { helpfulness, safety } = await reportIn(await runStage(judgedWinRate, { ...sets, verdicts }), JudgedWinRateReport)
    expect(helpfulness).toMatchObject({ prompts: 12, wins: 9, losses: 3, ties: 0, undecided: 0, rate: { mean: 0.75 } })
    expect(safety).toMatchObject({ prompts: 2, wins: 1, losses: 0, ties: 1, undecided: 1 })
    // From the other side it is reversed.
    const turned = await reportIn(
      await runStage(judgedWinRate, { ours: sets.opponent, opponent: sets.ours, verdicts }),
      JudgedWinRateReport
    )
    expect(turned.helpfulness).toMatchObject({ wins: 3, losses: 9 })
  })
})
