/** Stages that sample, score and choose pass their settings on: each, changed alone, gives other rows. */
import { beforeAll, describe, expect, it } from "vitest"
import { saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { HelpfulnessReward, Policy, SafetyReward } from "../../../schemas/checkpoint.ts"
import { Completions, Prompts, ResponsePairs, ScoredCompletions } from "../../../schemas/rows.ts"
import { collectPairs } from "../../../stages/preferences/collect-pairs.ts"
import { GhostDialogues, ghostInstructions } from "../../../stages/ghost-attention/instructions.ts"
import { ghostSample, GhostSamples } from "../../../stages/ghost-attention/sample.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { scoreCombined } from "../../../stages/reward/score-combined.ts"
import { smallConfig } from "../../models/small.ts"
import { artifact, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { newReward, talkingPolicy, tokenizer } from "../talking.ts"
import { ask } from "../samples.ts"

type Config = Readonly<Record<string, unknown>>
let policy: ArtifactRef<any>
let prompts: ArtifactRef<any>
beforeAll(async () => {
  policy = await talkingPolicy(1)
  prompts = await rowsArtifact(
    Prompts,
    ["ab", "ba", "aab", "b ab"].map((text, i) => ask(text, text, { safety: i % 2 === 0, followUps: ["a", "b"] }))
  )
})
const base = { maxNewTokens: 8, topP: 0.9, topK: 40 }
const sampling: ReadonlyArray<Config> = [{ topP: 0.3 }, { topK: 2 }, { maxNewTokens: 4 }]

describe("completions", () => {
  const drawn = async (config: Config = {}) =>
    (await rowsIn(await runStage(sample, { policy, prompts }, { ...base, k: 3, temperature: 1, ...config }), Completions)).map(
      ({ text }) => text
    )
  it.each([...sampling, { temperature: 0.3 }, { k: 2 }])("differ with %j", async (changed) => {
    expect(await drawn(changed)).not.toEqual(await drawn())
  })
  it("are the same for any batches, with the requested number of samples per prompt", async () => {
    expect(await drawn({ batchSize: 1 })).toEqual(await drawn())
    expect(await drawn()).toHaveLength(4 * 3)
    expect(new Set(await drawn({ temperature: 0 })).size).toBeLessThanOrEqual(4)
  })
})

describe("batchInvariant", () => {
  const config: Config = { ...base, precision: "bfloat16", batchInvariant: true }
  const stages = {
    sample: () => runStage(sample, { policy, prompts }, config),
    collectPairs: () => runStage(collectPairs, { first: policy, second: policy, prompts }, config),
    ghostSample: async () =>
      runStage(ghostSample, { policy, dialogues: await runStage(ghostInstructions, { prompts }, { short: 1 }) }, config)
  }
  it.each(Object.entries(stages))("fails %s in bfloat16, where answers depend on the batch", async (_, run) => {
    await expect(run()).rejects.toThrow("Found a bfloat16 model on the CPU. Use float32 or a GPU, or turn batchInvariant off.")
  })
  it("gives the same rows in float32", async () => {
    const rows = async (config: Config) =>
      rowsIn(await runStage(sample, { policy, prompts }, { ...base, k: 3, temperature: 1, ...config }), Completions)
    expect(await rows({ batchInvariant: true, batchSize: 1 })).toEqual(await rows({ batchInvariant: true }))
    expect(await rows({ batchInvariant: true })).toEqual(await rows({}))
  })
})

describe("completions of a model with more rows of embeddings than tokens", () => {
  it("are empty if they have a row without a token, and otherwise the text of their tokens without the last", async () => {
    const { vocabSize } = tokenizer
    const model = initLlama(smallConfig({ vocabSize: vocabSize + 60, maxPositions: 160 }), { seed: 1 })
    const padded = await artifact(Policy, (slot) => saveCheckpoint(slot, { model, tokenizer }))
    const rows = await rowsIn(await runStage(sample, { policy: padded, prompts }, { k: 20, temperature: 1, maxNewTokens: 3 }), Completions)
    const isWhole = ({ tokens }: (typeof rows)[number]) => tokens.every((id) => id < vocabSize)
    expect([rows.some(isWhole), rows.every(isWhole)]).toEqual([true, false])
    for (const row of rows)
      expect(row.text).toBe(isWhole(row) ? tokenizer.decode(row.finished ? row.tokens.slice(0, -1) : row.tokens).trim() : "")
  })
})

describe("pairs of responses", () => {
  const collected = async (config: Config = {}) =>
    rowsIn(await runStage(collectPairs, { first: policy, second: await talkingPolicy(2), prompts }, { ...base, ...config }), ResponsePairs)
  it.each([...sampling, { temperatureFirst: 0.2 }, { temperatureSecond: 0.2 }])("differ with %j", async (changed) => {
    const texts = (rows: Awaited<ReturnType<typeof collected>>) => rows.map(({ responseA, responseB }) => [responseA, responseB])
    expect(texts(await collected(changed))).not.toEqual(texts(await collected()))
  })
  it.each([
    ["first", { temperatureFirst: 0, temperatureSecond: 2 }],
    ["second", { temperatureFirst: 2, temperatureSecond: 0 }]
  ] as const)("have the %s checkpoint's response drawn at its own temperature: at 0 it is the greedy one", async (which, temperatures) => {
    const second = await talkingPolicy(2)
    const greedy = await rowsIn(
      await runStage(sample, { policy: which === "first" ? policy : second, prompts }, { ...base, k: 1, temperature: 0 }),
      Completions
    )
    const rows = await collected({ ...temperatures, redraws: 0 })
    expect(rows.length).toBeGreaterThan(1)
    for (const row of rows)
      expect(row.temperatureA === 0 ? row.responseA : row.responseB).toBe(greedy.find(({ promptId }) => promptId === row.id)!.text)
  })
})

describe("Ghost Attention's dialogues", () => {
  const dialogues = async (config: Config) => rowsIn(await runStage(ghostInstructions, { prompts }, config), GhostDialogues)
  it("are trained with their instruction in its long form, short form, or mixed as requested", async () => {
    const shortened = async (short: number) => (await dialogues({ short })).map((one) => one.instruction !== one.trainedInstruction)
    expect(await shortened(0)).toEqual([false, false, false, false])
    expect(await shortened(1)).toEqual([true, true, true, true])
  })
  it.each([{ topP: 0.3 }, { topK: 1 }, { maxNewTokens: 3 }, { temperature: 0.1 }])("differ with %j", async (changed) => {
    // Tuned to end its answers: truncated ones end a dialogue.
    const answers = ["ab", "ba", "abab", "b"]
    const talker = await talkingPolicy(
      1,
      answers.flatMap((said) =>
        ["ab", "ba", "a"].map((asked) => [
          { role: "user" as const, content: asked },
          { role: "assistant" as const, content: said }
        ])
      )
    )
    const many = await rowsArtifact(
      Prompts,
      Array.from({ length: 16 }, (_, i) => ask(`${i}`, "ab".repeat(1 + (i % 4)), { followUps: ["a"] }))
    )
    const given = { policy: talker, dialogues: await runStage(ghostInstructions, { prompts: many }, { short: 1 }) }
    const run = async (config: Config = {}) =>
      (await rowsIn(await runStage(ghostSample, given, { ...base, temperature: 1.5, ...config }), GhostSamples)).map(
        ({ answers }) => answers
      )
    const usual = await run()
    expect(usual.flat().length).toBeGreaterThan(1)
    expect(await run(changed)).not.toEqual(usual)
  })
})

describe("combined scores", () => {
  it.each([
    [{ threshold: 1 }, { scope: "prompt only" }],
    [{ threshold: 0 }, { scope: "threshold only" }],
    [{ threshold: 0 }, { threshold: 1 }]
  ])("with %j differ with %j", async (first, changed) => {
    const inputs = {
      completions: await runStage(sample, { policy, prompts }, { ...base, k: 4 }),
      helpfulness: await newReward(HelpfulnessReward, 2),
      safety: await newReward(SafetyReward, 3)
    }
    const rewards = async (config: Config) =>
      (await rowsIn(await runStage(scoreCombined, inputs, config), ScoredCompletions)).map((row) => row.reward)
    expect(await rewards({ ...first, ...changed })).not.toEqual(await rewards(first))
  })
})
