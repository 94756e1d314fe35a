/** The stage ppo on small models: what it keeps, records and rejects, and that the reward rises. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { constantSchedule } from "../../../engine/schedule.ts"
import { type DType, noGrad, scoped } from "../../../engine/tensor.ts"
import { type LoadedReward, loadPolicyFrom, saveCheckpoint } from "../../../models/checkpoint.ts"
import { llamaConfig } from "../../../models/config.ts"
import { initLlama, type Llama } from "../../../models/llama.ts"
import { initRewardModel, type RewardModel } from "../../../models/reward-model.ts"
import type { Tokenizer } from "../../../models/tokenizer/tokenizer.ts"
import { trainTokenizer } from "../../../models/tokenizer/train.ts"
import { noCheckpoints } from "../../../runtime/define/resume-points.ts"
import { collectSkipped } from "../../../runtime/run/skipped-rows.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../../schemas/checkpoint.ts"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { type Prompt, Prompts } from "../../../schemas/rows.ts"
import { PpoConfig } from "../../../stages/ppo/config.ts"
import { ppoDiagnostics, PpoDiagnosticsReport, readDiagnostics } from "../../../stages/ppo/diagnostics.ts"
import { judgeEvaluations } from "../../../stages/common/early-stopping.ts"
import { UpdateDivergedError } from "../../../stages/ppo/loop.ts"
import { ppo } from "../../../stages/ppo/ppo.ts"
import { nextPrompts, reward as rewardResponses, scoredRollouts } from "../../../stages/ppo/rollouts.ts"
import { packedBatches } from "../../../stages/training/sft.ts"
import { logit, scoreOf } from "../../../stages/reward/combined-reward.ts"
import { fitDialogue } from "../../../stages/common/dialogues.ts"
import { scoreSequences } from "../../../stages/common/scoring.ts"
import { languageModelLoss } from "../../../stages/common/sequences.ts"
import { encodeDemonstrations, packExamples } from "../encoded.ts"
import { mean } from "../../../stages/common/statistics.ts"
import { train } from "../../../stages/training/train.ts"
import { largestDifference, smallTokenizer } from "../../models/small.ts"
import { sharpen } from "../../models/tensors.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, reportIn, rowsArtifact, runStage, stageEffect } from "../running.ts"
import { scorer } from "../scorer.ts"

const tokenizer = smallTokenizer()
const model = (seed: number, over: { readonly vocabSize?: number; readonly maxPositions?: number } = {}): Llama => {
  const config = llamaConfig({
    vocabSize: tokenizer.vocabSize,
    dim: 16,
    layers: 1,
    heads: 2,
    kvHeads: 1,
    ffn: 24,
    maxPositions: 64,
    ...over
  })
  return sharpen(initLlama(config, { seed }), 8)
}
const policyRef = (llama: Llama, pieces: Tokenizer = tokenizer) =>
  artifact(Policy, (slot) => saveCheckpoint(slot, { model: llama, tokenizer: pieces }))
/** Briefly fine-tuned to answer every prompt with one of these. */
const tuned = async (answers: ReadonlyArray<string>): Promise<Llama> => {
  const llama = model(1)
  const dialogues = prompts.flatMap(({ messages }) =>
    answers.map((content) => ({ messages: [...messages, { role: "assistant" as const, content }], loss: "answers" as const }))
  )
  const rows = packExamples(encodeDemonstrations(tokenizer, dialogues, 64).examples, { length: 64, padId: tokenizer.padId })
  await Effect.runPromise(
    train({
      ...{ parameters: llama.parameters, fit: { microBatch: { rows: rows.length }, recompute: 0 } },
      batches: packedBatches(
        () => rows,
        { batchSize: rows.length },
        (part) => languageModelLoss(llama, part, { device: "cpu", isolate: true })
      ),
      steps: 40,
      schedule: constantSchedule(0.02),
      maxNorm: 1,
      weightDecay: 0,
      progress: () => Effect.void
    })
  )
  return llama
}
/** A new reward model whose scores differ clearly. */
const reward = (seed: number, over = {}): RewardModel => {
  const made = initRewardModel(model(seed, over), { seed })
  scoped(() => noGrad(() => void made.head.mul_(8)))
  return made
}

const prompt = (id: string, content: string, safety = false): Prompt => ({
  id,
  messages: [{ role: "user", content }],
  safety,
  category: null,
  followUps: []
})
const prompts = ["ab", "ba ab", "abab", "b", "a ba", "aab"].map((content, i) => prompt(`p${i}`, content, i % 3 === 2))

/** Small enough to run quickly. */
const quick = {
  iterations: 2,
  batchSize: 6,
  miniBatchSize: 3,
  microBatchSize: 2,
  maxNewTokens: 5,
  learningRate: 1e-3,
  valueLearningRate: 1e-3,
  evaluateEvery: 1,
  noEos: "penalty"
}

let given: Record<"policy" | "helpfulness" | "safety" | "prompts", ArtifactRef<any>>
let start: Llama
beforeAll(async () => {
  start = model(1)
  given = {
    policy: await policyRef(start),
    helpfulness: await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: reward(2), tokenizer })),
    safety: await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: reward(3), tokenizer })),
    prompts: await rowsArtifact(Prompts, prompts)
  }
})

const weightsOf = async (ref: { readonly path: string }, dtype: DType = "float32"): Promise<Array<number>> => {
  const { model } = await Effect.runPromise(loadPolicyFrom(ref.path, { dtype }))
  return Object.values(model.parameters).flatMap((weight) => weight.toNumbers())
}
const initialWeights = (): Array<number> => Object.values(start.parameters).flatMap((weight) => weight.toNumbers())
const recordOf = (ref: { readonly path: string }) => Effect.runPromise(readDiagnostics(ref.path))

describe("ppo", () => {
  it("gives a changed policy and the diagnostics of every iteration, which ppo-diagnostics reads", async () => {
    const made = await runStage(ppo, given, quick)
    expect(largestDifference(await weightsOf(made), initialWeights())).toBeGreaterThan(1e-4)
    const report = await runStage(ppoDiagnostics, { policy: made })
    const record = await reportIn(report, PpoDiagnosticsReport)
    expect(record).toEqual(await recordOf(made))
    expect(record.iterations.map(({ iteration }) => iteration)).toEqual([1, 2])
    expect([record.kept, record.stopped, record.divergence, record.helpfulnessOnly]).toEqual([2, "iterations", null, false])
    expect(record.heldOut).toEqual([])
    const [first] = record.iterations
    expect(Math.abs(first!.kl)).toBeLessThanOrEqual(sameInFloat32) // the policy still is the reference
    expect(record.iterations[1]!.kl).not.toBe(first!.kl)
    expect(first!.beta).toBe(0.01)
    expect(first!.entropy).toBeGreaterThan(0)
    expect(first!.policyGradientNorm).toBeGreaterThan(0)
    expect(first!.safety).toBeGreaterThan(0)
    expect(first!.safety).toBeLessThan(1)
    expect(first!.samples).toHaveLength(2)
    expect(prompts.map(({ id }) => id)).toContain(first!.samples[0]!.promptId)
  })

  it("is the same bit for bit a second time, and another with another seed", async () => {
    const heldOut = given.prompts
    const [a, b] = [await runStage(ppo, { ...given, heldOut }, quick), await runStage(ppo, { ...given, heldOut }, quick)]
    expect(a.digest).toBe(b.digest)
    expect((await runStage(ppo, { ...given, heldOut }, quick, 2)).digest).not.toBe(a.digest)
  })

  it("does not depend on how its batches are split (detail 18)", async () => {
    const a = await weightsOf(await runStage(ppo, given, { ...quick, iterations: 1 }))
    const b = await weightsOf(await runStage(ppo, given, { ...quick, iterations: 1, microBatchSize: 8, inferenceBatchSize: 2 }))
    expect(largestDifference(a, b)).toBeLessThanOrEqual(sameInFloat32)
  })

  it("raises the number of rewarded letters in the answers", async () => {
    const policy = await policyRef(await tuned(["ab", "ba", "abab", "b a", "a"]))
    const config = { ...quick, iterations: 15, batchSize: 64, miniBatchSize: 16, microBatchSize: 16, maxNewTokens: 8, noEos: "none" }
    const { safety: _, ...rest } = given
    const { iterations } = await recordOf(
      await runStage(
        ppo,
        { ...rest, helpfulness: await scorer("letters"), policy },
        { ...config, learningRate: 3e-3, valueLearningRate: 0.01, valueInit: "policy" }
      )
    )
    const rewards = iterations.map((iteration) => iteration.reward)
    const [before, after] = [mean(rewards.slice(0, 3)), mean(rewards.slice(-3))]
    expect(after - before).toBeGreaterThan(3)
    expect(iterations.at(-1)!.kl).toBeGreaterThan(0.5)
  })

  it("maximises only helpfulness without a safety model", async () => {
    const { safety: _, ...rest } = given
    const record = await recordOf(await runStage(ppo, rest, quick))
    expect(record.helpfulnessOnly).toBe(true)
    expect(record.iterations.map(({ safety }) => safety)).toEqual([null, null])
    const readable = record.iterations.flatMap(({ samples }) => samples).filter(({ helpfulness }) => helpfulness !== null)
    expect(readable.length).toBeGreaterThan(0)
    for (const { reward, helpfulness } of readable) expect(reward).toBeCloseTo(logit(helpfulness!), 6)
  })

  it("rewards safety prompts with the safety score (detail 22)", async () => {
    const record = await recordOf(await runStage(ppo, given, { ...quick, sampleTexts: 6 }))
    const samples = record.iterations.flatMap((iteration) => iteration.samples).filter(({ helpfulness }) => helpfulness !== null)
    const isSafety = (id: string) => prompts.find((prompt) => prompt.id === id)!.safety
    expect(samples.some(({ promptId }) => isSafety(promptId))).toBe(true)
    for (const { promptId, reward, helpfulness, safety } of samples)
      expect(reward).toBeCloseTo(logit(isSafety(promptId) || safety! < 0.15 ? safety! : helpfulness!), 6)
  })

  it("recomputes old log-probabilities on request, which in float32 has a negligible effect", async () => {
    const [a, b] = [
      await recordOf(await runStage(ppo, given, quick)),
      await recordOf(await runStage(ppo, given, { ...quick, oldLogProbabilities: "recomputed" }))
    ]
    expect(a.iterations[0]!.mismatchKl).toBeLessThan(1e-9)
    expect(Math.abs(a.iterations[1]!.policyLoss - b.iterations[1]!.policyLoss)).toBeLessThanOrEqual(sameInFloat32)
  })

  it("learns in bfloat16 and keeps the weights in it; recomputed log-probabilities are the update's own", async () => {
    const made = await runStage(ppo, given, { ...quick, iterations: 1, precision: "bfloat16", oldLogProbabilities: "recomputed" })
    const rounded = await weightsOf(given.policy, "bfloat16")
    expect(await weightsOf(made, "bfloat16")).toEqual(await weightsOf(made))
    expect(largestDifference(await weightsOf(made), rounded)).toBeGreaterThan(1e-4)
    const [iteration] = (await recordOf(made)).iterations
    expect(iteration!.mismatchKl).toBeLessThan(1e-9)
  })

  it("starts the value model from the helpfulness reward model, or from the policy", async () => {
    const loss = async (config: object) =>
      (await recordOf(await runStage(ppo, given, { ...quick, iterations: 1, ...config }))).iterations[0]!.valueLoss
    expect(await loss({})).not.toBe(await loss({ valueInit: "policy" }))
  })

  it("reports each iteration's reward, KL and times", async () => {
    const told: Array<Progress> = []
    const path = mkdtempSync(join(tmpdir(), "caravan-ppo-"))
    afterAll(() => rmSync(path, { recursive: true, force: true }))
    await Effect.runPromise(
      Effect.gen(function* () {
        const config = yield* decodeConfig(PpoConfig, quick, "ppo")
        const progress = (report: Progress) => Effect.sync(() => void told.push(report))
        return yield* ppo.stage.run({
          config,
          inputs: given,
          output: { path, type: Policy },
          seed: 1,
          device: "cpu",
          threads: 1,
          progress,
          checkpoints: noCheckpoints,
          skipped: collectSkipped("ppo", undefined, 1)
        })
      })
    )
    const iterations = told.filter(({ kl }) => kl !== undefined)
    expect(iterations.map(({ step, total }) => [step, total])).toEqual([
      [1, 2],
      [2, 2]
    ])
    for (const { reward, generationSeconds, scoringSeconds, updateSeconds } of iterations) {
      expect(reward).toEqual(expect.any(Number))
      for (const time of [generationSeconds, scoringSeconds, updateSeconds]) expect(time).toBeGreaterThan(0)
    }
    expect(JSON.stringify(await recordOf({ path }))).not.toContain("econds")
  })
  it("reports once that all responses have the same reward", async () => {
    const headless = reward(2)
    scoped(() => noGrad(() => void headless.head.mul_(0)))
    const helpfulness = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: headless, tokenizer }))
    const notes: Array<string> = []
    const progress = ({ note }: Progress) => Effect.sync(() => void (note === undefined || notes.push(note)))
    const { policy, prompts } = given
    await Effect.runPromise(stageEffect(ppo, { policy, helpfulness, prompts }, quick, { progress }))
    expect(notes).toEqual([
      "in iteration 1 all 6 responses have the same reward (0), so PPO does not learn from it; check the reward models or scorers"
    ])
    await Effect.runPromise(stageEffect(ppo, given, quick, { progress }))
    expect(notes).toHaveLength(1)
  })
})

describe("early stopping on held-out prompts", () => {
  /** Settings with which the best policy is one in the middle, after others that were the best for a while. */
  const middleSeed = 4
  it("ends after `patience` evaluations without a better one, and keeps the best policy", async () => {
    const heldOut = given.prompts
    // Without learning nothing gets better than at the start.
    const still = { ...quick, iterations: 9, learningRate: 0, patience: 3 }
    const made = await runStage(ppo, { ...given, heldOut }, still)
    const record = await recordOf(made)
    expect(record.heldOut.map(({ iteration }) => iteration)).toEqual([0, 1, 2, 3])
    expect(new Set(record.heldOut.map(({ reward }) => reward)).size).toBe(1) // the same random numbers each time
    expect([record.kept, record.stopped, record.iterations.length]).toEqual([0, "early-stopping", 3])
    expect(await weightsOf(made)).toEqual(initialWeights())
  })
  it("evaluates at intervals and at the end, and keeps the best evaluated policy", async () => {
    const made = await runStage(ppo, { ...given, heldOut: given.prompts }, { ...quick, iterations: 7, evaluateEvery: 2 }, middleSeed)
    const record = await recordOf(made)
    expect(record.heldOut.map(({ iteration }) => iteration)).toEqual([0, 2, 4, 6, 7])
    const best = record.heldOut.reduce((a, b) => (b.reward > a.reward ? b : a))
    expect(record.kept).toBe(best.iteration)
    // Neither the first nor the last; held-out prompts do not affect training.
    expect([2, 4, 6]).toContain(record.kept)
    const alone = await runStage(ppo, given, { ...quick, iterations: record.kept }, middleSeed)
    expect(await weightsOf(made)).toEqual(await weightsOf(alone))
  })
  it.each([
    [[1], 0, true, false],
    [[1, 2], 1, true, false],
    [[1, 2, 2], 1, false, false], // an equal one is not better
    [[1, 2, 0, 1], 1, false, true],
    [[1, 2, 0, 3], 3, true, false]
  ])("judges %j: the best is number %i", (rewards, best, isLast, stop) => {
    expect(judgeEvaluations(rewards, 2)).toEqual({ best, isLast, stop })
  })
})

describe("the rewards of a batch", () => {
  const generated = { prompt: prompts[0]!, promptTokens: [1], tokens: [2], logProbabilities: [-1], text: "" }
  const responses = [true, false].map((finished) => ({ ...generated, finished }))
  const rewards = [1, 3].map((reward) => ({ reward, helpfulness: 0.5, safety: null }))
  const scores = (config: typeof PpoConfig.Encoded) =>
    scoredRollouts(responses, rewards, Schema.decodeSync(PpoConfig)(config)).map(({ score }) => score)
  it("are whitened over the batch, and then adjusted for how responses ended (details 11 and 22)", () => {
    expect(largestDifference(scores({ noEos: "none" }), [-1, 1])).toBeLessThan(1e-7)
    expect(largestDifference(scores({ noEos: "penalty", noEosPenalty: 0.5 }), [-1, 0.5])).toBeLessThan(1e-7)
    expect(scores({ noEos: "replace", noEosPenalty: 2 })[1]).toBe(-2)
  })
})

describe("prompts", () => {
  it("come in a new permutation each time they are exhausted (detail 21)", () => {
    const numbers = [0, 1, 2, 3, 4, 5, 6, 7]
    const passes = [1, 2].map((iteration) => nextPrompts(numbers, { size: 8, iteration, seed: 5 }))
    for (const pass of passes) expect(pass.toSorted((a, b) => a - b)).toEqual(numbers)
    expect(passes[0]).not.toEqual(passes[1])
  })
  it("continue in the next batch where the last one ended", () => {
    const batches = (size: number, count: number) =>
      Array.from({ length: count }, (_, i) => nextPrompts(["a", "b", "c"], { size, iteration: i + 1, seed: 5 })).flat()
    for (const size of [1, 2, 3, 5, 20]) expect(batches(size, 60 / size)).toEqual(batches(60, 1))
  })
  it("longer than the context are left out and counted", async () => {
    const long = prompt("long", "ab ".repeat(60))
    const made = await runStage(ppo, { ...given, prompts: await rowsArtifact(Prompts, [...prompts, long]) }, quick)
    expect((await recordOf(made)).promptsTooLong).toBe(1)
  })
})

describe("the reward of a response", () => {
  const loaded = (seed: number): LoadedReward => ({ model: reward(seed), tokenizer })
  const models = { helpfulness: loaded(2), safety: loaded(3) }
  const config = Schema.decodeSync(PpoConfig)({ threshold: 0.15, unreadableScore: 0.02, inferenceBatchSize: 2 })
  const rewardOf = (text: string, finished = true, over: Partial<typeof models> = {}) =>
    Effect.runPromise(
      rewardResponses({ ...models, ...over, config, progress: () => Effect.void }, [{ prompt: prompts[0]!, text, finished }])
    ).then((all) => all[0]!)
  const scalar = (rewardModel: RewardModel, tokens: ReadonlyArray<number>) =>
    scoped(() => noGrad(() => scoreSequences(rewardModel, [tokens], { padId: 0, device: "cpu" }).item()))

  it.each(["", " \n", "see [INST] ab"])("that no model can read (%j) is the logit of a fixed score", async (text) => {
    expect(await rewardOf(text)).toEqual({ reward: Math.log(0.02 / 0.98), helpfulness: null, safety: null })
  })
  it("that one of two models can't read is also that score, not the other's", async () => {
    const safety = { model: reward(3, { maxPositions: 4 }), tokenizer }
    expect(await rewardOf("ab", true, { safety })).toEqual({ reward: Math.log(0.02 / 0.98), helpfulness: null, safety: null })
  })
  it("is read at its end-of-sequence token, or at its last word if it was truncated (detail 3)", async () => {
    const { tokens } = fitDialogue(tokenizer, [...prompts[0]!.messages, { role: "assistant", content: "ba ab" }], 64)!
    const [whole, cut] = [await rewardOf("ba ab"), await rewardOf("ba ab", false)]
    expect(whole.helpfulness).toBeCloseTo(scoreOf(scalar(models.helpfulness.model, tokens)), 5)
    expect(cut.helpfulness).toBeCloseTo(scoreOf(scalar(models.helpfulness.model, tokens.slice(0, -2))), 5)
    expect(tokens.at(-1)).toBe(tokenizer.eosId)
    expect(whole.helpfulness).not.toBeCloseTo(cut.helpfulness!, 5)
  })
  it("is an error if a model gives NaN", async () => {
    const broken = loaded(4)
    scoped(() => noGrad(() => void broken.model.head.fill_(NaN)))
    await expect(rewardOf("ab", true, { safety: broken })).rejects.toThrow("expected a finite score, found NaN")
  })
})

describe("ppo fails", () => {
  it("for top-k and top-p, which the update would not account for, and for greedy sampling (details 7 and 9)", async () => {
    const refusal = (config: object) =>
      Effect.runPromise(Effect.flip(decodeConfig(PpoConfig, config, "Stage ppo"))).then((error) => error.message)
    expect(await refusal({ topK: 5 })).toContain('has no field "topK"')
    expect(await refusal({ topP: 0.9 })).toContain('has no field "topP"')
    expect(await refusal({ temperature: 0 })).toContain("temperature")
  })
  it("for a reward model with another tokenizer, and says where they differ", async () => {
    const other = trainTokenizer(["ba baba ba"], { vocabSize: 264 })
    expect(other.vocabSize).toBe(tokenizer.vocabSize)
    const helpfulness = await artifact(HelpfulnessReward, (slot) => saveCheckpoint(slot, { model: reward(2), tokenizer: other }))
    const message = await failureOf(ppo, { ...given, helpfulness }, quick)
    expect(message).toContain("PPO with this helpfulness reward model: expected the policy's tokenizer (264 pieces, number")
    const safety = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: reward(2), tokenizer: other }))
    expect(await failureOf(ppo, { ...given, safety }, quick)).toContain("PPO with this safety reward model")
  })
  it("without prompts, and if none fits", async () => {
    expect(await failureOf(ppo, { ...given, prompts: await rowsArtifact(Prompts, []) }, quick)).toContain("0 prompts")
    const heldOut = await rowsArtifact(Prompts, [prompt("long", "ab ".repeat(60))])
    expect(await failureOf(ppo, { ...given, heldOut }, quick)).toContain("1 held-out prompts, none of which fits 57 tokens") // 64 - 2 - 5
  })
  it("if responses leave no space for a prompt in the smallest context", async () => {
    const safety = await artifact(SafetyReward, (slot) => saveCheckpoint(slot, { model: reward(3, { maxPositions: 40 }), tokenizer }))
    expect(await failureOf(ppo, { ...given, safety }, { ...quick, maxNewTokens: 38 })).toContain("holds 38 tokens")
  })
  it("for the best by held-out prompts without any", async () => {
    expect(await failureOf(ppo, given, { ...quick, onDivergence: "keep-best" })).toContain(`connect the input heldOut`)
  })
  it("if it diverges, and names the iteration and the NaN value", async () => {
    const message = await failureOf(ppo, given, { ...quick, learningRate: 1e30 })
    expect(message).toMatch(/^PPO diverged in iteration [12] of 2: .*(NaN|not numbers|Infinity)/)
    expect(message).toContain("Lower learningRate")
  })
  it("if it diverges, with advice that can be followed: never fewer iterations than one, nor other rates if no step was taken", () => {
    const told = (iteration: number, steps: number) =>
      UpdateDivergedError.of({ method: { name: "PPO", rates: "learningRate or valueLearningRate" }, iteration, of: 9, steps, what: "x" })
        .message
    const lower = "Lower learningRate or valueLearningRate, raise beta, or set"
    const keep = 'onDivergence to "keep-best" to keep a policy from before.'
    expect(told(3, 20)).toBe(`PPO diverged in iteration 3 of 9: x. ${lower} iterations to 2 or ${keep}`)
    expect(told(2, 9)).toBe(`PPO diverged in iteration 2 of 9: x. ${lower} iterations to 1 or ${keep}`)
    expect(told(1, 2)).toBe(`PPO diverged in iteration 1 of 9: x. ${lower} ${keep}`)
    expect(told(1, 0)).toMatch(/^PPO diverged in iteration 1 of 9: x\. No step was taken yet: an input model is broken/)
    expect(told(0, 0)).toMatch(/^PPO diverged before the first of 9 iterations: x\. No step was taken yet/)
  })
  it.each([
    ["before its first iteration", true, "PPO diverged before the first of 2 iterations: generate: the model's logits are not numbers"],
    ["in its first iteration", false, "PPO diverged in iteration 1 of 2: generate: the model's logits are not numbers"]
  ])("%s if the given policy has NaN weights, and says that no step was taken", async (_, heldOut, wanted) => {
    const broken = model(1)
    scoped(() => noGrad(() => void Object.values(broken.parameters)[0]!.fill_(NaN)))
    const inputs = { ...given, policy: await policyRef(broken), ...(heldOut ? { heldOut: given.prompts } : {}) }
    const message = await failureOf(ppo, inputs, quick)
    expect(message).toContain(wanted)
    expect(message).toContain("No step was taken yet")
    expect(message).not.toContain("Lower learningRate")
  })
  it("if sampling and the update disagree about the policy by more than maxMismatchKl, but not if they agree", async () => {
    // With an adapter in bfloat16, sampling reads merged, rounded weights, and the update does not.
    const narrow = { ...quick, precision: "bfloat16", loraRank: 2, learningRate: 1e-2 }
    expect(await failureOf(ppo, given, { ...narrow, maxMismatchKl: 0 })).toMatch(
      /^PPO diverged in iteration [12] of 2: the update's log-probabilities of the sampled tokens differ from those recorded while sampling by a KL of \S+ nats a token, more than maxMismatchKl \(0\)\. Set oldLogProbabilities to "recomputed", or precision to "float32"; where this much is expected, raise maxMismatchKl\.$/
    )
    await runStage(ppo, given, narrow)
  })
  it("not if it diverges and the best policy is to be kept", async () => {
    const config = { ...quick, learningRate: 1e30, onDivergence: "keep-best" }
    const made = await runStage(ppo, { ...given, heldOut: given.prompts }, config)
    const record = await recordOf(made)
    expect([record.stopped, record.kept]).toEqual(["diverged", 0])
    expect(record.divergence).toContain("PPO diverged in iteration 1 of 2")
    expect(await weightsOf(made)).toEqual(initialWeights())
  })
})

describe("ppo-diagnostics", () => {
  it("rejects a checkpoint that PPO did not make", async () => {
    expect(await failureOf(ppoDiagnostics, { policy: given.policy })).toContain("Pass a checkpoint made by ppo")
  })
})
