/** Pairs of responses: from two checkpoints at two temperatures, comparable, in an order that tells nothing. */
import { beforeAll, describe, expect, it } from "vitest"
import { Prompts, type ResponsePair, ResponsePairs } from "../../schemas/rows.ts"
import { collectPairs } from "../../stages/collect.ts"
import { rowsArtifact, rowsIn, runStage } from "./running.ts"
import { ask, talkingPolicy } from "./talking.ts"

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
  it("hold one of each checkpoint, at its temperature, and what the prompt says", () => {
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
  it("are never equal or empty; those that stay so are counted", () => {
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
  it("of one greedy checkpoint with itself are all alike: none is given", async () => {
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
})
