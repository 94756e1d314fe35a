/** Allowed differences between results and their references, in absolute terms. Loosening one needs a line in docs/log.md. */

/** float32 compared with transformers' float32. */
export const float32 = 1e-4
/** float64 compared with PyTorch's float64. */
export const float64 = 1e-9
/** Kernels in float32 compared with the same formula in float64. Sums of up to 64 terms of size 1. */
export const fused = 2e-5
/** bfloat16 compared with float32: logits of size 1, of a few layers; one part in 256 per step. */
export const bfloat16 = 0.05
/** Log-probabilities of one computation compared with another: cached, padded, in another batch. */
export const sameInFloat32 = 1e-4
/** A step's loss, float32, anywhere in fifty steps of training compared with PyTorch: rounding differs, and each update builds on the last. */
export const fiftySteps = 1e-5
/** The same anywhere in a hundred updates of PPO, for losses, log-probabilities, values and advantages. */
export const hundredSteps = 1e-5
/** Gradient norms there, relative to the norm: sums of squares over all weights. 1.7e-5 was seen on an H100, 1e-5 on the CPU. */
export const hundredNorms = 3e-5
/** Values that a stage of a dozen float32 updates reports for each, and sums over its weights, compared with PyTorch's float64. */
export const wholeStages = 1e-5
/** Gradients computed in bfloat16, split in any way, compared with float32's on the same weights: their difference relative to the norm. */
export const splitGradients = 0.01
/**
 * The same for the ranking loss of equal pairs, where chosen and rejected nearly cancel: the rounding of bfloat16's activations remains, the
 * same for every split. 1.10% was seen on the CPU and 1.04% on an H200 (libtorch 2.11).
 */
export const alikeGradients = 0.015
/**
 * Losses and gradient norms of several ranks in float32, anywhere in a dozen steps, compared with those of one process: sums over the ranks have another order. 2.4e-6 was seen, on
 * Gloo. Training on two ranks with all weights on each is the same bit for bit.
 */
export const ranks = 1e-5
/** The same in bfloat16 after sixty steps: masters that differ in their last bits are rounded to different weights. 8e-5 was seen. */
export const ranksInBfloat16 = 1e-3

/** One product rounded to bfloat16 compared with float64 on the same inputs: their difference relative to the norm. Rounding alone gives 0.0017; with a gate, twice that. */
export const bfloat16Rounding = 0.004
