// CUDA source of the kernels that decode one token per sequence (gpu-decode.cc), compiled for a model's HEAD_DIM. Attention is in gpu-attend-kernels.h.
// A sequence has a row in the batch and a position: that of the token it reads in this step, or -1 if there is nothing to do.
#pragma once

constexpr const char* gpuDecodeSource = R"cuda(
constexpr int E = HEAD_DIM;
/** Threads that hold a head together, eight numbers each. */
constexpr int LANES = E / 8;

// ---- a token's row of the embedding table: a block per sequence. The first kernel of a step: it must not let the next one start early (gpu.h) ----

template <typename T> __device__ void embed(const T* table, const int* token, const int* position, T* x, long long dim) {
  if (position[blockIdx.x] < 0) return;
  const T* from = table + static_cast<long long>(token[blockIdx.x]) * dim;
  for (long long d = threadIdx.x * 8; d < dim; d += blockDim.x * 8) *reinterpret_cast<Eight<T>*>(x + blockIdx.x * dim + d) = *reinterpret_cast<const Eight<T>*>(from + d);
}

// ---- x += y where there is a y; h = x w / sqrt(mean(x^2) + eps): a block per sequence ----

template <typename T> __device__ void addNorm(T* x, const T* y, const T* w, T* h, long long dim, float epsilon) {
  T* row = x + blockIdx.x * dim;
  float sum = 0.0f;
  for (long long d = threadIdx.x * 8; d < dim; d += blockDim.x * 8) {
    Eight<T> a = *reinterpret_cast<const Eight<T>*>(row + d);
    if (y != nullptr) {
      Eight<T> b = *reinterpret_cast<const Eight<T>*>(y + blockIdx.x * dim + d);
#pragma unroll
      for (int k = 0; k < 8; k++) narrow(a.at[k], wide(a.at[k]) + wide(b.at[k]));
      *reinterpret_cast<Eight<T>*>(row + d) = a;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) sum += wide(a.at[k]) * wide(a.at[k]);
  }
  float s = rsqrtf(sumOfBlock(sum) / dim + epsilon);
  for (long long d = threadIdx.x * 8; d < dim; d += blockDim.x * 8) {
    Eight<T> a = *reinterpret_cast<const Eight<T>*>(row + d), b = *reinterpret_cast<const Eight<T>*>(w + d), c;
#pragma unroll
    for (int k = 0; k < 8; k++) narrow(c.at[k], wide(a.at[k]) * s * wide(b.at[k]));
    *reinterpret_cast<Eight<T>*>(h + blockIdx.x * dim + d) = c;
  }
}

// ---- keys turned and values put into the cache (rows, G, S, E), at each token's place: a thread has eight pairs ----
// qkv (N, H + 2G, E) of N tokens; token n belongs to row rows[n] at positions[n].

template <typename T>
__device__ void place(const T* qkv, const T* cos, const T* sin, const int* positions, const int* rows, T* keys, T* values, long long count, int heads, int groups, long long capacity) {
  constexpr int half = E / 2, each = half / 8;
  long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count * 2 * groups * each) return;
  int e = static_cast<int>(i % each) * 8, head = static_cast<int>(i / each % (2 * groups));
  long long n = i / each / (2 * groups), position = positions[n];
  const T* from = qkv + (n * (heads + 2 * groups) + heads + head) * E + e;
  long long to = ((static_cast<long long>(rows[n]) * groups + head % groups) * capacity + position) * E + e;
  if (head < groups) {
    turn(from, cos + position * E + e, sin + position * E + e, keys + to, half, 1.0f);
  } else {
    *reinterpret_cast<Eight<T>*>(values + to) = *reinterpret_cast<const Eight<T>*>(from);
    *reinterpret_cast<Eight<T>*>(values + to + half) = *reinterpret_cast<const Eight<T>*>(from + half);
  }
}

// ---- what other families do to queries, keys and values (rows, H + 2G, E) before the rotation: a bias, and a norm of each head of queries and keys; LANES threads a head ----

template <typename T> __device__ void heads(T* qkv, const T* bias, const T* qNorm, const T* kNorm, long long all, int heads, int groups, float epsilon) {
  long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, at = thread / LANES;
  int e = static_cast<int>(thread % LANES) * 8, head = static_cast<int>(at % (heads + 2 * groups));
  // All lanes of a warp stay together for the shuffles.
  bool within = at < all;
  T* own = qkv + (within ? at : 0) * E + e;
  Eight<T> x = *reinterpret_cast<const Eight<T>*>(own);
  if (bias != nullptr) {
    Eight<T> b = *reinterpret_cast<const Eight<T>*>(bias + head * E + e);
#pragma unroll
    for (int k = 0; k < 8; k++) narrow(x.at[k], wide(x.at[k]) + wide(b.at[k]));
  }
  if (qNorm != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) sum += wide(x.at[k]) * wide(x.at[k]);
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (head < heads + groups) {
      float s = rsqrtf(sum / E + epsilon);
      Eight<T> w = *reinterpret_cast<const Eight<T>*>((head < heads ? qNorm : kNorm) + e);
#pragma unroll
      for (int k = 0; k < 8; k++) narrow(x.at[k], wide(x.at[k]) * s * wide(w.at[k]));
    }
  }
  if (within) *reinterpret_cast<Eight<T>*>(own) = x;
}

// ---- drawing a token: a block of 512 threads a sequence ----
// The first token whose cumulative probability exceeds the sequence's random number for this step; greedy: the likeliest, the first of equals. Then the sequence goes on by a position, or ends.
// A tile's sum and the running sum within it are rounded differently: where the second stays below the threshold to the end, it is the tile's last token that has a probability.

constexpr int TILE = 512 * 8;
template <typename T>
__device__ void sample(const T* logits, const int* rows, const double* uniforms, const int* requests, int* steps, int* positions, int* tokens, int* outTokens, float* outLogs, const int* stops,
                       int stopCount, int most, long long vocab, float scale, int greedy) {
  long long row = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
  if (positions[row] < 0) return;
  const T* own = logits + blockIdx.x * vocab;
  auto eight = [&](long long v, float* l) {
    if (vocab % 8 == 0 && v < vocab) {
      Eight<T> a = *reinterpret_cast<const Eight<T>*>(own + v);
#pragma unroll
      for (int k = 0; k < 8; k++) l[k] = wide(a.at[k]) * scale;
      return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) l[k] = v + k < vocab ? wide(own[v + k]) * scale : -infinity();
  };
  __shared__ float sharedBest[16];
  __shared__ int sharedAt[16];
  __shared__ double tiles[64];
  __shared__ double threshold;
  __shared__ int tile, chosen, last;
  __shared__ float warps[16];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float l[8], best = -infinity();
  int at = 0;
  for (long long v = threadIdx.x * 8; v < vocab; v += TILE) {
    eight(v, l);
#pragma unroll
    for (int k = 0; k < 8; k++)
      if (l[k] > best) { best = l[k]; at = static_cast<int>(v) + k; }
  }
  auto better = [&](float other, int where) {
    if (other > best || (other == best && where < at)) { best = other; at = where; }
  };
  for (int offset = 16; offset > 0; offset /= 2) better(__shfl_xor_sync(~0u, best, offset), __shfl_xor_sync(~0u, at, offset));
  if (lane == 0) { sharedBest[warp] = best; sharedAt[warp] = at; }
  __syncthreads();
  for (int w = 0; w < 16; w++) better(sharedBest[w], sharedAt[w]);

  int count = static_cast<int>((vocab + TILE - 1) / TILE);
  for (int n = 0; n < count; n++) {
    eight(static_cast<long long>(n) * TILE + threadIdx.x * 8, l);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) sum += __expf(l[k] - best);
    sum = sumOfBlock(sum);
    if (threadIdx.x == 0) tiles[n] = sum;
  }
  int request = requests[row], step = steps[row];
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (int n = 0; n < count; n++) total += tiles[n];
    chosen = greedy ? at : static_cast<int>(vocab);
    last = -1;
    if (!greedy) {
      double left = uniforms[static_cast<long long>(request) * most + step] * total;
      int n = 0;
      while (n < count - 1 && left >= tiles[n]) left -= tiles[n++];
      tile = n;
      threshold = left;
    }
  }
  __syncthreads();
  if (!greedy) {
    long long v = static_cast<long long>(tile) * TILE + threadIdx.x * 8;
    eight(v, l);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) sum += l[k] = __expf(l[k] - best);
    float before = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      float other = __shfl_up_sync(~0u, before, offset);
      if (lane >= offset) before += other;
    }
    if (lane == 31) warps[warp] = before;
    __syncthreads();
    double reached = static_cast<double>(before) - sum;
    for (int w = 0; w < warp; w++) reached += warps[w];
    if (reached + sum > threshold) {
      for (int k = 0; k < 8 && v + k < vocab; k++) {
        reached += l[k];
        if (reached > threshold && l[k] > 0.0f) { atomicMin(&chosen, static_cast<int>(v) + k); break; }
      }
    }
    __syncthreads();
    if (chosen == vocab) {
      for (int k = 0; k < 8; k++)
        if (l[k] > 0.0f) atomicMax(&last, static_cast<int>(v) + k);
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  if (chosen == vocab) chosen = last >= 0 ? last : at;
  float log = wide(own[chosen]) * scale - (best + static_cast<float>(::log(total)));
  long long place = static_cast<long long>(request) * most + step;
  // Where the logits are no numbers the sequence ends, and the host says so.
  bool broken = !(total > 0.0) || !(total < 1e300) || !(best < infinity());
  outTokens[place] = chosen;
  outLogs[place] = broken ? __int_as_float(0x7fffffff) : log;
  bool ends = broken || step + 1 == most;
  for (int s = 0; s < stopCount; s++) ends = ends || stops[s] == chosen;
  tokens[row] = chosen;
  steps[row] = step + 1;
  positions[row] = ends ? -1 : positions[row] + 1;
}

#define KERNELS(T, SUFFIX)                                                                                                                                      \
  extern "C" __global__ void embed##SUFFIX(const T* table, const int* token, const int* position, T* x, long long dim) { afterTheOneBefore(); embed(table, token, position, x, dim); } \
  extern "C" __global__ void add_norm##SUFFIX(T* x, const T* y, const T* w, T* h, long long dim, float epsilon) { launchTheNext(); afterTheOneBefore(); addNorm(x, y, w, h, dim, epsilon); }        \
  extern "C" __global__ void place##SUFFIX(const T* qkv, const T* cos, const T* sin, const int* positions, const int* rows, T* keys, T* values, long long count, int heads, int groups, long long capacity) { \
    afterTheOneBefore();\
    place(qkv, cos, sin, positions, rows, keys, values, count, heads, groups, capacity);                                                                    \
  }                                                                                                                                                            \
  extern "C" __global__ void heads##SUFFIX(T* qkv, const T* bias, const T* qNorm, const T* kNorm, long long all, int queries, int groups, float epsilon) {          \
    launchTheNext(); afterTheOneBefore();                                                                                                                                       \
    heads(qkv, bias, qNorm, kNorm, all, queries, groups, epsilon);                                                                                             \
  }                                                                                                                                                            \
  extern "C" __global__ void swiglu##SUFFIX(const T* in, T* out, long long rows, long long dim) { launchTheNext(); afterTheOneBefore(); swigluForward(in, out, rows, dim); }    \
  extern "C" __global__ void __launch_bounds__(512) sample##SUFFIX(const T* logits, const int* rows, const double* uniforms, const int* requests, int* steps, int* positions, int* tokens, int* outTokens, float* outLogs, \
                                                                   const int* stops, int stopCount, int most, long long vocab, float scale, int greedy) {      \
    afterTheOneBefore();\
    sample(logits, rows, uniforms, requests, steps, positions, tokens, outTokens, outLogs, stops, stopCount, most, vocab, scale, greedy);                      \
  }
KERNELS(float, _f32)
KERNELS(bf16, _bf16)
)cuda";
