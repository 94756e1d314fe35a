import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { llamaConfig, parameterCount, parameterShapes, presets } from "../../models/config.ts"
import { fromHuggingFace, toHuggingFace } from "../../models/config-file.ts"

const base = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  hidden_act: "silu"
}
const qwen = { ...base, model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }
const read = (content: unknown) => Effect.runPromise(fromHuggingFace(content, "config.json"))
const messageOf = async (content: unknown) => (await Effect.runPromise(Effect.flip(fromHuggingFace(content, "config.json")))).message

describe("parameter counts", () => {
  // Published: Llama 2's checkpoints on Hugging Face (sum of all tensors), TinyLlama's 1,100,048,384.
  it.each([
    ["7b", 6_738_415_616],
    ["13b", 13_015_864_320],
    ["70b", 68_976_648_192],
    ["1.1b", 1_100_048_384]
  ] as const)("of %s are the published ones", (name, count) => {
    expect(parameterCount(presets[name])).toBe(count)
  })

  // Published on the models' pages, from their safetensors.
  it.each([
    ["Llama 3.1 8B", { vocabSize: 128256, dim: 4096, layers: 32, heads: 32, kvHeads: 8, ffn: 14336 }, 8_030_261_248],
    ["Mistral 7B", { family: "mistral", vocabSize: 32000, dim: 4096, layers: 32, heads: 32, kvHeads: 8, ffn: 14336 }, 7_241_732_096],
    [
      "Qwen 2.5 0.5B",
      { family: "qwen2", vocabSize: 151936, dim: 896, layers: 24, heads: 14, kvHeads: 2, ffn: 4864, tiedEmbeddings: true },
      494_032_768
    ],
    [
      "Qwen 3 0.6B",
      { family: "qwen3", vocabSize: 151936, dim: 1024, layers: 28, heads: 16, kvHeads: 8, headDim: 128, ffn: 3072, tiedEmbeddings: true },
      596_049_920
    ]
  ] as const)("of %s are the published ones", (_, shape, count) => {
    expect(parameterCount(llamaConfig(shape))).toBe(count)
  })

  it("of 34B are those of CodeLlama 34B, which has the same shape and vocabulary", () => {
    expect(parameterCount(presets["34b"])).toBe(33_743_970_304)
  })

  it("count a tied output layer once, and fewer key and value heads", () => {
    // By hand: D 64, F 172, 5 blocks, 8 heads of 8, 4 key heads, V 512.
    const block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172 + 2 * 64
    expect(parameterCount(presets["260k"])).toBe(512 * 64 + 5 * block + 64)
    expect(parameterCount({ ...presets["260k"], tiedEmbeddings: false })).toBe(2 * 512 * 64 + 5 * block + 64)
    const multiQuery = llamaConfig({ vocabSize: 10, dim: 8, layers: 1, heads: 4, kvHeads: 1, ffn: 3 })
    expect(parameterShapes(multiQuery)["model.layers.0.self_attn.k_proj.weight"]).toEqual([2, 8])
  })
})

describe("a config", () => {
  it("with inconsistent sizes is rejected", () => {
    const shape = { vocabSize: 10, dim: 8, layers: 1, heads: 4, kvHeads: 2, ffn: 3 }
    expect(() => llamaConfig({ ...shape, dim: 9 })).toThrow(/headDim must be an integer of 1 or more, got 2\.25/)
    expect(() => llamaConfig({ ...shape, kvHeads: 3 })).toThrow(/heads must be a multiple of kvHeads, got 4 and 3/)
    expect(() => llamaConfig({ ...shape, dim: 4 })).toThrow(/headDim must be even/)
    expect(() => llamaConfig({ ...shape, layers: 0 })).toThrow(/layers must be an integer of 1 or more, got 0/)
  })
})

describe("Hugging Face's config.json", () => {
  it("of Llama 2 7B is the preset", async () => {
    expect(await read({ ...base, rope_theta: 10000 })).toEqual(presets["7b"])
    expect(await read({ ...base, rope_scaling: null, num_key_value_heads: null, head_dim: null })).toEqual(presets["7b"])
    expect(await read({ ...base, rope_parameters: { rope_theta: 10000, rope_type: "default" } })).toEqual(presets["7b"])
  })

  it("may have the base of rotary embeddings in either place", async () => {
    expect((await read({ ...base, rope_theta: 5e5 })).ropeTheta).toBe(5e5)
    expect((await read({ ...base, rope_parameters: { rope_theta: 1e6, rope_type: "default" } })).ropeTheta).toBe(1e6)
  })

  it("has transformers' defaults for missing fields", async () => {
    const { max_position_embeddings: _, rms_norm_eps: __, hidden_act: ___, architectures: ____, ...least } = base
    expect(await read(least)).toEqual({ ...presets["7b"], maxPositions: 2048, normEpsilon: 1e-6 })
  })

  it("has its family's defaults for missing fields", async () => {
    const { max_position_embeddings: _, architectures: __, ...least } = base
    const of = async (family: string, more: object = {}) => {
      const { headDim, kvHeads, maxPositions, slidingWindow } = await read({ ...least, model_type: family, ...more })
      return [maxPositions, kvHeads, headDim, slidingWindow]
    }
    // transformers 5.18: MistralConfig, Qwen2Config, Qwen3Config.
    expect(await of("mistral")).toEqual([131072, 8, 128, 4096])
    expect(await of("mistral", { sliding_window: null })).toEqual([131072, 8, 128, undefined])
    expect(await of("qwen2", { sliding_window: 32768, use_sliding_window: false })).toEqual([32768, 32, 128, undefined])
    expect(await of("qwen3", { hidden_size: 2048 })).toEqual([32768, 32, 128, undefined])
  })

  it("of Llama 3.1 may have its scaling in either place", async () => {
    const numbers = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }
    const wanted = { factor: 8, lowFactor: 1, highFactor: 4, originalPositions: 8192 }
    const older = await read({ ...base, rope_theta: 5e5, rope_scaling: { rope_type: "llama3", ...numbers } })
    const newer = await read({ ...base, rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...numbers } })
    for (const config of [older, newer]) expect(config).toMatchObject({ ropeTheta: 5e5, ropeScaling: wanted })
  })

  it("is read as it was written, for every preset", async () => {
    for (const config of Object.values(presets)) {
      for (const scalarHead of [false, true])
        expect(await read(toHuggingFace(config, { scalarHead, dtype: "float32", bosId: 1, eosId: 2, padId: 0 }))).toEqual(config)
    }
  })

  it.each([
    ["another model", { ...base, model_type: "gemma" }, /model_type llama, mistral, qwen2, qwen3, found "gemma"/],
    ["a model type named like an object's property", { ...base, model_type: "constructor" }, /found "constructor"/],
    [
      "another family's head",
      { ...base, model_type: "mistral" },
      /architectures MistralForCausalLM or MistralForSequenceClassification, found "LlamaForCausalLM"/
    ],
    ["windows in some layers only", { ...qwen, use_sliding_window: true, sliding_window: 4096 }, /use_sliding_window false, found true/],
    [
      "layers of several kinds",
      { ...qwen, layer_types: ["full_attention", "sliding_attention"] },
      /the same layer_types in every layer, found "sliding_attention"/
    ],
    ["no model type", {}, /model_type llama, mistral, qwen2, qwen3, found none/],
    [
      "another head",
      { ...base, architectures: ["LlamaForTokenClassification"] },
      /LlamaForSequenceClassification, found "LlamaForTokenClassification"/
    ],
    [
      "scaled rotary embeddings",
      { ...base, rope_scaling: { type: "linear", factor: 2 } },
      /rope_type "default" or "llama3", found "linear"/
    ],
    [
      "incomplete settings of Llama 3's rotary embeddings",
      { ...base, rope_parameters: { rope_type: "llama3", rope_theta: 5e5, factor: 8 } },
      /factor, low_freq_factor, high_freq_factor and original_max_position_embeddings of rope_type llama3, found/
    ],
    [
      "rotary embeddings of part of a head",
      { ...base, rope_parameters: { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 0.5 } },
      /partial_rotary_factor 1, found 0\.5/
    ],
    ["another activation", { ...base, hidden_act: "gelu" }, /hidden_act "silu", found "gelu"/],
    ["biases in attention", { ...base, attention_bias: true }, /attention_bias false, found true/],
    ["biases in the feed-forward block", { ...base, mlp_bias: true }, /mlp_bias false, found true/],
    ["invalid sizes", { ...base, vocab_size: -5, hidden_size: "4096" }, /vocab_size.*hidden_size/],
    ["a missing size", { ...base, num_hidden_layers: undefined }, /num_hidden_layers/],
    ["text as a norm's epsilon", { ...base, rms_norm_eps: "1e-5" }, /rms_norm_eps/],
    ["sizes that do not fit one another", { ...base, hidden_size: 4097 }, /consistent sizes, found .*headDim/],
    ["a list", [], /model_type llama, mistral, qwen2, qwen3, found none/],
    ["null", null, /model_type llama, mistral, qwen2, qwen3, found none/]
  ])("with %s is rejected", async (_, content, message) => {
    const text = await messageOf(content)
    expect(text).toMatch(message)
    expect(text).toMatch(
      /^Reading the model's configuration config\.json: expected .*Llama 2 and 3, Mistral, Qwen 2 and Qwen 3 are supported \(docs\/models\.md\)\.$/
    )
  })
})
