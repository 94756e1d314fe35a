/** Estimated costs of models and stages, compared with the paper's table 2, published sizes, and sums made by hand. */
import { readdirSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { demonstrations, prompts } from "../../data/world/dialogues.ts"
import { Random } from "../../engine/random.ts"
import { encodeDialogue, encodePrompt } from "../../models/chat.ts"
import { dialogueText } from "../../models/llama2-format.ts"
import { llamaConfig, parameterShapes, presets } from "../../models/config.ts"
import { carbonKg, decodingTraffic, forwardFlops, generationFlops, trainingFlops } from "../../models/cost.ts"
import { costedParameters, forwardBytes, weightBytes } from "../../models/memory.ts"
import { trainTokenizer } from "../../models/tokenizer/train.ts"
import type { AnyStage } from "../../runtime/define/stage.ts"
import { grpo } from "../../stages/critic-free/grpo.ts"
import { rloo } from "../../stages/critic-free/rloo.ts"
import { dpo } from "../../stages/dpo/dpo.ts"
import { ppo } from "../../stages/ppo/ppo.ts"
import { score } from "../../stages/reward/score.ts"
import { helpfulnessScorer } from "../../stages/reward/scorers.ts"
import { helpfulnessRewardModel } from "../../stages/reward/reward-model.ts"
import { sft } from "../../stages/training/sft.ts"
import { estimatorOf } from "../../stages/common/cost/estimator.ts"
import { type Size, sized, unknownSize } from "../../stages/common/cost/size.ts"
import type { StageCost } from "../../stages/common/cost/work.ts"
import { worldLengths } from "../../stages/world/lengths.ts"

const language = (name: keyof typeof presets) => ({ config: presets[name], scalarHead: false })
const seven = language("7b")

describe("energy and carbon", () => {
  // Llama 2, table 2: GPU-hours, watts, tonnes of CO2 equivalent.
  const table2 = [
    ["7B", 184_320, 400, 31.22],
    ["13B", 368_640, 400, 62.44],
    ["34B", 1_038_336, 350, 153.9],
    ["70B", 1_720_320, 400, 291.42]
  ] as const
  it.each(table2)("of %s are those of table 2 within 0.01 t", (_, hours, watts, tonnes) => {
    expect(Math.abs(carbonKg(hours, watts) / 1000 - tonnes)).toBeLessThan(0.01)
  })
  it("sum to table 2's total of 539.00 t", () => {
    const total = table2.reduce((sum, [, hours, watts]) => sum + carbonKg(hours, watts), 0) / 1000
    expect(Math.abs(total - 539)).toBeLessThan(0.01)
  })
})

describe("FLOPs", () => {
  it("of a trained token are 6 N + 12 L d T", () => {
    // 7B: N = 6,738,415,616, L = 32, d = 4096, T = 4096.
    expect(trainingFlops(seven, 1, 4096)).toBe(6 * 6_738_415_616 + 12 * 32 * 4096 * 4096)
    expect(trainingFlops(seven, 10, 4096)).toBe(10 * trainingFlops(seven, 1, 4096))
  })

  it("of a forward pass are those of every matrix product, and 2 for each weight outside the products (embeddings, norms)", () => {
    const config = presets["260k"]
    const { dim, headDim, heads, layers, vocabSize } = config
    const [tokens, length] = [11, 7]
    // A product of (n, in) and (in, out) has 2 n in out FLOPs. The tied embedding table is the output layer's matrix.
    const matrices = Object.entries(parameterShapes(config)).filter(([, shape]) => shape.length === 2)
    const products = matrices.reduce((sum, [, [out, columns]]) => sum + 2 * tokens * out! * columns!, 0)
    // Scores q k^T and their product with v: for each token and head, length keys of headDim numbers.
    const attention = 2 * (2 * tokens * length * headDim * heads * layers)
    const norms = 2 * tokens * dim * (2 * layers + 1)
    expect(forwardFlops({ config, scalarHead: false }, tokens, length)).toBe(products + attention + norms)
    expect(matrices.length).toBe(1 + 7 * layers)
    // A scalar head adds d weights where the embedding table stays, and removes V d where it replaces the output layer.
    expect(costedParameters({ config, scalarHead: true }) - costedParameters({ config, scalarHead: false })).toBe(dim)
    const untied = { ...config, tiedEmbeddings: false }
    expect(costedParameters({ config: untied, scalarHead: true }) - costedParameters({ config: untied, scalarHead: false })).toBe(
      dim - vocabSize * dim
    )
  })

  it("of generation are those of reading the prompt, and of each new token attending to all before it", () => {
    const config = llamaConfig({ vocabSize: 10, dim: 4, layers: 3, heads: 2, kvHeads: 1, ffn: 6 })
    const n = costedParameters({ config, scalarHead: false })
    // 5 prompt tokens attend to 5; then tokens attend to 6 and 7. 4 L d = 4 * 3 * 4.
    expect(generationFlops({ config, scalarHead: false }, 5, 2)).toBe(5 * (2 * n + 48 * 5) + 2 * 2 * n + 48 * (6 + 7))
  })
})

describe("memory traffic", () => {
  it("of decoding is all weights once per step, and the cache so far", () => {
    const weights = weightBytes(seven, "bfloat16")
    const token = 512 << 10
    // Two sequences, prompts of 10, three steps: caches of 11, 12, 13.
    expect(decodingTraffic(seven, "bfloat16", 2, { prompt: 10, response: 3 })).toBe(3 * weights + 2 * (11 + 12 + 13) * token)
  })
})

/** Any models. */
const deviceMemory = 2 ** 50

const modelOf = (name: keyof typeof presets): Size => sized(unknownSize, { model: presets[name] })
const estimated = async (
  { stage }: AnyStage,
  inputs: Record<string, Size>,
  config: Record<string, unknown>,
  expected = {}
): Promise<StageCost> => (await estimatorOf(stage))!.cost!({ config: { recompute: "none", ...config }, inputs, expected, deviceMemory })
const flopsOf = ({ work }: StageCost, what: string) => work.filter((one) => one.what === what).reduce((sum, { flops }) => sum + flops, 0)

describe("a stage's cost", () => {
  it("of SFT is that of full sequences over the epochs, or over the requested steps", async () => {
    const data = sized(unknownSize, { rows: 1000, promptTokens: 30, responseTokens: 220 })
    const config = { epochs: 2, steps: 0, batchSize: 64, microBatchSize: 1, sequenceLength: 4096, precision: "bfloat16" }
    // 1000 dialogues of 250 tokens fill 62 sequences of 4096.
    const cost = await estimated(sft, { init: modelOf("7b"), demonstrations: data }, config)
    expect(cost.work.map(({ tokens }) => tokens)).toEqual([2 * 62 * 4096])
    expect(flopsOf(cost, "update")).toBe(2 * 62 * 4096 * (6 * 6_738_415_616 + 12 * 32 * 4096 * 4096))
    expect([cost.memory.masters, cost.memory.moments]).toEqual([4 * 6_738_415_616, 8 * 6_738_415_616])
    const steps = await estimated(sft, { init: modelOf("7b"), demonstrations: unknownSize }, { ...config, steps: 5 })
    expect(steps.work[0]!.tokens).toBe(5 * 64 * 4096)
  })

  it("of SFT with LoRA has only the adapter's gradients and moments, and computes no gradients of the base", async () => {
    const config = { epochs: 2, steps: 5, batchSize: 64, microBatchSize: 1, sequenceLength: 4096, precision: "bfloat16" }
    const lora = { ...config, loraRank: 16, loraTargets: "all-linear" }
    const inputs = { init: modelOf("7b"), demonstrations: unknownSize }
    const cost = await estimated(sft, inputs, lora)
    // PEFT's print_trainable_parameters for Llama 2 7B with r = 16: 16 ((4096 + 4096) 4 + (4096 + 11008) 3) 32 = 39,976,960.
    const [n, a] = [6_738_415_616, 39_976_960]
    expect(flopsOf(cost, "update")).toBe(5 * 64 * 4096 * (4 * n + 6 * a + 12 * 32 * 4096 * 4096))
    expect([cost.memory.weights, cost.memory.gradients, cost.memory.moments]).toEqual([2 * (n + a), 4 * a, 8 * a])
    const query = await estimated(sft, inputs, { ...lora, loraTargets: "q_proj" })
    expect(query.memory.moments).toBe(8 * 16 * 8192 * 32)
    const more = { heldOut: 0.2, evaluateEvery: 4, patience: 3 }
    const sized1000 = { ...inputs, demonstrations: sized(unknownSize, { rows: 1000, promptTokens: 30, responseTokens: 226 }) }
    expect((await estimated(sft, sized1000, { ...lora, ...more })).memory.weights).toBe(2 * (n + a) + 2 * a)
  })

  it("of a reward model is that of both dialogues of each pair, without the output layer", async () => {
    const pairs = sized(unknownSize, { rows: 100, promptTokens: 564.4, responseTokens: 234.1 })
    const cost = await estimated(
      helpfulnessRewardModel,
      { init: modelOf("70b"), pairs },
      { epochs: 1, batchPairs: 512, microBatchPairs: 1, precision: "bfloat16", heldOut: 0 }
    )
    expect(cost.work[0]!.tokens).toBeCloseTo(2 * 100 * 798.5, 6)
    const n = 68_976_648_192 - 32_000 * 8192 + 8192
    expect(cost.memory.weights).toBe(2 * n)
    expect(cost.work[0]!.flops / (159_700 * (6 * n + 12 * 80 * 8192 * 798.5))).toBeCloseTo(1, 12)
  })

  it("of a reward model with LoRA has the moments of the adapter and of the head", async () => {
    const pairs = sized(unknownSize, { rows: 100, promptTokens: 60, responseTokens: 40 })
    const config = {
      epochs: 1,
      batchPairs: 512,
      microBatchPairs: 1,
      precision: "bfloat16",
      heldOut: 0,
      loraRank: 16,
      loraTargets: "all-linear"
    }
    const cost = await estimated(helpfulnessRewardModel, { init: modelOf("7b"), pairs }, config)
    const [n, a] = [6_738_415_616 - 32_000 * 4096 + 4096, 39_976_960]
    expect(cost.memory.moments).toBe(8 * (a + 4096))
    expect(flopsOf(cost, "update") / (2 * 100 * 100 * (4 * n + 2 * 4096 + 6 * a + 12 * 32 * 4096 * 100))).toBeCloseTo(1, 12)
  })

  it("with held-out rows trains on fewer and evaluates more: before the first step, at intervals, after the last", async () => {
    const data = sized(unknownSize, { rows: 1000, promptTokens: 30, responseTokens: 226 })
    const inputs = { init: modelOf("7b"), demonstrations: data }
    const config = { epochs: 2, steps: 0, batchSize: 10, microBatchSize: 1, sequenceLength: 4096, precision: "bfloat16" }
    const heldOut = { heldOut: 0.2, evaluateEvery: 4, patience: 0 }
    const [plain, measured, stopping] = await Promise.all(
      [{}, heldOut, { ...heldOut, patience: 3 }].map((more) => estimated(sft, inputs, { ...config, ...more }))
    )
    // 63 sequences, two passes over four fifths of them in 11 steps of 10: evaluated before them, after 4, 8 and 11.
    expect(measured!.work.map(({ tokens }) => Math.round(tokens))).toEqual([2 * 63 * 4096 * 0.8, 4 * 0.2 * 63 * 4096].map(Math.round))
    expect(flopsOf(measured!, "held-out loss") / forwardFlops(seven, 4 * 0.2 * 63 * 4096, 4096)).toBeCloseTo(1, 12)
    expect(measured!.memory).toEqual(plain!.memory)
    expect(stopping!.memory).toEqual({ ...plain!.memory, weights: 2 * plain!.memory.weights })
    const pairs = sized(unknownSize, { rows: 100, promptTokens: 60, responseTokens: 40 })
    const reward = { epochs: 1, batchPairs: 16, microBatchPairs: 1, precision: "bfloat16", heldOut: 0.2, evaluateEvery: 100, patience: 0 }
    const ranked = await estimated(helpfulnessRewardModel, { init: modelOf("7b"), pairs }, reward)
    expect(ranked.work.map(({ tokens }) => Math.round(tokens))).toEqual([2 * 80 * 100, 2 * 2 * 20 * 100])
  })

  it("of PPO is generation, both rewards, the reference, values, and an update of policy and value model", async () => {
    const config = {
      ...{ batchSize: 512, epochs: 1, evaluateEvery: 10, inferenceBatchSize: 32, iterations: 200, maxNewTokens: 100, microBatchSize: 1 },
      ...{ miniBatchSize: 64, loraRank: 0, loraTargets: "all-linear" },
      ...{ precision: "bfloat16", oldLogProbabilities: "recorded", valueInit: "reward" }
    }
    const prompts = sized(unknownSize, { rows: 1000, promptTokens: 40 })
    const inputs = { policy: modelOf("7b"), helpfulness: modelOf("7b"), safety: modelOf("7b"), prompts }
    const cost = await estimated(ppo, inputs, config, { responseTokens: 60 })
    const rows = 200 * 512
    const scalar = { ...seven, scalarHead: true }
    expect(flopsOf(cost, "reference")).toBe(forwardFlops(seven, rows * 100, 100))
    expect(flopsOf(cost, "values")).toBe(forwardFlops(scalar, rows * 100, 100))
    expect(flopsOf(cost, "rollouts: score")).toBe(2 * forwardFlops(scalar, rows * 100, 100))
    const generated = (flopsOf(cost, "rollouts: read prompts") + flopsOf(cost, "rollouts: decode")) / rows
    expect(generated / generationFlops(seven, 40, 60)).toBeCloseTo(1, 12)
    expect(flopsOf(cost, "update of the policy")).toBe(trainingFlops(seven, rows * 100, 100))
    expect(flopsOf(cost, "update of the value model")).toBe(trainingFlops(scalar, rows * 100, 100))
    expect(cost.work.map(({ what }) => what)).not.toContain("old log-probabilities")
    // Policy, reference, value model, two reward models; two of them with gradients and moments.
    const [full, head] = [6_738_415_616, 6_738_415_616 - 32_000 * 4096 + 4096]
    expect(cost.memory.weights).toBe(2 * (2 * full + 3 * head))
    expect(cost.memory.moments).toBe(8 * (full + head))

    const more = await estimated(
      ppo,
      { ...inputs, heldOut: sized(unknownSize, { rows: 64 }) },
      { ...config, oldLogProbabilities: "recomputed" },
      { responseTokens: 60 }
    )
    // Before the first iteration and after each tenth: 21 times 64 answers; and the best policy is kept.
    expect(flopsOf(more, "held out: score")).toBe(2 * forwardFlops(scalar, 21 * 64 * 100, 100))
    expect(flopsOf(more, "old log-probabilities")).toBe(flopsOf(more, "reference"))
    expect(more.memory.weights - cost.memory.weights).toBe(2 * full)
  })

  it("of PPO with LoRA is that of one policy and its adapter, and of reward models and value model on one base", async () => {
    const config = {
      ...{ batchSize: 512, epochs: 1, evaluateEvery: 10, inferenceBatchSize: 32, iterations: 200, maxNewTokens: 100, microBatchSize: 1 },
      ...{
        miniBatchSize: 64,
        precision: "bfloat16",
        oldLogProbabilities: "recomputed",
        valueInit: "reward",
        loraRank: 16,
        loraTargets: "all-linear"
      }
    }
    const reward = sized(modelOf("7b"), { adapter: { rank: 8, targets: ["q_proj"] } })
    const prompts = sized(unknownSize, { rows: 1000, promptTokens: 40 })
    const inputs = { policy: modelOf("7b"), helpfulness: reward, safety: reward, prompts, heldOut: sized(unknownSize, { rows: 64 }) }
    const [apart, shared] = [
      await estimated(ppo, inputs, config, { responseTokens: 60 }),
      await estimated(ppo, { ...inputs, base: modelOf("7b") }, config, { responseTokens: 60 })
    ]
    // PEFT's counts for Llama 2 7B: r = 16 on all layers, and r = 8 on the queries: 8 (4096 + 4096) 32.
    const [full, head, d, a, q] = [6_738_415_616, 6_738_415_616 - 32_000 * 4096, 4096, 39_976_960, 2_097_152]
    // Policy, two rewards; an adapter for the policy, for the best one and for the value model.
    expect(apart.memory.weights).toBe(2 * (full + 2 * (head + d) + 3 * a + d))
    expect(apart.memory.moments).toBe(8 * (2 * a + d))
    // Policy and base; the value model's adapter is a copy of the helpfulness model's.
    expect(shared.memory.weights).toBe(2 * (full + head + 2 * a + 3 * (q + d)))
    expect([shared.memory.masters, shared.memory.moments]).toEqual([4, 8].map((bytes) => bytes * (a + q + d)))
    const rows = 200 * 512
    const attention = 4 * 32 * 4096 * 100
    expect(flopsOf(shared, "reference")).toBe(rows * 100 * (2 * full + attention))
    expect(flopsOf(shared, "old log-probabilities")).toBe(rows * 100 * (2 * (full + a) + attention))
    expect(flopsOf(shared, "rollouts: score")).toBe(2 * rows * 100 * (2 * (head + d + q) + attention))
    expect(flopsOf(shared, "rollouts: decode")).toBe(flopsOf(apart, "rollouts: decode"))
    expect(flopsOf(shared, "update of the policy") / (rows * 100 * (4 * full + 6 * a + 3 * attention))).toBeCloseTo(1, 12)
    expect(flopsOf(shared, "update of the value model") / (rows * 100 * (4 * head + 6 * (d + q) + 3 * attention))).toBeCloseTo(1, 12)
  })

  it("of RLOO and GRPO is PPO's without the value model; a scorer instead of a reward model costs nothing", async () => {
    const config = {
      ...{ batchSize: 512, epochs: 1, evaluateEvery: 10, inferenceBatchSize: 32, iterations: 200, maxNewTokens: 100, microBatchSize: 1 },
      ...{ miniBatchSize: 512, loraRank: 0, loraTargets: "all-linear", recompute: "none" },
      ...{ precision: "bfloat16", oldLogProbabilities: "recorded" }
    }
    const prompts = sized(unknownSize, { rows: 1000, promptTokens: 40 })
    const checker = (await estimatorOf(helpfulnessScorer.stage))!.size({ config: {}, inputs: {}, expected: {} })
    const inputs = { policy: modelOf("7b"), helpfulness: modelOf("7b"), safety: modelOf("7b"), prompts }
    const rows = 200 * 512
    const scalar = { ...seven, scalarHead: true }
    const [full, head] = [6_738_415_616, 6_738_415_616 - 32_000 * 4096 + 4096]
    for (const stage of [rloo, grpo]) {
      const cost = await estimated(stage, inputs, config, { responseTokens: 60 })
      expect(cost.work.map(({ what }) => what)).toEqual([
        ...["rollouts: read prompts", "rollouts: decode", "rollouts: score", "rollouts: score", "reference", "update of the policy"]
      ])
      expect(flopsOf(cost, "update of the policy")).toBe(trainingFlops(seven, rows * 100, 100))
      expect(flopsOf(cost, "rollouts: score")).toBe(2 * forwardFlops(scalar, rows * 100, 100))
      // Policy, reference and two reward models.
      expect([cost.memory.weights, cost.memory.moments]).toEqual([2 * (2 * full + 2 * head), 8 * full])
      const checked = await estimated(stage, { policy: modelOf("7b"), helpfulness: checker, prompts }, config, { responseTokens: 60 })
      expect(checked.work.map(({ what }) => what)).not.toContain("rollouts: score")
      expect(checked.memory.weights).toBe(2 * 2 * full)
    }
    const byPpo = await estimated(ppo, { policy: modelOf("7b"), helpfulness: checker, prompts }, { ...config, valueInit: "policy" })
    expect(byPpo.memory.weights).toBe(2 * (2 * full + head))
    const completions = sized(unknownSize, { rows: 1000, promptTokens: 40, responseTokens: 60 })
    const scoring = await estimated(score, { completions, reward: checker }, { batchSize: 32, precision: "float32" })
    expect([scoring.work, scoring.memory.weights]).toEqual([[], 0])
  })

  it("of DPO is one pass of the initial policy over both responses of each pair, and an update of one model", async () => {
    const config = {
      epochs: 2,
      batchPairs: 64,
      microBatchPairs: 1,
      recompute: "none",
      precision: "bfloat16",
      heldOut: 0,
      patience: 0,
      loraRank: 0,
      inferencePairs: 32
    }
    const pairs = sized(unknownSize, { rows: 1000, promptTokens: 40, responseTokens: 60 })
    const cost = await estimated(dpo, { policy: modelOf("7b"), pairs }, config)
    expect(flopsOf(cost, "reference")).toBe(forwardFlops(seven, 2 * 1000 * 100, 100))
    expect(flopsOf(cost, "update")).toBe(trainingFlops(seven, 2 * 2 * 1000 * 100, 100))
    expect(cost.memory.weights).toBe(2 * 6_738_415_616)
    // With few gradients and large inference batches, the pass of the first policy needs the most memory.
    const lora = { ...config, recompute: "all", loraRank: 16, loraTargets: "all-linear", inferencePairs: 900 }
    const { memory } = await estimated(dpo, { policy: modelOf("7b"), pairs }, lora)
    expect([memory.weights, memory.activations, memory.moments]).toEqual([
      2 * 6_738_415_616,
      forwardBytes(seven, "bfloat16", 2 * 900 * 100),
      0
    ])
  })

  it("is unknown if a size is unknown, and says which", async () => {
    const config = { epochs: 2, steps: 0, batchSize: 64, microBatchSize: 1, sequenceLength: 4096, precision: "bfloat16" }
    await expect(estimated(sft, { init: modelOf("7b"), demonstrations: unknownSize }, config)).rejects.toThrow(
      "how many demonstrations there are"
    )
    await expect(estimated(sft, { init: unknownSize, demonstrations: unknownSize }, config)).rejects.toThrow(
      "how large the model to start from is"
    )
  })
})

const folder = new URL("../../stages/", import.meta.url)
const stages = (
  await Promise.all(
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map(async (file) => Object.values((await import(new URL(file, folder).href)) as Record<string, unknown>))
  )
)
  .flat()
  .filter((value): value is AnyStage => typeof value === "function" && "stage" in value)
  .map(({ stage }) => stage)

describe("estimates", () => {
  it.each(stages)("of $name state the sizes of its output, and what it computes with tensors", async (stage) => {
    const estimator = await estimatorOf(stage)
    // No size depends on a report.
    expect(estimator !== undefined || stage.output.kind === "report").toBe(true)
    expect(estimator?.cost !== undefined).toBe(stage.resources.tensors === true)
  })
  it("are searched in every folder of stages", () => {
    expect(stages.length).toBeGreaterThan(50)
  })

  it("of the small world's lengths agree with the actual ones within a fifth", () => {
    const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length
    const texts = [...demonstrations(new Random(0, "world", "texts"), "pretraining", 800)].map(({ messages }) => dialogueText(messages))
    const tokenizer = trainTokenizer(texts, { vocabSize: 600 })
    const answer = (text: string) => tokenizer.encode(text).length + 2
    const close = (measured: number, stated: number) => expect(Math.abs(measured / stated - 1)).toBeLessThan(0.2)
    for (const kind of ["helpfulness", "plain", "safety"] as const) {
      const rows = [...prompts(new Random(1, "x"), { count: 200, kind, split: "train", followUps: 0, name: "x" })]
      close(mean(rows.map(({ messages }) => encodePrompt(tokenizer, messages).length)), worldLengths.prompts)
    }
    for (const quality of ["public", "annotated"] as const) {
      const rows = [...demonstrations(new Random(1, "y"), quality, 200)]
      const { promptTokens, responseTokens } = worldLengths.demonstrations
      close(mean(rows.map(({ messages }) => encodeDialogue(tokenizer, messages).tokens.length)), promptTokens + responseTokens)
      close(mean(rows.map(({ messages }) => answer(messages.at(-1)!.content))), responseTokens)
    }
  })
})
