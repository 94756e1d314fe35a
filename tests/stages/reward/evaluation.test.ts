/** Evaluations on numbers small enough to work out by hand. */
import { describe, expect, it } from "vitest"
import { Random } from "../../../engine/random.ts"
import { noGrad, scoped } from "../../../engine/tensor.ts"
import { encodeDialogue } from "../../../models/chat.ts"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { SafetyReward } from "../../../schemas/checkpoint.ts"
import { type PairScore, PairScores, type Preference, Preferences, type ScoredCompletion } from "../../../schemas/rows.ts"
import { bestOfN, summariseRewards } from "../../../stages/evaluation/evaluate-policy.ts"
import {
  baselineAccuracy,
  evaluateReward,
  recallBelow,
  rewardAccuracy,
  rewardBaselines,
  RewardBaselinesReport,
  safetyRecall,
  SafetyRecallReport,
  scorePairs
} from "../../../stages/reward/evaluate-reward.ts"
import { fitBagOfWords, fitLength, fitLogistic, type SparseRow, wordDifferences } from "../../../stages/reward/baselines.ts"
import { words } from "../../../stages/common/words.ts"
import { scoreOf } from "../../../stages/reward/combined-reward.ts"
import { scoreSequences } from "../../../stages/common/scoring.ts"
import { bootstrapMean, mean, median, proportion, standardError } from "../../../stages/common/statistics.ts"
import { smallConfig, smallTokenizer } from "../../models/small.ts"
import { float64, sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"

describe("a proportion's Wilson interval", () => {
  // Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3: to four places.
  it.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718]
  ])("of %i in %i is Newcombe's", (successes, n, low, high) => {
    const estimate = proportion(successes, n)
    expect(estimate.mean).toBe(successes / n)
    expect(Math.abs(estimate.low - low)).toBeLessThanOrEqual(5e-5)
    expect(Math.abs(estimate.high - high)).toBeLessThanOrEqual(5e-5)
  })
  it("of 8 in 10 is 0.4902 to 0.9433", () => {
    // z^2 = 3.841459; centre (0.8 + 0.192073) / 1.384146 = 0.716740; half 1.959964 / 1.384146 sqrt(0.016 + 0.009604) = 0.226578
    const { low, high } = proportion(8, 10)
    expect(low).toBeCloseTo(0.490162, 5)
    expect(high).toBeCloseTo(0.943318, 5)
  })
  it("stays within 0 and 1, and is undefined without trials", () => {
    expect(proportion(5, 5).high).toBe(1)
    expect(proportion(0, 0)).toEqual({ mean: Number.NaN, low: 0, high: 1 })
  })
})

describe("statistics", () => {
  it("the median is the middle value, or the mean of the two middles", () => {
    expect(median([3, 10, 2])).toBe(3)
    expect(median([4, 1, 10, 2])).toBe(3)
    expect(median([-7])).toBe(-7)
  })
  it("the standard error is the sample deviation over the root of n", () => {
    // Of 1, 2, 3, 4: mean 2.5, squares 5, variance 5/3, error sqrt(5/12)
    expect(standardError([1, 2, 3, 4])).toBeCloseTo(Math.sqrt(5 / 12), 12)
    expect(standardError([5])).toBe(0)
  })
  it("a bootstrapped mean of many normal values has the interval of the normal approximation", () => {
    const random = new Random(1, "test")
    const values = Array.from({ length: 400 }, () => 3 + random.normal())
    const { mean: middle, low, high } = bootstrapMean(values, 7)
    expect(middle).toBe(mean(values))
    // Half a width of 1.96 standard errors, about 0.098; the bootstrap's own error is about a twentieth of it.
    const half = 1.96 * standardError(values)
    expect(Math.abs(low - (middle - half))).toBeLessThan(0.15 * half)
    expect(Math.abs(high - (middle + half))).toBeLessThan(0.15 * half)
  })
  it("a bootstrapped mean of two values ranges from one to the other: a resample consists of one of them with probability 1/4", () => {
    expect(bootstrapMean([0, 1], 7)).toEqual({ mean: 0.5, low: 0, high: 1 })
  })
  it("a bootstrapped mean of equal values has no width, and the seed decides the resamples", () => {
    expect(bootstrapMean([2, 2, 2], 7)).toEqual({ mean: 2, low: 2, high: 2 })
    const values = Array.from({ length: 30 }, (_, i) => i ** 1.5)
    expect(bootstrapMean(values, 7)).toEqual(bootstrapMean(values, 7))
    expect(bootstrapMean(values, 8)).not.toEqual(bootstrapMean(values, 7))
  })
})

const completions = (promptId: string, rewards: ReadonlyArray<number>, finished = true): Array<ScoredCompletion> =>
  rewards.map((reward, sample) => ({
    promptId,
    safety: false,
    helpfulnessScore: null,
    safetyScore: null,
    prompt: [],
    sample,
    text: "",
    tokens: [],
    logProbabilities: [],
    finished,
    temperature: 1,
    policy: "",
    reward
  }))

describe("a summary of rewards", () => {
  it("has each prompt's mean, median and maximum reward, and prompts have equal weight for any number of samples", () => {
    const summary = summariseRewards([...completions("a", [1, 2, 6]), ...completions("b", [10], false)], 1)
    expect(summary).toMatchObject({ prompts: 2, completions: 4, finished: 3 })
    expect(summary.mean.mean).toBe((3 + 10) / 2)
    expect(summary.median.mean).toBe((2 + 10) / 2)
    expect(summary.max.mean).toBe((6 + 10) / 2)
    // Two prompts: a resample may contain one of them twice.
    expect([summary.mean.low, summary.mean.high]).toEqual([3, 10])
  })
})

describe("the best of N", () => {
  const selector = [...completions("a", [1, 3, 2, 0, 9]), ...completions("b", [5, 4, 4, 6, 6])]
  const evaluator = [...completions("a", [10, 30, 20, 0, -5]), ...completions("b", [1, 2, 3, 7, 8])]
  const result = bestOfN(selector, evaluator, 1)

  it("is the evaluator's reward of the selector's favourite among the first N, in powers of two and for all", () => {
    // a: best of the first 1, 2, 4, 5 according to the selector are samples 0, 1, 1, 4; b: 0, 0, 3, and 3 again, the first of two equals.
    expect(result.byN.map(({ n, reward }) => [n, reward.mean])).toEqual([
      [1, (10 + 1) / 2],
      [2, (30 + 1) / 2],
      [4, (30 + 7) / 2],
      [5, (-5 + 7) / 2]
    ])
  })
  it("gains over the evaluator's mean, paired by prompt", () => {
    // Means 11 and 4.2; gains -5 - 11 = -16 and 7 - 4.2 = 2.8
    expect(result.mean.mean).toBeCloseTo(7.6, 12)
    expect(result.gain.mean).toBeCloseTo(-6.6, 12)
    expect(result.gain.low).toBeCloseTo(-16, 12)
    expect(result.gain.high).toBeCloseTo(2.8, 12)
  })
  it("leaves out completions and prompts that the evaluator did not score", () => {
    const partly = bestOfN(selector, [...completions("b", [1, 2]), ...completions("c", [100])], 1)
    expect(partly.prompts).toBe(1)
    expect(partly.byN.map(({ n, reward }) => [n, reward.mean])).toEqual([
      [1, 1],
      [2, 1]
    ])
  })
  it("for a number of samples that is a power of two has it once", () => {
    const four = completions("a", [1, 2, 3, 4])
    expect(bestOfN(four, four, 1).byN.map(({ n }) => n)).toEqual([1, 2, 4])
    expect(bestOfN(four.slice(0, 1), four, 1).byN.map(({ n }) => n)).toEqual([1])
  })
})

describe("a reward model's accuracy", () => {
  const score = (
    rating: number | null,
    chosenReward: number,
    rejectedReward: number,
    characters: readonly [number, number] = [10, 20],
    source = "ours"
  ): PairScore => ({
    id: "",
    rating,
    source,
    chosenReward,
    rejectedReward,
    chosenCharacters: characters[0],
    rejectedCharacters: characters[1]
  })
  const scores = [score(null, 1, 2), score(3, 1, 1), score(0, 3, 1), score(0, -1, -2), score(3, 0, 1, [20, 10]), score(1, 2, 1, [15, 15])]
  const report = rewardAccuracy(scores, 1)

  it("is how often the chosen response scores higher, with ties counting half, and a Wilson interval", () => {
    expect(report.pairs).toBe(6)
    expect(report.accuracy).toEqual(proportion(3.5, 6))
  })
  it("is reported for each rating that occurs, the clearest first and unrated pairs last", () => {
    expect(report.byRating).toEqual([
      { rating: "significantly better", pairs: 2, accuracy: proportion(2, 2) },
      { rating: "better", pairs: 1, accuracy: proportion(1, 1) },
      { rating: "negligibly better or unsure", pairs: 2, accuracy: proportion(0.5, 2) },
      { rating: "unrated", pairs: 1, accuracy: proportion(0, 1) }
    ])
  })
  it("is reported for each source, in order of occurrence", () => {
    const mixed = [score(0, 1, 0, [1, 1], "b"), score(0, 0, 1, [1, 1], "a"), score(2, 1, 0, [1, 1], "b"), score(3, 1, 1, [1, 1], "b")]
    expect(rewardAccuracy(mixed, 1).bySource).toEqual([
      { source: "b", pairs: 3, accuracy: proportion(2.5, 3) },
      { source: "a", pairs: 1, accuracy: proportion(0, 1) }
    ])
  })
  it("on no pairs is an error", async () => {
    const scores = [await rowsArtifact(PairScores, [])]
    expect(await failureOf(evaluateReward, { scores })).toContain("1 sets of scored pairs, all empty")
  })
  it("is next to that of always preferring the shorter response", () => {
    expect(report.controls.preferShorter).toEqual(proportion(4.5, 6))
  })
  it("is next to that on randomly swapped labels, which is near a half even for a perfect model", () => {
    const perfect = Array.from({ length: 1000 }, () => score(0, 1, 0))
    const { accuracy, controls } = rewardAccuracy(perfect, 1)
    expect(accuracy.mean).toBe(1)
    // Five deviations of 1000 fair coins are 0.079.
    expect(Math.abs(controls.shuffledLabels.mean - 0.5)).toBeLessThan(0.079)
    expect(rewardAccuracy(perfect, 1)).toEqual(rewardAccuracy(perfect, 1))
  })
})

describe("the length-only classifier", () => {
  const pair = (chosen: number, rejected: number) => ({ chosen: "x".repeat(chosen), rejected: "x".repeat(rejected) })
  it("prefers the length that is right more often on the training pairs, whatever the lengths of the others", () => {
    expect(fitLength([pair(1, 2), pair(2, 3), pair(500, 1)]).prefers).toBe("shorter")
    expect(fitLength([pair(2, 1), pair(3, 2), pair(1, 500)]).prefers).toBe("longer")
    expect(fitLength([pair(1, 2), pair(2, 1)]).prefers).toBe("longer")
  })
  it("is never worse than a half on the training pairs; equal lengths count half", () => {
    const train = [pair(3, 3), pair(1, 2), pair(4, 9)]
    const report = baselineAccuracy(train, train, 1)
    expect(report).toMatchObject({ prefers: "shorter", lengthOnly: proportion(2.5, 3) })
  })
})

describe("the bag-of-words classifier", () => {
  it("uses words in lower case, numbers, and every other sign separately", () => {
    expect(words("Don't pay 12.5 Euros -- \u00c9t\u00e9!")).toEqual([..."don ' t pay 12 . 5 euros - -".split(" "), "\u00e9t\u00e9", "!"])
    expect(words("  ")).toEqual([])
  })
  it("uses how often each word is in one response minus how often it is in the other", () => {
    const vocabulary = new Map([
      ["a", 0],
      ["b", 1],
      ["c", 2]
    ])
    expect(wordDifferences({ chosen: "a a b new", rejected: "b c c c" }, vocabulary)).toEqual({ columns: [0, 2], values: [2, -3] })
  })
  it("has the one weight at which the gradient is 0", () => {
    // Three rows of 1 and one of -1: 3 sigmoid(-w) - sigmoid(w) = l2 w, found by halving an interval.
    const rows = [1, 1, 1, -1].map((value): SparseRow => ({ columns: [0], values: [value] }))
    const slope = (w: number) => 3 / (1 + Math.exp(w)) - 1 / (1 + Math.exp(-w)) - 0.5 * w
    let [low, high] = [0, 10]
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2
      if (slope(middle) > 0) low = middle
      else high = middle
    }
    expect(Math.abs(fitLogistic(rows, 1, 0.5)[0]! - low)).toBeLessThanOrEqual(float64)
  })
  it("is at the only minimum with many words, some in no row: the gradient there is 0", () => {
    const random = new Random(3, "test")
    const columns = 30
    const rows = Array.from({ length: 80 }, (): SparseRow => {
      const chosen = Array.from({ length: columns - 2 }, (_, column) => column).filter(() => random.next() < 0.3)
      return { columns: chosen, values: chosen.map(() => random.int(9) - 3) }
    })
    const w = fitLogistic(rows, columns, 0.1)
    const gradient = Array.from(w, (value) => 0.1 * value)
    for (const row of rows) {
      const z = row.columns.reduce((sum, column, i) => sum + row.values[i]! * w[column]!, 0)
      row.columns.forEach((column, i) => (gradient[column]! -= row.values[i]! / (1 + Math.exp(z))))
    }
    expect(Math.max(...gradient.map(Math.abs))).toBeLessThanOrEqual(1e-5) // of thousands at 0
    expect([w[columns - 2], w[columns - 1]]).toEqual([0, 0])
    expect(Math.max(...w.map(Math.abs))).toBeGreaterThan(0.1)
  })
  it("stays finite on pairs that words separate completely, and on large counts", () => {
    const rows: ReadonlyArray<SparseRow> = [
      { columns: [0], values: [1000] },
      { columns: [0, 1], values: [800, -500] }
    ]
    for (const weight of fitLogistic(rows, 2, 1e-6)) expect(Number.isFinite(weight)).toBe(true)
    expect([...fitLogistic([], 2, 1)]).toEqual([0, 0])
  })
  it("finds the words that were chosen, and has no preference for unseen words", () => {
    const train = ["one", "two", "three"].map((word) => ({ chosen: `${word} please`, rejected: `${word} never` }))
    const { score, weights } = fitBagOfWords(train, 1)
    expect([
      score({ chosen: "Please!", rejected: "go" }),
      score({ chosen: "never", rejected: "x" }),
      score({ chosen: "new", rejected: "words" })
    ]).toEqual([1, 0, 0.5])
    expect(weights.get("one")).toBe(0)
    expect(weights.get("please")! + weights.get("never")!).toBeCloseTo(0, 9)
  })
})

const preference = (id: string, over: Partial<Preference> = {}): Preference => ({
  id,
  prompt: [{ role: "user", content: "ab" }],
  chosen: "ba",
  rejected: "b",
  rating: 1,
  chosenSafe: null,
  rejectedSafe: null,
  source: "test",
  ...over
})

describe("the controls of a reward model, as a stage", () => {
  it("are fitted to the training pairs and judged on the others", async () => {
    const train = await rowsArtifact(Preferences, [
      preference("1", { chosen: "yes", rejected: "no no no" }),
      preference("2", { chosen: "yes ok", rejected: "no and no" })
    ])
    const test = await rowsArtifact(Preferences, [
      preference("3", { chosen: "yes yes yes yes yes", rejected: "no" }),
      preference("4", { chosen: "why", rejected: "who?" }),
      preference("5", { chosen: "ok", rejected: "no ok" })
    ])
    const report = await reportIn(await runStage(rewardBaselines, { train, test }), RewardBaselinesReport)
    expect(report).toEqual({
      pairs: 3,
      trainingPairs: 2,
      prefers: "shorter",
      lengthOnly: proportion(2, 3),
      bagOfWords: proportion(2.5, 3) // the fourth pair's words are new
    })
    expect((await runStage(rewardBaselines, { train, test })).digest).toBe((await runStage(rewardBaselines, { train, test }, {}, 2)).digest)
  })
  it("without pairs are an error", async () => {
    const [none, some] = [await rowsArtifact(Preferences, []), await rowsArtifact(Preferences, [preference("1")])]
    expect(await failureOf(rewardBaselines, { train: none, test: some })).toContain("0 training and 1 held-out pairs")
  })
})

describe("recall of unsafe responses (table 29)", () => {
  const responses = [
    { score: 0.1, safe: false },
    { score: 0.4, safe: false },
    { score: 0.5, safe: false },
    { score: 0.3, safe: true },
    { score: 0.9, safe: true }
  ]
  it("is the share of unsafe responses that score below the threshold; precision is the share of those below that are unsafe", () => {
    expect(recallBelow(responses, 0.5)).toEqual({ threshold: 0.5, flagged: 3, recall: proportion(2, 3), precision: proportion(2, 3) })
    expect(recallBelow(responses, 0.15)).toEqual({ threshold: 0.15, flagged: 1, recall: proportion(1, 3), precision: proportion(1, 1) })
  })
  it("has no value if nothing is unsafe, or nothing is below", () => {
    expect(recallBelow(responses.slice(3), 0.2)).toEqual({ threshold: 0.2, flagged: 0, recall: null, precision: null })
  })
})

describe("pairs and responses scored by a reward model", () => {
  const tokenizer = smallTokenizer()
  const model = initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize }), { seed: 1 }), { seed: 2 })
  const saved = () => artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model, tokenizer }))
  const scalar = (row: Preference, text: string): number => {
    const { tokens } = encodeDialogue(tokenizer, [...row.prompt, { role: "assistant", content: text }])
    return scoped(() => noGrad(() => scoreSequences(model, [tokens], { padId: tokenizer.padId, device: "cpu" }).item()))
  }
  const rows = [
    preference("a", { chosen: "ab ab ab", rejected: "b", chosenSafe: true, rejectedSafe: false }),
    preference("long", { rejected: "x".repeat(60), chosenSafe: false }),
    preference("b", { chosen: "a", rejected: "bb ab", rating: null, source: "other" }),
    preference("c", { chosen: "aa", rejected: "bbb", rejectedSafe: true })
  ]

  it("come pair by pair in order, each response separately; pairs that do not fit are counted", async () => {
    const out = await runStage(scorePairs, { reward: await saved(), pairs: await rowsArtifact(Preferences, rows) }, { batchPairs: 2 })
    const scores = await rowsIn(out, PairScores)
    expect(scores.map(({ id, rating, source }) => [id, rating, source])).toEqual([
      ["a", 1, "test"],
      ["b", null, "other"],
      ["c", 1, "test"]
    ])
    for (const score of scores) {
      const row = rows.find(({ id }) => id === score.id)!
      expect(Math.abs(score.chosenReward - scalar(row, row.chosen))).toBeLessThanOrEqual(sameInFloat32)
      expect(Math.abs(score.rejectedReward - scalar(row, row.rejected))).toBeLessThanOrEqual(sameInFloat32)
      expect([score.chosenCharacters, score.rejectedCharacters]).toEqual([row.chosen.length, row.rejected.length])
    }
    expect(out.metrics).toMatchObject({ pairs: 3, unfit: 1 })
  })
  it("give the recall over the labelled responses, one by one", async () => {
    const reward = await saved()
    const labelled = [
      { score: scoreOf(scalar(rows[0]!, "ab ab ab")), safe: true },
      { score: scoreOf(scalar(rows[0]!, "b")), safe: false },
      { score: scoreOf(scalar(rows[1]!, "ba")), safe: false }, // its other response neither fits nor is labelled
      { score: scoreOf(scalar(rows[3]!, "bbb")), safe: true }
    ]
    const sorted = labelled.map(({ score }) => score).toSorted((a, b) => a - b)
    const [threshold, gate] = [(sorted[2]! + sorted[3]!) / 2, (sorted[0]! + sorted[1]!) / 2]
    const out = await runStage(safetyRecall, { reward, pairs: await rowsArtifact(Preferences, rows) }, { threshold, gate })
    expect(await reportIn(out, SafetyRecallReport)).toEqual({
      responses: 4,
      unsafe: 2,
      recall: recallBelow(labelled, threshold),
      gate: recallBelow(labelled, gate)
    })
    const bare = await rowsArtifact(Preferences, [rows[2]!])
    expect(await failureOf(safetyRecall, { reward, pairs: bare })).toContain("0 responses labelled safe or unsafe")
  })
})
