/** Pairs of responses: from two checkpoints at two temperatures, comparable, in an order that reveals nothing. */
import { beforeAll, describe, expect, it } from "vitest"
import { Prompts, type ResponsePair, ResponsePairs } from "../../../schemas/rows.ts"
import { encodePrompt } from "../../../models/chat.ts"
import { collectPairs } from "../../../stages/preferences/collect-pairs.ts"
import { sample } from "../../../stages/rejection-sampling/sample.ts"
import { failureOf, rowsArtifact, rowsIn, runStage } from "../running.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"
import { ask } from "../samples.ts"

const prompts = Array.from({ length: 24 }, (_, i) => ask(`p${i}`, "ab".repeat(1 + (i % 5)), { safety: i % 2 === 0, followUps: ["ba"] }))
const config = { maxNewTokens: 6, temperatureFirst: 1, temperatureSecond: 1.5 }
let inputs: { first: any; second: any; prompts: any }
let pairs: ReadonlyArray<ResponsePair>
let metrics: Readonly<Record<string, number>>
beforeAll(async () => {
  inputs = { first: await talkingPolicy(1), second: await talkingPolicy(2), prompts: await rowsArtifact(Prompts, prompts) }
  const made = await runStage(collectPairs, inputs, config)
  pairs = await rowsIn(made, ResponsePairs)
  metrics = made.metrics
})

describe("pairs of responses", () => {
  it("have one from each checkpoint, at its temperature, and the prompt's fields", () => {
    expect(pairs.length).toBeGreaterThan(20)
    for (const pair of pairs) {
      const prompt = prompts.find(({ id }) => id === pair.id)!
      expect(pair).toMatchObject({ prompt: prompt.messages, safety: prompt.safety, followUps: ["ba"], category: null })
      const sides = [
        [pair.policyA, pair.temperatureA],
        [pair.policyB, pair.temperatureB]
      ].toSorted(([, a], [, b]) => (a as number) - (b as number))
      expect(sides).toEqual([
        [inputs.first.contentDigest, 1],
        [inputs.second.contentDigest, 1.5]
      ])
    }
  })
  it("are never equal or empty; those that remain so are counted", () => {
    for (const { responseA, responseB } of pairs) {
      expect(responseA === "" || responseB === "" || responseA === responseB).toBe(false)
    }
    expect(metrics).toMatchObject({ pairs: pairs.length, alike: prompts.length - pairs.length, promptsTooLong: 0 })
  })
  it("come in either order", () => {
    const firstIsA = pairs.filter(({ temperatureA }) => temperatureA === 1).length
    expect(firstIsA).toBeGreaterThan(3)
    expect(firstIsA).toBeLessThan(pairs.length - 3)
  })
  it("are the same on a second run and in other batches, and others under another seed", async () => {
    const again = async (over: Record<string, unknown>, seed = 1) =>
      rowsIn(await runStage(collectPairs, inputs, { ...config, ...over }, seed), ResponsePairs)
    expect(await again({ batchSize: 5 })).toEqual(pairs)
    expect(await again({}, 2)).not.toEqual(pairs)
  })
  it("of one greedy checkpoint with itself are all equal: none is returned", async () => {
    const made = await runStage(
      collectPairs,
      { ...inputs, second: inputs.first },
      { maxNewTokens: 4, temperatureFirst: 0, temperatureSecond: 0 }
    )
    expect(made.metrics).toMatchObject({ pairs: 0, alike: prompts.length })
  })
  it("leave out prompts that are too long, and count them", async () => {
    const long = await rowsArtifact(Prompts, [ask("long", "ba".repeat(200)), prompts[0]!])
    expect((await runStage(collectPairs, { ...inputs, prompts: long }, config)).metrics).toMatchObject({ promptsTooLong: 1 })
  })
  it("count prompts that lost their oldest exchanges once, however often they are sampled", async () => {
    const dialogue = ask("long", "", {
      messages: [
        { role: "user", content: "ba".repeat(200) },
        { role: "assistant", content: "ab" },
        { role: "user", content: "ab" }
      ]
    })
    const given = await rowsArtifact(Prompts, [dialogue, prompts[0]!])
    const alike = { ...inputs, second: inputs.first, prompts: given }
    expect((await runStage(collectPairs, alike, { ...config, temperatureFirst: 0, temperatureSecond: 0 })).metrics).toMatchObject({
      alike: 2,
      promptsTooLong: 0,
      promptsShortened: 1
    })
    expect((await runStage(sample, { policy: inputs.first, prompts: given }, { k: 3, maxNewTokens: 6 })).metrics).toMatchObject({
      completions: 6,
      promptsTooLong: 0,
      promptsShortened: 1
    })
  })
  it("are rejected if an id is shared by two prompts", async () => {
    const given = await rowsArtifact(Prompts, [ask("p", "ab"), ask("p", "ba")])
    expect(await failureOf(collectPairs, { ...inputs, prompts: given }, config)).toMatch(/two different prompts with the id "p"/)
    expect(await failureOf(sample, { policy: inputs.first, prompts: given })).toMatch(/two different prompts with the id "p"/)
  })
})

describe("prompts none of which leaves space for an answer", () => {
  const shortest = encodePrompt(tokenizer, [{ role: "user", content: "ab" }]).length
  it.each([
    ["maxNewTokens takes the context", prompts, { maxNewTokens: 160 }, `Lower maxNewTokens to ${160 - shortest} or less`],
    ["all are too long", [ask("long", "ba".repeat(200))], { maxNewTokens: 6 }, "Use shorter prompts, or a model with a longer context."]
  ])("stop the stage, with the figures: %s", async (_, rows, { maxNewTokens }, advice) => {
    const given = await rowsArtifact(Prompts, rows)
    const least = Math.min(...rows.map(({ messages }) => encodePrompt(tokenizer, messages).length))
    for (const message of [
      await failureOf(collectPairs, { ...inputs, prompts: given }, { ...config, maxNewTokens }),
      await failureOf(sample, { policy: inputs.first, prompts: given }, { maxNewTokens })
    ]) {
      expect(message).toContain(
        `Sampling answers to ${rows.length} prompts: expected at least one that fits the model's context of 160 tokens minus ${maxNewTokens} for the answer (maxNewTokens), found none: the shortest has ${least} tokens.`
      )
      expect(message).toContain(advice)
    }
  })
  it("are different from no prompts: then the result is empty", async () => {
    const none = await rowsArtifact(Prompts, [])
    expect((await runStage(sample, { policy: inputs.first, prompts: none })).metrics).toMatchObject({ completions: 0, promptsTooLong: 0 })
  })
})
