/** Evaluations on numbers small enough to work out by hand. */
import { describe, expect, it } from "vitest"
import { Random } from "../../engine/random.ts"
import type { PairScore, ScoredCompletion } from "../../schemas/rows.ts"
import { bestOfN, summariseRewards } from "../../stages/evaluate-policy.ts"
import { rewardAccuracy } from "../../stages/evaluate-reward.ts"
import { bootstrapMean, mean, median, proportion, standardError } from "../../stages/shared/statistics.ts"

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
  it("stays within 0 and 1, and says nothing of no trials", () => {
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
  it("a bootstrapped mean of two values reaches from one to the other: a resample is all of one with probability 1/4", () => {
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
  it("is of each prompt's mean, median and greatest reward, and prompts count alike however many samples they have", () => {
    const summary = summariseRewards([...completions("a", [1, 2, 6]), ...completions("b", [10], false)], 1)
    expect(summary).toMatchObject({ prompts: 2, completions: 4, finished: 3 })
    expect(summary.mean.mean).toBe((3 + 10) / 2)
    expect(summary.median.mean).toBe((2 + 10) / 2)
    expect(summary.max.mean).toBe((6 + 10) / 2)
    // Two prompts: a resample may hold one of them twice.
    expect([summary.mean.low, summary.mean.high]).toEqual([3, 10])
  })
})

describe("the best of N", () => {
  const selector = [...completions("a", [1, 3, 2, 0, 9]), ...completions("b", [5, 4, 4, 6, 6])]
  const judge = [...completions("a", [10, 30, 20, 0, -5]), ...completions("b", [1, 2, 3, 7, 8])]
  const result = bestOfN(selector, judge, 1)

  it("is the judge's reward of what the selector likes best among the first N, in powers of two and all", () => {
    // a: best of the first 1, 2, 4, 5 by the selector are samples 0, 1, 1, 4; b: 0, 0, 3, and 3 again, the first of two equals.
    expect(result.byN.map(({ n, reward }) => [n, reward.mean])).toEqual([
      [1, (10 + 1) / 2],
      [2, (30 + 1) / 2],
      [4, (30 + 7) / 2],
      [5, (-5 + 7) / 2]
    ])
  })
  it("gains over the judge's mean, paired by prompt", () => {
    // Means 11 and 4.2; gains -5 - 11 = -16 and 7 - 4.2 = 2.8
    expect(result.mean.mean).toBeCloseTo(7.6, 12)
    expect(result.gain.mean).toBeCloseTo(-6.6, 12)
    expect(result.gain.low).toBeCloseTo(-16, 12)
    expect(result.gain.high).toBeCloseTo(2.8, 12)
  })
  it("leaves out what the judge did not score, completions and whole prompts", () => {
    const partly = bestOfN(selector, [...completions("b", [1, 2]), ...completions("c", [100])], 1)
    expect(partly.prompts).toBe(1)
    expect(partly.byN.map(({ n, reward }) => [n, reward.mean])).toEqual([
      [1, 1],
      [2, 1]
    ])
  })
  it("of a number of samples that is a power of two names it once", () => {
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
    characters: readonly [number, number] = [10, 20]
  ): PairScore => ({
    id: "",
    rating,
    source: "",
    chosenReward,
    rejectedReward,
    chosenCharacters: characters[0],
    rejectedCharacters: characters[1]
  })
  const scores = [score(null, 1, 2), score(3, 1, 1), score(0, 3, 1), score(0, -1, -2), score(3, 0, 1, [20, 10]), score(1, 2, 1, [15, 15])]
  const report = rewardAccuracy(scores, 1)

  it("is how often the chosen response scores higher, a tie counting half, with a Wilson interval", () => {
    expect(report.pairs).toBe(6)
    expect(report.accuracy).toEqual(proportion(3.5, 6))
  })
  it("is told for each rating that occurs, the clearest first and what was not rated last", () => {
    expect(report.byRating).toEqual([
      { rating: "significantly better", pairs: 2, accuracy: proportion(2, 2) },
      { rating: "better", pairs: 1, accuracy: proportion(1, 1) },
      { rating: "negligibly better or unsure", pairs: 2, accuracy: proportion(0.5, 2) },
      { rating: "unrated", pairs: 1, accuracy: proportion(0, 1) }
    ])
  })
  it("stands beside that of always preferring the shorter response", () => {
    expect(report.controls.preferShorter).toEqual(proportion(4.5, 6))
  })
  it("stands beside that on labels swapped at random, which is near a half even for a perfect model", () => {
    const perfect = Array.from({ length: 1000 }, () => score(0, 1, 0))
    const { accuracy, controls } = rewardAccuracy(perfect, 1)
    expect(accuracy.mean).toBe(1)
    // Five deviations of 1000 fair coins are 0.079.
    expect(Math.abs(controls.shuffledLabels.mean - 0.5)).toBeLessThan(0.079)
    expect(rewardAccuracy(perfect, 1)).toEqual(rewardAccuracy(perfect, 1))
  })
})
