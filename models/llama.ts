/**
 * Llama 2 (§2.2): pre-norm RMSNorm, rotary position embeddings, SwiGLU, grouped-query attention. Weights have Hugging Face's names and layout, (out, in).
 * The class also implements models that differ only in attention: sliding window (Mistral), biases on queries, keys and values (Qwen 2), norms on the query
 * and key heads before the rotation (Qwen 3).
 *
 * Shapes: B sequences, T tokens, D dim, H query heads, G key and value heads, E head dim, F ffn, V vocabulary.
 */
import {
  joinedLinear,
  joinWeights,
  residualNorm,
  rmsNorm,
  swiglu,
  tokenDistribution,
  type TokenDistribution,
  type TokenDistributionOptions
} from "../engine/fused.ts"
import { seedGenerator } from "../engine/generator.ts"
import { trainableEmbedding } from "../engine/gradients.ts"
import { segment } from "../engine/segments.ts"
import {
  arange,
  cat,
  type Device,
  type DType,
  embedding,
  keep,
  linear,
  noGrad,
  ones,
  recordsGradients,
  scoped,
  type Tensor,
  zeros
} from "../engine/tensor.ts"
import { type AttentionLayout, causalLayout, maskLayout, prepareLayout, rotaryAttention, segmentLayout, windowLayout } from "./attention.ts"
import { hasBiases, hasHeadNorms, type LlamaConfig, parameterShapes } from "./config.ts"
import type { Lora } from "./lora.ts"
import { positionsOfMask, type Rotation, RotaryTable, startsOfSegments } from "./rotary.ts"

export interface ForwardOptions {
  /** (B, T) int64 or bool, 0 at padding on either side. Position ids count only the tokens that are not padding. */
  readonly attentionMask?: Tensor
  /** (B, T) int64: for each token, its example in the packed row. Tokens attend only within their example, and each example's positions start at 0. */
  readonly segmentIds?: Tensor
}

/** Parameters of `prepareHeads`. */
export interface HeadParameters {
  /** ((H + 2G) E,) */
  readonly bias: Tensor | undefined
  /** (E,) each. */
  readonly norms: { readonly q: Tensor; readonly k: Tensor } | undefined
}
/** Adds biases to queries, keys and values and normalises the query and key heads: (..., (H + 2G) E) -> the same shape. Comes before the rotation. */
export const prepareHeads = (
  qkv: Tensor,
  { bias, norms }: HeadParameters,
  { heads, kvHeads, headDim, normEpsilon }: LlamaConfig
): Tensor => {
  const biased = bias === undefined ? qkv : qkv.add(bias)
  if (norms === undefined) return biased
  const perHead = biased.view(...biased.shape.slice(0, -1), heads + 2 * kvHeads, headDim) // (..., H + 2G, E)
  const axis = perHead.shape.length - 2
  const normed = (from: number, to: number, weight: Tensor) => rmsNorm(perHead.slice(axis, from, to).contiguous(), weight, normEpsilon)
  const parts = [
    normed(0, heads, norms.q),
    normed(heads, heads + kvHeads, norms.k),
    perHead.slice(axis, heads + kvHeads, heads + 2 * kvHeads)
  ]
  return cat(parts, axis).view(...biased.shape)
}

/** The linear layers of a block that share an input. */
const joined = [
  ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
  ["mlp.gate_proj", "mlp.up_proj"]
] as const

export class Llama {
  readonly config: LlamaConfig
  /** By Hugging Face name, without those of an adapter. */
  readonly parameters: Readonly<Record<string, Tensor>>
  /** Low-rank adapters on the linear layers. */
  readonly adapter: Lora | undefined
  readonly #rotary: RotaryTable

  constructor(config: LlamaConfig, parameters: Readonly<Record<string, Tensor>>, adapter?: Lora) {
    this.config = config
    this.parameters = parameters
    this.adapter = adapter
    this.#rotary = new RotaryTable(config)
    // Stored contiguously, so that one matrix product computes all of them without a copy.
    for (let layer = 0; layer < config.layers; layer++)
      for (const names of joined) joinWeights(names.map((name) => this.parameter(`model.layers.${layer}.${name}.weight`)))
  }

  /** Returns this model with an adapter. Both models share the weights, which are frozen: only the adapter has gradients. */
  withAdapter(adapter: Lora): Llama {
    for (const weight of Object.values(this.parameters)) weight.requiresGrad(false)
    return new Llama(this.config, this.parameters, adapter)
  }

  /** Adds the adapter to the weights in place, W + scale B A, and returns the model without adapter. The weights have gradients again. */
  merge(): Llama {
    const { adapter } = this
    if (adapter === undefined) return this
    for (const [name, weight] of Object.entries(this.parameters)) {
      scoped(() =>
        noGrad(() => {
          const added = adapter.weight(name.replace(/\.weight$/, ""))
          if (added !== undefined) weight.add_(added)
        })
      )
      weight.requiresGrad()
    }
    return new Llama(this.config, this.parameters)
  }

  get device(): Device {
    return this.parameter("model.norm.weight").device
  }
  get dtype(): DType {
    return this.parameter("model.norm.weight").dtype
  }
  get rotary(): RotaryTable {
    return this.#rotary
  }

  parameter(name: string): Tensor {
    const found = this.parameters[name]
    if (found === undefined) throw new Error(`the model has no parameter ${name}`)
    return found
  }

  /** The weights of one block, including the adapter's contribution. */
  block(layer: number) {
    const get = (name: string) => {
      const at = `model.layers.${layer}.${name}`
      const [weight, added] = [this.parameter(`${at}.weight`), this.adapter?.weight(at)]
      return added === undefined ? weight : weight.add(added)
    }
    return {
      attentionNorm: get("input_layernorm"),
      q: get("self_attn.q_proj"),
      k: get("self_attn.k_proj"),
      v: get("self_attn.v_proj"),
      o: get("self_attn.o_proj"),
      ffnNorm: get("post_attention_layernorm"),
      gate: get("mlp.gate_proj"),
      up: get("mlp.up_proj"),
      down: get("mlp.down_proj")
    }
  }

  /** A block's biases and norms on queries, keys and values. */
  headParameters(layer: number): HeadParameters {
    const get = (name: string) => this.parameter(`model.layers.${layer}.self_attn.${name}`)
    return {
      bias: hasBiases(this.config) ? cat([get("q_proj.bias"), get("k_proj.bias"), get("v_proj.bias")], 0) : undefined,
      norms: hasHeadNorms(this.config) ? { q: get("q_norm.weight"), k: get("k_norm.weight") } : undefined
    }
  }

  /** Token ids (B, T) int64 -> the last layer's normalised states (B, T, D). Throws RangeError if T exceeds the model's context. */
  hidden(ids: Tensor, options: ForwardOptions = {}): Tensor {
    const { config } = this
    const [batch, length] = ids.shape as [number, number]
    if (length > config.maxPositions)
      throw new RangeError(`a sequence of ${length} tokens exceeds the model's context of ${config.maxPositions}; shorten the sequence`)
    const { layout, positions } = this.layout(batch, length, options)
    const rotation = this.#rotary.at(this.device, this.dtype, positions ?? length)
    prepareLayout(layout, this, config.headDim)
    // With an adapter, the embedding table is frozen.
    const embed = this.adapter === undefined ? trainableEmbedding : embedding
    let x = embed(this.parameter("model.embed_tokens.weight"), ids) // (B, T, D)
    const isInference = !recordsGradients()
    for (let layer = 0; layer < config.layers; layer++) {
      const before = x
      x = segment(layer, before, (x) => this.#block(layer, x, rotation, layout))
      if (isInference) before.free()
    }
    return rmsNorm(x, this.parameter("model.norm.weight"), config.normEpsilon)
  }

  /** One block: (B, T, D) -> (B, T, D). */
  #block(layer: number, x: Tensor, rotation: Rotation, layout: AttentionLayout): Tensor {
    const { heads, kvHeads, normEpsilon } = this.config
    const at = (name: string) => `model.layers.${layer}.${name}`
    const norm = (states: Tensor, name: string, added?: Tensor) =>
      residualNorm(states, this.parameter(`${at(name)}.weight`), normEpsilon, added)
    const [input, normed] = norm(x, "input_layernorm")
    const projected = this.#linear(normed, at("self_attn.q_proj"), at("self_attn.k_proj"), at("self_attn.v_proj")) // (B, T, (H + 2G) E)
    const qkv = prepareHeads(projected, this.headParameters(layer), this.config)
    const mixed = this.#linear(rotaryAttention(qkv, rotation, layout, heads, kvHeads), at("self_attn.o_proj"))
    const [attended, normedAttended] = norm(input, "post_attention_layernorm", mixed)
    const gateUp = this.#linear(normedAttended, at("mlp.gate_proj"), at("mlp.up_proj")) // (B, T, 2F)
    return attended.add(this.#linear(swiglu(gateUp), at("mlp.down_proj")))
  }

  /** Applies linear layers that share an input, with their adapters: (..., K) -> their concatenated outputs (..., N). */
  #linear(x: Tensor, ...layers: ReadonlyArray<string>): Tensor {
    const weights = layers.map((layer) => this.parameter(`${layer}.weight`))
    const y = joinedLinear(x, weights)
    const added = layers.map((layer) => this.adapter?.output(layer, x))
    if (added.every((part) => part === undefined)) return y
    const nothing = (i: number) => zeros([...x.shape.slice(0, -1), weights[i]!.size(0)], { dtype: x.dtype, device: x.device })
    return y.add(
      cat(
        added.map((part, i) => part ?? nothing(i)),
        -1
      )
    )
  }

  /** The output weight (V, D): the embedding table if the two are tied. */
  get outputWeight(): Tensor {
    return this.parameter(this.config.tiedEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight")
  }

  /** States (..., D) -> logits (..., V). */
  logits(hidden: Tensor): Tensor {
    return linear(hidden, this.outputWeight)
  }

  /** The log-probabilities of given next tokens, and statistics of their distributions: states (N, D), tokens (N,) int64. The float32 logits of all rows never exist together. */
  distribution(states: Tensor, tokens: Tensor, options?: TokenDistributionOptions): TokenDistribution {
    return tokenDistribution(states, this.outputWeight, tokens, options)
  }

  /** Token ids (B, T) -> logits (B, T, V) of the next token at each position. */
  forward(ids: Tensor, options: ForwardOptions = {}): Tensor {
    return this.logits(this.hidden(ids, options))
  }

  /** The attention layout, and the token positions (B, T); undefined if they are 0, 1, 2, ... in every row. */
  layout(
    batch: number,
    length: number,
    options: ForwardOptions
  ): { readonly layout: AttentionLayout; readonly positions: Tensor | undefined } {
    const { layout, positions } = this.#layoutWithoutWindow(length, options)
    const { slidingWindow } = this.config
    const { device, dtype } = this
    return {
      layout: slidingWindow === undefined ? layout : windowLayout(layout, slidingWindow, { batch, length, dtype, device }),
      positions
    }
  }

  #layoutWithoutWindow(
    length: number,
    options: ForwardOptions
  ): { readonly layout: AttentionLayout; readonly positions: Tensor | undefined } {
    const { attentionMask, segmentIds } = options
    if (attentionMask !== undefined && segmentIds !== undefined) throw new TypeError("pass an attention mask or segment ids, not both")
    if (attentionMask !== undefined) return { layout: maskLayout(attentionMask, this.dtype), positions: positionsOfMask(attentionMask) }
    if (segmentIds === undefined) return { layout: causalLayout(length, this.dtype, this.device), positions: undefined }
    const starts = startsOfSegments(segmentIds)
    return { layout: segmentLayout(segmentIds, starts, this.dtype), positions: arange(0, length, { device: this.device }).sub(starts) }
  }
}

/** Standard deviation of the normal distribution of initial weights (Hugging Face's initializer_range). */
const deviation = 0.02

/** A Llama with newly initialised weights: N(0, 0.02^2), norms 1, biases 0. Each tensor's values depend only on the seed, its name and its shape. */
export const initLlama = (
  config: LlamaConfig,
  options: { readonly seed: number; readonly device?: Device; readonly dtype?: DType }
): Llama => {
  const { seed, device = "cpu", dtype = "float32" } = options
  const parameters: Record<string, Tensor> = {}
  for (const [name, shape] of Object.entries(parameterShapes(config))) {
    const made = scoped(() =>
      noGrad(() => {
        if (name.endsWith("norm.weight")) return ones(shape, { dtype, device })
        if (name.endsWith(".bias")) return zeros(shape, { dtype, device })
        seedGenerator("cpu", seed, "initial weights", name)
        return zeros(shape).normal_(0, deviation).to({ dtype, device })
      })
    )
    parameters[name] = keep(made).requiresGrad()
  }
  return new Llama(config, parameters)
}
