/**
 * Attention weights for display. Training and decoding never hold them (attention.ts): this forward pass computes them group by group, with plain operators, and keeps the maximum over
 * the selected layers and heads.
 */
import { joinedLinear, rmsNorm, swiglu } from "../engine/fused.ts"
import { aten, cat, embedding, noGrad, scoped, type Tensor, tensor } from "../engine/tensor.ts"
import { type Llama, prepareHeads } from "./llama.ts"
import { rotate, type Rotation } from "./rotary.ts"

/** Layers and query heads, counted from 0. */
export interface AttentionSelection {
  readonly layers: ReadonlyArray<number>
  readonly heads: ReadonlyArray<number>
}

/**
 * The maximum attention weight, over the selected layers and heads, from each token to each other token: token ids of one sequence (T) -> (T, T) row by row, queries as rows, in [0, 1]. The weight from a
 * token to later tokens is 0. Throws RangeError for a sequence longer than the model's context.
 */
export const greatestAttention = (model: Llama, ids: ReadonlyArray<number>, { heads, layers }: AttentionSelection): Float32Array => {
  const { config, device, dtype } = model
  const length = ids.length
  if (length > config.maxPositions)
    throw new RangeError(`a sequence of ${length} tokens exceeds the model's context of ${config.maxPositions}; shorten the sequence`)
  return scoped(() =>
    noGrad(() => {
      const bias = model.layout(1, length, {}).layout.bias().view(-1, length, length)
      const rotation = model.rotary.at(device, dtype, length)
      const selected = new Set(heads)
      let most: Tensor = scoped(() => tensor(new Float32Array(length * length), { shape: [length, length], device }))
      let x: Tensor = embedding(model.parameter("model.embed_tokens.weight"), tensor(ids, { dtype: "int64", device }).unsqueeze(0)) // (1, T, D)
      for (let layer = 0; layer <= Math.max(...layers); layer++) {
        const wanted = layers.includes(layer) ? selected : new Set<number>()
        const [nextX, nextMost] = scoped((): [Tensor, Tensor] => block(model, layer, { x, most }, { bias, rotation, wanted }))
        x.free()
        most.free()
        ;[x, most] = [nextX, nextMost]
      }
      return Float32Array.from(most.toNumbers())
    })
  )
}

/** One block: its output (1, T, D), and the maximum weight so far (T, T), including that of its selected heads. */
const block = (
  model: Llama,
  layer: number,
  { most, x }: { readonly x: Tensor; readonly most: Tensor },
  { bias, rotation, wanted }: { readonly bias: Tensor; readonly rotation: Rotation; readonly wanted: ReadonlySet<number> }
): [Tensor, Tensor] => {
  const { headDim, heads, kvHeads, normEpsilon } = model.config
  const length = x.size(1)
  const { attentionNorm, down, ffnNorm, gate, k, o, q, up, v } = model.block(layer)
  const projected = joinedLinear(rmsNorm(x, attentionNorm, normEpsilon), [q, k, v]) // (1, T, (H + 2G) E)
  const qkv = prepareHeads(projected, model.headParameters(layer), model.config).view(1, length, heads + 2 * kvHeads, headDim)
  const turned = rotate(qkv.slice(2, 0, heads + kvHeads), rotation)
    .squeeze(0)
    .transpose(0, 1) // (H + G, T, E)
  const values = qkv
    .slice(2, heads + kvHeads, heads + 2 * kvHeads)
    .squeeze(0)
    .transpose(0, 1) // (G, T, E)
  const share = heads / kvHeads
  let greatest = most
  const attended: Array<Tensor> = []
  for (let group = 0; group < kvHeads; group++) {
    const queries = turned.slice(0, group * share, (group + 1) * share).mul(1 / Math.sqrt(headDim)) // (H/G, T, E)
    const keys = turned.slice(0, heads + group, heads + group + 1).squeeze(0) // (T, E)
    const weights = queries.matmul(keys.transpose(0, 1)).add(bias).softmax(-1, "float32") // (H/G, T, T)
    for (let head = 0; head < share; head++) if (wanted.has(group * share + head)) greatest = greatest.maximum(weights.select(0, head))
    attended.push(weights.to({ dtype: x.dtype }).matmul(values.select(0, group)))
  }
  const mixed = cat(attended, 0)
    .transpose(0, 1)
    .reshape(1, length, heads * headDim)
  const middle = x.add(aten("linear", mixed, o))
  const gateUp = joinedLinear(rmsNorm(middle, ffnNorm, normEpsilon), [gate, up]) // (1, T, 2F)
  return [middle.add(aten("linear", swiglu(gateUp), down)), greatest === most ? most.clone() : greatest]
}
