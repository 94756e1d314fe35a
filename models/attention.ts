/** Scaled dot-product attention with grouped key and value heads, and the layouts that define which keys each query attends to. */
import { kernelsAreOn } from "../engine/fused.ts"
import { hasOperator } from "../engine/native.ts"
import { arange, aten, type Device, type DType, full, type Tensor, tensor, where, zeros } from "../engine/tensor.ts"
import { rotate, type Rotation } from "./rotary.ts"

/**
 * Which keys each query attends to: query i attends to key j when starts[i] <= j <= i and j is not padding. The same information exists in three forms:
 * `starts` (B, T) int64 for the CPU kernel, `lengths` for the GPU kernels, and `bias`, (T, T) or (B, 1, T, T), for plain operators: 0 where a query may
 * attend, -1e9 elsewhere.
 */
export interface AttentionLayout {
  /** Whether only the causal mask applies; kernels have a separate path for this case. */
  readonly causal: boolean
  /** undefined: every query attends from key 0; null: the keys are not a range (padding in the middle). */
  readonly starts: Tensor | undefined | null
  /** undefined: each row is one sequence; null: as for `starts`, or a window. */
  readonly lengths: () => SequenceLengths | undefined | null
  readonly bias: () => Tensor
  /** Whether a query may attend to fewer than all previous tokens of its sequence, which the GPU kernels do not support. */
  readonly windowed?: true
}

/** The sequences that are packed into the rows, in order. */
export interface SequenceLengths {
  /** Offset of each of the S sequences in the concatenated rows, and the end of the last: (S + 1,) int32. */
  readonly cumulative: Tensor
  /** Number of tokens in the longest sequence. */
  readonly longest: number
}

/**
 * The sequences of a layout; undefined if each row is one sequence. A sequence starts at a row's first token and at each token that attends to no earlier
 * token. Copies `starts` to the host.
 */
const lengthsOf = (starts: Tensor): SequenceLengths | undefined => {
  const [batch, length] = starts.shape as [number, number]
  const from = starts.toNumbers()
  const begins = from.flatMap((start, i) => (i % length === 0 || start === i % length ? [i] : []))
  const cumulative = Int32Array.from([...begins, batch * length])
  if (begins.length === batch) return undefined
  const longest = begins.reduce((most, begin, i) => Math.max(most, cumulative[i + 1]! - begin), 0)
  return { cumulative: tensor(cumulative, { dtype: "int32", device: starts.device }), longest }
}

/** The bias of a masked key. Finite, so that the softmax of a fully masked row (padding) is not NaN. */
const maskedBias = -1e9

const causalMask = (length: number, device: Device): Tensor => {
  const index = arange(0, length, { device })
  return index.unsqueeze(0).le(index.unsqueeze(1)) // (T, T): key <= query
}

const toBias = (allowed: Tensor, dtype: DType): Tensor =>
  where(allowed, zeros([], { dtype, device: allowed.device }), full([], maskedBias, { dtype, device: allowed.device }))

/** Calls `make` at the first call only. */
const lazy = <A>(make: () => A): (() => A) => {
  let made: { readonly value: A } | undefined
  return () => (made ??= { value: make() }).value
}

/** Each token attends to itself and to the tokens before it. */
export const causalLayout = (length: number, dtype: DType, device: Device): AttentionLayout => ({
  causal: true,
  starts: undefined,
  lengths: () => undefined,
  bias: lazy(() => toBias(causalMask(length, device), dtype))
})

/** Causal, with padding masked: mask (B, T), 0 at padding. */
export const maskLayout = (mask: Tensor, dtype: DType): AttentionLayout => {
  const length = mask.size(1)
  const starts = startsOfMask(mask)
  return {
    causal: false,
    starts,
    lengths: lazy(() => starts && lengthsOf(starts)),
    bias: lazy(() => toBias(causalMask(length, mask.device).and(mask.ne(0).unsqueeze(1).unsqueeze(1)), dtype)) // (B, 1, T, T)
  }
}

/** The index of each row's first token, for every query (B, T); null if a row has padding between tokens. */
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
  return tensor(starts, { shape: [batch, length], device: mask.device })
}

/** Causal within each segment: segment ids (B, T), and the index at which each token's segment starts (B, T). */
export const segmentLayout = (segments: Tensor, starts: Tensor, dtype: DType): AttentionLayout => ({
  causal: false,
  starts,
  lengths: lazy(() => lengthsOf(starts)),
  bias: lazy(() => {
    const same = segments.unsqueeze(1).unsqueeze(3).eq(segments.unsqueeze(1).unsqueeze(2)) // (B, 1, T, T)
    return toBias(same.and(causalMask(segments.size(1), segments.device)), dtype)
  })
})

/** Restricts a layout to a window: each query attends to at most `window` keys, including its own. `batch` and `length` are those of the queries. */
export const windowLayout = (
  layout: AttentionLayout,
  window: number,
  { batch, device, dtype, length }: { readonly batch: number; readonly length: number; readonly dtype: DType; readonly device: Device }
): AttentionLayout => {
  if (length <= window) return layout
  const index = arange(0, length, { device })
  const windowStart = index
    .sub(window - 1)
    .clamp(0)
    .unsqueeze(0)
    .expand(batch, length) // (B, T)
  const { starts } = layout
  return {
    causal: false,
    starts: starts === null ? null : (starts === undefined ? windowStart : where(starts.gt(windowStart), starts, windowStart)).contiguous(),
    lengths: () => null,
    windowed: true,
    bias: lazy(() => layout.bias().add(toBias(index.unsqueeze(0).ge(index.sub(window - 1).unsqueeze(1)), dtype)))
  }
}

/**
 * softmax(q k^T / sqrt(E) + bias) v. Queries (B, H, T, E), keys and values (B, G, S, E) with H a multiple of G: query head h uses key head
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
  // One matrix product for all query heads of a group avoids copying keys and values. The queries are scaled because they are smaller than the scores.
  const headsPerGroup = heads / groups
  const grouped = q.mul(scale).reshape(batch * groups, headsPerGroup * length, dim) // (B G, H/G T, E)
  const keys = k.reshape(batch * groups, -1, dim)
  const values = v.reshape(batch * groups, -1, dim)
  const scores = aten("bmm", grouped, keys.transpose(1, 2)).view(batch, heads, length, -1) // (B, H, T, S)
  const weights = scores.add(bias()).softmax(-1)
  const out = aten("bmm", weights.view(batch * groups, headsPerGroup * length, -1), values) // (B G, H/G T, E)
  return out
    .view(batch, heads, length, dim)
    .transpose(1, 2)
    .reshape(batch, length, heads * dim)
}

/** The kernel that computes attention: Caravan's own for float32 on the CPU, libtorch's on a GPU, or none. */
type Kernel = "cpu" | "gpu" | undefined
const kernelFor = ({ device, dtype }: Pick<Tensor, "device" | "dtype">, headDim: number, { starts, windowed }: AttentionLayout): Kernel => {
  if (!kernelsAreOn() || starts === null) return undefined
  if (device === "cpu") return dtype === "float32" ? "cpu" : undefined
  if (windowed === true) return undefined
  // float32 uses memory-efficient attention. 16-bit dtypes use flash attention, whose heads must be a multiple of 16 bytes and at most 256 elements long.
  const [multiple, maxHeadDim, operator] =
    dtype === "float32" ? [4, Infinity, "_efficient_attention_backward"] : [8, 256, "_flash_attention_backward"]
  return dtype !== "float64" && headDim % multiple === 0 && headDim <= maxHeadDim && hasOperator(operator) ? "gpu" : undefined
}

/**
 * Computes the lazy parts of a layout that attention reads for queries like these, so that their tensors belong to the enclosing scope and not to that of
 * the first block.
 */
export const prepareLayout = (layout: AttentionLayout, like: Pick<Tensor, "device" | "dtype">, headDim: number): void => {
  const kernel = kernelFor(like, headDim, layout)
  if (kernel === "gpu") layout.lengths()
  else if (kernel === undefined) layout.bias()
}

/**
 * Rotary embeddings and attention on the output of the joined linear layers, (B, T, (H + 2G) E): one kernel on the CPU, libtorch's kernels on a GPU, plain
 * operators otherwise. Returns (B, T, H E).
 */
export const rotaryAttention = (qkv: Tensor, rotation: Rotation, layout: AttentionLayout, heads: number, groups: number): Tensor => {
  const kernel = kernelFor(qkv, qkv.size(-1) / (heads + 2 * groups), layout)
  if (kernel === undefined) return composedRotaryAttention(qkv, rotation, layout, heads, groups)
  const { cos, sin } = rotation // (T, 1, E) or (B, T, 1, E)
  // The CPU kernel expects cos and sin without the head dimension.
  if (kernel === "cpu") return aten("caravan::attention", qkv, cos.squeeze(-2), sin.squeeze(-2), layout.starts ?? null, heads, groups)
  const lengths = layout.lengths()
  return aten("caravan::gpu_attention", qkv, cos, sin, lengths?.cumulative ?? null, lengths?.longest ?? qkv.size(1), heads, groups)
}

/** rotaryAttention from plain operators. */
export const composedRotaryAttention = (
  qkv: Tensor,
  rotation: Rotation,
  layout: AttentionLayout,
  heads: number,
  groups: number
): Tensor => {
  const [batch, length, width] = qkv.shape as [number, number, number]
  const perHead = qkv.view(batch, length, heads + 2 * groups, width / (heads + 2 * groups)) // (B, T, H + 2G, E)
  const rotated = rotate(perHead.slice(2, 0, heads + groups), rotation)
  const q = rotated.slice(2, 0, heads).transpose(1, 2) // (B, H, T, E)
  const k = rotated.slice(2, heads, heads + groups).transpose(1, 2) // (B, G, T, E)
  const v = perHead.slice(2, heads + groups, heads + 2 * groups).transpose(1, 2) // (B, G, T, E)
  return attention(q, k, v, layout)
}
