/** Whether a general reward model agrees that a version got better: by hand, and with small reward models. */
import { describe, expect, it } from "vitest"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { GeneralReward, HelpfulnessReward } from "../../../schemas/checkpoint.ts"
import { Prompts, type ScoredCompletion, ScoredCompletions } from "../../../schemas/rows.ts"
import { rewardHacking, RewardHackingReport, rewardTrend } from "../../../stages/evaluation/reward-hacking.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { score } from "../../../stages/reward/score.ts"
import { smallConfig } from "../../models/small.ts"
import { artifact, failureOf, reportIn, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { ask, scored } from "../samples.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

const both = (promptId: string, reward: number, general: number) => ({ promptId, reward, general })
const close = (value: number) => expect.closeTo(value, 12) as number

describe("the trend of both rewards", () => {
  const before = [both("a", 1, 4), both("a", 3, 6), both("b", 0, 1), both("gone", 9, 9)]
  it("is the mean over prompts, and the change on the prompts that both versions answered", () => {
    const after = [both("b", 5, 0), both("a", 4, 3), both("new", -9, -9)]
    const { versions, diverging } = rewardTrend(
      [
        { name: "sft", completions: before },
        { name: "v1", completions: after }
      ],
      1
    )
    // sft: a 2 and 5, b 0 and 1, gone 9 and 9.
    expect(versions[0]).toMatchObject({ name: "sft", prompts: 3, completions: 4, change: null })
    expect([versions[0]!.reward.mean, versions[0]!.general.mean]).toEqual([close(11 / 3), close(5)])
    // a: +2 and -2; b: +5 and -1. A resample of two prompts consists of one of them with probability 1/4.
    expect(versions[1]!.change).toEqual({
      prompts: 2,
      reward: { mean: close(3.5), low: 2, high: 5 },
      general: { mean: close(-1.5), low: -2, high: -1 },
      diverges: true
    })
    expect(diverging).toEqual(["v1"])
  })
  it("correlates ranks over completions, not over prompts", () => {
    // Rewards 1 3 0 9 and 4 6 1 9: the same order. After a swap of the first two: d = 1, 1, 0, 0, so 1 - 6 x 2 / 60 = 0.8.
    const spearmanOf = (completions: typeof before) => rewardTrend([{ name: "v", completions }], 1).versions[0]!.spearman
    expect(spearmanOf(before)).toBeCloseTo(1, 12)
    expect(spearmanOf([both("a", 1, 6), both("a", 3, 4), ...before.slice(2)])).toBeCloseTo(0.8, 12)
    expect(spearmanOf([both("a", 1, 5), both("b", 2, 5)])).toBeNull()
  })
  it.each([
    // Changes of the reward and of the general one on prompts a and b, and whether that is a divergence.
    ["both rise", [1, 2], [1, 2], false],
    ["the reward rises, the general one falls", [1, 2], [-1, -2], true],
    ["the general one falls on one prompt only", [1, 2], [-1, 1], false],
    ["the reward rises on one prompt only", [-1, 2], [-1, -2], false],
    ["the general one does not move", [1, 2], [0, -2], false],
    ["both fall", [-1, -2], [-1, -2], false],
    ["the reward falls, the general one rises", [-1, -2], [1, 2], false]
  ])("%s", (_, rewards, generals, wanted) => {
    const at = (scale: number) => ["a", "b"].map((id, i) => both(id, scale * rewards[i]!, scale * generals[i]!))
    const trend = rewardTrend(
      [
        { name: "old", completions: at(0) },
        { name: "new", completions: at(1) }
      ],
      1
    )
    expect(trend.versions[1]!.change!.diverges).toBe(wanted)
    expect(trend.diverging).toEqual(wanted ? ["new"] : [])
  })
  it("compares each version with the previous one, not with the first", () => {
    const one = (reward: number, general: number) => [both("a", reward, general)]
    const { versions, diverging } = rewardTrend(
      [
        { name: "1", completions: one(0, 5) },
        { name: "2", completions: one(1, 3) },
        { name: "3", completions: one(2, 4) }
      ],
      1
    )
    expect(versions.map(({ change }) => change?.general.mean)).toEqual([undefined, -2, 1])
    expect(diverging).toEqual(["2"])
  })
})

describe("the stage", () => {
  const sets = (versions: ReadonlyArray<ReadonlyArray<ScoredCompletion>>) =>
    Promise.all(versions.map((rows) => rowsArtifact(ScoredCompletions, rows)))
  const inputs = async (
    tuned: ReadonlyArray<ReadonlyArray<ScoredCompletion>>,
    general: ReadonlyArray<ReadonlyArray<ScoredCompletion>>
  ) => ({
    scored: await sets(tuned),
    general: await sets(general)
  })
  const one = [scored("a", 0, 1), scored("a", 1, 2)]
  const failure = async (names: ReadonlyArray<string>, ...given: Parameters<typeof inputs>) =>
    failureOf(rewardHacking, await inputs(...given), { names })

  it("pairs both scores of a completion, and leaves out those that only one model could score", async () => {
    const general = [scored("a", 1, 30), scored("a", 0, 10), scored("b", 0, 99)]
    const out = await runStage(rewardHacking, await inputs([one], [general]), { names: ["v"] })
    const { versions } = await reportIn(out, RewardHackingReport)
    expect(versions).toMatchObject([{ name: "v", prompts: 1, completions: 2, reward: { mean: 1.5 }, general: { mean: 20 }, spearman: 1 }])
  })
  it("rejects versions without common prompts, other completions, empty sets, and names or sets that do not match", async () => {
    const other = [scored("b", 0, 1)]
    expect(await failure(["x", "y"], [one, other], [one, other])).toMatch(/no prompt that both "x" and "y" answered/)
    // Each is compared with its neighbour: it is not enough that the first and the third have common prompts.
    expect(await failure(["x", "y", "z"], [one, other, one], [one, other, one])).toMatch(/no prompt that both "x" and "y" answered/)
    const texts = one.map((row) => ({ ...row, text: "another" }))
    expect(await failure(["x"], [one], [texts])).toMatch(/"x": expected both scores of the same completions, found other texts/)
    const policies = one.map((row) => ({ ...row, policy: "another" }))
    expect(await failure(["x"], [one], [policies])).toMatch(/expected both scores of the same completions/)
    expect(await failure(["x"], [one], [other])).toMatch(/"x": .*2 and 1 samples with no prompt in common/)
    expect(await failure(["x"], [[]], [[]])).toMatch(/0 and 0 samples with no prompt in common/)
    expect(await failure(["x", "y"], [one, one], [one])).toMatch(
      /\(general\): expected at least one set, and a distinct name for each, .*1 sets/
    )
    expect(await failure(["x"], [one, one], [one, one])).toMatch(/found 2 sets and the names \["x"\]/)
    expect(await failure([], [], [])).toMatch(/at least one set/)
  })

  it("finds that a general reward model with the same weights agrees fully, and that reversed scores contradict", async () => {
    const model = initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 120 }), { seed: 1 }), { seed: 1 })
    const reward = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model, tokenizer }))
    const general = await artifact(GeneralReward, (slot) => saveCheckpoint(slot, { model, tokenizer }))
    const prompts = await rowsArtifact(
      Prompts,
      ["ab", "ba", "aab", "b ab"].map((text) => ask(text, text))
    )
    const completions = await Promise.all(
      [1, 2].map(async (seed) =>
        runStage(sample, { policy: await talkingPolicy(seed), prompts }, { k: 3, temperature: 1, maxNewTokens: 12 })
      )
    )
    const by = (of: typeof reward | typeof general) =>
      Promise.all(completions.map((set) => runStage(score, { completions: set, reward: of })))
    const [tuned, same] = [await by(reward), await by(general)]
    const names = ["one", "two"]
    const agree = await reportIn(await runStage(rewardHacking, { scored: tuned, general: same }, { names }), RewardHackingReport)
    for (const version of agree.versions) {
      expect(version.spearman).toBeCloseTo(1, 12)
      expect(version.general).toEqual(version.reward)
    }
    expect(agree.versions[1]!.change!.general).toEqual(agree.versions[1]!.change!.reward)
    expect(agree.diverging).toEqual([])

    const turned = await Promise.all(
      tuned.map(async (set) =>
        rowsArtifact(
          ScoredCompletions,
          (await rowsIn(set, ScoredCompletions)).map((row) => ({ ...row, reward: -row.reward }))
        )
      )
    )
    const contradict = await reportIn(await runStage(rewardHacking, { scored: tuned, general: turned }, { names }), RewardHackingReport)
    for (const version of contradict.versions) expect(version.spearman).toBeCloseTo(-1, 12)
  })
})
