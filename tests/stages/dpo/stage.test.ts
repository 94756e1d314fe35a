/** The stage dpo on a small model: its initial loss, what it makes likelier, what it rejects. */
import * as Effect from "effect/Effect"
import { beforeAll, describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { encodePrompt } from "../../../models/chat.ts"
import { loadPolicy, saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import type { Progress } from "../../../runtime/define/stage.ts"
import type { ArtifactRef } from "../../../schemas/artifact.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
import { type Preference, Preferences } from "../../../schemas/rows.ts"
import { fitDialogue } from "../../../stages/common/dialogues.ts"
import { dpo, pairsLoss } from "../../../stages/dpo/dpo.ts"
import { dpoLoss } from "../../../stages/dpo/losses.ts"
import { logProbabilitiesOf } from "../../../stages/ppo/models.ts"
import { tokenisePair } from "../../../stages/reward/pairs.ts"
import { smallConfig } from "../../models/small.ts"
import { sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, rowsArtifact, runStage, stageEffect } from "../running.ts"
import { user } from "../samples.ts"
import { talkingPolicy, tokenizer } from "../talking.ts"

const pairs = ["ab", "ba ab", "abab", "b", "a ba", "aab"].map((text, i): Preference => ({
  ...{ id: `q${i}`, prompt: [user(text)], chosen: "ab ".repeat((i % 3) + 1).trim(), rejected: i % 2 === 0 ? "b ba" : "bb" },
  ...{ rating: null, chosenSafe: null, rejectedSafe: null, source: "test" }
}))
let given: Record<"policy" | "pairs", ArtifactRef<any>>
beforeAll(async () => {
  given = { policy: await talkingPolicy(1), pairs: await rowsArtifact(Preferences, pairs) }
})

const config = { batchPairs: 3, epochs: 4, warmupSteps: 0, learningRate: 3e-3, weightDecay: 0 }
/** How much likelier each chosen response is than the rejected one, in nats. */
const marginsOf = async (ref: ArtifactRef<any>): Promise<Array<number>> => {
  const { model } = await Effect.runPromise(loadPolicy(ref))
  return pairs.map((pair) => {
    const { chosen, rejected } = tokenisePair(tokenizer, pair, "none", 160)!
    const prompt = chosen.findIndex((token, i) => token !== rejected[i])
    const [a, b] = logProbabilitiesOf(
      model,
      [chosen, rejected].map((tokens) => ({ prompt: tokens.slice(0, prompt), response: tokens.slice(prompt) })),
      { padId: 0, config: { temperature: 1, inferenceBatchSize: 2 } }
    ).map((row) => row.reduce((x, y) => x + y, 0))
    return a! - b!
  })
}

describe("dpo", () => {
  it.each([
    ["with all weights", {}],
    ["by LoRA", { loraRank: 2 }]
  ])("starts at log 2, since the policy is its own reference, %s", async (_, over) => {
    const told: Array<Progress> = []
    const progress = (report: Progress) => Effect.sync(() => void told.push(report))
    await Effect.runPromise(stageEffect(dpo, given, { ...config, ...over }, { progress }))
    const losses = told.flatMap(({ loss }) => loss ?? [])
    expect(losses).toHaveLength(8)
    expect(Math.abs(losses[0]! - Math.log(2))).toBeLessThanOrEqual(sameInFloat32)
    expect(losses.at(-1)).toBeLessThan(losses[0]!)
  })
  it("uses every token of a response including its end, and none of the prompt: those that carry loss in fine-tuning", async () => {
    const { model } = await Effect.runPromise(loadPolicy(given.policy))
    /** Log-probability of an answer, from all logits and SFT's mask. */
    const ofAnswer = (pair: Preference, content: string): number => {
      const { lossMask, tokens } = fitDialogue(tokenizer, [...pair.prompt, { role: "assistant", content }], 160)!
      const logits = model.forward(tensor([[...tokens]], { dtype: "int64" })).logSoftmax(-1) // (1, T, V)
      const [width, all] = [logits.size(-1), logits.toNumbers()]
      return tokens.reduce((sum, token, t) => (lossMask[t] ? sum + all[(t - 1) * width + token]! : sum), 0)
    }
    const beta = 0.3
    const reference = [-20, -9] as const
    const wanted = scoped(() =>
      noGrad(() =>
        pairs.reduce((sum, pair) => {
          const margin = ofAnswer(pair, pair.chosen) - reference[0] - (ofAnswer(pair, pair.rejected) - reference[1])
          return sum + Math.log1p(Math.exp(-beta * margin))
        }, 0)
      )
    )
    const referred = pairs.map((pair) => {
      const tokenised = tokenisePair(tokenizer, pair, "none", 160)!
      return { ...tokenised, promptLength: encodePrompt(tokenizer, pair.prompt).length, reference }
    })
    const loss = scoped(() => noGrad(() => pairsLoss(model, referred, { beta, padId: tokenizer.padId }).item()))
    expect(Math.abs(loss / wanted - 1)).toBeLessThanOrEqual(sameInFloat32)
  })
  it("makes chosen responses likelier than rejected ones", async () => {
    const [before, after] = [await marginsOf(given.policy), await marginsOf(await runStage(dpo, given, config))]
    after.forEach((margin, i) => expect(margin).toBeGreaterThan(before[i]!))
  })
  it.each([
    { beta: 0.5 },
    { learningRate: 1e-2 },
    { warmupSteps: 3 },
    { epochs: 2 },
    { batchPairs: 2 },
    { weightDecay: 0.5 },
    { maxNorm: 1e-4 },
    { precision: "bfloat16" },
    { loraRank: 2 }
  ])("gives another policy with %j", async (changed) => {
    const [usual, other] = [await runStage(dpo, given, config), await runStage(dpo, given, { ...config, ...changed })]
    expect(other.digest).not.toBe(usual.digest)
  })
  it("does not depend on how batches are split, nor on how many pairs are read at a time", async () => {
    const weights = async (over: object) => {
      const { model } = await Effect.runPromise(loadPolicy(await runStage(dpo, given, { ...config, ...over })))
      return Object.values(model.parameters).flatMap((weight) => weight.toNumbers())
    }
    const [whole, split] = [await weights({}), await weights({ microBatchPairs: 1, inferencePairs: 1 })]
    expect(Math.max(...whole.map((x, i) => Math.abs(x - split[i]!)))).toBeLessThanOrEqual(sameInFloat32)
  })
  it("rejects pairs without the reference's log-probabilities, and a policy that gives none", async () => {
    const of = (count: number) => tensor(new Float64Array(count))
    scoped(() =>
      expect(() => dpoLoss({ chosen: of(3), rejected: of(3) }, { chosen: of(3), rejected: of(2) }, 0.1)).toThrow(
        "expected equal numbers of log-probabilities for chosen and rejected responses under policy and reference, got 3 and 3 under the policy, 3 and 2 under the reference"
      )
    )
    const broken = initLlama(smallConfig({ vocabSize: tokenizer.vocabSize, maxPositions: 160 }), { seed: 1 })
    scoped(() => noGrad(() => void broken.parameter("lm_head.weight").fill_(NaN)))
    const policy = await artifact(Policy, (slot) => saveCheckpoint(slot, { model: broken, tokenizer }))
    expect(await failureOf(dpo, { ...given, policy }, config)).toContain(
      "Computing the initial policy's log-probabilities of pair 1 of 6: expected two finite numbers, found NaN and NaN."
    )
  })
  it("rejects an empty set of pairs", async () => {
    expect(await failureOf(dpo, { ...given, pairs: await rowsArtifact(Preferences, []) }, config)).toContain(
      "Nothing to tune on: got 0 pairs"
    )
  })
})
