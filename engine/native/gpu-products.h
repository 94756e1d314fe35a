// Products of at most 64 rows with a weight, by our own kernels (gpu-products-kernels.h).
#pragma once
#include <ATen/ATen.h>

/**
 * out (M, N) = x weight^T with x (M, K) and weight (N, K); gated: weight (2N, K) has the rows of gate, then of up, and out = silu(x gate^T) x up^T. Rounds like libtorch's product followed by our
 * SwiGLU; the order of the sums depends on N and K only. Returns false, and does nothing, unless the GPU is Hopper's generation, there is a plan for this shape and number of rows (gpu-products.cc), everything is bfloat16
 * and contiguous, M <= 64, and K and N are multiples of 8.
 */
bool ownProduct(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& out, bool gated);
