/** Scaled dot-product attention with grouped key and value heads, and the biases that say who sees whom. */
import { isFused } from "../engine/fused.ts"
import { hasOperator } from "../engine/native.ts"
import { arange, aten, type Device, type DType, full, type Tensor, tensor, where, zeros } from "../engine/tensor.ts"
import { rotate, type Rotation } from "./rotary.ts"

/**
 * Who sees whom: query i sees key j when starts[i] <= j <= i, and j is not padding. `starts` (B, T) int64 says it for the fused kernel, `bias`
 * for the others: 0 where a query may look, -1e9 where not; (T, T) or (B, 1, T, T).
 */
export interface AttentionLayout {
  /** Nothing but causality: kernels have a path of their own for that. */
  readonly causal: boolean
  /** undefined: every query sees from key 0 on; null: no range says it (padding in the middle). */
  readonly starts: Tensor | undefined | null
  readonly bias: () => Tensor
}

/** Finite, so that a row with nothing to see (padding) gives numbers and not NaN. */
const never = -1e9

const causalMask = (length: number, device: Device): Tensor => {
  const index = arange(0, length, { device })
  return index.unsqueeze(0).le(index.unsqueeze(1)) // (T, T): key <= query
}

const toBias = (seen: Tensor, dtype: DType): Tensor =>
  where(seen, zeros([], { dtype, device: seen.device }), full([], never, { dtype, device: seen.device }))

const once = <A>(make: () => A): (() => A) => {
  let made: { readonly value: A } | undefined
  return () => (made ??= { value: make() }).value
}

/** Each token sees itself and what came before. */
export const causalLayout = (length: number, dtype: DType, device: Device): AttentionLayout => ({
  causal: true,
  starts: undefined,
  bias: once(() => toBias(causalMask(length, device), dtype))
})

/** Causal, and nobody sees padding: mask (B, T), 0 at padding. */
export const maskLayout = (mask: Tensor, dtype: DType): AttentionLayout => {
  const length = mask.size(1)
  return {
    causal: false,
    starts: mask.device === "cpu" ? startsOfMask(mask) : null,
    bias: once(() => toBias(causalMask(length, mask.device).and(mask.ne(0).unsqueeze(1).unsqueeze(1)), dtype)) // (B, 1, T, T)
  }
}

/** Where each row's tokens begin, for every query; null unless each row is padding, tokens, padding. */
const startsOfMask = (mask: Tensor): Tensor | null => {
  const [batch, length] = mask.shape as [number, number]
  const on = mask.ne(0).toTypedArray() as Uint8Array
  const starts = new BigInt64Array(batch * length)
  for (let row = 0; row < batch; row++) {
    const tokens = on.subarray(row * length, (row + 1) * length)
    const first = Math.max(0, tokens.indexOf(1))
    const last = tokens.lastIndexOf(1)
    for (let i = first; i <= last; i++) if (tokens[i] === 0) return null
    starts.fill(BigInt(first), row * length, (row + 1) * length)
  }
  return tensor(starts, { shape: [batch, length] })
}

/** Causal within each segment: ids (B, T), and where each token's segment begins. */
export const segmentLayout = (segments: Tensor, starts: Tensor, dtype: DType): AttentionLayout => ({
  causal: false,
  starts,
  bias: once(() => {
    const same = segments.unsqueeze(1).unsqueeze(3).eq(segments.unsqueeze(1).unsqueeze(2)) // (B, 1, T, T)
    return toBias(same.and(causalMask(segments.size(1), segments.device)), dtype)
  })
})

/**
 * softmax(q k^T / sqrt(E) + bias) v. Queries (B, H, T, E), keys and values (B, G, S, E) with H a multiple of G: query head h reads key head
 * h / (H / G). Returns (B, T, H E).
 */
export const attention = (q: Tensor, k: Tensor, v: Tensor, { bias, causal }: AttentionLayout): Tensor => {
  const [batch, heads, length, dim] = q.shape as [number, number, number, number]
  const groups = k.size(1)
  const scale = 1 / Math.sqrt(dim)
  if (q.device !== "cpu" && hasOperator("scaled_dot_product_attention")) {
    const out = aten("scaled_dot_product_attention", q, k, v, causal ? null : bias(), 0, causal, scale, heads !== groups)
    return out.transpose(1, 2).reshape(batch, length, heads * dim)
  }
  // One product for all query heads of a group: no copies of keys and values. The scale goes on the small side.
  const share = heads / groups
  const grouped = q.mul(scale).reshape(batch * groups, share * length, dim) // (B G, H/G T, E)
  const keys = k.reshape(batch * groups, -1, dim)
  const values = v.reshape(batch * groups, -1, dim)
  const scores = aten("bmm", grouped, keys.transpose(1, 2)).view(batch, heads, length, -1) // (B, H, T, S)
  const weights = scores.add(bias()).softmax(-1)
  const out = aten("bmm", weights.view(batch * groups, share * length, -1), values) // (B G, H/G T, E)
  return out
    .view(batch, heads, length, dim)
    .transpose(1, 2)
    .reshape(batch, length, heads * dim)
}

/**
 * The same for queries, keys and values as one linear layer gives them, (B, T, (H + 2G) E), rotary embeddings applied on the way: one kernel on
 * the CPU. Returns (B, T, H E).
 */
export const rotaryAttention = (qkv: Tensor, rotation: Rotation, layout: AttentionLayout, heads: number, groups: number): Tensor => {
  if (isFused(qkv) && layout.starts !== null) {
    // (T, 1, E) or (B, T, 1, E): the kernel takes them without the heads' dimension.
    return aten("caravan::attention", qkv, rotation.cos.squeeze(-2), rotation.sin.squeeze(-2), layout.starts ?? null, heads, groups)
  }
  return composedRotaryAttention(qkv, rotation, layout, heads, groups)
}

export const composedRotaryAttention = (
  qkv: Tensor,
  rotation: Rotation,
  layout: AttentionLayout,
  heads: number,
  groups: number
): Tensor => {
  const [batch, length, width] = qkv.shape as [number, number, number]
  const together = qkv.view(batch, length, heads + 2 * groups, width / (heads + 2 * groups))
  const turned = rotate(together.slice(2, 0, heads + groups), rotation)
  const q = turned.slice(2, 0, heads).transpose(1, 2) // (B, H, T, E)
  const k = turned.slice(2, heads, heads + groups).transpose(1, 2) // (B, G, T, E)
  const v = together.slice(2, heads + groups, heads + 2 * groups).transpose(1, 2)
  return attention(q, k, v, layout)
}
