/** How the report groups a run's results: which sets of answers are compared, which evaluations belong together, and which figures are computed from rows. */
import * as Effect from "effect/Effect"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import {
  type PairScore,
  PairScores,
  type Preference,
  Preferences,
  type ScoredCompletion,
  ScoredCompletions
} from "../../../schemas/rows.ts"
import { winRateParts } from "../../../stages/report/comparison-figures.ts"
import { gainsOf } from "../../../stages/report/conclusions.ts"
import { type NodeCurve, trainingSection } from "../../../stages/report/curve-figures.ts"
import { dialogues } from "../../../stages/report/dialogues.ts"
import { drawFigure } from "../../../stages/report/draw.ts"
import { gradeByScore } from "../../../stages/report/grades.ts"
import { type Result, Results } from "../../../stages/report/results.ts"
import { chosenFrequency } from "../../../stages/report/reward-model-figures.ts"
import { versionsOf } from "../../../stages/report/versions.ts"
import { type RewardAccuracy, RewardAccuracyReport } from "../../../stages/reward/evaluate-reward.ts"
import { rowsArtifact } from "../running.ts"
import { other, reportArtifact, result, shownOn } from "./run-results.ts"

const answer = (promptId: string, reward: number, safety = false): ScoredCompletion => ({
  ...{ promptId, prompt: [{ role: "user", content: promptId }], safety, sample: 0, text: `${reward}`, tokens: [1], logProbabilities: [0] },
  ...{ finished: true, temperature: 1, policy: "p", reward, helpfulnessScore: 0.5 + reward / 10, safetyScore: 0.5 }
})
/** A policy's answers to the prompts "held-out", and their scores. */
const judged = async (policy: string, rewards: ReadonlyArray<number>, models: Result["inputs"] = { helpfulness: "rh", safety: "rs" }) => [
  other(`answers-${policy}`, "sample", { policy, prompts: "held-out" }, { k: 1, temperature: 1 }),
  result(
    `judged-${policy}`,
    "reward" in models ? "score" : "score-combined",
    await rowsArtifact(
      ScoredCompletions,
      rewards.map((reward, i) => answer(`p${i}`, reward))
    ),
    { completions: `answers-${policy}`, ...models }
  )
]
const policies = [
  other("held-out", "world-prompts"),
  other("rh", "rm"),
  other("rs", "rm"),
  other("general", "rm"),
  ...["base", "sft", "v1", "control"].map((name) => other(name, "sft"))
]

describe("compared versions", () => {
  it("are the policies whose answers to the same prompts were scored alike, in the order of creation, controls last", async () => {
    const run = new Results(
      [
        ...policies,
        ...(await judged("control", [0, 0])),
        ...(await judged("v1", [2, 1])),
        ...(await judged("sft", [1, 1])),
        // Scored only by the guard: another set, though a larger one.
        ...(await Promise.all(["base", "sft", "v1", "control"].map((name) => judged(name, [0, 0], { reward: "general" })))).flat(),
        other("rlhf", "ppo", { helpfulness: "rh" })
      ],
      ["control"]
    )
    const versions = await Effect.runPromise(versionsOf(run))
    expect(versions.map(({ isTunedTo, kind, name }) => [name, kind, isTunedTo])).toEqual([
      ["sft", "version", true],
      ["v1", "version", true],
      ["control", "control", true]
    ])
    // v1 is above sft by (sigma(2) - sigma(1) + 0) / 2, and above the control.
    expect(gainsOf(versions).map(({ text, verdict }) => [verdict, text.split(":")[0]])).toEqual([
      ["not shown", "v1 is better than sft according to the reward models that the versions were tuned to"],
      ["holds", "v1 is better than control according to the reward models that the versions were tuned to"]
    ])
    const { table } = await Effect.runPromise(winRateParts(versions))
    expect(table.rows.map(({ version, "all, R_c": all }) => [version, all])).toEqual([
      ["v1", "1.000 (0.207 to 1.000), 1 tied"],
      ["control", "0.000 (0.000 to 0.658), 0 tied"]
    ])
  })
  it("are none if only one policy answered", async () => {
    expect(await Effect.runPromise(versionsOf(new Results([...policies, ...(await judged("sft", [1]))])))).toEqual([])
  })
})

const accuracy = (mean: number): RewardAccuracy => {
  const estimate = { mean, low: mean - 0.1, high: mean + 0.1 }
  return {
    pairs: 10,
    accuracy: estimate,
    byRating: [{ rating: "significantly better", pairs: 2, accuracy: estimate }],
    bySource: [],
    controls: { preferShorter: estimate, shuffledLabels: estimate }
  }
}
const pair = (id: string, chosenReward: number, rejectedReward: number): PairScore => ({
  ...{ id, rating: 0, source: "x", chosenReward, rejectedReward, chosenCharacters: 1, rejectedCharacters: 1 }
})
const preference = (id: string, rejectedSafe: boolean): Preference => ({
  ...{ id, prompt: [{ role: "user", content: id }], chosen: "a", rejected: "b", rating: 0, chosenSafe: true, rejectedSafe, source: "x" }
})

describe("reward models in the report", () => {
  const evaluated = async (name: string, reward: Result, scores: ReadonlyArray<PairScore>, mean: number) => [
    reward,
    result(`${name}-scores`, "score-pairs", await rowsArtifact(PairScores, scores), { reward: reward.node, pairs: "test" }),
    result(`${name}-accuracy`, "evaluate-reward", await reportArtifact(RewardAccuracyReport, accuracy(mean)), {
      scores: [`${name}-scores`]
    })
  ]
  const test = async () => result("test", "annotate", await rowsArtifact(Preferences, [preference("a", false), preference("b", true)]))
  it("that differ only in the margin are compared by it (figure 27, table 28)", async () => {
    const reward = (margin: string) =>
      other(`reward-${margin}`, "helpfulness-reward-model", { init: "sft", pairs: "train" }, { margin, epochs: 1 })
    const shown = await shownOn([
      await test(),
      ...(await evaluated("none", reward("none"), [pair("a", 1, 0)], 0.6)),
      ...(await evaluated("large", reward("large"), [pair("a", 3, -3)], 0.7))
    ])
    expect(shown.map(({ id }) => id)).toEqual(["margin-scores", "chosen-frequency", "margins"])
    expect(shown.find(({ id }) => id === "margins")!.rows.map((row) => row["evaluated as"])).toEqual(["margin none", "margin large"])
    // One of the two responses scores sigma(-3) = 0.047, in the first of twenty bins.
    expect(shown.find(({ id }) => id === "margin-scores")!.rows.find((row) => row.margin === "large" && row.score === 0.025)).toMatchObject(
      { share: 0.5 }
    )
  })
  it("for safety have precision and recall at the threshold of R_c, from the labels of the held-out pairs", async () => {
    const reward = { ...other("rs", "safety-reward-model"), type: "checkpoint:safety-reward" }
    // R_s of b/rejected is safe and below 0.15, a/rejected unsafe and below it: precision 1/2, recall 1/1.
    const shown = await shownOn([await test(), ...(await evaluated("s", reward, [pair("a", 2, -4), pair("b", 2, -2)], 0.6))])
    const [at15] = shown.find(({ id }) => id === "safety-recall")!.rows
    expect(at15).toMatchObject({
      "R_s below": "0.15",
      "detected as unsafe": 2,
      unsafe: 1,
      responses: 4,
      precision: "0.500 (0.095 to 0.905)"
    })
    expect(at15!.recall).toMatch(/^1\.000/)
  })
  it("of two sizes on two amounts of data give a scaling figure (figure 6)", async () => {
    const sized = async (width: number, pairs: number) => {
      const name = `${width}-${pairs}`
      const ref = await rowsArtifact(PairScores, [])
      writeFileSync(
        join(ref.path, "config.json"),
        JSON.stringify({
          ...{ architectures: ["LlamaForSequenceClassification"], model_type: "llama", hidden_size: width, intermediate_size: 2 * width },
          ...{
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            vocab_size: 300,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            hidden_act: "silu"
          }
        })
      )
      const reward = {
        ...result(`reward-${name}`, "helpfulness-reward-model", ref, { pairs: `pairs-${pairs}` }),
        type: "checkpoint:helpfulness-reward"
      }
      return evaluated(name, reward, [pair("a", 1, 0)], 0.5 + pairs / 100)
    }
    const train = await Promise.all(
      [1, 2].map(async (count) =>
        result(
          `pairs-${count}`,
          "mix-preferences",
          await rowsArtifact(Preferences, [preference("a", true), preference("b", true)].slice(0, count))
        )
      )
    )
    const arms = await Promise.all([8, 16].flatMap((width) => [1, 2].map((pairs) => sized(width, pairs))))
    const figure = (await shownOn([await test(), ...train, ...arms.flat()])).find(({ id }) => id === "reward-scaling")!
    expect(new Set(figure.rows.map(({ model }) => model)).size).toBe(2)
    expect(figure.rows.filter(({ over }) => over === "all held-out pairs").map(({ accuracy: of, pairs }) => [pairs, of])).toEqual(
      [1, 2, 1, 2].map((pairs) => [pairs, 0.5 + pairs / 100])
    )
  })
})

describe("values computed for a figure", () => {
  it("are how often the response with the higher score was chosen, by sigma of the difference", () => {
    // Differences of 0.3 (sigma 0.574, in the second tenth) twice right and once wrong, and of 3 (0.95, in the last); a tie is half.
    const found = chosenFrequency([pair("a", 0.3, 0), pair("b", 0.3, 0), pair("c", 0, 0.3), pair("d", 3, 0), pair("e", 1, 1)])
    expect(found.map(({ mean, pairs }) => [pairs, mean])).toEqual([
      [1, 0.5],
      [3, expect.closeTo(2 / 3, 10)],
      [1, 1]
    ])
    expect(found[1]!.says).toBeCloseTo(0.5744, 4)
  })
  it("are the median grade in each tenth of the scores with at least five answers, and quartiles", () => {
    const low = [0, 0, 0.5, 1, 1].map((grade) => ({ score: 0.11, grade }))
    expect(gradeByScore([...low, { score: 0.95, grade: 1 }])).toEqual([
      { score: expect.closeTo(0.15, 10), grade: 0.5, low: 0, high: 1, answers: 5 }
    ])
  })
  it("are the pretraining loss by tokens read, and a figure for each training stage", async () => {
    const steps = [1, 2, 3]
    const curve = (node: string, stage: string, loss: ReadonlyArray<number>): NodeCurve => ({
      ...{
        node,
        stage,
        series: new Map([
          ["loss", { steps, values: loss }],
          ["tokens", { steps, values: [10, 10, 10] }],
          ["seconds", { steps, values: [1, 2, 3] }]
        ])
      }
    })
    const { figures = [], text } = trainingSection([curve("base", "pretrain", [3, 2, 1]), curve("<b>", "sft", [1, NaN, 0.5])])
    expect(figures.map(({ id, part }) => [id, part])).toEqual([
      ["pretraining-loss", undefined],
      ["training-curves", "pretrain"],
      ["training-curves", "sft"]
    ])
    expect(figures[0]!.rows).toMatchObject([
      { tokens: 10, loss: 3 },
      { tokens: 20, loss: 2 },
      { tokens: 30, loss: 1 }
    ])
    expect(figures[2]!.rows.map(({ value }) => value)).toEqual([1, null, 0.5])
    expect(text).toEqual(["1 of 3 values of loss of <b> are NaN or infinite, the first at step 2."])
    expect(await drawFigure(figures[2]!, "page")).not.toContain("<b>")
  })
  it("are none for a stage with only a throughput curve", () => {
    const series = new Map([["tokensPerSecond", { steps: [1], values: [10] }]])
    expect(trainingSection([{ node: "a", stage: "sample", series }]).figures).toEqual([])
  })
})

describe("dialogues", () => {
  it("are for prompts that all versions answered, balanced between those to refuse and to answer if possible, with long texts shortened", () => {
    const long = { ...answer("a", 1), text: "x".repeat(3000) }
    const html = dialogues(
      [
        { name: "v<1>", scored: [long, answer("b", 1), answer("c", 1, true)] },
        { name: "v2", scored: [answer("a", 0), answer("c", 0, true)] }
      ],
      4
    )
    expect(html.match(/<article>/g)).toHaveLength(2)
    expect(html).toContain("(1000 more characters)")
    expect(html).toContain("v&lt;1&gt;")
  })
  it("have columns only for the scores that some answer has", () => {
    const of = (scores: Partial<ScoredCompletion>) =>
      dialogues([{ name: "v", scored: [{ ...answer("a", 0), ...scores }] }], 1).match(/<th>R_.<\/th>/g) ?? []
    expect(of({})).toEqual(["<th>R_h</th>", "<th>R_s</th>"])
    expect(of({ safetyScore: null })).toEqual(["<th>R_h</th>"])
    expect(of({ helpfulnessScore: null, safetyScore: null })).toEqual([])
  })
})
