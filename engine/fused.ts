/**
 * Operations that run as one kernel for float32 on the CPU (native/layers.cc, attention.cc, decoding.cc) and as a few ATen operators elsewhere. Both forms compute the
 * same function; tests compare them.
 */
import { hasOperator, native } from "./native.ts"
import { aten, atenMany, atenVoid, cat, linear, noGrad, type Tensor, zeros } from "./tensor.ts"

let kernels = true

/** Turns the kernels on or off. When off, ATen operators are used instead, so that tests can check both forms. */
export const useKernels = (on: boolean): void => {
  kernels = on
}

export const kernelsAreOn = (): boolean => kernels

/** Whether the CPU kernels support this tensor. */
export const isFused = (x: Tensor): boolean => kernels && x.dtype === "float32" && x.device === "cpu"

let ownProducts = true
/** Chooses between our own products for few rows (native/gpu-products.h; default) and libtorch's when decoding on a GPU, for benchmarks and tests. They round alike but add in different orders. */
export const useOwnProducts = (on: boolean): void => {
  ownProducts = on
}
export const ownProductsAreOn = (): boolean => ownProducts

let streamedAttention = true
/** Chooses between the two kernels for attention when decoding on Hopper, for benchmarks and tests: the one that streams the cache through shared memory (native/gpu-attend-streamed-kernels.h; default) and the one for all GPUs. They add in different orders. */
export const useStreamedAttention = (on: boolean): void => {
  streamedAttention = on
}
export const streamedAttentionIsOn = (): boolean => streamedAttention

let onGpu: boolean | undefined
/** Whether the GPU kernels support this tensor (native/gpu.h). The first call compiles them. */
export const hasGpuKernels = (x: Tensor): boolean =>
  kernels && x.device === "cuda" && (x.dtype === "float32" || x.dtype === "bfloat16") && (onGpu ??= native().gpuKernelsMissing() === null)

/** x weight / sqrt(mean(x^2) + eps) over the last dimension, computed in float32 (Zhang and Sennrich 2019). */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor => {
  if (isFused(x)) return aten("caravan::rms_norm", x, weight, epsilon)
  // libtorch 2.9 and later have a kernel for the GPU.
  if (x.device !== "cpu" && hasOperator("_fused_rms_norm")) return aten("rms_norm", x, weight.shape, weight, epsilon)
  return composedRmsNorm(x, weight, epsilon)
}

/** Whether the GPU kernel of a residual connection's norm (native/gpu-norm.cc) supports this. */
const hasNormKernel = (x: Tensor, weight: Tensor): boolean =>
  hasGpuKernels(x) && weight.dtype === x.dtype && x.size(-1) % 8 === 0 && x.size(-1) <= 8192

/**
 * x and rmsNorm(x), for a residual connection: layers read the norm, and their output is added to x. With `added`, the output of the connection before, x + added takes the
 * place of x. On a GPU, one kernel computes the sum and the norm, and one the norm's gradient plus that of the returned x.
 */
export const residualNorm = (x: Tensor, weight: Tensor, epsilon: number, added?: Tensor): readonly [x: Tensor, normed: Tensor] => {
  if (!hasNormKernel(x, weight)) {
    const sum = added === undefined ? x : x.add(added)
    return [sum, rmsNorm(sum, weight, epsilon)]
  }
  const [sum, normed] = atenMany("caravan::residual_norm", x, added ?? null, weight, epsilon)
  return [sum!, normed!]
}

export const composedRmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor => {
  const wide = x.dtype === "bfloat16" || x.dtype === "float16" ? x.to({ dtype: "float32" }) : x
  const normed = wide.mul(wide.square().mean(-1, true).add(epsilon).rsqrt())
  return (wide === x ? normed : normed.to({ dtype: x.dtype })).mul(weight)
}

/** silu(gate) up, with gate and up concatenated in x: (..., 2F) -> (..., F) (Shazeer 2020). */
export const swiglu = (x: Tensor): Tensor => (kernels ? aten("caravan::swiglu", x) : composedSwiglu(x))

export const composedSwiglu = (x: Tensor): Tensor => {
  const [gate, up] = x.chunk(2, -1) as [Tensor, Tensor]
  return gate.silu().mul(up)
}

/** Applies several linear layers, weights (N_i, K), to the same x (..., K): their outputs concatenated, (..., N_1 + N_2 + ...). */
export const joinedLinear = (x: Tensor, weights: ReadonlyArray<Tensor>): Tensor =>
  kernels ? aten("caravan::joined_linear", x, weights) : linear(x, cat(weights, 0))

/** Makes the weights of layers with the same input adjacent in memory, so that one product reads them without a copy. They remain separate tensors. */
export const joinWeights = (weights: ReadonlyArray<Tensor>): void => atenVoid("caravan::join_", weights)

/** Weights (N_i, K) as one (N_1 + N_2 + ..., K): a view if they are adjacent in memory. */
export const joinedWeight = (weights: ReadonlyArray<Tensor>): Tensor => aten("caravan::joined", weights)

export interface TokenDistribution {
  /** log softmax(states weight^T / temperature)[target], (N,). */
  readonly logProbabilities: Tensor
  /** Entropy of each row's distribution in nats, (N,), without gradients; empty unless requested. */
  readonly entropies: Tensor
}
export interface TokenDistributionOptions {
  /** Default: 1. */
  readonly temperature?: number
  readonly entropies?: boolean
}

/**
 * Log-probabilities (and entropies) of target tokens under an output layer: states (N, D), weight (V, D), targets (N,) int64. Computed in float32 (float64 if the
 * states are float64) without ever holding all logits (N, V) in float32: native/vocabulary.cc.
 */
export const tokenDistribution = (
  states: Tensor,
  weight: Tensor,
  targets: Tensor,
  { entropies = false, temperature = 1 }: TokenDistributionOptions = {}
): TokenDistribution => {
  if (!kernels) return composedTokenDistribution(states, weight, targets, { entropies, temperature })
  const [logProbabilities, entropy] = atenMany("caravan::token_log_probabilities", states, weight, targets, temperature, entropies)
  return { logProbabilities: logProbabilities!, entropies: entropy! }
}

const lowestFloat32 = -(2 ** 128 - 2 ** 104)

export const composedTokenDistribution = (
  states: Tensor,
  weight: Tensor,
  targets: Tensor,
  { entropies = false, temperature = 1 }: TokenDistributionOptions = {}
): TokenDistribution => {
  const all = linear(states, weight)
    .div(temperature)
    .logSoftmax(-1, states.dtype === "float64" ? "float64" : "float32") // (N, V)
  return {
    logProbabilities: all.gather(1, targets.unsqueeze(1)).squeeze(1),
    entropies: entropies
      ? // 0 times a finite number for logits of minus infinity.
        noGrad(() => all.detach().exp().mul(all.detach().clamp(lowestFloat32)).sum(1).neg())
      : zeros([0], { dtype: all.dtype, device: all.device })
  }
}

/** A linear layer's weight in the layout that inference reads fastest: packed once, used in every step. It has no gradient. */
export interface InferenceWeight {
  readonly tensor: Tensor
  /** Rows of the weight: the width of the output. */
  readonly columns: number
}

/** Rows in a panel of the kernel's layout. */
const panel = 32

/** Packs a weight (N, K): on the CPU into transposed panels of rows (ceil(N / 32), K, 32), padded with zeros beyond N; on other devices it is unchanged. */
export const inferenceWeight = (weight: Tensor): InferenceWeight => {
  const [columns, dim] = weight.shape as [number, number]
  if (!isFused(weight)) return { tensor: weight, columns }
  const beyond = (panel - (columns % panel)) % panel
  const whole = beyond === 0 ? weight : cat([weight, zeros([beyond, dim])], 0)
  return { tensor: whole.view(-1, panel, dim).transpose(1, 2).contiguous(), columns }
}

/** x (..., K) times the transpose of a packed weight: (..., N). */
export const inferenceLinear = (x: Tensor, { tensor: weight, columns }: InferenceWeight): Tensor =>
  isFused(x) ? aten("caravan::packed_linear", x, weight, null, columns) : linear(x, weight)
