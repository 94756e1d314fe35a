/**
 * Decoding with a key-value cache, used by the sampler. Weights that read the same input are concatenated once, so that a step has few
 * operations; no gradients are recorded.
 */
import { inferenceLinear, type InferenceWeight, inferenceWeight, isFused, joinedWeight, rmsNorm, swiglu } from "../engine/fused.ts"
import { aten, cat, embedding, full, scoped, type Tensor, zeros } from "../engine/tensor.ts"
import { type AttentionLayout, prepareLayout, rotaryAttention } from "./attention.ts"
import { type HeadParameters, type Llama, prepareHeads } from "./llama.ts"
import { rotate, type Rotation } from "./rotary.ts"

interface Block {
  readonly attentionNorm: Tensor
  /** (H + 2G) E x D */
  readonly qkv: InferenceWeight
  readonly heads: HeadParameters
  readonly o: InferenceWeight
  readonly ffnNorm: Tensor
  /** 2F x D */
  readonly gateUp: InferenceWeight
  readonly down: InferenceWeight
}

export class Decoder {
  readonly #model: Llama
  readonly #blocks: ReadonlyArray<Block>
  readonly #output: InferenceWeight
  /** Per layer: (B, G, S, E), where S is the capacity. */
  #keys: Array<Tensor> = []
  #values: Array<Tensor> = []
  #capacity = 0
  #length = 0
  /** (B, 1, 1, length of the prompt): -1e9 at padding; undefined when no prompt is padded. */
  #promptBias: Tensor | undefined
  /** (B,) int64: the number of padding tokens in each prompt; undefined when there is no padding. */
  #first: Tensor | undefined

  /** Call inside a scope and noGrad: the packed weights and the cache belong to that scope. */
  constructor(model: Llama) {
    this.#model = model
    this.#blocks = Array.from({ length: model.config.layers }, (_, layer) => {
      return scoped(() => {
        const { attentionNorm, q, k, v, o, ffnNorm, gate, up, down } = model.block(layer)
        return {
          attentionNorm,
          qkv: inferenceWeight(joinedWeight([q, k, v])),
          heads: model.headParameters(layer),
          o: inferenceWeight(o),
          ffnNorm,
          gateUp: inferenceWeight(joinedWeight([gate, up])),
          down: inferenceWeight(down)
        }
      })
    })
    this.#output = scoped(() => inferenceWeight(model.outputWeight))
  }

  get length(): number {
    return this.#length
  }

  /** Reads prompts and discards earlier ones: ids (B, P) padded on the left, mask (B, P) with 0 at padding, or undefined without padding. Returns logits (B, V) of the next token. */
  prefill(ids: Tensor, mask: Tensor | undefined, capacity: number): Tensor {
    const { config, device, dtype } = this.#model
    const [batch, length] = ids.shape as [number, number]
    this.#capacity = capacity
    this.#length = 0
    const shape = [batch, config.kvHeads, capacity, config.headDim]
    this.#keys = this.#blocks.map(() => zeros(shape, { dtype, device }))
    this.#values = this.#blocks.map(() => zeros(shape, { dtype, device }))
    this.#promptBias = mask === undefined ? undefined : mask.eq(0).to({ dtype }).mul(-1e9).view(batch, 1, 1, length)
    // The first key that each sequence attends to, which is its number of padding tokens.
    this.#first = mask === undefined ? undefined : mask.eq(0).sum(1)
    const { layout, positions } = this.#model.layout(batch, length, mask === undefined ? {} : { attentionMask: mask })
    const rotation = this.#model.rotary.at(device, dtype, positions ?? length)
    prepareLayout(layout, this.#model, config.headDim)
    return this.#run(ids, rotation, undefined, layout)
  }

  /** Decodes one more token per sequence: ids (B, 1), positions (B, 1) if the prompts are padded. Returns logits (B, V) of the next token. */
  step(ids: Tensor, positions: Tensor | undefined): Tensor {
    const { device, dtype } = this.#model
    const rotation =
      positions === undefined ? this.#model.rotary.at(device, dtype, 1, this.#length) : this.#model.rotary.at(device, dtype, positions)
    const x = embedding(this.#model.parameter("model.embed_tokens.weight"), ids).squeeze(1) // (B, D)
    if (isFused(x)) return this.#stepFused(x, rotation)
    const prompt = this.#promptBias
    // A sliding window selects a slice of the cache.
    let bias: Tensor | undefined
    if (prompt !== undefined) {
      const generated = this.#length + 1 - prompt.size(3)
      const whole = cat([prompt, zeros([prompt.size(0), 1, 1, generated], { dtype, device })], 3)
      bias = whole.slice(3, this.#least(this.#length), this.#length + 1) // (B, 1, 1, S)
    }
    return this.#run(ids, rotation, bias)
  }

  /** The first key that a query at this position attends to, ignoring padding. */
  #least(at: number): number {
    const { slidingWindow } = this.#model.config
    return slidingWindow === undefined ? 0 : Math.max(0, at + 1 - slidingWindow)
  }

  /** Keeps only these sequences of the batch: row indices (N,) int64. */
  select(rows: Tensor): void {
    // One tensor at a time, so that the cache is never held twice.
    const pick = (tensor: Tensor): Tensor => {
      const kept = tensor.indexSelect(0, rows)
      tensor.free()
      return kept
    }
    this.#keys = this.#keys.map(pick)
    this.#values = this.#values.map(pick)
    this.#promptBias = this.#promptBias === undefined ? undefined : pick(this.#promptBias)
    this.#first = this.#first === undefined ? undefined : pick(this.#first)
  }

  /** Tensors that a scope must not free between steps. */
  state(): ReadonlyArray<Tensor> {
    return [...this.#keys, ...this.#values, ...[this.#promptBias, this.#first].filter((tensor) => tensor !== undefined)]
  }

  /** A step with one kernel per block: (B, D) -> logits (B, V). */
  #stepFused(embedded: Tensor, rotation: Rotation): Tensor {
    const { config } = this.#model
    const at = this.#length
    if (at >= this.#capacity) throw new RangeError(`the cache holds ${this.#capacity} tokens`)
    const [cos, sin] = [rotation.cos, rotation.sin].map((table) => table.reshape(-1, config.headDim)) as [Tensor, Tensor] // (1, E) or (B, E)
    const least = this.#least(at)
    const first = least === 0 ? this.#first : (this.#first?.clamp(least) ?? full([embedded.size(0)], least, { dtype: "int64" }))
    let x = embedded
    this.#blocks.forEach((block, layer) => {
      const { bias, norms } = block.heads
      x = aten(
        "caravan::decode_block",
        x,
        block.attentionNorm,
        block.qkv.tensor,
        block.o.tensor,
        block.ffnNorm,
        block.gateUp.tensor,
        block.down.tensor,
        this.#keys[layer],
        this.#values[layer],
        cos,
        sin,
        first ?? null,
        bias ?? null,
        norms?.q ?? null,
        norms?.k ?? null,
        at,
        config.heads,
        config.normEpsilon
      )
    })
    this.#length = at + 1
    return inferenceLinear(rmsNorm(x, this.#model.parameter("model.norm.weight"), config.normEpsilon), this.#output)
  }

  /** The operators of prefill and step. `prompt` is set for the prompt's tokens, which attend only to one another. */
  #run(ids: Tensor, rotation: Rotation, bias: Tensor | undefined, prompt?: AttentionLayout): Tensor {
    const { config } = this.#model
    const { heads, kvHeads, headDim, normEpsilon } = config
    const [batch, length] = ids.shape as [number, number]
    const from = this.#length
    const to = from + length
    if (to > this.#capacity) throw new RangeError(`the cache holds ${this.#capacity} tokens, the sequence has ${to}`)
    let x = embedding(this.#model.parameter("model.embed_tokens.weight"), ids) // (B, T, D)
    this.#blocks.forEach((block, layer) => {
      const before = x
      x = scoped(() => {
        const joined = prepareHeads(inferenceLinear(rmsNorm(before, block.attentionNorm, normEpsilon), block.qkv), block.heads, config) // (B, T, (H + 2G) E)
        const together = joined.view(batch, length, heads + 2 * kvHeads, headDim)
        this.#keys[layer]!.slice(2, from, to).copy_(rotate(together.slice(2, heads, heads + kvHeads), rotation).transpose(1, 2))
        this.#values[layer]!.slice(2, from, to).copy_(together.slice(2, heads + kvHeads, heads + 2 * kvHeads).transpose(1, 2))
        const attended =
          prompt === undefined
            ? this.#attendToCache(together.slice(2, 0, heads), rotation, layer, to, bias)
            : rotaryAttention(joined, rotation, prompt, heads, kvHeads)
        const between = before.add(inferenceLinear(attended, block.o))
        return between.add(inferenceLinear(swiglu(inferenceLinear(rmsNorm(between, block.ffnNorm, normEpsilon), block.gateUp)), block.down))
      })
      // Frees each block's tensors before the next block (models/memory.ts relies on it).
      before.free()
    })
    this.#length = to
    const last = x.slice(1, length - 1, length).squeeze(1) // (B, D)
    return inferenceLinear(rmsNorm(last, this.#model.parameter("model.norm.weight"), normEpsilon), this.#output)
  }

  /** Attention of queries (B, T, H, E) over the first `to` keys of a layer's cache: (B, T, H E). */
  #attendToCache(queries: Tensor, rotation: Rotation, layer: number, to: number, bias: Tensor | undefined): Tensor {
    const { heads, kvHeads, headDim } = this.#model.config
    const [batch, length] = queries.shape as [number, number]
    const share = heads / kvHeads
    const least = this.#least(to - length)
    const keys = this.#keys[layer]!.slice(2, least, to) // (B, G, S, E)
    const values = this.#values[layer]!.slice(2, least, to)
    // The queries that share a key head are adjacent: (B, G, H/G T, E)
    const q = rotate(queries, rotation)
      .mul(1 / Math.sqrt(headDim))
      .transpose(1, 2)
      .reshape(batch, kvHeads, share * length, headDim)
    let scores = q.matmul(keys.transpose(2, 3)) // (B, G, H/G T, S)
    if (bias !== undefined)
      scores = scores
        .view(batch, heads, length, to - least)
        .add(bias)
        .view(batch, kvHeads, share * length, to - least)
    return scores
      .softmax(-1)
      .matmul(values)
      .view(batch, heads, length, headDim)
      .transpose(1, 2)
      .reshape(batch, length, heads * headDim)
  }
}
