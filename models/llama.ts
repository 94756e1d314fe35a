/**
 * Llama 2 (§2.2): pre-norm RMSNorm, rotary position embeddings, SwiGLU, grouped-query attention. Weights keep Hugging Face's names and
 * layout, (out, in).
 *
 * Shapes: B sequences, T tokens, D dim, H query heads, G key and value heads, E head dim, F ffn, V vocabulary.
 */
import { rmsNorm, swiglu } from "../engine/fused.ts"
import { seedGenerator } from "../engine/generator.ts"
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
  scoped,
  type Tensor,
  zeros
} from "../engine/tensor.ts"
import { type AttentionLayout, causalLayout, maskLayout, rotaryAttention, segmentLayout } from "./attention.ts"
import { type LlamaConfig, parameterShapes } from "./config.ts"
import { positionsOfMask, RotaryTable, startsOfSegments } from "./rotary.ts"

export interface ForwardOptions {
  /** (B, T) int64 or bool, 0 at padding on either side. Position ids count the tokens that are not padding. */
  readonly attentionMask?: Tensor
  /** (B, T) int64: which example of a packed row each token belongs to. Tokens see only their own; positions start anew in each. */
  readonly segmentIds?: Tensor
}

export class Llama {
  readonly config: LlamaConfig
  /** By Hugging Face name. */
  readonly parameters: Readonly<Record<string, Tensor>>
  readonly #rotary: RotaryTable

  constructor(config: LlamaConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.config = config
    this.parameters = parameters
    this.#rotary = new RotaryTable(config)
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

  /** Weights of one block. */
  block(layer: number) {
    const get = (name: string) => this.parameter(`model.layers.${layer}.${name}.weight`)
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

  /** Token ids (B, T) int64 -> the last layer's normed states (B, T, D). */
  hidden(ids: Tensor, options: ForwardOptions = {}): Tensor {
    const { config } = this
    const length = ids.size(1)
    if (length > config.maxPositions) throw new RangeError(`a sequence of ${length} tokens: this model's context is ${config.maxPositions}`)
    const { layout, positions } = this.layout(length, options)
    const rotation = this.#rotary.at(this.device, this.dtype, positions ?? length)
    let x = embedding(this.parameter("model.embed_tokens.weight"), ids) // (B, T, D)
    for (let layer = 0; layer < config.layers; layer++) {
      const weights = this.block(layer)
      // Weights that read the same input are joined: (H + 2G) E x D, and 2F x D.
      const qkv = linear(rmsNorm(x, weights.attentionNorm, config.normEpsilon), cat([weights.q, weights.k, weights.v], 0)) // (B, T, (H + 2G) E)
      x = x.add(linear(rotaryAttention(qkv, rotation, layout, config.heads, config.kvHeads), weights.o))
      const gateUp = linear(rmsNorm(x, weights.ffnNorm, config.normEpsilon), cat([weights.gate, weights.up], 0)) // (B, T, 2F)
      x = x.add(linear(swiglu(gateUp), weights.down))
    }
    return rmsNorm(x, this.parameter("model.norm.weight"), config.normEpsilon)
  }

  /** (V, D): the embedding table where the two are tied. */
  get outputWeight(): Tensor {
    return this.parameter(this.config.tiedEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight")
  }

  /** States (..., D) -> logits (..., V). */
  logits(hidden: Tensor): Tensor {
    return linear(hidden, this.outputWeight)
  }

  /** Token ids (B, T) -> logits (B, T, V) of the token after each. */
  forward(ids: Tensor, options: ForwardOptions = {}): Tensor {
    return this.logits(this.hidden(ids, options))
  }

  /** Who sees whom, and where each token stands: positions are undefined when they are 0, 1, 2, ... */
  layout(length: number, options: ForwardOptions): { readonly layout: AttentionLayout; readonly positions: Tensor | undefined } {
    const { attentionMask, segmentIds } = options
    if (attentionMask !== undefined && segmentIds !== undefined) throw new TypeError("give an attention mask or segment ids, not both")
    if (attentionMask !== undefined) return { layout: maskLayout(attentionMask, this.dtype), positions: positionsOfMask(attentionMask) }
    if (segmentIds === undefined) return { layout: causalLayout(length, this.dtype, this.device), positions: undefined }
    const starts = startsOfSegments(segmentIds)
    return { layout: segmentLayout(segmentIds, starts, this.dtype), positions: arange(0, length, { device: this.device }).sub(starts) }
  }
}

/** How new weights are drawn: normal with this deviation (Hugging Face's initializer_range), norms 1. */
const deviation = 0.02

/**
 * A Llama with new weights. Each tensor's numbers depend on the seed and its name only.
 */
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
        seedGenerator("cpu", seed, "initial weights", name)
        return zeros(shape).normal_(0, deviation).to({ dtype, device })
      })
    )
    parameters[name] = keep(made).requiresGrad()
  }
  return new Llama(config, parameters)
}
