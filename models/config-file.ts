/**
 * Converts Hugging Face's config.json to and from a model's shape. Families: Llama (2, and 3.x with its rotary scaling), Mistral (sliding window), Qwen 2 (biases) and Qwen 3 (head norms).
 * Unsupported settings are refused by name.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ArtifactError } from "../schemas/artifact.ts"
import { own } from "../schemas/own.ts"
import { type Family, type LlamaConfig, llamaConfig, type RopeScaling } from "./config.ts"
import { schemaIssues } from "../schemas/schema-issues.ts"

const size = Schema.Int.check(Schema.isGreaterThan(0))
const positive = Schema.Finite.check(Schema.isGreaterThan(0))
const optional = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

const Rope = Schema.Struct({
  rope_type: optional(Schema.String),
  type: optional(Schema.String),
  rope_theta: optional(positive),
  partial_rotary_factor: optional(Schema.Finite),
  factor: optional(positive),
  low_freq_factor: optional(positive),
  high_freq_factor: optional(positive),
  original_max_position_embeddings: optional(size)
})

/** The fields of config.json that affect the computation; others are ignored. Missing and null fields have Hugging Face's defaults. */
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
  mlp_bias: optional(Schema.Boolean),
  sliding_window: optional(size),
  use_sliding_window: optional(Schema.Boolean),
  layer_types: optional(Schema.Array(Schema.String))
})
type HuggingFaceConfig = typeof HuggingFaceConfig.Type

/** For each family: the prefix of its class names, and transformers' defaults for missing fields. */
const families: Readonly<
  Record<
    Family,
    { readonly prefix: string; readonly positions: number; readonly headDim?: number; readonly kvHeads?: number; readonly window?: number }
  >
> = {
  llama: { prefix: "Llama", positions: 2048 },
  mistral: { prefix: "Mistral", positions: 131072, kvHeads: 8, window: 4096 },
  qwen2: { prefix: "Qwen2", positions: 32768, kvHeads: 32 },
  qwen3: { prefix: "Qwen3", positions: 32768, kvHeads: 32, headDim: 128 }
}
const architecturesOf = (family: Family): ReadonlyArray<string> =>
  ["ForCausalLM", "ForSequenceClassification"].map((head) => `${families[family].prefix}${head}`)

/** The first unsupported setting: the field, the supported value, the value found. */
const unsupported = (json: HuggingFaceConfig, family: Family): { readonly expected: string; readonly found: unknown } | undefined => {
  const rope = json.rope_parameters ?? json.rope_scaling
  const ropeType = rope?.rope_type ?? rope?.type ?? "default"
  const architectures = architecturesOf(family)
  const architecture = json.architectures?.find((name) => !architectures.includes(name))
  if (architecture !== undefined) return { expected: `architectures ${architectures.join(" or ")}`, found: architecture }
  if (ropeType !== "default" && ropeType !== "llama3") return { expected: 'rope_type "default" or "llama3"', found: ropeType }
  if (ropeType === "llama3" && scalingOf(json) === undefined)
    return { expected: "factor, low_freq_factor, high_freq_factor and original_max_position_embeddings of rope_type llama3", found: rope }
  if ((rope?.partial_rotary_factor ?? 1) !== 1) return { expected: "partial_rotary_factor 1", found: rope?.partial_rotary_factor }
  if ((json.hidden_act ?? "silu") !== "silu") return { expected: 'hidden_act "silu"', found: json.hidden_act }
  if (json.attention_bias === true) return { expected: "attention_bias false", found: true }
  if (json.mlp_bias === true) return { expected: "mlp_bias false", found: true }
  // Qwen uses its windows only in some layers.
  if (family !== "mistral" && json.use_sliding_window === true) return { expected: "use_sliding_window false", found: true }
  const layerType = json.layer_types?.find(
    (type) => type !== (family === "mistral" && windowOf(json, family) !== undefined ? "sliding_attention" : "full_attention")
  )
  if (layerType !== undefined) return { expected: "the same layer_types in every layer", found: layerType }
  return undefined
}

/** Llama 3.1's scaling of rotary embeddings; undefined if there is none, or if one of its numbers is missing. */
const scalingOf = (json: HuggingFaceConfig): RopeScaling | undefined => {
  const rope = json.rope_parameters ?? json.rope_scaling
  if ((rope?.rope_type ?? rope?.type) !== "llama3") return undefined
  const numbers = [rope?.factor, rope?.low_freq_factor, rope?.high_freq_factor, rope?.original_max_position_embeddings]
  const [factor, lowFactor, highFactor, originalPositions] = numbers.filter((number) => typeof number === "number")
  return originalPositions === undefined ? undefined : ({ factor, lowFactor, highFactor, originalPositions } as RopeScaling)
}

const windowOf = (json: HuggingFaceConfig, family: Family): number | undefined =>
  family === "mistral" ? ((json.sliding_window === undefined ? families.mistral.window : json.sliding_window) ?? undefined) : undefined

/** Parses Hugging Face's config.json. Unsupported settings are refused by name. */
export const fromHuggingFace = (content: unknown, path: string): Effect.Effect<LlamaConfig, ArtifactError> => {
  const fail = (expected: string, found: string) =>
    ArtifactError.of({
      doing: `Reading the model's configuration ${path}`,
      expected,
      found,
      hint: "Llama 2 and 3, Mistral, Qwen 2 and Qwen 3 are supported (docs/models.md)."
    })
  const messageOf = (cause: unknown) => (cause instanceof Error ? schemaIssues(cause.message).replace(/\.$/, "") : String(cause))
  return Effect.gen(function* () {
    const modelType = (content as { readonly model_type?: unknown } | null)?.model_type
    // Checked first: the config of another kind of model may lack any of the other fields.
    const family = typeof modelType === "string" && own(families, modelType) !== undefined ? (modelType as Family) : undefined
    if (family === undefined) return yield* fail(`model_type ${Object.keys(families).join(", ")}`, JSON.stringify(modelType) ?? "none")
    const json = yield* Schema.decodeUnknownEffect(HuggingFaceConfig, { errors: "all" })(content).pipe(
      Effect.mapError((error) => fail("the model's sizes", messageOf(error)))
    )
    const wrong = unsupported(json, family)
    if (wrong !== undefined) return yield* fail(wrong.expected, JSON.stringify(wrong.found))
    const rope = json.rope_parameters ?? json.rope_scaling
    const [defaults, ropeScaling, slidingWindow] = [families[family], scalingOf(json), windowOf(json, family)]
    return yield* Effect.try({
      try: () =>
        llamaConfig({
          family,
          vocabSize: json.vocab_size,
          dim: json.hidden_size,
          layers: json.num_hidden_layers,
          heads: json.num_attention_heads,
          kvHeads: json.num_key_value_heads ?? defaults.kvHeads ?? json.num_attention_heads,
          headDim: json.head_dim ?? defaults.headDim ?? json.hidden_size / json.num_attention_heads,
          ffn: json.intermediate_size,
          maxPositions: json.max_position_embeddings ?? defaults.positions,
          ropeTheta: rope?.rope_theta ?? json.rope_theta ?? 10000,
          normEpsilon: json.rms_norm_eps ?? 1e-6,
          tiedEmbeddings: json.tie_word_embeddings ?? false,
          ...(ropeScaling === undefined ? {} : { ropeScaling }),
          ...(slidingWindow === undefined ? {} : { slidingWindow })
        }),
      catch: (cause) => fail("consistent sizes", messageOf(cause))
    })
  })
}

const scalingJson = ({ factor, highFactor, lowFactor, originalPositions }: RopeScaling) => ({
  rope_type: "llama3",
  factor,
  low_freq_factor: lowFactor,
  high_freq_factor: highFactor,
  original_max_position_embeddings: originalPositions
})

/** The config.json for transformers: a language model, or a model with a scalar head (one label). */
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
  architectures: [architecturesOf(config.family)[options.scalarHead ? 1 : 0]],
  model_type: config.family,
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
  // rope_theta at the top level for older versions, rope_parameters for transformers 5.
  rope_theta: config.ropeTheta,
  ...(config.ropeScaling === undefined ? {} : { rope_scaling: scalingJson(config.ropeScaling) }),
  rope_parameters: {
    rope_theta: config.ropeTheta,
    ...(config.ropeScaling === undefined ? { rope_type: "default" } : scalingJson(config.ropeScaling))
  },
  tie_word_embeddings: config.tiedEmbeddings,
  ...(config.family === "mistral" ? { sliding_window: config.slidingWindow ?? null } : {}),
  ...(config.family === "llama" || config.family === "qwen3" ? { attention_bias: false } : {}),
  ...(config.family === "llama" ? { mlp_bias: false } : {}),
  attention_dropout: 0,
  use_cache: true,
  bos_token_id: options.bosId ?? null,
  eos_token_id: options.eosId,
  pad_token_id: options.padId,
  torch_dtype: options.dtype,
  ...(options.scalarHead ? { num_labels: 1, id2label: { 0: "reward" }, label2id: { reward: 0 } } : {})
})
