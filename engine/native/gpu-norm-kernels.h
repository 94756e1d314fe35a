// CUDA source of RMSNorm in training (gpu-norm.cc), compiled for a model's width DIM, a multiple of 8 up to 8,192. A block computes one row at a time, a thread eight columns of it. Blocks take rows in
// turn: the weight stays in registers, and the next row is requested before a row is computed.
#pragma once

constexpr const char* gpuNormSource = R"cuda(
constexpr int THREADS = (DIM + 255) / 256 * 32, WARPS = THREADS / 32;
constexpr int LANES = WARPS > 16 ? 32 : WARPS > 8 ? 16 : WARPS > 4 ? 8 : WARPS > 2 ? 4 : WARPS;

/** The sum over a block, with one barrier: `turn` alternates between 0 and 1, so that no warp overwrites what another still reads. */
__device__ __forceinline__ float sumOfRow(float x, int turn) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (WARPS == 1) return x;
  __shared__ float sums[2][WARPS];
  int lane = threadIdx.x % 32, slot = lane % LANES;
  if (lane == 0) sums[turn][threadIdx.x / 32] = x;
  __syncthreads();
  x = slot < WARPS ? sums[turn][slot] : 0.0f;
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}
__device__ __forceinline__ bool within(int d) { return DIM % 256 == 0 || d < DIM; }
/** This thread's eight columns of a row; zeros beyond the width, or without an array. */
template <typename T> __device__ __forceinline__ Eight<T> columns(const T* x, int row) {
  int d = threadIdx.x * 8;
  return x != nullptr && within(d) ? *reinterpret_cast<const Eight<T>*>(x + static_cast<long long>(row) * DIM + d) : Eight<T>{};
}
template <typename T> __device__ __forceinline__ void store(T* out, int row, const Eight<T>& x) {
  int d = threadIdx.x * 8;
  if (within(d)) *reinterpret_cast<Eight<T>*>(out + static_cast<long long>(row) * DIM + d) = x;
}

/** out (R, D) = x w s, with s = 1 / sqrt(mean(x^2) + eps), which is written to scale (R,). With y (R, D), x + y takes the place of x and is written to sum (R, D). */
template <typename T> __device__ void normForward(const T* x, const T* y, const T* w, T* sum, T* out, float* scale, int rows, float epsilon) {
  Eight<T> weight = columns(w, 0), nextX = columns(x, blockIdx.x), nextY = columns(y, blockIdx.x);
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    Eight<T> a = nextX, b = nextY, normed;
    if (row + gridDim.x < rows) {
      nextX = columns(x, row + gridDim.x);
      nextY = columns(y, row + gridDim.x);
    }
    if (y != nullptr) {
#pragma unroll
      for (int k = 0; k < 8; k++) narrow(a.at[k], wide(a.at[k]) + wide(b.at[k]));
      store(sum, row, a);
    }
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) squares += wide(a.at[k]) * wide(a.at[k]);
    float s = rsqrtf(sumOfRow(squares, turn) / DIM + epsilon);
    if (threadIdx.x == 0) scale[row] = s;
#pragma unroll
    for (int k = 0; k < 8; k++) narrow(normed.at[k], wide(a.at[k]) * s * wide(weight.at[k]));
    store(out, row, normed);
  }
}

/**
 * From dy (R, D): dx = s (g - x s^2 mean(g x)) with g = dy w, plus `along` (R, D), the gradient of x by its other path, where there is one; and the weight's gradient, dy x s summed over
 * the rows that a block takes, into its row of partial (blocks, D), where there is one.
 */
template <typename T> __device__ void normBackward(const T* x, const T* w, const float* scale, const T* dy, const T* along, T* dx, float* partial, int rows) {
  Eight<T> weight = columns(w, 0), nextX = columns(x, blockIdx.x), nextDy = columns(dy, blockIdx.x);
  Eight<float> sums = {};
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    Eight<T> a = nextX, d = nextDy, other = columns(along, row), out;
    float s = scale[row], dot = 0.0f;
    if (row + gridDim.x < rows) {
      nextX = columns(x, row + gridDim.x);
      nextDy = columns(dy, row + gridDim.x);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) dot += wide(d.at[k]) * wide(weight.at[k]) * wide(a.at[k]);
    float c = sumOfRow(dot, turn) * s * s / DIM;
#pragma unroll
    for (int k = 0; k < 8; k++) {
      float g = wide(d.at[k]), number = wide(a.at[k]);
      narrow(out.at[k], s * (g * wide(weight.at[k]) - number * c) + wide(other.at[k]));
      sums.at[k] += g * number * s;
    }
    store(dx, row, out);
  }
  if (partial != nullptr) store(partial, blockIdx.x, sums);
}
/** out (D,): the sum of partial (parts, D) over its rows, always in the same order. A block of 32 warps adds 32 columns. */
template <typename T> __device__ void normWeight(const float* partial, T* out, int parts) {
  __shared__ float sums[32][33];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = blockIdx.x * 32 + lane;
  float sum = 0.0f;
  if (d < DIM)
#pragma unroll 8
    for (int part = warp; part < parts; part += 32) sum += partial[part * DIM + d];
  sums[lane][warp] = sum;
  __syncthreads();
  // A warp adds the sums of one column.
  sum = sums[warp][lane];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  d = blockIdx.x * 32 + warp;
  if (lane == 0 && d < DIM) narrow(out[d], sum);
}

// At most TOGETHER threads per multiprocessor (gpu-norm.cc) leave a thread 64 registers for bfloat16, and 128 for float32 unless a row needs more threads.
#define KERNELS(T, SUFFIX, TOGETHER)                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS, THREADS > TOGETHER ? 1 : TOGETHER / THREADS) norm_forward##SUFFIX(const T* x, const T* y, const T* w, T* sum, T* out, float* scale, int rows, float epsilon) { \
    normForward(x, y, w, sum, out, scale, rows, epsilon);                                                                                                      \
  }                                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS, THREADS > TOGETHER ? 1 : TOGETHER / THREADS) norm_backward##SUFFIX(const T* x, const T* w, const float* scale, const T* dy, const T* along, T* dx, float* partial, int rows) { \
    normBackward(x, w, scale, dy, along, dx, partial, rows);                                                                                                   \
  }                                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(1024) norm_weight##SUFFIX(const float* partial, T* out, int parts) { normWeight(partial, out, parts); }
KERNELS(float, _f32, 512)
KERNELS(bf16, _bf16, 1024)
)cuda";
