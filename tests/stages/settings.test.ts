/** Settings have exactly their documented effect, not just some effect. (Those of ppo: whole-stages.test.ts, in two runs that share few of them.) */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../engine/tensor.ts"
import { encodePrompt } from "../../models/chat.ts"
import { loadPolicy } from "../../models/checkpoint.ts"
import type { ArtifactRef } from "../../schemas/artifact.ts"
import { Completions, Demonstrations, Preferences, Prompts } from "../../schemas/rows.ts"
import { sample } from "../../stages/rejection-sampling/sample.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { sft } from "../../stages/training/sft.ts"
import { largestDifference } from "../models/small.ts"
import { sameInFloat32 } from "../tolerances.ts"
import { rowsArtifact, rowsIn, runStage } from "./running.ts"
import { ask } from "./samples.ts"
import { talkingPolicy, tokenizer } from "./talking.ts"

type Config = Readonly<Record<string, unknown>>
let init: ArtifactRef<any>
beforeAll(async () => {
  init = await talkingPolicy(1)
})
const weightsOf = async (ref: ArtifactRef<any>) =>
  Object.fromEntries(
    Object.entries((await Effect.runPromise(loadPolicy(ref))).model.parameters).map(([name, weight]) => [name, weight.toNumbers()])
  )

describe("fine-tuning", () => {
  // 22 to 28 tokens each.
  const dialogues = ["ab", "ba", "bb a", "a", "aab"].map((text, i) => ({
    id: `${i}`,
    messages: [
      { role: "user" as const, content: text },
      { role: "assistant" as const, content: text }
    ],
    loss: "answers" as const
  }))
  const tune = async (config: Config) => {
    const demonstrations = await rowsArtifact(Demonstrations, dialogues)
    return runStage(sft, { init, demonstrations }, { batchSize: 8, sequenceLength: 29, maxNorm: 1e9, weightDecay: 0, ...config })
  }
  /** The change of each weight. */
  const moves = async (config: Config) => {
    const [before, after] = [await weightsOf(init), await weightsOf(await tune(config))]
    return Object.keys(before).flatMap((name) => before[name]!.map((x, i) => after[name]![i]! - x))
  }

  it("moves by the learning rate: AdamW's first step by at most that, by nearly that if there is a gradient, and twice as far at twice the rate", async () => {
    const [once, twice] = [await moves({ steps: 1, learningRate: 1e-3 }), await moves({ steps: 1, learningRate: 2e-3 })]
    // A step is rate g / (|g| + 1e-5); weights of size 1 are represented to 6e-8.
    const most = Math.max(...once.map(Math.abs))
    expect(most).toBeLessThan(1e-3 + 2e-7)
    expect(most).toBeGreaterThan(0.99e-3)
    expect(
      largestDifference(
        twice,
        once.map((move) => 2 * move)
      )
    ).toBeLessThan(4e-7)
  })

  it("decays weights without a gradient by 1 - rate x decay at each step, the rate warmed up and brought down by a cosine", async () => {
    // Peak 0.01, two steps of warm-up, from there half a cosine over four steps to half of it: 0.5 + 0.25 (1 + cos(pi t / 4)) of the peak.
    const rates = [0.5, 1, 1, 0.5 + 0.25 * (1 + Math.SQRT1_2), 0.75, 0.5 + 0.25 * (1 - Math.SQRT1_2)]
    const kept = rates.reduce((product, rate) => product * (1 - 0.01 * rate * 0.4), 1)
    const made = await tune({ steps: 6, learningRate: 0.01, warmupSteps: 2, finalLearningRate: 0.5, weightDecay: 0.4 })
    const table = "model.embed_tokens.weight"
    const [before, after] = [(await weightsOf(init))[table]!, (await weightsOf(made))[table]!]
    // No text has the byte 7: its row of the table is never read.
    const row = (numbers: ReadonlyArray<number>) => numbers.slice(10 * 16, 11 * 16)
    expect(
      largestDifference(
        row(after),
        row(before).map((x) => x * kept)
      )
    ).toBeLessThan(1e-6 * Math.max(...row(before).map(Math.abs)))
  })

  it.each([
    // Five rows of one dialogue, three of two, one of all.
    [{ sequenceLength: 29 }, 5],
    [{ sequenceLength: 58 }, 3],
    [{ sequenceLength: 145 }, 1],
    [{ sequenceLength: 29, epochs: 2 }, 10],
    [{ sequenceLength: 29, epochs: 4 }, 20],
    [{ sequenceLength: 29, epochs: 2, batchSize: 2 }, 6],
    [{ sequenceLength: 29, epochs: 2, batchSize: 5 }, 2],
    [{ sequenceLength: 29, epochs: 2, batchSize: 2, steps: 7 }, 7]
  ])("with %j takes %i steps", async (config, steps) => {
    expect((await tune({ epochs: 1, batchSize: 1, learningRate: 1e-4, ...config })).metrics["steps"]).toBe(steps)
  })
})

describe("a reward model's margin", () => {
  // For one pair and no learning, the loss is -log sigmoid(d - m) = log(1 + exp(m - d)), where d is the difference of the two scores.
  const pair = { id: "1", prompt: [{ role: "user" as const, content: "ab" }], chosen: "ba a", rejected: "b", rating: 0 as number | null }
  const loss = async (config: Config, over: Partial<typeof pair> = {}) => {
    const row = { ...pair, ...over, chosenSafe: null, rejectedSafe: null, source: "test" }
    const made = await runStage(
      helpfulnessRewardModel,
      { init, pairs: await rowsArtifact(Preferences, [row]) },
      { learningRate: 0, epochs: 1, ...config }
    )
    return made.metrics["firstLoss"]!
  }
  const differenceOf = (lost: number) => -Math.log(Math.expm1(lost))

  it("is how far the chosen response's score must be ahead: 1, 2/3, 1/3, 0 when small, 3, 2, 1, 0 when large, by the rating; 0 without one", async () => {
    const ahead = differenceOf(await loss({ margin: "none" }))
    expect(Math.abs(ahead)).toBeGreaterThan(0.01)
    for (const [margin, table] of [
      ["none", [0, 0, 0, 0]],
      ["small", [1, 2 / 3, 1 / 3, 0]],
      ["large", [3, 2, 1, 0]]
    ] as const)
      for (const [rating, m] of [...table.entries(), [null, 0] as const])
        expect(Math.abs(differenceOf(await loss({ margin }, { rating })) - (ahead - m))).toBeLessThan(sameInFloat32)
    // With the responses swapped, the pair's difference is the opposite.
    const swapped = await loss({ margin: "none" }, { chosen: pair.rejected, rejected: pair.chosen })
    expect(Math.abs(differenceOf(swapped) + ahead)).toBeLessThan(sameInFloat32)
  })
})

describe("samples", () => {
  const prompts = [ask("one", "ab"), ask("two", "ba a")]
  const draw = async (config: Config) =>
    rowsIn(
      await runStage(sample, { policy: init, prompts: await rowsArtifact(Prompts, prompts) }, { maxNewTokens: 1, ...config }),
      Completions
    )
  let logits: Readonly<Record<string, ReadonlyArray<number>>>
  beforeAll(async () => {
    const { model } = await Effect.runPromise(loadPolicy(init))
    logits = Object.fromEntries(
      prompts.map(({ id, messages }) => {
        const ids = encodePrompt(tokenizer, messages)
        const last = () => model.forward(tensor([ids], { dtype: "int64" })).select(1, ids.length - 1)
        return [id, scoped(() => noGrad(() => last().toNumbers()))]
      })
    )
  })
  /** Each token's log-probability by hand: logits / T, the k likeliest of them, the fewest of those that reach p, renormalised. */
  const byHand = (row: ReadonlyArray<number>, { temperature, topK = 0, topP = 1 }: Readonly<Partial<Record<string, number>>>) => {
    const order = row.map((x, id) => ({ id, weight: Math.exp(x / temperature!) })).sort((a, b) => b.weight - a.weight)
    const likeliest = topK > 0 ? order.slice(0, topK) : order
    const total = likeliest.reduce((sum, { weight }) => sum + weight, 0)
    let reached = 0
    const kept = likeliest.filter(({ weight }) => {
      const before = reached
      reached += weight / total
      return before < topP
    })
    const rest = kept.reduce((sum, { weight }) => sum + weight, 0)
    return new Map(kept.map(({ id, weight }) => [id, Math.log(weight / rest)]))
  }

  it.each([
    { temperature: 1 },
    { temperature: 0.6 },
    { temperature: 2 },
    { temperature: 1, topK: 4 },
    { temperature: 1, topP: 0.6 },
    { temperature: 0.8, topK: 12, topP: 0.7 }
  ])("with %j come from the resulting distribution, and record their probability in it", async (config) => {
    for (const { promptId, tokens, logProbabilities } of await draw({ k: 60, ...config })) {
      const wanted = byHand(logits[promptId]!, config).get(tokens[0]!)
      expect(wanted).toBeDefined()
      expect(Math.abs(logProbabilities[0]! - wanted!)).toBeLessThan(sameInFloat32)
    }
  })
  it("are k for each prompt, numbered from 0, of at most maxNewTokens tokens; at temperature 0 always the likeliest", async () => {
    const rows = await draw({ k: 3, maxNewTokens: 4, temperature: 1 })
    expect(rows.map((row) => [row.promptId, row.sample])).toEqual(prompts.flatMap(({ id }) => [0, 1, 2].map((i) => [id, i])))
    expect(Math.max(...rows.map(({ tokens }) => tokens.length))).toBe(4)
    for (const { promptId, tokens } of await draw({ k: 2, temperature: 0 })) {
      const row = logits[promptId]!
      expect(tokens).toEqual([row.indexOf(Math.max(...row))])
    }
  })
})
