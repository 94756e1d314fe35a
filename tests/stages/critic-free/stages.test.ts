/** The stages rloo and grpo on small models: what they keep, reject and report, each setting, and that the reward rises. */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { loadPolicy } from "../../../models/checkpoint.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { decodeConfig } from "../../../schemas/hyper.ts"
import { Prompts } from "../../../schemas/rows.ts"
import { mean } from "../../../stages/common/statistics.ts"
import { GrpoConfig, RlooConfig } from "../../../stages/critic-free/config.ts"
import { criticFreeDiagnostics, criticFreeDiagnosticsFile, CriticFreeDiagnosticsReport } from "../../../stages/critic-free/diagnostics.ts"
import { grpo } from "../../../stages/critic-free/grpo.ts"
import { rloo } from "../../../stages/critic-free/rloo.ts"
import { ppo } from "../../../stages/ppo/ppo.ts"
import { largestDifference } from "../../models/small.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { failureOf, reportIn, rowsArtifact, runStage, stageEffect } from "../running.ts"
import { scorer } from "../scorer.ts"
import { ask, assistant, user } from "../samples.ts"
import { newReward, talkingPolicy } from "../talking.ts"

const questions = ["ab", "ba ab", "abab", "b", "a ba", "aab"]
let given: Record<"policy" | "helpfulness" | "safety" | "prompts", ArtifactRef<any>>
let scorers: Record<"letters" | "constant" | "fading", ArtifactRef<any>>
beforeAll(async () => {
  given = {
    // It answers in one of a few ways, and ends its answers.
    policy: await talkingPolicy(
      6,
      questions.flatMap((question) => ["ab", "ba b", "abab", "b", "a"].map((answer) => [user(question), assistant(answer)]))
    ),
    helpfulness: await newReward(HelpfulnessReward, 2, { factor: 8 }),
    safety: await newReward(SafetyReward, 3, { factor: 8 }),
    prompts: await rowsArtifact(
      Prompts,
      questions.map((text, i) => ask(text, text, { safety: i % 3 === 2 }))
    )
  }
  scorers = { letters: await scorer("letters"), constant: await scorer("constant"), fading: await scorer("fading") }
})

// Two iterations of two steps: in the second, policy and reference differ.
const base = {
  ...{ iterations: 2, batchSize: 6, groupSize: 3, miniBatchSize: 3, maxNewTokens: 5, temperature: 1 },
  ...{ learningRate: 1e-3, beta: 0.1 }
}
const stages = { rloo, grpo }
const run = (name: keyof typeof stages, config: Record<string, unknown> = {}, inputs = {}) =>
  runStage(stages[name], { ...given, ...inputs }, { ...base, ...config })
const weightsOf = (ref: { readonly path: string }) =>
  createHash("sha256")
    .update(readFileSync(join(ref.path, "model.safetensors")))
    .digest("hex")
const recordOf = (ref: { readonly path: string }) => Effect.runPromise(criticFreeDiagnosticsFile.read(ref.path))

const shared = [
  { learningRate: 2e-3 },
  { weightDecay: 0.5 },
  { maxNorm: 1e-4 },
  { miniBatchSize: 2 },
  { groupSize: 2 },
  { epochs: 2 },
  { clip: 1e-4 },
  { beta: 0.5 },
  { noEos: "penalty" },
  { threshold: 0.9 },
  { temperature: 0.7 },
  { loraRank: 2 }
]
const cases: ReadonlyArray<readonly [name: keyof typeof stages, changes: ReadonlyArray<Record<string, unknown>>]> = [
  ["rloo", [...shared, { whitenRewards: false }]],
  ["grpo", [...shared, { scale: "none" }, { tokenWeights: "constant" }, { klGradient: "unbiased" }]]
]
describe.each(cases)("%s", (name, changes) => {
  let usual: ArtifactRef<any>
  beforeAll(async () => {
    usual = await run(name)
  })
  it("leaves the diagnostics of every iteration next to the policy, which critic-free-diagnostics reads", async () => {
    const record = await reportIn(await runStage(criticFreeDiagnostics, { policy: usual }), CriticFreeDiagnosticsReport)
    expect(record).toEqual(await recordOf(usual))
    expect(record.iterations.map(({ iteration }) => iteration)).toEqual([1, 2])
    const [first, second] = record.iterations
    // The policy equals the reference and the sampling policy: KL 0, ratio 1.
    expect(Math.abs(first!.kl)).toBeLessThan(1e-5)
    expect(first!.mismatchKl).toBeLessThan(1e-6)
    expect(Math.abs(second!.kl)).toBeGreaterThan(1e-5)
    expect(first!.policyGradientNorm).toBeGreaterThan(0)
    expect(first!.constantGroups).toBeLessThan(1)
    expect(record.kept).toBe(2)
  })
  it("samples each prompt's responses consecutively, as a group", async () => {
    const [first] = (await recordOf(await run(name, { iterations: 1, sampleTexts: 6 }))).iterations
    const ids = first!.samples.map(({ promptId }) => promptId)
    expect(ids.slice(0, 3)).toEqual([ids[0], ids[0], ids[0]])
    expect(ids.slice(3)).toEqual([ids[3], ids[3], ids[3]])
    expect(ids[3]).not.toBe(ids[0])
  })
  it("is the same bit for bit a second time, and another with another seed", async () => {
    expect(weightsOf(await run(name))).toBe(weightsOf(usual))
    expect(weightsOf(await runStage(stages[name], given, base, 2))).not.toBe(weightsOf(usual))
  })
  it("does not depend on how mini-batches are split", async () => {
    const weights = async (config: object) => {
      const made = await run(name, { ...config, iterations: 1 })
      const { model } = await Effect.runPromise(loadPolicy(made))
      const { policyGradientNorm, policyLoss, clipFraction, approximateKl, entropy } = (await recordOf(made)).iterations[0]!
      const told = [policyGradientNorm, policyLoss, clipFraction, approximateKl, entropy]
      return [...told, ...Object.values(model.parameters).flatMap((weight) => weight.toNumbers())]
    }
    const [whole, split] = [await weights({}), await weights({ microBatchSize: 1, inferenceBatchSize: 2 })]
    expect(largestDifference(whole, split)).toBeLessThanOrEqual(sameInFloat32)
  })
  it.each(changes.map((changed) => [changed]))("gives another policy with %j", async (changed) => {
    expect(weightsOf(await run(name, changed))).not.toBe(weightsOf(usual))
  })
  it("raises the share of a letter rewarded by a custom scorer", async () => {
    const { safety: _, ...rest } = given
    const inputs = { ...rest, helpfulness: scorers.letters }
    const config = { ...base, iterations: 15, batchSize: 48, groupSize: 6, miniBatchSize: 24, learningRate: 1e-2, beta: 0, temperature: 1 }
    const made = await runStage(stages[name], inputs, config)
    const rewards = (await recordOf(made)).iterations.map(({ reward }) => reward)
    expect(mean(rewards.slice(-4)) - mean(rewards.slice(0, 4))).toBeGreaterThan(0.15)
  })
  it("rejects a reward that is the same for all responses, and reports groups in which it is", async () => {
    const { safety: _, ...rest } = given
    expect(await failureOf(stages[name], { ...rest, helpfulness: scorers.constant }, base)).toBe(
      `${name.toUpperCase()} has nothing to learn from in iteration 1 of 2: in each of its 2 groups of 3 responses all have the same reward (0.5 in the first), so that every advantage is 0. Use a reward that distinguishes the policy's responses, easier prompts, or larger groups (groupSize) or batches (batchSize).`
    )
    // Responses of one token at temperature 0 are equal in most groups.
    const told: Array<Progress> = []
    const config = { ...base, iterations: 1, batchSize: 12, groupSize: 2, maxNewTokens: 1, temperature: 0.5 }
    const progress = (report: Progress) => Effect.sync(() => void told.push(report))
    const made = await Effect.runPromise(stageEffect(stages[name], given, config, { progress }))
    const { constantGroups } = (await recordOf(made)).iterations[0]!
    expect(constantGroups).toBeGreaterThan(0)
    expect(told.flatMap(({ note }) => note ?? [])).toEqual([
      `in iteration 1 all responses of ${Math.round(constantGroups * 6)} of 6 groups have the same reward and give no learning signal (constantGroups in the curves)`
    ])
  })
  it("reports also later iterations in which all groups have one reward", async () => {
    const { safety: _, ...rest } = given
    const told: Array<Progress> = []
    const progress = (report: Progress) => Effect.sync(() => void told.push(report))
    const inputs = { ...rest, helpfulness: scorers.fading }
    await Effect.runPromise(stageEffect(stages[name], inputs, { ...base, iterations: 3 }, { progress }))
    const end = "groups have the same reward and give no learning signal (constantGroups in the curves)"
    expect(told.flatMap(({ note }) => note ?? [])).toEqual([
      `in iteration 1 all responses of 1 of 2 ${end}`,
      `in iteration 2 all responses of 2 of 2 ${end}`
    ])
  })
  it("reports divergence", async () => {
    expect(await failureOf(stages[name], given, { ...base, learningRate: 1e30 })).toMatch(
      new RegExp(
        `^${name.toUpperCase()} diverged in iteration [12] of 2: .*(NaN|not numbers|Infinity).*Lower learningRate, raise beta, or set`
      )
    )
  })
})

describe("groups", () => {
  const refusal = (config: typeof RlooConfig | typeof GrpoConfig, given: object) =>
    Effect.runPromise(Effect.flip(decodeConfig(config as typeof RlooConfig, given, "Stage rloo"))).then(({ message }) => message)
  it.each([RlooConfig, GrpoConfig])(
    "of a single response, and batches that are not a multiple of the group size, are rejected",
    async (config) => {
      expect(await refusal(config, { groupSize: 1 })).toContain("groupSize")
      expect(await refusal(config, { groupSize: 5, batchSize: 512 })).toContain(
        "a batch of 512 responses cannot be divided into groups of 5: set batchSize to a multiple of groupSize, for example 515"
      )
    }
  )
})

describe("a scorer in PPO", () => {
  it("replaces a reward model, with a value model from the policy", async () => {
    const { safety: _, ...rest } = given
    const config = { iterations: 1, batchSize: 6, miniBatchSize: 3, maxNewTokens: 5, learningRate: 1e-3 }
    const inputs = { ...rest, helpfulness: scorers.letters }
    expect((await runStage(ppo, inputs, { ...config, valueInit: "policy" })).type).toBe("checkpoint:policy")
    expect(await failureOf(ppo, inputs, config)).toBe(
      "Initialising PPO's value model from the helpfulness reward model (valueInit reward): expected a model with weights, found the scorer letters.mjs. Set valueInit to policy."
    )
  })
})
