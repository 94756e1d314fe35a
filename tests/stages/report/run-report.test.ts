/** The report on a run on your own data: figures worked out by hand, as JSON, as text and as a page. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { BestOfNReport } from "../../../stages/evaluation/evaluate-policy.ts"
import { PpoDiagnosticsReport } from "../../../stages/ppo/diagnostics.ts"
import { RunReport, runReport } from "../../../stages/report/run-report.ts"
import { RewardAccuracyReport, RewardBaselinesReport, SafetyRecallReport } from "../../../stages/reward/evaluate-reward.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { estimate, reportArtifact } from "./run-results.ts"

const logit = (score: number) => Math.log(score / (1 - score))

/** An answer with the score R_c, which is R_h. */
const answer = (promptId: string, score: number, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  ...{ promptId, prompt: [{ role: "user", content: `What is ${promptId}?` }], safety: false, sample: 0, text: "It is.", tokens: [1, 2] },
  ...{ logProbabilities: [-1, -1], finished: true, temperature: 1, policy: "p", reward: logit(score), helpfulnessScore: score },
  ...{ safetyScore: null, ...over }
})
const sft = [answer("a", 0.2), answer("b", 0.4, { finished: false, tokens: [1, 2, 3, 4] }), answer("c", 0.9)]
/** One prompt fewer than SFT: its answer had no score. */
const ppo = [answer("a", 0.5, { text: "<script>alert(1)</script>" }), answer("b", 0.3)]
const control = [answer("a", 0.5), answer("b", 0.3), answer("c", 0.1)]

const accuracy = (mean: number) => ({
  ...{ pairs: 10, accuracy: estimate(mean), bySource: [], controls: { preferShorter: estimate(0.5), shuffledLabels: estimate(0.4) } },
  byRating: [{ rating: "unrated", pairs: 10, accuracy: estimate(mean) }]
})
const baselines = { pairs: 10, trainingPairs: 20, lengthOnly: estimate(0.5), prefers: "longer" as const, bagOfWords: estimate(0.6) }
const inputs = async () => ({
  versions: [await rowsArtifact(ScoredCompletions, sft), await rowsArtifact(ScoredCompletions, ppo)],
  controls: [await rowsArtifact(ScoredCompletions, control)],
  bestOfK: await reportArtifact(BestOfNReport, {
    ...{ prompts: 3, mean: estimate(0), gain: estimate(0.5) },
    byN: [1, 2].map((n) => ({ n, reward: estimate(n / 4) }))
  }),
  ppo: await reportArtifact(PpoDiagnosticsReport, {
    ...{ iterations: [], heldOut: [], kept: 0, stopped: "iterations" as const, divergence: null, promptsTooLong: 0, helpfulnessOnly: true }
  }),
  helpfulness: await reportArtifact(RewardAccuracyReport, accuracy(0.8)),
  helpfulnessJudge: await reportArtifact(RewardAccuracyReport, accuracy(0.7)),
  helpfulnessBaselines: await reportArtifact(RewardBaselinesReport, baselines)
})
const at = (threshold: number) => ({ threshold, flagged: 2, recall: estimate(0.3), precision: null })
const safetyInputs = async () => ({
  safety: await reportArtifact(RewardAccuracyReport, accuracy(0.9)),
  safetyJudge: await reportArtifact(RewardAccuracyReport, accuracy(0.6)),
  safetyBaselines: await reportArtifact(RewardBaselinesReport, baselines),
  safetyRecall: await reportArtifact(SafetyRecallReport, { responses: 20, unsafe: 4, recall: at(0.5), gate: at(0.15) })
})
const config = { versions: ["sft", "ppo"], controls: ["longer"] }

describe("the report on a run on your own data", () => {
  it("has means over scored prompts, and the last version minus the others on the prompts that both have", async () => {
    const made = await runStage(runReport, await inputs(), config)
    const { controls, gain, rewardModels, safetyRecall, versions } = await reportIn(made, RunReport)
    expect(versions[0]).toMatchObject({ name: "sft", prompts: 3, answers: 3, ended: 2, safety: null })
    expect(versions[0]!.tokens).toBeCloseTo(8 / 3, 10)
    expect(versions.map(({ reward }) => reward.mean)).toEqual([expect.closeTo(0.5, 6), expect.closeTo(0.4, 6)])
    expect(controls.map(({ name, reward }) => [name, reward.mean])).toEqual([["longer", expect.closeTo(0.3, 6)]])
    // Over SFT: 0.3 more and 0.1 less; c is not a common prompt. Over the control both are ties.
    expect(gain).toMatchObject([
      { over: "sft", reward: { mean: expect.closeTo(0.1, 6) }, wins: { prompts: 2, wins: 1, losses: 1, ties: 0, rate: { mean: 0.5 } } },
      { over: "longer", reward: { mean: 0 }, wins: { prompts: 2, wins: 0, losses: 0, ties: 2, rate: null } }
    ])
    expect(rewardModels.helpfulness).toMatchObject({ accuracy: { mean: 0.8 }, judge: { mean: 0.7 }, lengthOnly: { mean: 0.5 } })
    expect([rewardModels.safety, safetyRecall]).toEqual([null, null])
  })
  it("is also available as text, and has the safety model if there is one", async () => {
    const { path } = await runStage(runReport, { ...(await inputs()), ...(await safetyInputs()) }, config)
    const lines = readFileSync(join(path, "report.txt"), "utf8")
      .split("\n")
      .map((line) => line.split(/ {2,}/))
    const between = (mean: number) => `${mean.toFixed(3)} (${(mean - 0.1).toFixed(3)} to ${(mean + 0.1).toFixed(3)})`
    const models = (name: string, right: number, judge: number) => [name, ...[right, judge, 0.5, 0.6, 0.4].map(between), "10"]
    expect(lines).toContainEqual(models("helpfulness", 0.8, 0.7))
    expect(lines).toContainEqual(models("safety", 0.9, 0.6))
    expect(lines.map(([name, , helpfulness, safety, ...rest]) => [name, helpfulness, safety, ...rest])).toContainEqual([
      "sft",
      "0.500",
      "–",
      "2.7",
      "2",
      "3"
    ])
    expect(lines.find(([name]) => name === "longer")!.slice(1)).toEqual(["0.000 (0.000 to 0.000)", "–", "2 of 2"])
    const text = lines.flat().join(" ")
    expect(text).toContain("Of 20 labelled answers 4 are unsafe. R_s below 0.5 finds 0.300 (0.200 to 0.400) of them, with precision –;")
    expect(text).toContain("The best of all is 0.500 (0.400 to 0.600) above the mean, 0.000 (-0.100 to 0.100).")
  })
  it("is a page that makes no network requests, with dialogues whose texts are not markup", async () => {
    const { path } = await runStage(runReport, await inputs(), config)
    const page = readFileSync(join(path, "report.html"), "utf8")
    expect(page).toContain("&lt;script&gt;alert(1)&lt;/script&gt;")
    expect(page).not.toMatch(/<script|src=|href="http/)
    for (const part of ["control: longer", "Each version according to the judges", "Reward models on held-out pairs", "What is a?"])
      expect(page).toContain(part)
  })
  it("rejects a different number of names and sets, and a version without a score", async () => {
    expect(await failureOf(runReport, await inputs(), { ...config, versions: ["ppo"] })).toMatch(
      /expected at least one set, and a distinct name for each.*found 2 sets/
    )
    const none = { ...(await inputs()), controls: [await rowsArtifact(ScoredCompletions, [])] }
    expect(await failureOf(runReport, none, config)).toMatch(/report on longer/)
  })
})
