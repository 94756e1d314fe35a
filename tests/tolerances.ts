/** How far results may be from their references, in absolute terms. Loosening one needs a line in docs/log.md. */

/** float32 against transformers' float32. */
export const float32 = 1e-4
/** float64 against PyTorch's float64. */
export const float64 = 1e-9
/** Kernels in float32 against the same formula in float64. Sums of up to 64 terms of size 1. */
export const fused = 2e-5
/** bfloat16 against float32: logits of size 1, of a few layers; one part in 256 a step. */
export const bfloat16 = 0.05
/** Log-probabilities of one computation against another: cached, padded, in another batch. */
export const sameInFloat32 = 1e-4
/** A step's loss, float32, anywhere in fifty steps of training against PyTorch: rounding differs, and each update builds on the last. */
export const fiftySteps = 1e-5
/** The same anywhere in a hundred updates of PPO, of losses, log-probabilities, values and advantages. */
export const hundredSteps = 1e-5
/** Gradient norms there, as a share of the norm: sums of squares over all weights. 1.7e-5 was seen on an H100, 1e-5 on the CPU. */
export const hundredNorms = 3e-5
/** What a whole stage of a dozen float32 updates tells of each, and sums over its weights, against PyTorch's float64. */
export const wholeStages = 1e-5
/** Gradients computed in bfloat16, split in any way, against float32's on the same weights: how far apart they are as a share of the norm. */
export const splitGradients = 0.01
/**
 * The same of the ranking loss of pairs that are all alike, where chosen and rejected nearly cancel: what is left is the rounding of bfloat16's activations, the
 * same for every split. 1.10% was seen on the CPU and 1.04% on an H200 (libtorch 2.11).
 */
export const alikeGradients = 0.015
/**
 * Losses and gradient norms of several ranks in float32, anywhere in a dozen steps, against those of one process: sums over the ranks are taken in another order. 2.4e-6 was seen, on
 * Gloo. What is trained by two ranks with all weights on each is the same bit for bit.
 */
export const ranks = 1e-5
