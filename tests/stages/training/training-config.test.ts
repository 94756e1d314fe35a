/** The training stages pass every setting on: each, changed alone, gives other weights; settings that only split the work give the same except for rounding. */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { loadPolicyFrom } from "../../../models/checkpoint.ts"
import { saveTokenizer } from "../../../models/tokenizer/files.ts"
import { type Demonstration, Demonstrations, type Preference, Preferences, Texts } from "../../../schemas/rows.ts"
import { TokenizerModel } from "../../../schemas/tokenizer.ts"
import { pretrain } from "../../../stages/training/pretrain.ts"
import { generalRewardModel, helpfulnessRewardModel, safetyRewardModel } from "../../../stages/reward/reward-model.ts"
import { safetyClassifier } from "../../../stages/safety/classifier-training.ts"
import { safetyClassifierData } from "../../../stages/safety/classifier-data.ts"
import { sft } from "../../../stages/training/sft.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, rowsArtifact, runStage } from "../running.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

type Inputs = Parameters<typeof runStage>[1]
type Config = Readonly<Record<string, unknown>>

const words = ["ab", "ba", "abab", "b a", "aab", "bab"]
const pairs = words.map((text, i): Preference => ({
  id: `${i}`,
  prompt: [{ role: "user", content: text }],
  chosen: `${text} a`,
  rejected: `b ${text}`,
  rating: i % 4,
  chosenSafe: i % 2 === 0,
  rejectedSafe: i % 3 === 0,
  source: "test"
}))
const dialogues = words.map((text, i): Demonstration => ({
  id: `${i}`,
  messages: [
    { role: "user", content: text },
    { role: "assistant", content: `${text} so` }
  ],
  loss: "answers"
}))

const weights = (path: string): string =>
  createHash("sha256")
    .update(readFileSync(join(path, "model.safetensors")))
    .digest("hex")
let given: Readonly<Record<"sft" | "reward" | "pretrain" | "classifier", Inputs>>
beforeAll(async () => {
  const init = await talkingPolicy(1)
  const labelled = pairs.map((pair) => ({ ...pair, chosenSafe: true, rejectedSafe: false }))
  given = {
    sft: { init, demonstrations: await rowsArtifact(Demonstrations, dialogues) },
    reward: { init, pairs: await rowsArtifact(Preferences, pairs) },
    pretrain: {
      tokenizer: await artifact(TokenizerModel, (slot) => saveTokenizer(slot, tokenizer)),
      texts: await rowsArtifact(
        Texts,
        words.map((text) => ({ text: `${text} `.repeat(12) }))
      )
    },
    classifier: {
      init,
      examples: await runStage(
        safetyClassifierData,
        { prompts: [], preferences: [await rowsArtifact(Preferences, labelled)] },
        { task: { prompt: "P?", response: "R?", listed: false } }
      )
    }
  }
})

const fast = { learningRate: 1e-3, finalLearningRate: 0.1, weightDecay: 0.1, maxNorm: 1 }
// Clipping matters with AdamW, because its epsilon is not scaled accordingly.
const optimiser: ReadonlyArray<Config> = [{ learningRate: 2e-3 }, { finalLearningRate: 0.5 }, { weightDecay: 0.9 }, { maxNorm: 1e-4 }]
const reward = { ...fast, epochs: 3, batchPairs: 2, warmupFraction: 0.1, warmupMinimum: 1 }
const rewardSettings: ReadonlyArray<Config> = [
  ...[...optimiser, { batchPairs: 3 }, { epochs: 2 }, { warmupFraction: 0.5 }, { warmupMinimum: 4 }],
  ...[{ margin: "none" }, { margin: "large" }, { heldOut: 0.3 }]
]
const model = { dim: 16, layers: 2, heads: 2, kvHeads: 2, ffn: 24, contextLength: 32, sequenceLength: 16 }

describe.each([
  {
    ...{ stage: sft, inputs: "sft" as const, name: "sft", parts: { microBatchSize: 1 } },
    base: { ...fast, epochs: 4, batchSize: 2, sequenceLength: 40 },
    settings: [...optimiser, { epochs: 2 }, { steps: 3 }, { warmupSteps: 2 }, { batchSize: 1 }, { sequenceLength: 64 }, { heldOut: 0.3 }]
  },
  {
    ...{ stage: helpfulnessRewardModel, inputs: "reward" as const, name: "the helpfulness reward model" },
    ...{ parts: { microBatchPairs: 1 }, base: reward, settings: rewardSettings }
  },
  {
    ...{
      stage: safetyRewardModel,
      inputs: "reward" as const,
      name: "the safety reward model",
      parts: { microBatchPairs: 1 },
      base: reward
    },
    settings: [...rewardSettings, { safetyLossWeight: 0 }, { safetyLossWeight: 0.5 }]
  },
  {
    ...{ stage: generalRewardModel, inputs: "reward" as const, name: "the general reward model" },
    ...{ parts: { microBatchPairs: 1 }, base: reward, settings: rewardSettings }
  },
  {
    ...{ stage: safetyClassifier, inputs: "classifier" as const, name: "the safety classifier", parts: { microBatchSize: 1 } },
    base: { ...fast, epochs: 2, batchSize: 2, sequenceLength: 120 },
    settings: [...optimiser, { epochs: 1 }, { warmupSteps: 2 }, { batchSize: 1 }, { sequenceLength: 160 }, { heldOut: 0.3 }]
  },
  {
    ...{ stage: pretrain, inputs: "pretrain" as const, name: "pretraining", parts: { microBatchSize: 1 } },
    base: { ...fast, ...model, steps: 5, batchSize: 3, warmupSteps: 1 },
    settings: [
      ...[...optimiser, { steps: 4 }, { warmupSteps: 3 }, { batchSize: 2 }, { sequenceLength: 12 }, { tiedEmbeddings: true }],
      ...[{ dim: 32 }, { layers: 1 }, { heads: 4, kvHeads: 4 }, { kvHeads: 1 }, { ffn: 32 }, { heldOut: 0.3 }]
    ]
  }
])("$name", ({ stage, inputs, base, settings, parts }) => {
  const run = (config: Config = {}) => runStage(stage, given[inputs], { ...base, ...config })
  let usual: Awaited<ReturnType<typeof run>>
  beforeAll(async () => {
    usual = await run()
  })

  it.each(settings)("changes with %j", async (changed) => {
    expect(weights((await run(changed)).path)).not.toBe(weights(usual.path))
  })
  it("is bitwise the same a second time, and differs with another seed", async () => {
    expect((await run()).digest).toBe(usual.digest)
    expect((await runStage(stage, given[inputs], base, 2)).digest).not.toBe(usual.digest)
  })
  it("has the same losses however its batches are split", async () => {
    const split = await run(parts)
    for (const name of ["firstLoss", "lastLoss"])
      expect(Math.abs(split.metrics[name]! - usual.metrics[name]!)).toBeLessThanOrEqual(sameInFloat32)
  })
})

describe("pretraining", () => {
  const config = { ...fast, ...model, learningRate: 0.01, steps: 80, batchSize: 8, warmupSteps: 2 }
  it("learns from chance, log V, what follows what, and makes a policy of the requested shape", async () => {
    const { metrics, path } = await runStage(pretrain, given.pretrain, { ...config, kvHeads: 1 })
    expect(Math.abs(metrics["firstLoss"]! - Math.log(tokenizer.vocabSize))).toBeLessThan(0.1)
    expect(metrics["lastLoss"]!).toBeLessThan(1)
    const { model: made } = await Effect.runPromise(loadPolicyFrom(path, {}))
    expect(made.config).toMatchObject({ dim: 16, layers: 2, heads: 2, kvHeads: 1, ffn: 24, maxPositions: 32, vocabSize: 264 })
  })
  it("reports texts that do not fill a row", async () => {
    const short = { ...given.pretrain, texts: await rowsArtifact(Texts, [{ text: "ab" }]) }
    expect(await failureOf(pretrain, short, config)).toContain("1 texts that do not fill one sequence of 17 tokens")
    expect(await failureOf(pretrain, { ...given.pretrain, texts: await rowsArtifact(Texts, []) }, config)).toContain("0 texts")
  })
})
