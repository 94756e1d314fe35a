/** LoRA: values and gradients compared with PEFT's, its files, and what is rejected. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, describe, expect, it } from "vitest"
import { crossEntropy, type Device, liveTensors, noGrad, scoped, tensor, type Tensor, zeros } from "../../engine/tensor.ts"
import { loadAdapter, writeAdapter } from "../../models/adapter-files.ts"
import { loadMerged, writeCheckpoint } from "../../models/checkpoint.ts"
import { Decoder } from "../../models/decoder.ts"
import { initLlama, type Llama } from "../../models/llama.ts"
import { initLora, Lora, type LoraConfig, loraShapes, linearLayers } from "../../models/lora.ts"
import { initRewardModel, type RewardModel } from "../../models/reward-model.ts"
import { writeSafetensors } from "../../models/safetensors.ts"
import { generate } from "../../models/sampler.ts"
import { loadLlama } from "../../models/weights.ts"
import { devices } from "../devices.ts"
import { float32, sameInFloat32 } from "../tolerances.ts"
import { largestDifference, smallConfig, smallTokenizer } from "./small.ts"
import { tensorsIn } from "./tensors.ts"

const root = mkdtempSync(join(tmpdir(), "caravan-lora-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const folder = () => mkdtempSync(join(root, "l-"))
const golden = (path: string) => new URL(`../golden/${path}`, import.meta.url).pathname
const run = <A, E>(effect: Effect.Effect<A, E>): Promise<A> => Effect.runPromise(effect)

const base = golden("llama-gqa/model")
const adapter = golden("lora-all-linear/adapter")
const expected = await tensorsIn(golden("lora-all-linear/expected.safetensors"))
const adapted = async (device: Device = "cpu"): Promise<{ readonly model: Llama; readonly lora: Lora }> => {
  const model = await run(loadLlama(base, { device }))
  const lora = await run(loadAdapter(adapter, model))
  return { model: model.withAdapter(lora), lora }
}
const away = (actual: Tensor, key: string) => largestDifference(actual.detach().toNumbers(), expected[key]!.toNumbers())

for (const { device, skip } of devices) {
  describe.skipIf(skip)(`a PEFT adapter on every linear layer, on ${device}`, () => {
    const ids = () => expected.input_ids!.to({ device })

    it("gives PEFT's logits, which differ from the base's", async () => {
      const { model } = await adapted(device)
      expect(scoped(() => noGrad(() => away(model.forward(ids()), "logits")))).toBeLessThanOrEqual(float32)
      const without = await run(loadLlama(base, { device }))
      expect(scoped(() => noGrad(() => away(without.forward(ids()), "logits")))).toBeGreaterThan(100 * float32)
    })

    it("gives PEFT's loss and PEFT's gradient of every matrix, and none for the base", async () => {
      const { lora, model } = await adapted(device)
      const [batch, length] = expected.input_ids!.shape as [number, number]
      const labels = expected.input_ids!.toNumbers().map((id, i) => (i % length < 5 ? -100 : id))
      const next = Array.from({ length: batch }, (_, row) => labels.slice(row * length + 1, (row + 1) * length)).flat()
      scoped(() => {
        const logits = model.forward(ids()).slice(1, 0, length - 1)
        const loss = crossEntropy(logits.reshape(-1, model.config.vocabSize), tensor(Int32Array.from(next), { dtype: "int64", device }))
        expect(away(loss, "sft_loss")).toBeLessThanOrEqual(float32)
        loss.backward()
      })
      const names = Object.keys(lora.parameters)
      const far = names.filter((name) =>
        scoped(() => !(away(lora.parameters[name]!.grad()!, `grad.${name.replace(/\.weight$/, ".default.weight")}`) <= float32))
      )
      expect(far).toEqual([])
      expect(Object.keys(expected).filter((key) => key.startsWith("grad."))).toHaveLength(names.length)
      expect(Object.entries(model.parameters).filter(([, weight]) => weight.grad() !== undefined)).toEqual([])
    })

    it("decodes PEFT's tokens, merged and unmerged", async () => {
      const wanted = expected.greedy_ids!.toNumbers()
      const [batch, length] = expected.greedy_ids!.shape as [number, number]
      const rows = Array.from({ length: batch }, (_, row) => wanted.slice(row * length, (row + 1) * length))
      const logProbabilities = expected.greedy_logprobs!.toNumbers()
      for (const model of [(await adapted(device)).model, (await adapted(device)).model.merge()]) {
        const generated = generate(
          model,
          rows.map((row) => row.slice(0, 6)),
          { maxNewTokens: length - 6, temperature: 0, eosId: undefined, padId: 0 }
        )
        expect(generated.map(({ tokens }) => tokens)).toEqual(rows.map((row) => row.slice(6)))
        generated.forEach((row, i) =>
          expect(
            largestDifference(row.logProbabilities, logProbabilities.slice(i * (length - 1) + 5, (i + 1) * (length - 1)))
          ).toBeLessThanOrEqual(float32)
        )
      }
    })

    it("merges into PEFT's weights, which have gradients again afterwards", async () => {
      const merged = await run(loadMerged(base, adapter, { device }))
      const key = Object.keys(expected).find((name) => name.startsWith("merged."))!
      expect(away(merged.parameter(key.slice("merged.".length)), key)).toBeLessThanOrEqual(float32)
      expect(scoped(() => noGrad(() => away(merged.forward(ids()), "logits")))).toBeLessThanOrEqual(float32)
      scoped(() => merged.forward(ids()).sum().backward())
      expect(Object.entries(merged.parameters).filter(([, weight]) => weight.grad() === undefined)).toEqual([])
    })
  })
}

const config: LoraConfig = { rank: 3, alpha: 5, rankStabilised: false, targets: ["q_proj", "down_proj"] }
const small = smallConfig()

describe("a new adapter", () => {
  it("is uniform within 1 / sqrt(K) in A, as in PEFT, and zero in B; by seed and name", () => {
    const lora = initLora(small, { ...config, rank: 50 }, { seed: 1 })
    const [a, b] = ["A", "B"].map((matrix) => lora.parameters[`base_model.model.model.layers.1.mlp.down_proj.lora_${matrix}.weight`]!)
    expect([a!.shape, b!.shape]).toEqual([
      [50, small.ffn],
      [small.dim, 50]
    ])
    const numbers = a!.toNumbers().map((value) => value * Math.sqrt(small.ffn))
    expect(Math.max(...numbers.map(Math.abs))).toBeLessThanOrEqual(1 + 1e-6)
    // 2,000 numbers: the mean of |x| is 1/2, its deviation 0.0065; of x it is 0 and 0.013.
    expect(Math.abs(numbers.reduce((sum, x) => sum + Math.abs(x), 0) / numbers.length - 0.5)).toBeLessThan(0.03)
    expect(Math.abs(numbers.reduce((sum, x) => sum + x, 0) / numbers.length)).toBeLessThan(0.06)
    expect(b!.toNumbers().every((value) => value === 0)).toBe(true)
    const again = initLora(small, { ...config, rank: 50, targets: ["down_proj"] }, { seed: 1 })
    const name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    expect(again.parameters[name]!.toBytes()).toEqual(a!.toBytes())
    expect(initLora(small, { ...config, rank: 50 }, { seed: 2 }).parameters[name]!.toBytes()).not.toEqual(a!.toBytes())
  })

  it("changes no logit", () => {
    const model = initLlama(small, { seed: 1 })
    const ids = tensor([[3, 5, 7, 11]], { dtype: "int64" })
    const logits = (of: Llama) => scoped(() => noGrad(() => of.forward(ids).toNumbers()))
    const before = logits(model)
    for (const targets of [linearLayers, config.targets])
      expect(logits(model.withAdapter(initLora(small, { ...config, targets }, { seed: 1 })))).toEqual(before)
  })

  it.each([
    ["alpha / rank", false, 8 / 4],
    ["alpha / sqrt(rank) with rsLoRA", true, 8 / 2]
  ])("has the scale %s", (_, rankStabilised, scale) => {
    const tensors = Object.fromEntries(
      Object.entries(loraShapes(small, { ...config, rank: 4 })).map(([name, shape]) => [name, zeros(shape).add(1)])
    )
    const lora = new Lora({ ...config, rank: 4, alpha: 8, rankStabilised }, tensors)
    // B A of ones is the rank everywhere.
    expect(scoped(() => lora.weight("model.layers.0.self_attn.q_proj")!.toNumbers())).toEqual(
      Array.from({ length: small.dim * small.dim }, () => scale * 4)
    )
    expect(lora.weight("model.layers.0.self_attn.k_proj")).toBeUndefined()
    const x = tensor([Array.from({ length: small.dim }, () => 1)])
    expect(scoped(() => lora.output("model.layers.0.self_attn.q_proj", x)!.toNumbers())).toEqual(
      Array.from({ length: small.dim }, () => scale * 4 * small.dim)
    )
  })

  it.each([0, -1, 1.5])("of rank %s is rejected", (rank) => {
    expect(() => initLora(small, { ...config, rank }, { seed: 1 })).toThrow(`rank must be an integer of 1 or more, got ${rank}`)
  })
})

describe("an adapter on some of the layers with the same input", () => {
  it("gives the logits of its merged weights", () => {
    const model = initLlama(small, { seed: 1 })
    const lora = initLora(small, { ...config, targets: ["k_proj", "up_proj"] }, { seed: 1 })
    noGrad(() => Object.values(lora.parameters).forEach((weight) => weight.normal_(0, 0.5)))
    const withIt = model.withAdapter(lora)
    const ids = tensor([[3, 5, 7, 11]], { dtype: "int64" })
    const logits = (of: Llama) => scoped(() => noGrad(() => of.forward(ids).toNumbers()))
    const [plain, adaptedLogits] = [logits(model), logits(withIt)]
    expect(largestDifference(adaptedLogits, plain)).toBeGreaterThan(100 * sameInFloat32)
    expect(largestDifference(logits(withIt.merge()), adaptedLogits)).toBeLessThanOrEqual(sameInFloat32)
  })
})

describe("an adapted model", () => {
  const adaptedSmall = () => {
    const lora = initLora(small, config, { seed: 1 })
    noGrad(() => Object.values(lora.parameters).forEach((weight) => weight.normal_(0, 0.5)))
    return initLlama(small, { seed: 1 }).withAdapter(lora)
  }
  it("is not written before it is merged: its adapter would be lost", async () => {
    const tokenizer = smallTokenizer()
    for (const model of [adaptedSmall(), initRewardModel(adaptedSmall(), { seed: 1 })])
      await expect(writeCheckpoint(folder(), { model, tokenizer, role: "policy" })).rejects.toThrow("merge the adapter")
  })
  it("without an adapter has no adapter to write", async () => {
    await expect(writeAdapter(folder(), initLlama(small, { seed: 1 }))).rejects.toThrow("has no adapter")
  })
  it("may be a reward model with its adapter and its own head, both in the adapter's files, as in PEFT", async () => {
    const [model, out] = [initRewardModel(adaptedSmall(), { seed: 1 }), folder()]
    const [ids, last] = [tensor([[3, 5, 7, 11]], { dtype: "int64" }), tensor([3], { dtype: "int64" })]
    const score = (of: RewardModel) => scoped(() => noGrad(() => of.score(ids, last).toNumbers()))
    const [plain, before] = [score(initRewardModel(initLlama(small, { seed: 1 }), { seed: 1 })), score(model)]
    expect(largestDifference(before, plain)).toBeGreaterThan(10 * sameInFloat32)
    await writeAdapter(out, model)
    expect(JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"))).toMatchObject({
      task_type: "SEQ_CLS",
      modules_to_save: ["score"]
    })
    const written = await tensorsIn(join(out, "adapter_model.safetensors"))
    expect(written["base_model.model.score.weight"]!.toBytes()).toEqual(model.head.toBytes())
    expect(Object.keys(written)).toHaveLength(1 + Object.keys(model.adapter!.parameters).length)
    scoped(() => model.score(ids, last).sum().backward())
    expect(Object.entries(model.backbone.parameters).filter(([, weight]) => weight.grad() !== undefined)).toEqual([])
    expect(Object.values({ ...model.adapter!.parameters, head: model.head }).filter((weight) => weight.grad() === undefined)).toEqual([])
    expect(largestDifference(score(model.merge()), before)).toBeLessThanOrEqual(sameInFloat32)
  })
})

describe("decoding with an adapter", () => {
  it("holds the merged weights once: joined, or in the layer's layout", () => {
    const model = initLlama(small, { seed: 1 })
    const held = (of: Llama) =>
      scoped(() =>
        noGrad(() => {
          const before = liveTensors()
          const decoder = new Decoder(of)
          expect(decoder.length).toBe(0)
          return liveTensors() - before
        })
      )
    const plain = held(model)
    // Where weights are read unpacked (a GPU), those of attention's and the feed-forward block's outputs are merged copies.
    expect(held(model.withAdapter(initLora(small, { ...config, targets: linearLayers }, { seed: 1 })))).toBeLessThanOrEqual(
      plain + 2 * small.layers
    )
  })
})

describe("PEFT's layout", () => {
  it("is written as it was read: with the same tensors and the fields that PEFT reads", async () => {
    const { model } = await adapted()
    const out = folder()
    await writeAdapter(out, model)
    const [wanted, found] = [
      await tensorsIn(join(adapter, "adapter_model.safetensors")),
      await tensorsIn(join(out, "adapter_model.safetensors"))
    ]
    expect(Object.keys(found).sort()).toEqual(Object.keys(wanted).sort())
    for (const [name, value] of Object.entries(wanted)) expect(found[name]!.toBytes()).toEqual(value.toBytes())
    expect(JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"))).toMatchObject({
      ...{ peft_type: "LORA", task_type: "CAUSAL_LM", r: 4, lora_alpha: 8, use_rslora: false, bias: "none" },
      target_modules: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    })
    const again = await run(loadAdapter(out, await run(loadLlama(base))))
    expect(again.config).toEqual({ rank: 4, alpha: 8, rankStabilised: false, targets: linearLayers })
  })

  it("is read in the dtype of its base, with rsLoRA, and with the targets given as all-linear", async () => {
    const out = changed({ use_rslora: true, target_modules: "all-linear" })
    const lora = await run(loadAdapter(out, await run(loadLlama(base, { dtype: "bfloat16" }))))
    expect([lora.scale, new Set(Object.values(lora.parameters).map(({ dtype }) => dtype))]).toEqual([4, new Set(["bfloat16"])])
  })

  /** A copy of the adapter with other fields. */
  const changed = (fields: Record<string, unknown>): string => {
    const out = folder()
    cpSync(adapter, out, { recursive: true })
    const path = join(out, "adapter_config.json")
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...fields }))
    return out
  }
  const refusal = async (path: string, on = base) =>
    (await run(Effect.flip(Effect.flatMap(loadLlama(on), (model) => loadAdapter(path, model))))).message

  it.each([
    ["rank 0", { r: 0 }, /rank 1 or more.*found r: expected/],
    ["an unknown target", { target_modules: ["q_proj", "wq"] }, /target_modules.*on any of q_proj, k_proj/s],
    ["no target", { target_modules: [] }, /expected target_modules, found none/],
    ["a pattern of targets", { target_modules: ".*_proj" }, /target_modules/],
    ["another method", { peft_type: "IA3" }, /peft_type/],
    ["another task", { task_type: "SEQ_CLS" }, /task_type/],
    ["DoRA", { use_dora: true }, /expected no use_dora, found true/],
    ["trained biases", { bias: "all" }, /expected no bias, found "all"/],
    ["modules that were trained completely", { modules_to_save: ["lm_head"] }, /expected no modules_to_save, found \["lm_head"\]/],
    ["ranks by layer", { rank_pattern: { q_proj: 8 } }, /expected no rank_pattern/],
    ["an initialisation that changed the base", { init_lora_weights: "pissa" }, /init_lora_weights/],
    ["an unknown field that is enabled", { use_something_new: true }, /expected no use_something_new, found true/]
  ])("with %s is rejected by name", async (_, fields, message) => {
    expect(await refusal(changed(fields))).toMatch(message)
  })

  it("for another base is rejected: tensors by name and shape, the vocabulary too", async () => {
    const other = await refusal(adapter, golden("llama-mha-tied/model"))
    expect(other).toContain("missing: base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight")
    expect(other).toContain("of another shape: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight (4, 32) instead of (4, 24)")
    expect(other).toContain("pass the base that it was trained on")
    expect(await refusal(changed({ r: 8 }))).toContain("(4, 32) instead of (8, 32)")
    expect(await refusal(changed({ target_modules: ["q_proj"] }))).toContain(
      "unknown: base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    )
    const resized = changed({})
    const path = join(resized, "adapter_model.safetensors")
    await writeSafetensors(path, { ...(await tensorsIn(path)), "base_model.model.lm_head.weight": zeros([170, 32]) })
    expect(await refusal(resized)).toMatch(/unknown: base_model\.model\.lm_head\.weight\. .*changes the vocabulary/)
  })

  it("is distinguished from a complete model, and from a folder that is neither", async () => {
    expect(await refusal(base)).toMatch(/expected a folder with adapter_config\.json.*found a complete model/s)
    expect(await refusal(folder())).toMatch(/found no adapter_config\.json/)
    const message = (await run(Effect.flip(loadLlama(adapter)))).message
    expect(message).toContain("expected a complete model (config.json and all weights), found an adapter (adapter_config.json)")
    expect(message).toContain("--adapter")
  })
})
