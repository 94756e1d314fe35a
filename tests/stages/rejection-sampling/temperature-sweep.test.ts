/** Which temperature is best: by enumeration of subsets, and for a small policy that then samples at it. */
import { beforeAll, describe, expect, it } from "vitest"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward } from "../../../schemas/checkpoint.ts"
import { Completions, Prompts, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { score } from "../../../stages/reward/score.ts"
import {
  sampleAtTemperature,
  sweepOf,
  sweepSizes,
  temperatureSweep,
  TemperatureSweepReport
} from "../../../stages/rejection-sampling/temperature-sweep.ts"
import { failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, scored } from "../samples.ts"
import { newReward, talkingPolicy } from "../talking.ts"

const at = (temperature: number, promptId: string, rewards: ReadonlyArray<number>, over: Partial<ScoredCompletion> = {}) =>
  rewards.map((reward, i) => scored(promptId, i, reward, { temperature, ...over }))
const sweep = (rows: ReadonlyArray<ScoredCompletion>, over: Partial<Parameters<typeof sweepOf>[1]> = {}) =>
  sweepOf(rows, { k: 3, n: 3, unfinished: "drop", seed: 1, ...over })

describe("sizes of N", () => {
  it.each([
    [1, 1, [1]],
    [2, 2, [1, 2]],
    [5, 5, [1, 2, 4, 5]],
    [8, 3, [1, 2, 3, 4, 8]]
  ])("up to %i samples, to choose among %i, are %j", (k, n, sizes) => {
    expect(sweepSizes(k, n)).toEqual(sizes)
  })
})

describe("a sweep", () => {
  it("reports the mean over prompts of the mean, the median and the expected maximum of N, at each temperature from the lowest", () => {
    const found = sweep([...at(1.3, "a", [0, 9, 3]), ...at(0.7, "a", [1, 2, 6]), ...at(0.7, "b", [4, 4, 4]), ...at(1.3, "b", [5, 1, 0])])
    expect([found.k, found.prompts, found.leftOut]).toEqual([3, 2, 0])
    expect(found.byTemperature.map((one) => [one.temperature, one.completions, one.candidates])).toEqual([
      [0.7, 6, 6],
      [1.3, 6, 6]
    ])
    const [cold, hot] = found.byTemperature
    expect([cold!.mean.mean, cold!.median.mean]).toEqual([(3 + 4) / 2, (2 + 4) / 2])
    // Of 1, 2, 6 the maximum of two is 2, 6 or 6; of 0, 9, 3: 9, 3, 9; of 5, 1, 0: 5, 5, 1.
    const maxima = ({ byN }: (typeof found.byTemperature)[number]) => byN.map(({ n, max }) => [n, max.mean])
    const close = (value: number) => expect.closeTo(value, 12) as number
    expect(maxima(cold!)).toEqual([
      [1, close(3.5)],
      [2, close((14 / 3 + 4) / 2)],
      [3, close(5)]
    ])
    expect(maxima(hot!)).toEqual([
      [1, close(3)],
      [2, close((7 + 11 / 3) / 2)],
      [3, close(7)]
    ])
    // Two prompts: the interval ranges from one's to the other's.
    expect(hot!.byN[2]!.max).toEqual({ mean: 7, low: 5, high: 9 })
    expect(found.best).toEqual({ temperature: 1.3, n: 3, max: { mean: 7, low: 5, high: 9 } })
  })
  it("finds the best at the requested N: variety pays with many samples, not with one", () => {
    const rows = [...at(0.5, "a", [3, 3, 3, 3]), ...at(1.5, "a", [0, 0, 0, 8])]
    // Of 1: 3 against 2. Of 2: 3 against 8 / 2 = 4.
    expect(sweep(rows, { k: 4, n: 1 }).best.temperature).toBe(0.5)
    expect(sweep(rows, { k: 4, n: 2 }).best).toMatchObject({ temperature: 1.5, n: 2, max: { mean: 4 } })
  })
  it("chooses the lower of two equally good temperatures, in any order of the sets", () => {
    const rows = [...at(1.2, "a", [1, 2, 3]), ...at(0.8, "a", [3, 1, 2])]
    expect(sweep(rows).best.temperature).toBe(0.8)
    expect(sweep(rows.toReversed()).best.temperature).toBe(0.8)
  })
  it("uses every sample at every N, in any order", () => {
    const values = (rewards: ReadonlyArray<number>) => sweep(at(1, "a", rewards)).byTemperature[0]!.byN
    expect(values([9, 1, 2])).toEqual(values([1, 2, 9]))
  })
  it("chooses among finished answers, unless truncated ones are kept", () => {
    const rows = [...at(1, "a", [1, 2]), scored("a", 2, 9, { finished: false })]
    const dropped = sweep(rows)
    expect(dropped.byTemperature[0]).toMatchObject({ completions: 3, candidates: 2, mean: { mean: 1.5 } })
    // Of two candidates the best of three is the better one.
    expect(dropped.best.max.mean).toBe(2)
    expect(sweep(rows, { unfinished: "keep" }).best.max.mean).toBe(9)
  })
  it("covers the prompts with a candidate at every temperature", () => {
    const cut = at(1.5, "b", [90, 90], { finished: false })
    const found = sweep([...at(0.5, "a", [1]), ...at(1.5, "a", [2]), ...at(0.5, "b", [50]), ...cut, ...at(0.5, "c", [70])])
    expect([found.prompts, found.leftOut]).toEqual([1, 2])
    expect(found.best).toMatchObject({ temperature: 1.5, max: { mean: 2 } })
    expect(found.byTemperature.map(({ completions, candidates }) => [completions, candidates])).toEqual([
      [3, 1],
      [3, 1]
    ])
  })
})

describe("the stage", () => {
  const sets = (given: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
    Promise.all(given.map((rows) => rowsArtifact(ScoredCompletions, rows)))
  const failure = async (given: ReadonlyArray<ReadonlyArray<ScoredCompletion>>, config = {}) =>
    failureOf(temperatureSweep, { scored: await sets(given) }, config)
  const [cold, hot] = [at(0.5, "a", [1, 2, 3]), at(1.5, "a", [0, 1, 9])]

  it("joins sets, and uses the sweep's own K if n is 0", async () => {
    const run = async (n: number) =>
      reportIn(await runStage(temperatureSweep, { scored: await sets([hot, cold]) }, { n }), TemperatureSweepReport)
    expect((await run(0)).best).toMatchObject({ temperature: 1.5, n: 3 })
    // The mean of 1, 2, 3 is 2, that of 0, 1, 9 is 10 / 3; the maximum of two 8 / 3 compared with 19 / 3.
    expect((await run(1)).best.max.mean).toBeCloseTo(10 / 3, 12)
    expect((await run(2)).best.max.mean).toBeCloseTo(19 / 3, 12)
  })
  it("rejects sets that can't be compared", async () => {
    expect(await failure([])).toMatch(/got 0 sets of scored samples, all empty/)
    expect(await failure([[], []])).toMatch(/got 2 sets of scored samples, all empty/)
    expect(await failure([cold, hot], { n: 4 })).toMatch(/expected n to be at most 3, found 4/)
    expect(await failure([cold, hot.slice(0, 2)])).toMatch(
      /the same number of samples per prompt at each temperature, found 3 at 0\.5, 2 at 1\.5/
    )
    expect(await failure([cold, hot.map((row) => ({ ...row, policy: "q" }))])).toMatch(/samples of one checkpoint, found samples of 2/)
    expect(await failure([cold, cold])).toMatch(/samples at 0\.5: .*two rows for sample 0 of prompt "a"/)
    expect(await failure([cold, hot.map((row) => ({ ...row, promptId: "b" }))])).toMatch(
      /no prompt that has a sample to choose at each of the 2/
    )
    expect(await failure([cold.map((row) => ({ ...row, finished: false }))])).toMatch(
      /at each of the 1 temperatures \(truncated samples: drop\)/
    )
    const renamed = hot.map((row) => ({ ...row, prompt: [{ role: "user" as const, content: "another" }] }))
    expect(await failure([cold, renamed])).toMatch(/each id to identify one prompt, found two different prompts with the id "a"/)
  })
})

describe("a small policy's sweep", () => {
  let policy: ArtifactRef<any>
  let prompts: ArtifactRef<any>
  let report: ArtifactRef<any>
  beforeAll(async () => {
    const reward = await newReward(HelpfulnessReward, 1)
    policy = await talkingPolicy(1)
    prompts = await rowsArtifact(Prompts, [...["ab", "ba", "aab"].map((text) => ask(text, text)), ask("long", "xyz ".repeat(90))])
    const sets = await Promise.all(
      [0.25, 1.5].map(async (temperature) =>
        runStage(score, { completions: await runStage(sample, { policy, prompts }, { k: 4, temperature, maxNewTokens: 10 }), reward })
      )
    )
    report = await runStage(temperatureSweep, { scored: sets }, { unfinished: "keep" })
  })

  it("grows with N, and leaves out the prompt that is longer than the context", async () => {
    const { byTemperature, prompts: count, k } = await reportIn(report, TemperatureSweepReport)
    expect([count, k]).toEqual([3, 4])
    for (const { byN, mean } of byTemperature) {
      expect(byN.map(({ n }) => n)).toEqual([1, 2, 4])
      expect(byN[0]!.max.mean).toBeCloseTo(mean.mean, 12)
      expect(byN[1]!.max.mean).toBeGreaterThan(byN[0]!.max.mean)
      expect(byN[2]!.max.mean).toBeGreaterThan(byN[1]!.max.mean)
    }
  })
  it("determines the temperature at which the next stage samples: like `sample` at that temperature, bit by bit", async () => {
    const config = { k: 2, maxNewTokens: 10, topK: 20 }
    const { temperature } = (await reportIn(report, TemperatureSweepReport)).best
    const out = await runStage(sampleAtTemperature, { policy, prompts, sweep: report }, config)
    const wanted = await runStage(sample, { policy, prompts }, { ...config, temperature })
    expect(await rowsIn(out, Completions)).toEqual(await rowsIn(wanted, Completions))
    expect(out.metrics).toEqual({ ...wanted.metrics, temperature })
    expect(out.metrics).toMatchObject({ completions: 6, promptsTooLong: 1 })
    const elsewhere = await runStage(sample, { policy, prompts }, { ...config, temperature: temperature === 1.5 ? 0.25 : 1.5 })
    expect(await rowsIn(elsewhere, Completions)).not.toEqual(await rowsIn(wanted, Completions))
  })
})
