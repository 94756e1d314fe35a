// CUDA source of products of at most 64 rows with a weight, for Hopper (gpu-products.cc). Such a product is bound by reading the weight, so everything serves that: the weight is read by the
// bulk copy engine, and the first stages are requested before the previous kernel has ended.
// Definitions: TILE rows of the weight per block (a multiple of 8, of 16 if gated, at most 256), SPLIT blocks of a cluster that share a tile's columns, STAGES of 64 columns in flight, GATED.
#pragma once

constexpr const char* gpuProductsSource = R"cuda(
constexpr int ROWS = 64, THREADS = 160;
constexpr unsigned WEIGHT_BYTES = TILE * 128, STAGE_BYTES = WEIGHT_BYTES + ROWS * 128;
/** Output columns of a tile. A gated tile has as many rows of gate as of up. */
constexpr int OUTPUTS = GATED ? TILE / 2 : TILE;
/** Floats between rows of sums in shared memory: 8 more than a multiple of 32, so that a warp's writes use all banks. */
constexpr int STRIDE = (TILE + 23) / 32 * 32 + 8;
constexpr unsigned SUM_BYTES = ROWS * STRIDE * 4, BUFFER_BYTES = STAGES * STAGE_BYTES > SUM_BYTES ? STAGES * STAGE_BYTES : SUM_BYTES;

/** Describes rows of 128 bytes, swizzled in groups of eight, to the tensor cores. */
__device__ __forceinline__ unsigned long long matrix(unsigned address) { return ((address & 0x3ffffu) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62); }
__device__ __forceinline__ void blocksBarrier() {
  if (SPLIT > 1) clusterBarrier();
  else __syncthreads();
}
/** Four sums in the shared memory of the cluster's block `rank`. */
__device__ __forceinline__ void readSums(unsigned at, unsigned rank, float (&out)[4]) {
  if (SPLIT > 1) {
    const unsigned there = addressIn(rank, at);
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]) : "r"(there) : "memory");
  } else {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]) : "r"(at) : "memory");
  }
}
struct alignas(8) Four { bf16 at[4]; };

/**
 * out (rows, columns) = x weight^T; gated: weight has the rows of gate, then of up, and out = silu(x gate^T) x up^T. Four warps multiply, a fifth requests memory. steps: the number of 64 columns
 * of x, rounded up. Beyond the last row and column the copy engine writes zeros. The blocks of a cluster add in the order of their ranks.
 */
extern "C" __global__ void __launch_bounds__(THREADS) product_bf16(const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap x, bf16* out, int rows, int columns, int steps) {
  extern __shared__ __align__(1024) unsigned char shared[];
  launchTheNext();
  const unsigned base = sharedAddress(shared), full = base + BUFFER_BYTES, empty = full + 8 * STAGES;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = blockIdx.x % SPLIT, first = blockIdx.x / SPLIT * OUTPUTS;
  const int from = steps * rank / SPLIT, count = steps * (rank + 1) / SPLIT - from;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      initBarrier(full + 8 * s, 1);
      initBarrier(empty + 8 * s, 4);
    }
    publishBarriers();
  }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0) {
      const unsigned long long policy = readOnce();
      asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<unsigned long long>(&x)) : "memory");
      auto loadWeight = [&](int step, int s) {
        unsigned to = base + s * STAGE_BYTES, barrier = full + 8 * s;
        int column = (from + step) * 64;
        expectBytes(barrier, STAGE_BYTES);
        streamBox(to, weight, column, first, barrier, policy);
        if (GATED) streamBox(to + WEIGHT_BYTES / 2, weight, column, columns + first, barrier, policy);
      };
      auto loadRows = [&](int step, int s) { loadBox(base + s * STAGE_BYTES + WEIGHT_BYTES, x, (from + step) * 64, 0, full + 8 * s); };
      int ready = min(count, STAGES);
      for (int step = 0; step < ready; step++) loadWeight(step, step);
      afterTheOneBefore();
      for (int step = 0; step < ready; step++) loadRows(step, step);
      for (int step = ready; step < count; step++) {
        int s = step % STAGES;
        await(empty + 8 * s, (step / STAGES - 1) & 1);
        loadWeight(step, s);
        loadRows(step, s);
      }
    }
    __syncwarp();
  } else {
    float sums[TILE / 2];
#pragma unroll
    for (int i = 0; i < TILE / 2; i++) sums[i] = 0.0f;
    for (int step = 0, s = 0, before = 0, parity = 0; step < count; step++) {
      await(full + 8 * s, parity);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      unsigned long long w = matrix(base + s * STAGE_BYTES), a = matrix(base + s * STAGE_BYTES + WEIGHT_BYTES);
#pragma unroll
      for (int k = 0; k < 4; k++) multiply(sums, a + 2 * k, w + 2 * k);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      // The previous step's products have ended: its stage can be filled again.
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      if (step > 0 && lane == 0) arrive(empty + 8 * before);
      before = s;
      if (++s == STAGES) { s = 0; parity ^= 1; }
    }
    finish(sums);
    // All four warps have read the last stages; sums replace them.
    asm volatile("bar.sync 1, 128;" ::: "memory");
    float* to = reinterpret_cast<float*>(shared) + (warp * 16 + lane / 4) * STRIDE + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      *reinterpret_cast<float2*>(to + i * 8) = make_float2(sums[4 * i], sums[4 * i + 1]);
      *reinterpret_cast<float2*>(to + 8 * STRIDE + i * 8) = make_float2(sums[4 * i + 2], sums[4 * i + 3]);
    }
  }
  blocksBarrier();
  constexpr int QUADS = OUTPUTS / 4;
  for (int item = rank * THREADS + threadIdx.x; item < rows * QUADS; item += SPLIT * THREADS) {
    int row = item / QUADS, column = item % QUADS * 4;
    if (first + column >= columns) continue;
    float parts[SPLIT][4], ups[GATED ? SPLIT : 1][4];
    unsigned at = base + (row * STRIDE + column) * 4;
#pragma unroll
    for (int r = 0; r < SPLIT; r++) {
      readSums(at, r, parts[r]);
      if (GATED) readSums(at + OUTPUTS * 4, r, ups[GATED ? r : 0]);
    }
    Four result;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float sum = parts[0][k];
#pragma unroll
      for (int r = 1; r < SPLIT; r++) sum += parts[r][k];
      if (GATED) {
        float up = ups[0][k];
#pragma unroll
        for (int r = 1; r < SPLIT; r++) up += ups[GATED ? r : 0][k];
        // Rounded like the product and the gate computed one after the other.
        bf16 g, u;
        narrow(g, sum);
        narrow(u, up);
        sum = wide(g) * sigmoid(wide(g)) * wide(u);
      }
      narrow(result.at[k], sum);
    }
    *reinterpret_cast<Four*>(out + static_cast<long long>(row) * columns + first + column) = result;
  }
  // A block's shared memory lives until the others have read it.
  if (SPLIT > 1) clusterBarrier();
}
)cuda";
