/** The stage ppo passes every setting on to the losses: each, changed alone, gives another policy. The effect of each is tested with its code. */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, SafetyReward } from "../../../schemas/checkpoint.ts"
import { Prompts } from "../../../schemas/rows.ts"
import { ppo } from "../../../stages/ppo/ppo.ts"
import { readDiagnostics } from "../../../stages/ppo/diagnostics.ts"
import { float64 } from "../../tolerances.ts"
import { rowsArtifact, runStage } from "../running.ts"
import { newReward, talkingPolicy } from "../talking.ts"
import { ask } from "../samples.ts"

let given: Record<"policy" | "helpfulness" | "safety" | "prompts", ArtifactRef<any>>
beforeAll(async () => {
  given = {
    policy: await talkingPolicy(1),
    helpfulness: await newReward(HelpfulnessReward, 2, { factor: 8 }),
    safety: await newReward(SafetyReward, 3, { factor: 8 }),
    prompts: await rowsArtifact(
      Prompts,
      ["ab", "ba ab", "abab", "b", "a ba", "aab"].map((text, i) => ask(text, text, { safety: i % 3 === 2 }))
    )
  }
})

// Two iterations of two steps: in the second, policy and reference differ, and the advantages depend on what the value model learnt.
const base = {
  ...{ iterations: 2, batchSize: 6, miniBatchSize: 3, maxNewTokens: 5, temperature: 0.7 },
  ...{ learningRate: 1e-3, valueLearningRate: 1e-3, beta: 0.1 }
}
const run = (config: Record<string, unknown> = {}) => runStage(ppo, given, { ...base, ...config })
const weights = async (config: Record<string, unknown> = {}) =>
  createHash("sha256")
    .update(readFileSync(join((await run(config)).path, "model.safetensors")))
    .digest("hex")
const iterations = async (config: Record<string, unknown> = {}) =>
  (await Effect.runPromise(readDiagnostics((await run(config)).path))).iterations

describe("the policy changes with", () => {
  let usual: string
  beforeAll(async () => {
    usual = await weights()
  })
  it.each([
    { learningRate: 2e-3 },
    { valueLearningRate: 1e-2 },
    { weightDecay: 0.5 },
    { maxNorm: 1e-4 },
    { miniBatchSize: 2 },
    { epochs: 2 },
    { clip: 1e-4 },
    { beta: 0.5 },
    { klControl: "adaptive" },
    { klEstimator: "k2" },
    { klEstimator: "k3" },
    { gamma: 0.5 },
    { lambda: 0.1 },
    { whitenAdvantages: "keep" },
    { whitenAdvantages: "none" },
    { terminal: "past-end" },
    { noEos: "penalty" },
    { noEos: "replace" },
    { threshold: 0.9 },
    { temperature: 1 },
    { valueInit: "policy" }
  ])("%j", async (changed) => {
    expect(await weights(changed)).not.toBe(usual)
  })
  it.each([
    // Values move towards their returns by more than that, step after step.
    [{ epochs: 4, valueLearningRate: 1e-2 }, { valueClip: 1e-5 }],
    // The first KL is 0 whatever the target: beta differs from the third iteration on.
    [{ klControl: "adaptive", klEstimator: "k3", klHorizon: 12, iterations: 3 }, { klTarget: 1e-5 }],
    [{ klControl: "adaptive" }, { klHorizon: 12 }],
    [{ noEos: "penalty" }, { noEosPenalty: 3 }]
  ])("with %j: %j", async (first, changed) => {
    expect(await weights({ ...first, ...changed })).not.toBe(await weights(first))
  })
  it("but not with settings that only appear in the diagnostics", async () => {
    expect(await weights({ sampleTexts: 0 })).toBe(usual)
  })
})

describe("an iteration's diagnostics", () => {
  it.each([0.5, 2])("show that the update uses the sampler's distribution, at temperature %f (detail 7)", async (temperature) => {
    for (const { kl, mismatchKl } of (await iterations({ temperature })).slice(0, 1))
      expect([Math.abs(kl) < 1e-5, Math.abs(mismatchKl) < 1e-6]).toEqual([true, true])
  })
  it("have the requested beta, and if it adapts the one that follows from the previous KL (detail 16)", async () => {
    expect((await iterations()).map(({ beta }) => beta)).toEqual([0.1, 0.1])
    // The first KL is 0: the error is clipped at -0.2, and six responses with a horizon of twelve reduce it by a tenth.
    const adapted = await iterations({ klControl: "adaptive", klHorizon: 12 })
    expect(adapted[0]!.beta).toBe(0.1)
    expect(Math.abs(adapted[1]!.beta - 0.09)).toBeLessThanOrEqual(float64)
  })
})
