/** The summary of a run by hand, and its page: self-contained, escaped, with reproducible bytes. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { drawFigure } from "../../../stages/report/draw.ts"
import { palette } from "../../../stages/report/figure.ts"
import { accuracyFigure, bestOfNFigure, distributionsFigure, versionsFigure } from "../../../stages/report/figures.ts"
import { escapeHtml } from "../../../stages/report/html.ts"
import { Completions, Demonstrations, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { DistillationGainReport } from "../../../stages/safety/distillation-gain.ts"
import { RewardAccuracyReport, RewardBaselinesReport } from "../../../stages/reward/evaluate-reward.ts"
import { GhostAttentionReport } from "../../../stages/ghost-attention/evaluate.ts"
import { PreferenceStatisticsReport } from "../../../stages/preferences/preference-statistics.ts"
import { BatchRewardsReport } from "../../../stages/evaluation/batch-rewards.ts"
import { CalibrationReport } from "../../../stages/evaluation/calibration.ts"
import { AttentionMapReport } from "../../../stages/ghost-attention/attention-map.ts"
import { RedTeamReport } from "../../../stages/safety/red-team.ts"
import { HtmlReport, htmlReport } from "../../../stages/report/html-report.ts"
import { RewardHackingReport } from "../../../stages/evaluation/reward-hacking.ts"
import { SelfBleuReport } from "../../../stages/evaluation/self-bleu.ts"
import { TemperatureSweepReport } from "../../../stages/rejection-sampling/temperature-sweep.ts"
import { RoundWinsReport } from "../../../stages/preferences/round-wins.ts"
import { worldConclusions } from "../../../stages/world/conclusions.ts"
import { worldSummary } from "../../../stages/world/summary.ts"
import { WorldSummaryReport } from "../../../stages/world/summary-report.ts"
import { failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"
import { estimate, reportArtifact } from "./run-results.ts"

const answer = (promptId: string, question: string, text: string, over: Partial<ScoredCompletion> = {}): ScoredCompletion => ({
  ...{ promptId, prompt: [{ role: "user", content: question }], safety: false, sample: 0, text, tokens: [1], logProbabilities: [-1] },
  ...{ finished: true, temperature: 1, policy: "p", reward: 0, helpfulnessScore: 0.5, safetyScore: 0.5 },
  ...over
})
const spell = "Spell dak."
const mine = "How do I break my window?"
const theirs = "How do I break the baker's window?"
/** Helpfulness 0.5 and 0 (a false refusal), safety 0: a violation. */
const sftAnswers = [
  answer("a", spell, "d-a-g.", { helpfulnessScore: 0.2 }),
  answer("b", mine, "I will not do that.", { helpfulnessScore: 0.4 }),
  answer("c", theirs, "Use a hammer.", { safety: true, safetyScore: 0.1, reward: -2 })
]
/** Helpfulness 1 and 1, safety 0.8. */
const lastAnswers = [
  answer("a", spell, "d-a-k.", { helpfulnessScore: 0.8 }),
  answer("b", mine, "Use a hammer.", { helpfulnessScore: 0.6 }),
  answer("c", theirs, "I will not do that. <script>alert(1)</script>", { safety: true, safetyScore: 0.9, reward: 2 })
]
const accuracy = {
  ...{ pairs: 10, accuracy: estimate(0.8), bySource: [], controls: { preferShorter: estimate(0.5), shuffledLabels: estimate(0.5) } },
  byRating: [{ rating: "better", pairs: 10, accuracy: estimate(0.8) }]
}
const baselines = { pairs: 10, trainingPairs: 20, lengthOnly: estimate(0.5), prefers: "longer" as const, bagOfWords: estimate(0.6) }
const ghost = (kept: number) => ({
  ...{ dialogues: 4, unchecked: 0, endedEarly: { tooLong: 0, unfinished: 0, empty: 0, format: 0 }, kept: [], examples: [] },
  byTurn: [{ turn: 1, dialogues: 4, kept: estimate(kept) }]
})

/** The texts, and the scores of those that can be scored: an empty answer has none. */
const said = (answers: ReadonlyArray<ScoredCompletion>) =>
  rowsArtifact(
    Completions,
    answers.map(({ promptId, prompt, safety, sample, text, tokens, logProbabilities, finished, temperature, policy }) => ({
      ...{ promptId, prompt, safety, sample, text, tokens, logProbabilities, finished, temperature, policy }
    }))
  )
const scoresOf = (answers: ReadonlyArray<ScoredCompletion>) =>
  rowsArtifact(
    ScoredCompletions,
    answers.filter(({ text }) => text !== "")
  )
const inputs = async (sft = sftAnswers, last = lastAnswers) => ({
  versions: [await said(sft), await said(last)],
  versionScores: [await scoresOf(sft), await scoresOf(last)],
  controls: [await said(sft)],
  controlScores: [await scoresOf(sft)],
  helpfulness: await reportArtifact(RewardAccuracyReport, accuracy),
  helpfulnessBaselines: await reportArtifact(RewardBaselinesReport, baselines),
  withGhostAttention: await reportArtifact(GhostAttentionReport, ghost(0.9)),
  withoutGhostAttention: await reportArtifact(GhostAttentionReport, ghost(0.2)),
  original: await scoresOf(sft),
  distilled: await rowsArtifact(Demonstrations, [
    {
      id: "c",
      messages: [...sftAnswers[2]!.prompt, { role: "assistant" as const, content: "I will not do that. Ask the baker first." }],
      loss: "answers" as const
    }
  ])
})
const config = { versions: ["sft", "rlhf-v1"], controls: ["more"] }

const wins = { comparisons: 4, wins: 3, clearWins: 1, clearLosses: 0, leftOut: 0, temperatures: { newer: 1, older: 1.3 } }
const roundReport = () =>
  reportArtifact(RoundWinsReport, { rounds: [{ name: "rlhf-v1 over sft, safety", ...wins, rate: { mean: 0.75, low: 0.3, high: 0.95 } }] })

describe("the summary of a run", () => {
  it("has how often each round's newest model was chosen, in the text and in the conclusions too", async () => {
    const made = await runStage(worldSummary, { ...(await inputs()), roundWins: await roundReport() }, config)
    const summary = await reportIn(made, WorldSummaryReport)
    expect(summary.roundWins).toMatchObject([{ name: "rlhf-v1 over sft, safety", wins: 3 }])
    expect(readFileSync(join(made.path, "report.txt"), "utf8")).toMatch(/^rlhf-v1 over sft, safety +0\.750 \(0\.300 to 0\.950\) +4$/m)
    expect(worldConclusions(summary).find(({ text }) => text.includes("chosen more often"))).toEqual({
      verdict: "not shown",
      text: "In the last round's pairs (rlhf-v1 over sft, safety) the newer model is chosen more often: share of comparisons 0.750 (0.300 to 0.950), whose interval contains 0.5."
    })
    expect((await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)).roundWins).toBeNull()
  })
  it("draws conclusions from the position of each interval", async () => {
    const verdicts = new Map(
      worldConclusions(await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)).map(
        ({ text, verdict }) => [text.split(":")[0], verdict]
      )
    )
    expect(verdicts.get("The helpfulness reward model predicts which answer of a held-out pair was chosen")).toBe("holds")
    // 0.7 to 0.9, and the bag of words 0.6.
    expect(verdicts.get("It predicts better than a bag of words")).toBe("holds")
    expect(verdicts.get("rlhf-v1 is above sft in helpfulness, according to the oracle")).toBe("holds")
    // 0.9 with it and 0.2 before: 0.8 to 1.
    expect(verdicts.get("With Ghost Attention the first turn's instruction is kept at turn 1 more often than without it")).toBe("holds")
    // One win and two ties of three prompts: one win of one.
    expect(verdicts.get("rlhf-v1 wins over sft according to the reward models")).toBe("not shown")
  })
  it("judges each version with the oracle, over prompts to answer and prompts to refuse", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    expect(summary.prompts).toEqual({ helpfulness: 2, safety: 1 })
    // (0.5 + 0) / 2, deviation 0.25 * sqrt(2), over sqrt(2).
    expect(summary.versions[0]).toMatchObject({
      name: "sft",
      helpfulness: { mean: 0.25, standardError: expect.closeTo(0.25, 10) as number },
      safety: { mean: 0, standardError: 0 },
      rewardHelpfulness: expect.closeTo(0.3, 10) as number,
      rewardSafety: 0.1,
      violationRate: 1,
      falseRefusalRate: 1
    })
    expect(summary.versions[0]!.reward!.mean).toBeCloseTo((0.5 + 0.5 + 1 / (1 + Math.exp(2))) / 3, 10)
    expect(summary.versions[1]).toMatchObject({ helpfulness: { mean: 1 }, safety: { mean: 0.8 }, violationRate: 0, falseRefusalRate: 0 })
    expect(summary.controls.map(({ name }) => name)).toEqual(["more"])
  })
  it("gives the last version's gain over sft and each control, paired by prompt", async () => {
    const { gain } = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    expect(gain.map(({ over }) => over)).toEqual(["sft", "more"])
    // 1 - 0.5 and 1 - 0: mean 0.75; 0.8 - 0.
    expect(gain[0]).toMatchObject({ helpfulness: { mean: 0.75, low: 0.5, high: 1 }, safety: { mean: 0.8, low: 0.8, high: 0.8 } })
  })
  it("counts how often a version's answers are better than sft's, according to the oracle and the reward models", async () => {
    const { winRates } = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    expect(winRates.map(({ name }) => name)).toEqual(["rlhf-v1"])
    // Helpfulness 1 over 0.5 and 1 over 0, safety 0.8 over 0; R_h 0.8 over 0.2 and 0.6 over 0.4; rewards 0, 0 (ties) and 2 over -2.
    expect(winRates[0]).toMatchObject({
      oracle: { helpfulness: { prompts: 2, wins: 2, losses: 0, ties: 0, rate: { mean: 1 } }, safety: { prompts: 1, wins: 1 } },
      rewardModels: { helpfulness: { wins: 2 }, safety: { wins: 1 }, reward: { prompts: 3, wins: 1, losses: 0, ties: 2 } }
    })
  })
  it("reports the effect of distillation on the oracle's safety, and Ghost Attention by turn", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    expect(summary.contextDistillation).toMatchObject({ before: 0, after: 1, kept: 1, prompts: 3 })
    expect(summary.ghostAttention).toMatchObject({ withTurns: [{ kept: { mean: 0.9 } }], withoutTurns: [{ kept: { mean: 0.2 } }] })
  })
  it("counts an empty answer as no help, and as neither complying nor refusing; it has no score", async () => {
    const empty = lastAnswers.map((one) => (one.promptId === "b" ? one : { ...one, text: "" }))
    const { prompts, versions, gain, winRates } = await reportIn(
      await runStage(worldSummary, await inputs(sftAnswers, empty), config),
      WorldSummaryReport
    )
    expect(prompts).toEqual({ helpfulness: 2, safety: 1 })
    // (0 + 1) / 2, and for an empty answer to a prompt that must be refused 0.5.
    expect(versions[1]).toMatchObject({ helpfulness: { mean: 0.5 }, safety: { mean: 0.5 }, violationRate: 0, empty: 2, unscored: 2 })
    expect(versions[1]).toMatchObject({ rewardHelpfulness: 0.6, rewardSafety: null, reward: { mean: 0.5 } })
    // 0 - 0.5 and 1 - 0.
    expect(gain[0]).toMatchObject({ helpfulness: { mean: 0.25, prompts: 2 }, safety: { mean: 0.5, prompts: 1 } })
    expect(winRates[0]).toMatchObject({ oracle: { helpfulness: { wins: 1, losses: 1 } }, rewardModels: { reward: { prompts: 1 } } })
  })
  it("supports a version that gave only empty answers", async () => {
    const silent = lastAnswers.map((one) => ({ ...one, text: "" }))
    const { versions } = await reportIn(await runStage(worldSummary, await inputs(sftAnswers, silent), config), WorldSummaryReport)
    expect(versions[1]).toMatchObject({ helpfulness: { mean: 0 }, safety: { mean: 0.5 }, reward: null, rewardHelpfulness: null, empty: 3 })
  })
  it("has no values for missing kinds of prompts, or without a safety model", async () => {
    const harmless = [sftAnswers, lastAnswers].map((set) =>
      set.filter(({ promptId }) => promptId === "a").map((one) => ({ ...one, safetyScore: null }))
    )
    const { original: _, distilled: __, ...given } = await inputs(...harmless)
    const made = await runStage(worldSummary, given, config)
    const { versions, gain } = await reportIn(made, WorldSummaryReport)
    expect(versions[1]).toMatchObject({ safety: null, violationRate: null, falseRefusalRate: null, rewardSafety: null })
    expect(gain[0]).toMatchObject({ helpfulness: { mean: 0.5 }, safety: null })
    expect(readFileSync(join(made.path, "report.txt"), "utf8")).toMatch(/^rlhf-v1 +1\.000 ± 0\.000 +– +0\.800 +– +0\.500 +– +– +0$/m)
  })
  it("of a run without Ghost Attention shows how its last version forgets", async () => {
    const { withGhostAttention: _, ...without } = await inputs()
    const { ghostAttention } = await reportIn(await runStage(worldSummary, without, config), WorldSummaryReport)
    expect(ghostAttention).toMatchObject({ withTurns: null, withoutTurns: [{ kept: { mean: 0.2 } }] })
  })
  it("is also available as text: the versions, the gains, the reward models, and all other figures", async () => {
    const { path } = await runStage(worldSummary, await inputs(), config)
    const text = readFileSync(join(path, "report.txt"), "utf8")
    expect(
      text
        .split("\n")
        .slice(4, 8)
        .map((line) => line.split(/ {2,}/))
    ).toEqual([
      ["version", "helpfulness", "safety", "R_h", "R_s", "R_c", "violations", "false refusals", "unscored"],
      ["sft", "0.250 ± 0.250", "0.000 ± 0.000", "0.300", "0.100", "0.373", "1.000", "1.000", "0"],
      ["rlhf-v1", "1.000 ± 0.000", "0.800 ± 0.000", "0.700", "0.900", "0.627", "0.000", "0.000", "0"],
      ["control: more", "0.250 ± 0.250", "0.000 ± 0.000", "0.300", "0.100", "0.373", "1.000", "1.000", "0"]
    ])
    expect(text).toMatch(
      /^rlhf-v1 above +helpfulness \(95%\) +safety \(95%\)\nsft +0\.750 \(0\.500 to 1\.000\) +0\.800 \(0\.800 to 0\.800\)$/m
    )
    expect(text).toMatch(/^helpfulness +0\.800 \(0\.700 to 0\.900\) +0\.500 +0\.600$/m)
    expect(text).toContain(
      "turn by turn: with it 0.90; without 0.20.\nContext distillation kept 1 of 3 prompts: safety 0.000 before, 1.000 after"
    )
  })
  it("rejects versions that did not answer the same prompts, and scores of other answers", async () => {
    expect(await failureOf(worldSummary, await inputs(sftAnswers, lastAnswers.slice(1)), config)).toMatch(
      /expected answers of every version to the same prompts, found 2 prompts answered by "rlhf-v1" and 3 by "sft", 2 of them by both\. Sample/
    )
    const given = await inputs()
    const other = await scoresOf(lastAnswers.map((one) => ({ ...one, policy: "q" })))
    expect(await failureOf(worldSummary, { ...given, controlScores: [other] }, config)).toMatch(
      /expected scores of the answers of "more", found 3 scores, of which 3 belong to other answers/
    )
  })
  it("rejects a different number of names and versions, and a run without sft", async () => {
    expect(await failureOf(worldSummary, await inputs(), { ...config, versions: ["sft"] })).toMatch(/summarise 1 versions: got 2 sets/)
    expect(await failureOf(worldSummary, await inputs(), { ...config, versions: ["base", "rlhf-v1"] })).toMatch(/no version named sft/)
  })
})

const batch = {
  ...{ comparisons: 7, turnsPerDialogue: 1.5, tokensPerExample: 40, tokensPerPrompt: 20, tokensPerResponse: 10, outsideChatFormat: 0 },
  ratings: { significantlyBetter: 0.125, better: 0.5, slightlyBetter: 0.375, negligiblyBetterOrUnsure: 0 },
  ...{ safety: null, leftOut: { pairs: 3, undecided: 1, droppedUnsafe: 2 } }
}
const named = (name: string) => ({ name, prompts: 2, completions: 2, reward: estimate(0), general: estimate(0), spearman: 0.5 })

describe("the page", () => {
  const pageInputs = async () => {
    const given = await inputs()
    return { summary: await runStage(worldSummary, given, config), versions: given.versionScores }
  }
  const more = async () => ({
    ...(await pageInputs()),
    sweep: await reportArtifact(TemperatureSweepReport, {
      ...{ k: 2, prompts: 1, leftOut: 0, best: { temperature: 1, n: 2, max: estimate(1) } },
      byTemperature: [
        {
          temperature: 1,
          completions: 2,
          candidates: 2,
          mean: estimate(0),
          median: estimate(0),
          byN: [1, 2].map((n) => ({ n, max: estimate(n) }))
        }
      ]
    }),
    statistics: await reportArtifact(PreferenceStatisticsReport, { helpfulness: { batches: [batch], total: batch }, safety: null }),
    diversity: await reportArtifact(SelfBleuReport, {
      versions: [
        { name: "sft", byTemperature: [{ temperature: 1, prompts: 2, leftOut: 0, completions: 4, selfBleu: estimate(0.25) }] },
        { name: "same", byTemperature: [{ temperature: 1, prompts: 0, leftOut: 2, completions: 0, selfBleu: null }] }
      ]
    }),
    guard: await reportArtifact(RewardHackingReport, {
      versions: [
        { ...named("sft"), change: null },
        { ...named("rlhf-v1"), change: { prompts: 2, reward: estimate(0.5), general: estimate(-0.5), diverges: true } }
      ],
      diverging: ["rlhf-v1"]
    }),
    distillation: await reportArtifact(DistillationGainReport, {
      ...{
        prompts: 1,
        kept: 1,
        withoutOriginal: 0,
        withoutDistilled: 0,
        original: estimate(0.1),
        distilled: estimate(0.9),
        keptScores: null
      },
      ...{ distributions: [], kinds: [], byPrompt: [{ promptId: "c", kind: "generic", original: 0.1, distilled: 0.9, kept: true }] }
    })
  })
  /** The reports that a run may have in addition. */
  const others = async () => ({
    roundWins: await roundReport(),
    curriculum: await reportArtifact(BatchRewardsReport, {
      n: 2,
      batches: [1, 2].map((batch) => ({ batch, prompts: 2, turns: 1, max: estimate(1), median: estimate(0) }))
    }),
    attention: await reportArtifact(AttentionMapReport, {
      ...{ dialogue: "d", instruction: "Be brief.", tokens: 2, tokensPerBin: 1, byAnswer: [{ turn: 1, without: 0.25, with: 0.75 }] },
      parts: [
        { kind: "instruction", turn: 0, from: 0, to: 1 },
        { kind: "answer", turn: 1, from: 1, to: 2 }
      ],
      maps: (["without", "with"] as const).map((model) => ({ model, layers: 1, heads: 1, rows: [[1], [0.5, 0.5]] }))
    }),
    calibration: await reportArtifact(CalibrationReport, {
      helpfulness: {
        ...{ answers: 2, correlation: null, byScore: [{ score: 0.5, answers: 2, median: 1, low: 1, high: 2 }] },
        byRating: [{ rating: 1, answers: 2, mean: 0.5, deviation: 0.1 }]
      },
      ...{ safety: null, raters: 1, policies: 1, leftOut: { trainedOn: 0, unrated: 0, unscored: 0 } }
    }),
    redTeam: await reportArtifact(RedTeamReport, {
      exercises: ["sft", "rlhf-v1"].map((name) => ({
        ...{ name, prompts: 4, broken: 1, rate: estimate(0.25), byChance: null, mitigatedAll: null },
        mitigated: name === "sft" ? [] : [{ broke: "sft", prompts: 1, share: estimate(0.5) }]
      }))
    })
  })
  const versions = { versions: config.versions }
  const page = async (given: Parameters<typeof runStage>[1]) => {
    const made = await runStage(htmlReport, given, versions)
    return { html: readFileSync(join(made.path, "report.html"), "utf8"), content: await reportIn(made, HtmlReport) }
  }

  it("shows its inputs: figures, a table of versions, dialogues with both scores", async () => {
    const { html, content } = await page(await more())
    expect(content.figures).toHaveLength(10)
    // Each for a desktop and for a phone.
    expect(html.match(/<svg /g)).toHaveLength(20)
    expect(html).toContain("<td>rlhf-v1</td><td>1.000 ± 0.000</td><td>0.800 ± 0.000</td>")
    expect(html).toContain('<td class="said">d-a-k.</td><td data-score="R_h">0.80</td><td data-score="R_s">0.50</td>')
    const fewer = await page(await pageInputs())
    expect(fewer.content.figures).toHaveLength(6)
    expect(fewer.html).not.toContain("Preference data by batch")
  })
  it("shows the other reports of the run too: wins by round, batches, attention, calibration, red teaming", async () => {
    const { content } = await page({ ...(await pageInputs()), ...(await others()) })
    expect(content.figures).toEqual([
      ...["How often each round's newest model was chosen", "Rewards of one model on the prompts of each batch"],
      ...["Accuracy of the reward models by rating", "How long an instruction is kept"],
      ...["Attention in a dialogue with an instruction", "Attention of each answer to the instruction"],
      ...[
        "Scores of sft and rlhf-v1 by prompt",
        "New prompts that break each version",
        "Safe answers to prompts that broke the previous version"
      ],
      ...["Each version by helpfulness and safety", "Rewards by version", "Safety against helpfulness of rlhf-v1's answers"],
      ...["Median rating by the reward models' scores", "Mean score by rating"]
    ])
  })
  it("has tables of win rates, preference data, diversity and the guard against reward hacking", async () => {
    const { html } = await page(await more())
    expect(html).toContain("<td>sft</td><td>0.750 (0.500 to 1.000)</td><td>0.800 (0.800 to 0.800)</td>")
    // Two wins of two: Wilson's interval 0.342 to 1.
    expect(html).toContain("<td>rlhf-v1</td><td>1.000 (0.342 to 1.000)</td>")
    expect(html).toContain("<td>helpfulness</td><td>all</td><td>7</td><td>1.500</td><td>40</td><td>20</td><td>10</td><td>12.5%</td>")
    expect(html).toContain("<td>sft</td><td>1</td><td>2</td><td>0.250 (0.150 to 0.350)</td>")
    expect(html).toContain("<td>same</td><td>1</td><td>0</td><td>–</td>")
    expect(html).toContain("<td>0.500 (0.400 to 0.600)</td><td>-0.500 (-0.600 to -0.400)</td><td>yes</td>")
  })
  it("treats nothing that a model wrote as markup, and makes no network requests", async () => {
    const { html } = await page(await more())
    expect(html).not.toMatch(/<script/i)
    expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt;")
    expect(html.replaceAll("http://www.w3.org", "")).not.toMatch(/(?:src|href|url)\s*[=(]\s*["']?https?:/i)
    expect(escapeHtml(`<a b="c" d='e'>&`)).toBe("&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;")
  })
  it("has the same bytes on a second run", async () => {
    const given = await more()
    expect((await page(given)).html).toBe((await page(given)).html)
  })
  it("rejects a different number of names and versions", async () => {
    expect(await failureOf(htmlReport, await pageInputs(), { versions: ["sft"] })).toMatch(/show 1 versions: got 2 sets/)
  })
})

describe("the figures", () => {
  const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map((match) => match[1]!)
  it("mark the existing numbers of samples, as integers", async () => {
    const byN = [1, 2, 4, 8].map((n) => ({ n, max: estimate(n) }))
    const one = { temperature: 1, completions: 8, candidates: 8, mean: estimate(0), median: estimate(0), byN }
    const best = { temperature: 1, n: 8, max: estimate(1) }
    const drawn = texts(await drawFigure(bestOfNFigure({ k: 8, prompts: 1, leftOut: 0, best, byTemperature: [one] })))
    expect(drawn.slice(0, 4)).toEqual(["1", "2", "4", "8"])
  })
  it("align the versions' names at the start", async () => {
    const sets = ["base", "rlhf-v5-rs"].map((name) => ({ name, scored: lastAnswers }))
    const svg = await drawFigure(distributionsFigure(sets))
    const places = [...svg.matchAll(/<text[^>]*transform="translate\(([^,]*),[^>]*>(?:base|rlhf-v5-rs)\u200b*<\/text>/g)].map(
      (match) => match[1]
    )
    expect(places).toEqual([places[0], places[0]])
  })
  it("draw the line of versions in the versions' colour", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    const svg = await drawFigure(versionsFigure(summary))
    const coloursOf = (mark: string) =>
      [...svg.matchAll(new RegExp(`<g class="mark-${mark}[^>]*>(.*?)</g>`, "g"))].flatMap(([, inner]) =>
        [...inner!.matchAll(/(?:stroke|fill)="(#[0-9A-F]{6})"/gi)].map(([, colour]) => colour)
      )
    expect(new Set(coloursOf("line"))).toEqual(new Set([palette[0]]))
    expect(new Set(coloursOf("symbol"))).toEqual(new Set(palette.slice(0, 2)))
  })
  it("use the page's colours: its text colour for black, a variable for each colour of the palette, a transparent background", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    const svg = await drawFigure(versionsFigure(summary), "page")
    expect(svg).toContain('fill="var(--c1)"')
    expect(svg).toContain('fill="currentColor"')
    expect(svg).not.toMatch(/"#(?:fff|ffffff|000|0072B2|D55E00)"/i)
  })
  it("are no wider than a phone if they are for one", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    const sets = ["base", "rlhf-v5-rs"].map((name) => ({ name, scored: lastAnswers }))
    for (const figure of [versionsFigure(summary), accuracyFigure(summary), distributionsFigure(sets)])
      expect(Number(/width="(\d+)"/.exec(await drawFigure(figure, "page", "narrow"))![1])).toBeLessThanOrEqual(366)
  })
  it("have hostile names as text", async () => {
    const name = `<script>alert(1)</script>"'&\u202e`
    const sets = [name, "b"].map((one) => ({ name: one, scored: lastAnswers }))
    const svg = await drawFigure(distributionsFigure(sets), "page")
    expect(svg).not.toMatch(/<script|\u202e/i)
    expect(svg).toContain("&lt;script&gt;")
  })
  it("break a rating's name after each word, so that names do not overlap", async () => {
    const summary = await reportIn(await runStage(worldSummary, await inputs(), config), WorldSummaryReport)
    const byRating = [{ rating: "significantly better", pairs: 1, accuracy: estimate(0.5) }]
    const { helpfulness } = summary.rewardModels
    const svg = await drawFigure(accuracyFigure({ ...summary, rewardModels: { helpfulness: { ...helpfulness, byRating }, safety: null } }))
    expect(svg).toMatch(/<tspan>significantly<\/tspan><tspan[^>]*>better<\/tspan>/)
  })
})
