/** Stages use independent random numbers where they say so: for each checkpoint, prompt and attempt, each held-out prompt, each epoch. */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { saveTokenizer } from "../../models/tokenizer/files.ts"
import type { Progress } from "../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { HelpfulnessReward } from "../../schemas/checkpoint.ts"
import { Completions, Demonstrations, Prompts, ResponsePairs, Texts } from "../../schemas/rows.ts"
import { TokenizerModel } from "../../schemas/tokenizer.ts"
import { mixTexts } from "../../stages/data/mix.ts"
import { ppoDiagnostics, PpoDiagnosticsReport } from "../../stages/ppo/diagnostics.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { collectPairs } from "../../stages/preferences/collect-pairs.ts"
import { selectRandom } from "../../stages/rejection-sampling/select-best.ts"
import { pretrain } from "../../stages/training/pretrain.ts"
import { artifact, reportIn, rowsArtifact, rowsIn, runStage, stageEffect } from "./running.ts"
import { ask, completion } from "./samples.ts"
import { newReward, talkingPolicy, tokenizer } from "./talking.ts"

let policy: ArtifactRef<any>
let twins: ArtifactRef<any>
beforeAll(async () => {
  policy = await talkingPolicy(1)
  twins = await rowsArtifact(
    Prompts,
    Array.from({ length: 16 }, (_, i) => ask(`${i}`, "ab"))
  )
})

describe("pairs of responses of one checkpoint at one temperature", () => {
  const collect = async (config: Readonly<Record<string, unknown>>) =>
    runStage(collectPairs, { first: policy, second: policy, prompts: twins }, { temperatureFirst: 1, temperatureSecond: 1, ...config })
  it("are two independent samples: of eight tokens, nearly none are equal", async () => {
    expect((await collect({ maxNewTokens: 8, redraws: 0 })).metrics["pairs"]).toBeGreaterThan(12)
  })
  it("are independent for prompts with the same text", async () => {
    const rows = await rowsIn(await collect({ maxNewTokens: 8 }), ResponsePairs)
    expect(new Set(rows.flatMap(({ responseA, responseB }) => [responseA, responseB])).size).toBeGreaterThan(rows.length)
  })
  it("that are equal are sampled again, and then mostly differ", async () => {
    // Only the likeliest two tokens, one each: at least half of the pairs are equal.
    const alike = async (redraws: number) => (await collect({ maxNewTokens: 1, topK: 2, redraws })).metrics["alike"]!
    const [once, often] = [await alike(0), await alike(12)]
    expect(once).toBeGreaterThan(4)
    expect(often).toBeLessThan(once / 2)
  })
})

describe("ppo's held-out prompts", () => {
  it("have separate answers, even with the same text: their mean reward is not that of the first", async () => {
    const helpfulness = await newReward(HelpfulnessReward, 2)
    const first = async (heldOut: ArtifactRef<any>) => {
      const config = { iterations: 1, batchSize: 2, miniBatchSize: 2, maxNewTokens: 5 }
      const made = await runStage(ppo, { policy, helpfulness, prompts: twins, heldOut }, config)
      return (await reportIn(await runStage(ppoDiagnostics, { policy: made }), PpoDiagnosticsReport)).heldOut[0]!.reward
    }
    const alone = await first(await rowsArtifact(Prompts, [ask("0", "ab")]))
    expect(Math.abs((await first(twins)) - alone)).toBeGreaterThan(1e-4)
  })
})

describe("a random completion of each of forty prompts", () => {
  it("is each of four about ten times: the choice for one prompt does not predict the next", async () => {
    const completions = await rowsArtifact(
      Completions,
      Array.from({ length: 160 }, (_, i) => completion(`${Math.floor(i / 4)}`, i % 4, `${i % 4}`))
    )
    const rows = await rowsIn(await runStage(selectRandom, { completions: [completions] }), Demonstrations)
    const counts = ["0", "1", "2", "3"].map((text) => rows.filter(({ messages }) => messages.at(-1)!.content === text).length)
    // Binomial(40, 1/4): mean 10, deviation 2.7; within three of it.
    expect(counts.reduce((sum, n) => sum + n, 0)).toBe(40)
    for (const count of counts) expect(Math.abs(count - 10)).toBeLessThan(8.3)
  })
})

describe("an epoch of pretraining", () => {
  it("uses all rows, in another order than the previous one", async () => {
    const losses: Array<number> = []
    const progress = ({ loss }: Progress) => Effect.sync(() => (loss === undefined ? undefined : void losses.push(loss)))
    const inputs = {
      tokenizer: await artifact(TokenizerModel, (slot) => saveTokenizer(slot, tokenizer)),
      texts: await rowsArtifact(Texts, [{ text: "ab ba aab b abab ba bb a ab aa b ab ba".repeat(2) }])
    }
    const model = { dim: 16, layers: 1, heads: 2, kvHeads: 1, ffn: 24, contextLength: 8, sequenceLength: 8 }
    const made = await Effect.runPromise(
      // Without learning, a row's loss is the same in each epoch, and identifies it.
      stageEffect(pretrain, inputs, { ...model, steps: 20, batchSize: 1, learningRate: 0, warmupSteps: 0 }, { progress })
    )
    const rows = made.metrics["tokens"]! / 8
    expect([rows, losses.length, new Set(losses).size]).toEqual([rows, 20, rows])
    const [one, two] = [losses.slice(0, rows), losses.slice(rows, 2 * rows)]
    expect(two.length).toBe(rows)
    expect(two).not.toEqual(one)
    expect(two.toSorted((a, b) => a - b)).toEqual(one.toSorted((a, b) => a - b))
  })
})

describe("a mixture", () => {
  // Three rows times the weight; the part beyond complete copies is rounded to the nearest integer, a half up.
  it.each([
    [0.9, 3],
    [0.5, 2],
    [0.4, 1],
    [1.9, 6],
    [1.1, 3]
  ])("at weight %f has %i of three rows", async (weight, count) => {
    const datasets = [
      await rowsArtifact(
        Texts,
        ["a", "b", "c"].map((text) => ({ text }))
      )
    ]
    expect(await rowsIn(await runStage(mixTexts, { datasets }, { weights: [weight] }), Texts)).toHaveLength(count)
  })
})
