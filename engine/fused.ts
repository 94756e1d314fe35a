/**
 * Operations that exist as one kernel for float32 on the CPU (native/layers.cc, attention.cc, decoding.cc) and as a few ATen operators elsewhere. Both forms compute the
 * same; tests hold them against one another.
 */
import { hasOperator } from "./native.ts"
import { aten, cat, crossEntropy, linear, type Tensor, zeros } from "./tensor.ts"

let kernels = true

/** With false, ATen's operators compute from now on what the kernels would: tests hold both forms to the same statements. */
export const useKernels = (on: boolean): void => {
  kernels = on
}

/** Whether the kernels take this tensor. */
export const isFused = (x: Tensor): boolean => kernels && x.dtype === "float32" && x.device === "cpu"

/** x weight / sqrt(mean(x^2) + eps) over the last dimension, computed in float32 (Zhang and Sennrich 2019). */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor => {
  if (isFused(x)) return aten("caravan::rms_norm", x, weight, epsilon)
  // libtorch 2.9 and later have a kernel for the GPU.
  if (x.device !== "cpu" && hasOperator("_fused_rms_norm")) return aten("rms_norm", x, weight.shape, weight, epsilon)
  return composedRmsNorm(x, weight, epsilon)
}

export const composedRmsNorm = (x: Tensor, weight: Tensor, epsilon: number): Tensor => {
  const wide = x.dtype === "bfloat16" || x.dtype === "float16" ? x.to({ dtype: "float32" }) : x
  const normed = wide.mul(wide.square().mean(-1, true).add(epsilon).rsqrt())
  return (wide === x ? normed : normed.to({ dtype: x.dtype })).mul(weight)
}

/** silu(gate) up, of gate and up side by side: (..., 2F) -> (..., F) (Shazeer 2020). */
export const swiglu = (x: Tensor): Tensor => (isFused(x) ? aten("caravan::swiglu", x) : composedSwiglu(x))

export const composedSwiglu = (x: Tensor): Tensor => {
  const [gate, up] = x.chunk(2, -1) as [Tensor, Tensor]
  return gate.silu().mul(up)
}

/** Sum over rows of -log softmax(logits)[target], in float32. Logits (N, V), targets (N,) int64. */
export const crossEntropySum = (logits: Tensor, targets: Tensor): Tensor =>
  isFused(logits)
    ? aten("caravan::cross_entropy_sum", logits, targets)
    : crossEntropy(logits.to({ dtype: logits.dtype === "float64" ? "float64" : "float32" }), targets, { reduction: "sum" })

/** A linear layer's weight as inference reads it fastest: made once, used in every step. It takes no part in gradients. */
export interface InferenceWeight {
  readonly tensor: Tensor
  /** Rows of the weight: the width of what it gives. */
  readonly columns: number
}

/** Rows in a panel of the kernel's layout. */
const panel = 32

/** Packs a weight (N, K): on the CPU into panels of rows, transposed (ceil(N / 32), K, 32), zeros beyond N; elsewhere it stays as it is. */
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
