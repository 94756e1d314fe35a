/** The shape of a Llama-like model: presets, and its parameters (Llama 2 §2.2, table 1, §A.2.1). config-file.ts converts it to and from config.json. */

/** Families, which differ from Llama 2 in details of attention. Llama 3.x is "llama" with `ropeScaling`. */
export type Family = "llama" | "mistral" | "qwen2" | "qwen3"
export const familyNames: Readonly<Record<Family, string>> = { llama: "Llama", mistral: "Mistral", qwen2: "Qwen 2", qwen3: "Qwen 3" }

/** Llama 3.1's rotary scaling: frequencies with wavelengths above originalPositions / lowFactor are divided by factor, those below originalPositions / highFactor are kept, those between are interpolated. */
export interface RopeScaling {
  readonly factor: number
  readonly lowFactor: number
  readonly highFactor: number
  /** Context length in tokens of the original pretraining. */
  readonly originalPositions: number
}

export interface LlamaConfig {
  readonly family: Family
  readonly vocabSize: number
  /** Width of the residual stream. */
  readonly dim: number
  readonly layers: number
  readonly heads: number
  /** Number of key and value heads: equal to heads (MHA), fewer (GQA), or one (MQA). */
  readonly kvHeads: number
  readonly headDim: number
  /** Width of the feed-forward block. */
  readonly ffn: number
  /** Maximum context length in tokens. */
  readonly maxPositions: number
  readonly ropeTheta: number
  readonly ropeScaling?: RopeScaling
  /** Maximum number of keys that a query attends to, including its own (Mistral); absent: all previous keys. */
  readonly slidingWindow?: number
  readonly normEpsilon: number
  /** Whether the output layer shares its weights with the embedding table. */
  readonly tiedEmbeddings: boolean
}

type Shape = Pick<LlamaConfig, "vocabSize" | "dim" | "layers" | "heads" | "kvHeads" | "ffn"> & Partial<LlamaConfig>

/** Whether the query, key and value projections have biases. */
export const hasBiases = ({ family }: Pick<LlamaConfig, "family">): boolean => family === "qwen2"
/** Whether each query and key head is normalised before the rotation. */
export const hasHeadNorms = ({ family }: Pick<LlamaConfig, "family">): boolean => family === "qwen3"

/** Fills in Llama 2's values for missing fields. Throws RangeError for inconsistent sizes. */
export const llamaConfig = (shape: Shape): LlamaConfig => {
  const config: LlamaConfig = {
    family: "llama",
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
      throw new RangeError(`${name} must be an integer of 1 or more, got ${config[name]}.`)
  if (heads % kvHeads !== 0) throw new RangeError(`heads must be a multiple of kvHeads, got ${heads} and ${kvHeads}.`)
  if (headDim % 2 !== 0) throw new RangeError(`headDim must be even, since rotary embeddings rotate pairs; got ${headDim}.`)
  return config
}

const llama2 = (dim: number, layers: number, heads: number, kvHeads: number, ffn: number): LlamaConfig =>
  llamaConfig({ vocabSize: 32000, dim, layers, heads, kvHeads, ffn })

/** Model sizes by name. The small ones are those of Karpathy's TinyStories models and of this project's benchmarks. */
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
    if (hasBiases(config)) {
      shapes[`${name}.self_attn.q_proj.bias`] = [query]
      shapes[`${name}.self_attn.k_proj.bias`] = [keyValue]
      shapes[`${name}.self_attn.v_proj.bias`] = [keyValue]
    }
    if (hasHeadNorms(config)) {
      shapes[`${name}.self_attn.q_norm.weight`] = [config.headDim]
      shapes[`${name}.self_attn.k_norm.weight`] = [config.headDim]
    }
    shapes[`${name}.post_attention_layernorm.weight`] = [dim]
    shapes[`${name}.mlp.gate_proj.weight`] = [ffn, dim]
    shapes[`${name}.mlp.up_proj.weight`] = [ffn, dim]
    shapes[`${name}.mlp.down_proj.weight`] = [dim, ffn]
  }
  shapes["model.norm.weight"] = [dim]
  if (!config.tiedEmbeddings) shapes["lm_head.weight"] = [vocabSize, dim]
  return shapes
}

/** The number of weights of a language model with this shape; all blocks have the same number. */
export const parameterCount = (config: LlamaConfig): number => {
  const count = (layers: number): number =>
    Object.values(parameterShapes({ ...config, layers })).reduce(
      (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
      0
    )
  return count(0) + config.layers * (count(1) - count(0))
}
