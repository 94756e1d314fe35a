/** Scaled dot-product attention with grouped key and value heads, and the biases that say who sees whom. */
import { hasOperator } from "../engine/native.ts"
import { arange, aten, type Device, type DType, full, type Tensor, where, zeros } from "../engine/tensor.ts"

/** Added to the scores before the softmax: 0 where a query may look, -1e9 where not. (T, T), or (B, 1, T, T). */
export interface AttentionBias {
  readonly bias: Tensor
  /** Whether it is the plain causal one, for which kernels have a path of their own. */
  readonly causal: boolean
}

/** Finite, so that a row with nothing to see (padding) gives numbers and not NaN. */
const never = -1e9

const causal = (length: number, device: Device): Tensor => {
  const index = arange(0, length, { device })
  return index.unsqueeze(0).le(index.unsqueeze(1)) // (T, T): key <= query
}

const toBias = (seen: Tensor, dtype: DType): Tensor => where(seen, zeros([], { dtype, device: seen.device }), full([], never, { dtype, device: seen.device }))

/** Each token sees itself and what came before. */
export const causalBias = (length: number, dtype: DType, device: Device): AttentionBias => ({ bias: toBias(causal(length, device), dtype), causal: true })

/** Causal, and nobody sees padding: mask (B, T), 0 at padding. */
export const maskBias = (mask: Tensor, dtype: DType): AttentionBias => {
  const length = mask.size(1)
  const seen = causal(length, mask.device).and(mask.ne(0).unsqueeze(1).unsqueeze(1)) // (B, 1, T, T)
  return { bias: toBias(seen, dtype), causal: false }
}

/** Causal within each segment: ids (B, T). */
export const segmentBias = (segments: Tensor, dtype: DType): AttentionBias => {
  const same = segments.unsqueeze(1).unsqueeze(3).eq(segments.unsqueeze(1).unsqueeze(2)) // (B, 1, T, T)
  return { bias: toBias(same.and(causal(segments.size(1), segments.device)), dtype), causal: false }
}

/**
 * softmax(q k^T / sqrt(E) + bias) v. Queries (B, H, T, E), keys and values (B, G, S, E) with H a multiple of G: query head h reads key head
 * h / (H / G). Returns (B, T, H E).
 */
export const attention = (q: Tensor, k: Tensor, v: Tensor, { bias, causal }: AttentionBias): Tensor => {
  const [batch, heads, length, dim] = q.shape as [number, number, number, number]
  const groups = k.size(1)
  const scale = 1 / Math.sqrt(dim)
  if (q.device !== "cpu" && hasOperator("scaled_dot_product_attention")) {
    const out = aten("scaled_dot_product_attention", q, k, v, causal ? null : bias, 0, causal, scale, heads !== groups)
    return out.transpose(1, 2).reshape(batch, length, heads * dim)
  }
  // One product for all query heads of a group: no copies of keys and values. The scale goes on the small side.
  const share = heads / groups
  const grouped = q.mul(scale).reshape(batch * groups, share * length, dim) // (B G, H/G T, E)
  const keys = k.reshape(batch * groups, -1, dim)
  const values = v.reshape(batch * groups, -1, dim)
  const scores = aten("bmm", grouped, keys.transpose(1, 2)).view(batch, heads, length, -1) // (B, H, T, S)
  const weights = scores.add(bias).softmax(-1)
  const out = aten("bmm", weights.view(batch * groups, share * length, -1), values) // (B G, H/G T, E)
  return out.view(batch, heads, length, dim).transpose(1, 2).reshape(batch, length, heads * dim)
}
