/** The ranking loss compared with PyTorch in float64 (tests/golden/rlhf-losses), the safety loss by hand, how pairs reach them, and training. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { noGrad, scoped, tensor } from "../../../engine/tensor.ts"
import { loadReward, saveCheckpoint } from "../../../models/checkpoint.ts"
import { initLlama } from "../../../models/llama.ts"
import { initRewardModel } from "../../../models/reward-model.ts"
import { openSafetensors } from "../../../models/safetensors.ts"
import { loadLlama } from "../../../models/weights.ts"
import { Policy } from "../../../schemas/checkpoint.ts"
import { type Preference, Preferences } from "../../../schemas/rows.ts"
import { safetyRecall, SafetyRecallReport } from "../../../stages/reward/evaluate-reward.ts"
import { margins, pairBatches, type TokenisedPair, tokenisePair } from "../../../stages/reward/pairs.ts"
import {
  generalRewardModel,
  helpfulnessRewardModel,
  pairLoss,
  rankingLoss,
  safetyLoss,
  safetyRewardModel,
  warmupSteps
} from "../../../stages/reward/reward-model.ts"
import { scoreSequences } from "../../../stages/common/scoring.ts"
import { devices } from "../../devices.ts"
import { largestDifference, smallConfig, smallTokenizer } from "../../models/small.ts"
import { float64, fused, sameInFloat32 } from "../../tolerances.ts"
import { artifact, failureOf, reportIn, rowsArtifact, runStage } from "../running.ts"

interface Ranking {
  readonly margin: ReadonlyArray<number>
  readonly loss: number
  readonly grad_chosen: ReadonlyArray<number>
  readonly grad_rejected: ReadonlyArray<number>
}
interface Golden extends Readonly<Record<"rm_small" | "rm_large", Ranking>> {
  readonly rm_in: Readonly<Record<"chosen" | "rejected" | "rating", ReadonlyArray<number>>>
}
const golden = JSON.parse(readFileSync(new URL("../../golden/rlhf-losses/rlhf.json", import.meta.url), "utf8")) as Golden

describe.each(["small", "large"] as const)("the ranking loss with %s margins", (table) => {
  const { rm_in: given } = golden
  const wanted = golden[`rm_${table}`]
  const pairs = given.rating.length
  const margin = given.rating.map((rating) => margins[table][rating]!)
  const wide = (values: ReadonlyArray<number>) => tensor(values, { dtype: "float64" })
  // Ours is the sum over pairs, the reference's the mean.
  const ours = scoped(() => {
    const chosen = wide(given.chosen).requiresGrad()
    const rejected = wide(given.rejected).requiresGrad()
    const loss = rankingLoss(chosen, rejected, wide(margin))
    loss.backward()
    return { loss: loss.item(), chosen: chosen.grad()!.toNumbers(), rejected: rejected.grad()!.toNumbers() }
  })

  it("uses table 27's margin for each rating", () => {
    expect(largestDifference(margin, wanted.margin)).toBeLessThanOrEqual(float64)
  })
  it("equals PyTorch's", () => {
    expect(Math.abs(ours.loss / pairs - wanted.loss)).toBeLessThanOrEqual(float64)
  })
  it("has PyTorch's gradients, for chosen and for rejected scores", () => {
    expect(
      largestDifference(
        ours.chosen.map((g) => g / pairs),
        wanted.grad_chosen
      )
    ).toBeLessThanOrEqual(float64)
    expect(
      largestDifference(
        ours.rejected.map((g) => g / pairs),
        wanted.grad_rejected
      )
    ).toBeLessThanOrEqual(float64)
  })
})

describe("the ranking loss", () => {
  it("stays finite if the sigmoid is 0 in float32", () => {
    const loss = scoped(() => rankingLoss(tensor([-200]), tensor([0]), tensor([0])).item())
    expect(loss).toBe(200) // log(1 + e^200) is 200 to 87 digits
  })
  it("is log 2 for equal scores without a margin", () => {
    const loss = scoped(() => rankingLoss(tensor([1.5], { dtype: "float64" }), tensor([1.5], { dtype: "float64" }), tensor([0])).item())
    expect(Math.abs(loss - Math.LN2)).toBeLessThanOrEqual(float64)
  })
})

const pairs: ReadonlyArray<TokenisedPair> = [
  { chosen: [1, 5, 9, 2], rejected: [1, 5, 9, 13, 14, 15, 16, 2], margin: 1 },
  { chosen: [1, 30, 31, 32, 33, 2], rejected: [1, 30, 2], margin: 0 },
  { chosen: [1, 7, 40, 41, 42, 43, 44, 45, 46, 47, 48, 2], rejected: [1, 7, 8, 50], margin: 1 / 3 }
]

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`the loss of pairs on ${device}`, () => {
    const model = skip ? undefined! : initRewardModel(initLlama(smallConfig(), { seed: 3, device }), { seed: 4 })
    const loss = (some: ReadonlyArray<TokenisedPair>, padId = 0) =>
      scoped(() => noGrad(() => pairLoss(model, some, { padId, device }).item()))

    it("reads each score at the last response token, with any padding after it", () => {
      const score = (ids: ReadonlyArray<number>) =>
        scoped(() => {
          const last = tensor([ids.length - 1], { dtype: "int64", device })
          return noGrad(() => model.score(tensor([ids], { dtype: "int64", device }), last).item())
        })
      const wanted = pairs.reduce((sum, pair) => sum + Math.log1p(Math.exp(score(pair.rejected) + pair.margin - score(pair.chosen))), 0)
      expect(Math.abs(loss(pairs) - wanted)).toBeLessThanOrEqual(sameInFloat32)
    })
    it("does not depend on the padding's contents", () => {
      expect(loss(pairs, 55)).toBe(loss(pairs, 0))
    })
    it("does not depend on how pairs are split into parts", () => {
      const apart = pairs.reduce((sum, pair) => sum + loss([pair]), 0)
      expect(Math.abs(loss(pairs) - apart)).toBeLessThanOrEqual(sameInFloat32)
    })
  })
}

describe("batches of pairs", () => {
  it("contain every pair once per epoch, in another order each epoch, with a smaller last batch", () => {
    const many = Array.from({ length: 11 }, (_, i): TokenisedPair => ({ chosen: [1, i], rejected: [1], margin: 0 }))
    let seen: Array<number> = []
    const batches = pairBatches(many, { batchPairs: 4 }, 7, (part) => {
      seen.push(...part.map((pair) => pair.chosen[1]!))
      return undefined!
    })
    const epoch = () => {
      seen = []
      const counts = Array.from({ length: 3 }, () => {
        const batch = batches.next().value!
        for (const part of batch.parts({ rows: 3 })) part()
        return batch.count
      })
      expect(counts).toEqual([4, 4, 3])
      return seen
    }
    const [first, second] = [epoch(), epoch()]
    expect(first.toSorted((a, b) => a - b)).toEqual(many.map((_, i) => i))
    expect(second.toSorted((a, b) => a - b)).toEqual(many.map((_, i) => i))
    expect(second).not.toEqual(first)
  })
})

describe("a pair's tokens", () => {
  const tokenizer = smallTokenizer()
  const preference = (over: Partial<Preference>): Preference => ({
    id: "1",
    prompt: [{ role: "user", content: "ab" }],
    chosen: "ba",
    rejected: "no, no, no",
    rating: 1,
    chosenSafe: null,
    rejectedSafe: null,
    source: "test",
    ...over
  })
  it("end with the end-of-sequence token and have the rating's margin; without a rating 0", () => {
    const pair = tokenisePair(tokenizer, preference({}), "large", 100)!
    expect([pair.chosen.at(-1), pair.rejected.at(-1)]).toEqual([tokenizer.eosId, tokenizer.eosId])
    expect(pair.margin).toBe(2)
    expect(pair.safety).toEqual([0, 0])
    expect(tokenisePair(tokenizer, preference({ chosenSafe: true, rejectedSafe: false }), "large", 100)!.safety).toEqual([1, -1])
    expect(tokenisePair(tokenizer, preference({ rating: null }), "large", 100)!.margin).toBe(0)
    expect(tokenisePair(tokenizer, preference({ rating: 0 }), "none", 100)!.margin).toBe(0)
  })
  it("lose the same exchanges if one response is longer: both answer the same prompt", () => {
    const turns = [
      { role: "user" as const, content: "ab ab ab" },
      { role: "assistant" as const, content: "ba" },
      { role: "user" as const, content: "why" }
    ]
    const whole = tokenisePair(tokenizer, preference({ prompt: turns }), "none", 1000)!
    expect(whole.shortened).toBe(false)
    const last = tokenisePair(tokenizer, preference({ prompt: turns.slice(2) }), "none", 1000)!
    // Space for the chosen response after all three turns, for the rejected one only after the last.
    expect(whole.chosen.length).toBeLessThan(whole.rejected.length)
    const shortened = tokenisePair(tokenizer, preference({ prompt: turns }), "none", whole.rejected.length - 1)!
    expect(shortened).toEqual({ ...last, shortened: true })
  })
  it("are none if either response does not fit", () => {
    const { chosen, rejected } = tokenisePair(tokenizer, preference({}), "none", 100)!
    expect(chosen.length).toBeLessThan(rejected.length)
    expect(tokenisePair(tokenizer, preference({}), "none", rejected.length - 1)).toBeUndefined()
  })
})

describe("warm-up of the reward model (§3.2.2: 3% of the steps, at least 5)", () => {
  const config = { warmupFraction: 0.03, warmupMinimum: 5 }
  it.each([
    [10, 5],
    [100, 5],
    [166, 5],
    [167, 6], // 5.01
    [315, 10], // 9.45: HH-RLHF's 160800 pairs in batches of 512
    [1000, 30],
    [1100, 33]
  ])("of %i steps is %i", (steps, wanted) => {
    expect(warmupSteps(config, steps)).toBe(wanted)
  })
})

describe("the safety auxiliary loss (table 29)", () => {
  // Worked out separately: log(1 + e^-2), log(1 + e^1), log(1 + e^0.5), 0; derivatives -1/(1 + e^2), -1/(1 + e^-1), 1/(1 + e^-0.5), 0.
  const scores = [2, -1, 0.5, 3]
  const labels = [1, 1, -1, 0]
  const wanted = {
    loss: 0.1269280110429725 + 1.3132616875182228 + 0.9740769841801067,
    gradients: [-0.11920292202211756, -0.7310585786300049, 0.6224593312018546, 0]
  }
  const ours = scoped(() => {
    const leaf = tensor(scores, { dtype: "float64" }).requiresGrad()
    const loss = safetyLoss(leaf, tensor(labels, { dtype: "float64" }))
    loss.backward()
    return { loss: loss.item(), gradients: leaf.grad()!.toNumbers() }
  })
  it("is the cross-entropy of each response with its label: safe above, unsafe below, nothing without a label", () => {
    expect(Math.abs(ours.loss - wanted.loss)).toBeLessThanOrEqual(float64)
  })
  it("raises safe scores and lowers unsafe ones, in proportion to their error", () => {
    expect(largestDifference(ours.gradients, wanted.gradients)).toBeLessThanOrEqual(float64)
  })
  it("stays finite if the sigmoid is 0 or 1 in float32", () => {
    const loss = (score: number, label: number) => scoped(() => safetyLoss(tensor([score]), tensor([label])).item())
    expect([loss(200, -1), loss(-200, 1)]).toEqual([200, 200])
    for (const none of [loss(200, 1), loss(-200, 0)]) expect(Math.abs(none)).toBe(0)
  })

  const model = initRewardModel(initLlama(smallConfig(), { seed: 3 }), { seed: 4 })
  const labelled: ReadonlyArray<TokenisedPair> = [{ ...pairs[0]!, safety: [1, -1] }, { ...pairs[1]!, safety: [-1, 0] }, pairs[2]!]
  const loss = (some: ReadonlyArray<TokenisedPair>, safetyLossWeight?: number) =>
    scoped(() =>
      noGrad(() =>
        pairLoss(model, some, { padId: 0, device: "cpu", ...(safetyLossWeight === undefined ? {} : { safetyLossWeight }) }).item()
      )
    )

  it("is added to the ranking loss with its weight, the mean over a pair's two responses; unlabelled ones add nothing", () => {
    const score = (ids: ReadonlyArray<number>) =>
      scoped(() => noGrad(() => scoreSequences(model, [ids], { padId: 0, device: "cpu" }).item()))
    const [a, b, c] = [score(pairs[0]!.chosen), score(pairs[0]!.rejected), score(pairs[1]!.chosen)]
    const auxiliary = Math.log1p(Math.exp(-a)) + Math.log1p(Math.exp(b)) + Math.log1p(Math.exp(c))
    expect(Math.abs(loss(labelled, 0.6) - (loss(labelled) + 0.3 * auxiliary))).toBeLessThanOrEqual(sameInFloat32)
    expect(loss([pairs[2]!], 0.6)).toBe(loss([pairs[2]!]))
  })
  it("is left out at weight 0, and by default", () => {
    expect(loss(labelled, 0)).toBe(loss(pairs))
    expect(loss(labelled)).toBe(loss(pairs))
  })
  it("does not depend on how pairs are split into parts, for any labels", () => {
    const apart = labelled.reduce((sum, pair) => sum + loss([pair], 0.6), 0)
    expect(Math.abs(loss(labelled, 0.6) - apart)).toBeLessThanOrEqual(sameInFloat32)
  })
  it("is only in the safety model's config", () => {
    const fields = (stage: { readonly stage: { readonly config: { readonly fields: object } } }) => Object.keys(stage.stage.config.fields)
    expect(fields(safetyRewardModel)).toContain("safetyLossWeight")
    expect(fields(helpfulnessRewardModel)).not.toContain("safetyLossWeight")
    expect(fields(generalRewardModel)).toEqual(fields(helpfulnessRewardModel))
  })
})

describe("scores of a model in bfloat16", () => {
  it("are not rounded to bfloat16: the head is applied in float32", () => {
    const llama = initLlama(smallConfig(), { seed: 3, dtype: "bfloat16" })
    const model = initRewardModel(llama, { seed: 4 })
    const ids = [
      [1, 5, 9, 2],
      [1, 30, 31, 2],
      [1, 7, 40, 41]
    ]
    const { scores, wanted } = scoped(() =>
      noGrad(() => {
        const scores = scoreSequences(model, ids, { padId: 0, device: "cpu" })
        expect(scores.dtype).toBe("float32")
        const last = model.backbone.hidden(tensor(ids, { dtype: "int64" })).select(1, 3) // (3, D)
        const head = model.head.toNumbers()
        const wanted = ids.map((_, i) =>
          last
            .select(0, i)
            .toNumbers()
            .reduce((sum, value, j) => sum + value * head[j]!, 0)
        )
        return { scores: scores.toNumbers(), wanted }
      })
    )
    expect(largestDifference(scores, wanted)).toBeLessThanOrEqual(fused)
    // Rounded to bfloat16 the difference would be larger.
    const rounded = scoped(() => tensor(wanted).to({ dtype: "bfloat16" }).toNumbers())
    expect(largestDifference(rounded, wanted)).toBeGreaterThan(10 * fused)
  })
})

describe("training a reward model", () => {
  const tokenizer = smallTokenizer()
  const policy = () =>
    artifact(Policy, (slot) =>
      saveCheckpoint(slot, { model: initLlama(smallConfig({ vocabSize: tokenizer.vocabSize }), { seed: 5 }), tokenizer })
    )
  const pair = (id: string, chosen: string, rejected: string, chosenSafe: boolean | null, rejectedSafe: boolean | null): Preference => ({
    id,
    prompt: [{ role: "user", content: "ab" }],
    chosen,
    rejected,
    rating: 3,
    chosenSafe,
    rejectedSafe,
    source: "test"
  })
  // Within a pair both are safe or both are not: only the labels reveal which, not the ranking.
  const both = Array.from({ length: 16 }, (_, i) => [
    pair(`s${i}`, "ba".repeat((i % 3) + 1), "ba ba", true, true),
    pair(`u${i}`, "xz".repeat((i % 3) + 1), "xz xz", false, false)
  ]).flat()
  const quick = { learningRate: 5e-3, epochs: 8, batchPairs: 8, warmupMinimum: 2, warmupFraction: 0 }

  it("with the auxiliary loss puts unsafe responses below a score of a half; without it they need not be", async () => {
    const inputs = { init: await policy(), pairs: await rowsArtifact(Preferences, both) }
    const trained = await runStage(safetyRewardModel, inputs, quick)
    const recall = await reportIn(await runStage(safetyRecall, { reward: trained, pairs: inputs.pairs }), SafetyRecallReport)
    expect(recall).toMatchObject({ responses: 64, unsafe: 32, recall: { threshold: 0.5, recall: { mean: 1 }, precision: { mean: 1 } } })
    expect(trained.metrics).toMatchObject({ pairs: 32, labelled: 64, tooLong: 0 })

    const without = await runStage(safetyRewardModel, inputs, { ...quick, safetyLossWeight: 0 })
    const worse = await reportIn(await runStage(safetyRecall, { reward: without, pairs: inputs.pairs }), SafetyRecallReport)
    const { recall: found, precision } = worse.recall
    expect(found!.mean === 1 && precision?.mean === 1).toBe(false)
    expect(without.metrics).not.toHaveProperty("labelled")
  })
  it("gives the same losses however a batch is split, labels on some pairs only", async () => {
    const some = both.map((row, i) => (i % 3 === 0 ? { ...row, chosenSafe: null, rejectedSafe: null } : row))
    const inputs = { init: await policy(), pairs: await rowsArtifact(Preferences, some) }
    const config = { ...quick, epochs: 1 }
    const [whole, split] = [
      await runStage(safetyRewardModel, inputs, { ...config, microBatchPairs: 8 }),
      await runStage(safetyRewardModel, inputs, { ...config, microBatchPairs: 3 })
    ]
    for (const name of ["firstLoss", "lastLoss"])
      expect(Math.abs(whole.metrics[name]! - split.metrics[name]!)).toBeLessThanOrEqual(sameInFloat32)
    expect((await runStage(safetyRewardModel, inputs, { ...config, microBatchPairs: 3 })).digest).toBe(split.digest)
  })
  it("in bfloat16 gives a checkpoint in bfloat16, with the requested role", async () => {
    const inputs = { init: await policy(), pairs: await rowsArtifact(Preferences, both) }
    const trained = await runStage(generalRewardModel, inputs, { ...quick, epochs: 1, precision: "bfloat16" })
    const read = (name: string): unknown => JSON.parse(readFileSync(join(trained.path, name), "utf8"))
    expect(read("config.json")).toMatchObject({ torch_dtype: "bfloat16" })
    expect(read("caravan.json")).toEqual({ format: 1, role: "general-reward" })
  })
  it("with LoRA trains an adapter and the head: its output is the base with both, and has them next to it", async () => {
    const inputs = { init: await policy(), pairs: await rowsArtifact(Preferences, both) }
    const config = { ...quick, learningRate: 2e-2, loraRank: 4, loraTargets: "v_proj,up_proj" }
    const trained = await runStage(safetyRewardModel, inputs, config)
    expect(trained.metrics["lastLoss"]).toBeLessThan(trained.metrics["firstLoss"]! - 0.2)
    const [before, after] = [await Effect.runPromise(loadLlama(inputs.init.path)), (await Effect.runPromise(loadReward(trained))).model]
    const moved = Object.keys(after.backbone.parameters).filter(
      (name) => Buffer.compare(after.parameters[name]!.toBytes(), before.parameter(name).toBytes()) !== 0
    )
    expect(moved).toEqual(
      [0, 1].flatMap((layer) => ["self_attn.v_proj", "mlp.up_proj"].map((name) => `model.layers.${layer}.${name}.weight`))
    )
    expect(after.head.toBytes()).not.toEqual(initRewardModel(before, { seed: 1 }).head.toBytes())
    const adapter = await Effect.runPromise(openSafetensors(join(trained.path, "adapter", "adapter_model.safetensors")))
    expect((await Effect.runPromise(adapter.read("base_model.model.score.weight"))).toBytes()).toEqual(after.head.toBytes())
    expect(adapter.entries.size).toBe(1 + 2 * 2 * 2)
    await adapter.close()
  })
  it("reports if none of the pairs fits", async () => {
    const long = await rowsArtifact(Preferences, [pair("1", "ab".repeat(100), "b", null, null)])
    expect(await failureOf(helpfulnessRewardModel, { init: await policy(), pairs: long })).toBe(
      "Nothing to train a reward model on: got 1 pairs, 1 longer than 48 tokens. Use a model with a longer context."
    )
  })
  it("counts pairs with a response that the chat format can't represent separately from long ones, and names the first if none is left", async () => {
    const init = await policy()
    const unfit = [pair("long", "ab".repeat(100), "b", null, null), pair("tagged", "b", "<<SYS>>", null, null)]
    const trained = await runStage(
      helpfulnessRewardModel,
      { init, pairs: await rowsArtifact(Preferences, [...unfit, ...both]) },
      { ...quick, epochs: 1 }
    )
    expect(trained.metrics).toMatchObject({ pairs: 32, tooLong: 1, format: 1 })
    expect(await failureOf(helpfulnessRewardModel, { init, pairs: await rowsArtifact(Preferences, unfit) })).toMatch(
      /got 2 pairs, 1 longer than 48 tokens and 1 that the chat format cannot represent\. .* is "tagged": Message 2 \(assistant\) contains the tag <<SYS>>/
    )
  })
})
