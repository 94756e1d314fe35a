/** Completions scored by one reward model and by two: the rule of §3.2.3, completions that can't be scored, and the stages themselves. */
import { beforeAll, describe, expect, it } from "vitest"
import { noGrad, scoped } from "../../../engine/tensor.ts"
import { encodeDialogue } from "../../../models/chat.ts"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel, type RewardModel } from "../../../models/reward-model.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { GeneralReward, HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { type Completion, Completions, ScoredCompletions } from "../../../schemas/rows.ts"
import { combineScalars, scoreCombined } from "../../../stages/reward/score-combined.ts"
import { score } from "../../../stages/reward/score.ts"
import { gateScopes, logit, scoreMargin, scoreOf } from "../../../stages/reward/combined-reward.ts"
import { scoreSequences } from "../../../stages/common/scoring.ts"
import { smallConfig, smallTokenizer } from "../../models/small.ts"
import { float64, sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"

const completion = (over: Partial<Completion> = {}): Completion => ({
  promptId: "p",
  prompt: [{ role: "user", content: "ab" }],
  safety: false,
  sample: 0,
  text: "ba",
  tokens: [7, 8],
  logProbabilities: [-1, -2],
  finished: true,
  temperature: 1,
  policy: "d",
  ...over
})

describe("the combined reward of a completion (§3.2.3)", () => {
  // sigmoid(-2) = 0.1192 is below 0.15, sigmoid(-1.7) = 0.1545 above it. The reward is logit(R_c), so one of the two scalars again.
  const gate = { threshold: 0.15, scope: "prompt or threshold" } as const
  const reward = (
    safety: boolean,
    scalars: { helpfulness: number; safety: number | undefined },
    over: Partial<{ threshold: number; scope: (typeof gateScopes)[number] }> = {}
  ) => combineScalars(completion({ safety }), scalars, { ...gate, ...over }).reward

  it.each([
    [true, 3, 3, "R_s for a safety prompt, however safe"],
    [true, -3, -3, "R_s for a safety prompt that is answered unsafely"],
    [false, -2, -2, "R_s below the threshold"],
    [false, -1.7, 1, "R_h from the threshold on"],
    [false, 3, 1, "R_h of what is safe"]
  ])("of a completion with safety prompt %s and safety scalar %f is %f: %s", (isSafety, safety, wanted) => {
    expect(Math.abs(reward(isSafety, { helpfulness: 1, safety }) - wanted)).toBeLessThanOrEqual(float64)
  })
  it.each([
    { scope: "prompt or threshold", wanted: [-2, 2, -2] },
    { scope: "prompt only", wanted: [1, 2, -2] },
    { scope: "threshold only", wanted: [-2, 1, -2] }
  ] as const)("is gated by $scope: an unsafe answer, and a safe and an unsafe one to safety prompts, get $wanted", ({ scope, wanted }) => {
    const rewards = [
      reward(false, { helpfulness: 1, safety: -2 }, { scope }),
      reward(true, { helpfulness: 1, safety: 2 }, { scope }),
      reward(true, { helpfulness: 1, safety: -2 }, { scope })
    ]
    rewards.forEach((value, i) => expect(Math.abs(value - wanted[i]!)).toBeLessThanOrEqual(float64))
  })
  it("depends on the threshold", () => {
    expect(reward(false, { helpfulness: 1, safety: 0.5 }, { threshold: 0.7 })).toBeCloseTo(0.5, 9) // sigmoid(0.5) = 0.622
    expect(reward(false, { helpfulness: 1, safety: -9 }, { threshold: 0 })).toBeCloseTo(1, 9)
  })
  it("is R_h's without a safety model, for safety prompts too, and then there is no safety score", () => {
    const scored = combineScalars(completion({ safety: true }), { helpfulness: -0.5, safety: undefined }, gate)
    expect(scored.reward).toBeCloseTo(-0.5, 9)
    expect(scored.safetyScore).toBeNull()
    expect(scored.helpfulnessScore).toBeCloseTo(1 / (1 + Math.exp(0.5)), 12)
  })
  it("is returned with both scores", () => {
    const { helpfulnessScore, safetyScore } = combineScalars(completion(), { helpfulness: 1, safety: -2 }, gate)
    expect(helpfulnessScore).toBeCloseTo(0.7310585786300049, 12)
    expect(safetyScore).toBeCloseTo(0.11920292202211755, 12)
  })
  it("orders completions like R_c, and is finite in float32 for scalars of any size", () => {
    const scalars = [-1e4, -20, -16, -3, 0, 0.1, 5, 16, 20, 1e4]
    const rewards = scalars.map((safety) => reward(true, { helpfulness: 0, safety }))
    expect(rewards).toEqual(rewards.toSorted((a, b) => a - b))
    expect(new Set(rewards).size).toBe(8) // -1e4 ties with -20, 20 with 1e4: both are beyond the limit
    for (const scalar of scalars) {
      const inFloat32 = Math.fround(scoreOf(scalar))
      expect(inFloat32).toBeGreaterThan(0)
      expect(inFloat32).toBeLessThan(1)
    }
    expect(Math.max(...rewards)).toBeCloseTo(logit(1 - scoreMargin), 9)
    expect(Math.max(...rewards)).toBeLessThan(16.64)
  })
})

describe("the stages that score", () => {
  const tokenizer = smallTokenizer()
  const model = (seed: number): RewardModel =>
    initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize }), { seed }), { seed: seed + 1 })
  const models = { helpfulness: model(1), safety: model(2) }
  let helpfulness: ArtifactRef<any>
  let safety: ArtifactRef<any>
  let general: ArtifactRef<any>
  beforeAll(async () => {
    helpfulness = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: models.helpfulness, tokenizer }))
    safety = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: models.safety, tokenizer }))
    general = await artifact(GeneralReward, (slot) => saveCheckpoint(slot, { model: models.helpfulness, tokenizer }))
  })

  const rows = [
    completion({ sample: 0, text: "ba ba ba ba" }),
    completion({ sample: 1, text: "" }),
    completion({ sample: 1, text: " \n" }),
    completion({ sample: 2, text: "a", safety: true }),
    completion({ sample: 3, text: "ab b", finished: false }),
    completion({ sample: 4, text: "x".repeat(60) }), // more bytes than the context
    completion({ sample: 5, text: "bb" })
  ]
  /** By hand: the dialogue's tokens, without the space and EOS if it was truncated; one at a time. */
  const scalar = (of: RewardModel, row: Completion): number => {
    const { tokens } = encodeDialogue(tokenizer, [...row.prompt, { role: "assistant", content: row.text }])
    const read = row.finished ? tokens : tokens.slice(0, tokens.length - 2)
    return scoped(() => noGrad(() => scoreSequences(of, [read], { padId: tokenizer.padId, device: "cpu" }).item()))
  }
  /** The samples that can be scored. */
  const kept = [0, 2, 3, 5]

  it("leave out empty completions and those that do not fit, keep the order, and read a truncated one at its last word", async () => {
    const out = await runStage(score, { completions: await rowsArtifact(Completions, rows), reward: helpfulness }, { batchSize: 2 })
    const scored = await rowsIn(out, ScoredCompletions)
    expect(scored.map(({ sample }) => sample)).toEqual(kept)
    scored.forEach((row) => expect(Math.abs(row.reward - scalar(models.helpfulness, row))).toBeLessThanOrEqual(sameInFloat32))
    expect(out.metrics).toMatchObject({ scored: 4, empty: 2, unfit: 1 })
    expect(scored[2]!.reward).not.toBeCloseTo(scalar(models.helpfulness, { ...scored[2]!, finished: true }), 4)
  })
  it("give the score of the model's role, in (0, 1), next to the scalar; a general model has neither", async () => {
    const completions = await rowsArtifact(Completions, rows.slice(0, 1))
    const scoredBy = async (reward: ArtifactRef<any>) =>
      (await rowsIn(await runStage(score, { completions, reward }), ScoredCompletions))[0]!
    const [h, s, g] = [await scoredBy(helpfulness), await scoredBy(safety), await scoredBy(general)]
    expect([h.helpfulnessScore, h.safetyScore]).toEqual([1 / (1 + Math.exp(-h.reward)), null])
    expect([s.helpfulnessScore, s.safetyScore]).toEqual([null, 1 / (1 + Math.exp(-s.reward))])
    expect([g.reward, g.helpfulnessScore, g.safetyScore]).toEqual([h.reward, null, null])
  })
  it("do not depend on the batch size, and are reproducible", async () => {
    const completions = await rowsArtifact(Completions, rows)
    const one = await runStage(score, { completions, reward: safety }, { batchSize: 1 })
    const all = await runStage(score, { completions, reward: safety }, { batchSize: 32 })
    const [a, b] = [await rowsIn(one, ScoredCompletions), await rowsIn(all, ScoredCompletions)]
    a.forEach((row, i) => expect(Math.abs(row.reward - b[i]!.reward)).toBeLessThanOrEqual(sameInFloat32))
    expect((await runStage(score, { completions, reward: safety }, { batchSize: 32 })).digest).toBe(all.digest)
  })

  describe("by both models", () => {
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
    const safetyScores = [5, 0].map((sample) =>
      sigmoid(
        scalar(
          models.safety,
          rows.find((row) => row.sample === sample)!
        )
      )
    )
    /** Between the safety scores of two completions: one is gated, the other is not. */
    const threshold = (safetyScores[0]! + safetyScores[1]!) / 2

    it("select for each completion the scalar that the rule names", async () => {
      const out = await runStage(
        scoreCombined,
        { completions: await rowsArtifact(Completions, rows), helpfulness, safety },
        { threshold, batchSize: 3 }
      )
      const scored = await rowsIn(out, ScoredCompletions)
      expect(scored.map(({ sample }) => sample)).toEqual(kept)
      const gated = scored.map((row) => row.safety || sigmoid(scalar(models.safety, row)) < threshold)
      expect(new Set(gated).size).toBe(2)
      scored.forEach((row, i) => {
        const wanted = scalar(gated[i]! ? models.safety : models.helpfulness, row)
        expect(Math.abs(row.reward - wanted)).toBeLessThanOrEqual(sameInFloat32)
        expect(row.helpfulnessScore).toBeCloseTo(sigmoid(scalar(models.helpfulness, row)), 5)
        expect(row.safetyScore).toBeCloseTo(sigmoid(scalar(models.safety, row)), 5)
      })
      expect(out.metrics).toMatchObject({
        scored: 4,
        empty: 2,
        unfit: 1,
        safetyPrompts: 1,
        decidedBySafety: gated.filter(Boolean).length
      })
      expect(gated[0]).not.toBe(gated[3])
    })
    it("work without the safety model: only the helpfulness scalar", async () => {
      const out = await runStage(scoreCombined, { completions: await rowsArtifact(Completions, rows), helpfulness })
      for (const row of await rowsIn(out, ScoredCompletions)) {
        expect(Math.abs(row.reward - scalar(models.helpfulness, row))).toBeLessThanOrEqual(sameInFloat32)
        expect(row.safetyScore).toBeNull()
      }
      expect(out.metrics).toMatchObject({ decidedBySafety: 0, safetyPrompts: 0 })
    })
  })

  it("stop at a NaN score", async () => {
    const broken = initRewardModel(initLlama(smallConfig({ vocabSize: tokenizer.vocabSize }), { seed: 1 }), { seed: 2 })
    noGrad(() => scoped(() => void broken.head.fill_(Number.NaN)))
    const reward = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: broken, tokenizer }))
    expect(await failureOf(score, { completions: await rowsArtifact(Completions, rows), reward })).toMatch(
      /expected a finite score, found NaN/
    )
  })
})
