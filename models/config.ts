/** The shape of a Llama: from and to Hugging Face's config.json, presets, and parameter counts (Llama 2 §2.2, table 1, §A.2.1). */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ArtifactError } from "../schemas/artifact.ts"

export interface LlamaConfig {
  readonly vocabSize: number
  /** Width of the residual stream. */
  readonly dim: number
  readonly layers: number
  readonly heads: number
  /** Key and value heads: as many as heads (MHA), fewer (GQA), or one (MQA). */
  readonly kvHeads: number
  readonly headDim: number
  /** Width of the feed-forward block. */
  readonly ffn: number
  /** Tokens it can attend over. */
  readonly maxPositions: number
  readonly ropeTheta: number
  readonly normEpsilon: number
  /** Whether the output layer is the embedding table. */
  readonly tiedEmbeddings: boolean
}

type Shape = Pick<LlamaConfig, "vocabSize" | "dim" | "layers" | "heads" | "kvHeads" | "ffn"> & Partial<LlamaConfig>

/** A config with Llama 2's values where none are given. Throws when the sizes do not fit one another. */
export const llamaConfig = (shape: Shape): LlamaConfig => {
  const config: LlamaConfig = {
    headDim: shape.dim / shape.heads,
    maxPositions: 4096,
    ropeTheta: 10000,
    normEpsilon: 1e-5,
    tiedEmbeddings: false,
    ...shape
  }
  const { heads, kvHeads, headDim } = config
  const sizes = ["vocabSize", "dim", "layers", "heads", "kvHeads", "headDim", "ffn", "maxPositions"] as const
  for (const name of sizes)
    if (!Number.isInteger(config[name]) || config[name] < 1)
      throw new RangeError(`A Llama's ${name} must be a whole number above 0, got ${config[name]}.`)
  if (heads % kvHeads !== 0)
    throw new RangeError(`A Llama's heads must be a multiple of its key and value heads, got ${heads} and ${kvHeads}.`)
  if (headDim % 2 !== 0) throw new RangeError(`A Llama's head dimension must be even (rotary embeddings turn pairs), got ${headDim}.`)
  return config
}

const llama2 = (dim: number, layers: number, heads: number, kvHeads: number, ffn: number): LlamaConfig =>
  llamaConfig({ vocabSize: 32000, dim, layers, heads, kvHeads, ffn })

/** Sizes by name. The small ones are those of Karpathy's TinyStories models and of this project's benchmarks. */
export const presets = {
  "260k": llamaConfig({ vocabSize: 512, dim: 64, layers: 5, heads: 8, kvHeads: 4, ffn: 172, maxPositions: 512, tiedEmbeddings: true }),
  "3m": llamaConfig({ vocabSize: 2048, dim: 192, layers: 6, heads: 6, kvHeads: 6, ffn: 512, maxPositions: 512, tiedEmbeddings: true }),
  "15m": llamaConfig({ vocabSize: 32000, dim: 288, layers: 6, heads: 6, kvHeads: 6, ffn: 768, maxPositions: 256, tiedEmbeddings: true }),
  "42m": llamaConfig({ vocabSize: 32000, dim: 512, layers: 8, heads: 8, kvHeads: 8, ffn: 1376, maxPositions: 1024, tiedEmbeddings: true }),
  "110m": llamaConfig({
    vocabSize: 32000,
    dim: 768,
    layers: 12,
    heads: 12,
    kvHeads: 12,
    ffn: 2048,
    maxPositions: 1024,
    tiedEmbeddings: true
  }),
  "1.1b": llamaConfig({ vocabSize: 32000, dim: 2048, layers: 22, heads: 32, kvHeads: 4, ffn: 5632, maxPositions: 2048 }),
  "7b": llama2(4096, 32, 32, 32, 11008),
  "13b": llama2(5120, 40, 40, 40, 13824),
  "34b": llama2(8192, 48, 64, 8, 22016),
  "70b": llama2(8192, 80, 64, 8, 28672)
} as const satisfies Record<string, LlamaConfig>

/** Shapes of all weights by Hugging Face name. Linear weights are (out, in). */
export const parameterShapes = (config: LlamaConfig): Record<string, ReadonlyArray<number>> => {
  const { dim, ffn, vocabSize } = config
  const query = config.heads * config.headDim
  const keyValue = config.kvHeads * config.headDim
  const shapes: Record<string, ReadonlyArray<number>> = { "model.embed_tokens.weight": [vocabSize, dim] }
  for (let layer = 0; layer < config.layers; layer++) {
    const name = `model.layers.${layer}`
    shapes[`${name}.input_layernorm.weight`] = [dim]
    shapes[`${name}.self_attn.q_proj.weight`] = [query, dim]
    shapes[`${name}.self_attn.k_proj.weight`] = [keyValue, dim]
    shapes[`${name}.self_attn.v_proj.weight`] = [keyValue, dim]
    shapes[`${name}.self_attn.o_proj.weight`] = [dim, query]
    shapes[`${name}.post_attention_layernorm.weight`] = [dim]
    shapes[`${name}.mlp.gate_proj.weight`] = [ffn, dim]
    shapes[`${name}.mlp.up_proj.weight`] = [ffn, dim]
    shapes[`${name}.mlp.down_proj.weight`] = [dim, ffn]
  }
  shapes["model.norm.weight"] = [dim]
  if (!config.tiedEmbeddings) shapes["lm_head.weight"] = [vocabSize, dim]
  return shapes
}

/** Weights of a language model of this shape: every block has as many. */
export const parameterCount = (config: LlamaConfig): number => {
  const count = (layers: number): number =>
    Object.values(parameterShapes({ ...config, layers })).reduce(
      (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
      0
    )
  return count(0) + config.layers * (count(1) - count(0))
}

const size = Schema.Int.check(Schema.isGreaterThan(0))
const positive = Schema.Finite.check(Schema.isGreaterThan(0))
const optional = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

const Rope = Schema.Struct({
  rope_type: optional(Schema.String),
  type: optional(Schema.String),
  rope_theta: optional(positive),
  partial_rotary_factor: optional(Schema.Finite)
})

/** The fields of config.json that shape the computation; others are left alone. What is missing or null has Hugging Face's default. */
const HuggingFaceConfig = Schema.Struct({
  architectures: optional(Schema.Array(Schema.String)),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: optional(size),
  head_dim: optional(size),
  max_position_embeddings: optional(size),
  rope_theta: optional(positive),
  rope_parameters: optional(Rope),
  rope_scaling: optional(Rope),
  rms_norm_eps: optional(positive),
  tie_word_embeddings: optional(Schema.Boolean),
  hidden_act: optional(Schema.String),
  attention_bias: optional(Schema.Boolean),
  mlp_bias: optional(Schema.Boolean)
})

const architectures = ["LlamaForCausalLM", "LlamaForSequenceClassification"]

/** What this model can't compute: the field, what it must be, what it is. */
const unsupported = (json: typeof HuggingFaceConfig.Type): { readonly expected: string; readonly found: unknown } | undefined => {
  const rope = json.rope_parameters ?? json.rope_scaling
  const ropeType = rope?.rope_type ?? rope?.type ?? "default"
  const architecture = json.architectures?.find((name) => !architectures.includes(name))
  if (architecture !== undefined) return { expected: `architectures ${architectures.join(" or ")}`, found: architecture }
  if (ropeType !== "default") return { expected: 'rope_type "default"', found: ropeType }
  if ((rope?.partial_rotary_factor ?? 1) !== 1) return { expected: "partial_rotary_factor 1", found: rope?.partial_rotary_factor }
  if ((json.hidden_act ?? "silu") !== "silu") return { expected: 'hidden_act "silu"', found: json.hidden_act }
  if (json.attention_bias === true) return { expected: "attention_bias false", found: true }
  if (json.mlp_bias === true) return { expected: "mlp_bias false", found: true }
  return undefined
}

/** A config from the content of Hugging Face's config.json. What this model can't compute is refused by name. */
export const fromHuggingFace = (content: unknown, path: string): Effect.Effect<LlamaConfig, ArtifactError> => {
  const fail = (expected: string, found: string) =>
    ArtifactError.of({
      doing: `Reading the model's configuration ${path}`,
      expected,
      found,
      hint: "Only Llama and Llama 2 models are supported."
    })
  const messageOf = (cause: unknown) =>
    cause instanceof Error
      ? cause.message
          .replaceAll(/\n\s*at /g, " at ")
          .replaceAll("\n", "; ")
          .replace(/\.$/, "")
      : String(cause)
  return Effect.gen(function* () {
    const modelType = (content as { readonly model_type?: unknown } | null)?.model_type
    // Told first: another model's config may lack any of the other fields.
    if (modelType !== "llama") return yield* fail('model_type "llama"', JSON.stringify(modelType) ?? "none")
    const json = yield* Schema.decodeUnknownEffect(HuggingFaceConfig, { errors: "all" })(content).pipe(
      Effect.mapError((error) => fail("a Llama's sizes", messageOf(error)))
    )
    const wrong = unsupported(json)
    if (wrong !== undefined) return yield* fail(wrong.expected, JSON.stringify(wrong.found))
    const rope = json.rope_parameters ?? json.rope_scaling
    return yield* Effect.try({
      try: () =>
        llamaConfig({
          vocabSize: json.vocab_size,
          dim: json.hidden_size,
          layers: json.num_hidden_layers,
          heads: json.num_attention_heads,
          kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
          headDim: json.head_dim ?? json.hidden_size / json.num_attention_heads,
          ffn: json.intermediate_size,
          maxPositions: json.max_position_embeddings ?? 2048,
          ropeTheta: rope?.rope_theta ?? json.rope_theta ?? 10000,
          normEpsilon: json.rms_norm_eps ?? 1e-6,
          tiedEmbeddings: json.tie_word_embeddings ?? false
        }),
      catch: (cause) => fail("sizes that fit one another", messageOf(cause))
    })
  })
}

/** The config.json that transformers reads, for a language model or (with one label) for a model with a scalar head. */
export const toHuggingFace = (
  config: LlamaConfig,
  options: {
    readonly scalarHead: boolean
    readonly dtype: string
    readonly bosId: number | undefined
    readonly eosId: number | ReadonlyArray<number>
    readonly padId: number
  }
): Record<string, unknown> => ({
  architectures: [options.scalarHead ? "LlamaForSequenceClassification" : "LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: config.vocabSize,
  hidden_size: config.dim,
  intermediate_size: config.ffn,
  num_hidden_layers: config.layers,
  num_attention_heads: config.heads,
  num_key_value_heads: config.kvHeads,
  head_dim: config.headDim,
  hidden_act: "silu",
  max_position_embeddings: config.maxPositions,
  initializer_range: 0.02,
  rms_norm_eps: config.normEpsilon,
  // The older spelling for older readers of the file, the newer for transformers 5.
  rope_theta: config.ropeTheta,
  rope_parameters: { rope_theta: config.ropeTheta, rope_type: "default" },
  tie_word_embeddings: config.tiedEmbeddings,
  attention_bias: false,
  mlp_bias: false,
  attention_dropout: 0,
  use_cache: true,
  bos_token_id: options.bosId ?? null,
  eos_token_id: options.eosId,
  pad_token_id: options.padId,
  torch_dtype: options.dtype,
  ...(options.scalarHead ? { num_labels: 1, id2label: { 0: "reward" }, label2id: { reward: 0 } } : {})
})
