// CUDA source of attention when decoding: one query per head to the cached keys (gpu-decode.cc). Compiled for a model's HEAD_DIM, for SHARE query heads that read the same key head, and for WARPS per block.
// TILES is the number of tiles of 16 keys that a warp holds in registers, 1 or 2, on tensor cores (bfloat16, heads of 64 or 128). With TILES=0 the kernel uses ordinary cores.
#pragma once

/** Source shared with the kernel for Hopper (gpu-attend-streamed-kernels.h). */
constexpr const char* gpuAttendCommonSource = R"cuda(
constexpr int E = HEAD_DIM;

/**
 * qkv (rows, H + 2G, E) of the tokens at `positions` (-1: an idle row). A block of WARPS warps has a row, SHARE heads and one of `splits` parts of the keys: it turns its queries and the newest key, puts that key
 * and its value into the cache (rows, G, capacity, E), and writes the attention to out (rows, H, E), or its part of it to partial (rows, H / SHARE, splits, SHARE, E + 2). With a window, a query sees at
 * most that many keys. Without keys the result is 0; NaN stays NaN.
 */
template <typename T> struct Attention {
  const T *qkv, *cos, *sin;
  const int* positions;
  T *keys, *values, *out;
  float* partial;
  int heads, groups;
  long long capacity;
  int splits, window;
  float scale;
};

/** A part of the keys has at least this many: with fewer, putting parts together takes longer than reading the keys. */
constexpr int LEAST = 256;

/** What a block does: its row, the row's position, its heads' part of H / SHARE and key head, its part of the keys (of `used`, which depends on the row's position only; the others are empty) and that part's range. */
template <typename T> struct Work {
  long long row;
  int parts, part, split, used, position, group, from, to;
  T *keys, *values;
  __device__ __forceinline__ explicit Work(const Attention<T>& of) {
    parts = of.heads / SHARE;
    split = blockIdx.x % of.splits;
    part = blockIdx.x / of.splits % parts;
    row = blockIdx.x / of.splits / parts;
    position = of.positions[row];
    group = part * SHARE / (of.heads / of.groups);
    int count = position + 1, seen = of.window > 0 ? min(of.window, count) : count;
    used = max(1, min(of.splits, seen / LEAST));
    int each = (seen + used - 1) / used;
    from = min(count, count - seen + split * each);
    to = min(count, from + each);
    keys = of.keys + (row * of.groups + group) * of.capacity * E;
    values = of.values + (row * of.groups + group) * of.capacity * E;
  }
  /** Whether this block's part of the keys includes the newest, which it then puts into the cache. Blocks of one group write the same. */
  __device__ __forceinline__ bool hasNewest() const { return from <= position && position < to; }
};

/**
 * Puts `count` parts with a softmax of their own together: returns their sum at number d, the largest maximum and the sum of weights. read(n, e) is number e of part n: E sums, then its maximum and its sum of weights.
 */
template <typename Read> __device__ __forceinline__ float combine(int count, int d, float& larger, float& weight, Read read) {
  float sum = 0.0f;
  larger = -1e30f;
  weight = 0.0f;
  for (int n = 0; n < count; n++) larger = fmaxf(larger, read(n, E));
  for (int n = 0; n < count; n++) {
    float share = __expf(read(n, E) - larger);
    sum += read(n, d) * share;
    weight += read(n, E + 1) * share;
  }
  return sum;
}

/** Puts the warps' keys together and writes the result, or, if `part` is not null, this block's part of it there: (SHARE, E + 2). */
template <typename T> __device__ __forceinline__ void finish(const Attention<T>& of, const Work<T>& work, const float (&shared)[WARPS][SHARE][E + 2], float* part) {
  __syncthreads();
  for (int i = threadIdx.x; i < SHARE * E; i += WARPS * 32) {
    int h = i / E, d = i % E;
    float larger, weight, sum = combine(WARPS, d, larger, weight, [&](int w, int e) { return shared[w][h][e]; });
    if (part == nullptr) {
      narrow(of.out[(work.row * of.heads + work.part * SHARE + h) * E + d], weight == 0.0f ? 0.0f : sum / weight);
    } else {
      float* to = part + h * (E + 2);
      to[d] = sum;
      if (d == 0) { to[E] = larger; to[E + 1] = weight; }
    }
  }
}

// ---- for tensor cores ----

/** d (16, 8) += a (16, 16) b (16, 8). */
__device__ __forceinline__ void multiply(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/** Two numbers rounded to bfloat16, the first in the lower half. */
__device__ __forceinline__ unsigned pair(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
/**
 * The softmax over a warp's keys so far, and 16 more from `first`: lane 4r + c has head r's scores of keys 2c and 2c + 1 of each half. They become weights relative to the largest score, `most`; keys from `to` on have none.
 * total: this lane's sum of weights. Returns the factor for earlier sums.
 */
__device__ __forceinline__ float addToSoftmax(float (&scores)[2][4], int first, int to, float scale, float& most, float& total) {
  const int c = threadIdx.x % 4;
  float larger = most;
#pragma unroll
  for (int t = 0; t < 2; t++)
#pragma unroll
    for (int k = 0; k < 2; k++) {
      scores[t][k] = first + 8 * t + 2 * c + k < to ? scores[t][k] * scale : -2e30f;
      larger = fmaxf(larger, scores[t][k]);
    }
  larger = fmaxf(larger, __shfl_xor_sync(~0u, larger, 1));
  larger = fmaxf(larger, __shfl_xor_sync(~0u, larger, 2));
  const float shrink = __expf(most - larger);
  most = larger;
  total *= shrink;
#pragma unroll
  for (int t = 0; t < 2; t++)
#pragma unroll
    for (int k = 0; k < 2; k++) {
      scores[t][k] = __expf(scores[t][k] - larger);
      total += scores[t][k];
    }
  return shrink;
}
)cuda";

constexpr const char* gpuAttendSource = R"cuda(
/** This block's place in partial, or null if it writes the result. */
template <typename T> __device__ __forceinline__ float* partOf(const Attention<T>& of, const Work<T>& work) {
  return of.splits == 1 ? nullptr : of.partial + ((work.row * work.parts + work.part) * of.splits + work.split) * SHARE * (E + 2);
}

#if TILES
// ---- on tensor cores: scores = Q K^T with the block's queries as the first SHARE of 16 rows, sums = V^T P^T (E, 8 heads) ----
// Lane 4r + c of a warp has, of 16 keys, numbers of keys r and r + 8 (for the scores) and of the values of keys 2c, 2c + 1, 2c + 8 and 2c + 9. The products add over the numbers of a head, or over keys, in any
// order, so each lane takes the numbers that it reads 16 bytes at a time, straight from the cache.

constexpr int KEYS = 16;
struct Tile { uint4 key[2][E / 32], value[4][E / 64]; };

__device__ __forceinline__ unsigned lowHalves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned highHalves(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }
__device__ __forceinline__ unsigned word(const uint4& four, int i) { return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w; }

__device__ __forceinline__ void attend(const Attention<bf16>& of) {
  constexpr int half = E / 2, pairs = half / 8;
  // The newest key and value are read from here. All others were put into the cache by earlier steps, and the first kernel of a step starts after the last one of the step before has ended: so positions and
  // cache can be read while the kernel before this one still runs.
  alignas(16) __shared__ bf16 turned[8 * E];
  alignas(16) __shared__ bf16 newestKey[E];
  alignas(16) __shared__ bf16 newestValue[E];
  __shared__ float shared[WARPS][SHARE][E + 2];
  const Work<bf16> work(of);
  const int position = work.position, to = work.to, warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, c = lane % 4;
  // Keys beyond the last are read as the last, and left out of the softmax.
  auto keyOf = [&](int first, int t) { return min(first + 8 * t + r, to - 1); };
  auto valueOf = [&](int first, int i) { return min(first + 2 * c + (i & 1) + 8 * (i >> 1), to - 1); };
  auto take = [&](uint4& into, const bf16* from) { into = *reinterpret_cast<const uint4*>(from); };
  auto read = [&](Tile& tile, int first) __attribute__((always_inline)) {
    int last = max(position - 1, 0);
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
      for (int j = 0; j < E / 32; j++) take(tile.key[t][j], work.keys + static_cast<long long>(min(keyOf(first, t), last)) * E + 32 * j + 8 * c);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < E / 64; j++) take(tile.value[i][j], work.values + static_cast<long long>(min(valueOf(first, i), last)) * E + 64 * j + 8 * r);
  };
  const int mine = work.from + warp * KEYS;
  Tile a;
  if (mine < to) read(a, mine);
  afterTheOneBefore();

  const bf16* token = of.qkv + work.row * (of.heads + 2 * of.groups) * E;
  const long long angle = static_cast<long long>(position) * E;
  for (int i = threadIdx.x; i < (SHARE + 1) * pairs && position >= 0; i += WARPS * 32) {
    int head = i / pairs, at = i % pairs * 8;
    bool key = head == SHARE;
    turn(token + (key ? of.heads + work.group : work.part * SHARE + head) * E + at, of.cos + angle + at, of.sin + angle + at, (key ? newestKey : turned + head * E) + at, half, 1.0f);
  }
  for (int i = threadIdx.x * 8; i < E; i += WARPS * 32 * 8)
    *reinterpret_cast<uint4*>(newestValue + i) = *reinterpret_cast<const uint4*>(token + (of.heads + of.groups + work.group) * E + i);
  for (int i = SHARE * E + threadIdx.x * 8; i < 8 * E; i += WARPS * 32 * 8) *reinterpret_cast<uint4*>(turned + i) = make_uint4(0, 0, 0, 0);
  __syncthreads();
  for (int i = threadIdx.x * 8; i < E && work.hasNewest(); i += WARPS * 32 * 8) {
    *reinterpret_cast<uint4*>(work.keys + angle + i) = *reinterpret_cast<const uint4*>(newestKey + i);
    *reinterpret_cast<uint4*>(work.values + angle + i) = *reinterpret_cast<const uint4*>(newestValue + i);
  }
  __syncwarp();
  uint4 query[E / 32];
#pragma unroll
  for (int j = 0; j < E / 32; j++) take(query[j], turned + r * E + 32 * j + 8 * c);

  // most and total: of head r, total of this lane's keys only. sums: of each 16 numbers of a head, those of lane r's 8 at 2i and 2i + 1, for heads 2c and 2c + 1.
  float most = -1e30f, total = 0.0f, sums[E / 16][4];
#pragma unroll
  for (int m = 0; m < E / 16; m++)
#pragma unroll
    for (int k = 0; k < 4; k++) sums[m][k] = 0.0f;
  auto add = [&](Tile& tile, int first) __attribute__((always_inline)) {
    if (first + KEYS > position) {
#pragma unroll
      for (int t = 0; t < 2; t++)
        if (keyOf(first, t) == position)
#pragma unroll
          for (int j = 0; j < E / 32; j++) take(tile.key[t][j], newestKey + 32 * j + 8 * c);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (valueOf(first, i) == position)
#pragma unroll
          for (int j = 0; j < E / 64; j++) take(tile.value[i][j], newestValue + 64 * j + 8 * r);
      __syncwarp();
    }
    float scores[2][4] = {};
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
      for (int k = 0; k < E / 16; k++)
        multiply(scores[t], word(query[k / 2], k % 2 * 2), 0, word(query[k / 2], k % 2 * 2 + 1), 0, word(tile.key[t][k / 2], k % 2 * 2), word(tile.key[t][k / 2], k % 2 * 2 + 1));
    const float shrink = addToSoftmax(scores, first, to, of.scale, most, total);
    const unsigned weights[2] = {pair(scores[0][0], scores[0][1]), pair(scores[1][0], scores[1][1])};
    const float even = __shfl_sync(~0u, shrink, 8 * c), odd = __shfl_sync(~0u, shrink, 8 * c + 4);
#pragma unroll
    for (int m = 0; m < E / 16; m++) {
      const int j = m / 4, i = m % 4;
      sums[m][0] *= even; sums[m][1] *= odd; sums[m][2] *= even; sums[m][3] *= odd;
      const unsigned v0 = word(tile.value[0][j], i), v1 = word(tile.value[1][j], i), v2 = word(tile.value[2][j], i), v3 = word(tile.value[3][j], i);
      multiply(sums[m], lowHalves(v0, v1), highHalves(v0, v1), lowHalves(v2, v3), highHalves(v2, v3), weights[0], weights[1]);
    }
  };
  constexpr int step = WARPS * KEYS;
#if TILES == 1
  for (int first = mine; first < to; first += step) {
    add(a, first);
    if (first + step < to) read(a, first + step);
  }
#else
  Tile b;
  for (int first = mine; first < to; first += 2 * step) {
    if (first + step < to) read(b, first + step);
    add(a, first);
    if (first + step < to) {
      if (first + 2 * step < to) read(a, first + 2 * step);
      add(b, first + step);
    }
  }
#endif

  total += __shfl_xor_sync(~0u, total, 1);
  total += __shfl_xor_sync(~0u, total, 2);
  if (c == 0 && r < SHARE) { shared[warp][r][E] = most; shared[warp][r][E + 1] = total; }
#pragma unroll
  for (int m = 0; m < E / 16; m++)
#pragma unroll
    for (int k = 0; k < 4; k++) {
      int head = 2 * c + k % 2;
      if (head < SHARE) shared[warp][head][m / 4 * 64 + 8 * r + m % 4 * 2 + k / 2] = sums[m][k];
    }
  finish(of, work, shared, partOf(of, work));
}
#else
// ---- on ordinary cores: each group of LANES threads goes over keys of its own, with a softmax of its own ----

/** Threads that hold a head together, eight numbers each. */
constexpr int LANES = E / 8;
/** Keys that a thread has asked for while it computes. */
constexpr int AHEAD = 2;
template <typename T> __device__ void attend(const Attention<T>& of) {
  constexpr int half = E / 2, pairs = half / 8;
  alignas(32) __shared__ T turned[SHARE * E];
  __shared__ float shared[WARPS][SHARE][E + 2];
  afterTheOneBefore();
  const Work<T> work(of);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = lane % LANES * 8;
  const T* token = of.qkv + work.row * (of.heads + 2 * of.groups) * E;
  long long angle = static_cast<long long>(work.position) * E;
  for (int i = threadIdx.x; i < (SHARE + 2) * pairs && work.position >= 0; i += WARPS * 32) {
    int head = i / pairs, at = i % pairs * 8;
    if (head < SHARE) {
      turn(token + (work.part * SHARE + head) * E + at, of.cos + angle + at, of.sin + angle + at, turned + head * E + at, half, 1.0f);
    } else if (work.hasNewest() && head == SHARE) {
      turn(token + (of.heads + work.group) * E + at, of.cos + angle + at, of.sin + angle + at, work.keys + angle + at, half, 1.0f);
    } else if (work.hasNewest()) {
      const T* value = token + (of.heads + of.groups + work.group) * E + at;
      *reinterpret_cast<Eight<T>*>(work.values + angle + at) = *reinterpret_cast<const Eight<T>*>(value);
      *reinterpret_cast<Eight<T>*>(work.values + angle + at + half) = *reinterpret_cast<const Eight<T>*>(value + half);
    }
  }
  __syncthreads();
  float query[SHARE][8], sums[SHARE][8], most[SHARE], total[SHARE];
#pragma unroll
  for (int h = 0; h < SHARE; h++) {
    Eight<T> a = *reinterpret_cast<const Eight<T>*>(turned + h * E + e);
#pragma unroll
    for (int k = 0; k < 8; k++) { query[h][k] = work.position < 0 ? 0.0f : wide(a.at[k]) * of.scale; sums[h][k] = 0.0f; }
    most[h] = -1e30f;
    total[h] = 0.0f;
  }
  constexpr int step = WARPS * 32 / LANES;
  Eight<T> key[AHEAD], value[AHEAD];
  // All lanes of a warp stay together for the shuffles; those beyond the end read the last key and leave it out.
  auto read = [&](int first) {
#pragma unroll
    for (int n = 0; n < AHEAD; n++) {
      int j = min(first + n * step + static_cast<int>(threadIdx.x) / LANES, work.to - 1);
      key[n] = *reinterpret_cast<const Eight<T>*>(work.keys + static_cast<long long>(j) * E + e);
      value[n] = *reinterpret_cast<const Eight<T>*>(work.values + static_cast<long long>(j) * E + e);
    }
  };
  if (work.from < work.to) read(work.from);
  for (int first = work.from; first < work.to; first += AHEAD * step) {
    Eight<T> a[AHEAD], b[AHEAD];
#pragma unroll
    for (int n = 0; n < AHEAD; n++) { a[n] = key[n]; b[n] = value[n]; }
    if (first + AHEAD * step < work.to) read(first + AHEAD * step);
#pragma unroll
    for (int n = 0; n < AHEAD; n++) {
      bool within = first + n * step + static_cast<int>(threadIdx.x) / LANES < work.to;
#pragma unroll
      for (int h = 0; h < SHARE; h++) {
        float score = 0.0f;
#pragma unroll
        for (int k = 0; k < 8; k++) score += query[h][k] * wide(a[n].at[k]);
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(~0u, score, offset);
        score = within ? score : -2e30f;
        float larger = fmaxf(most[h], score), shrink = __expf(most[h] - larger), p = __expf(score - larger);
        most[h] = larger;
        total[h] = total[h] * shrink + p;
#pragma unroll
        for (int k = 0; k < 8; k++) sums[h][k] = sums[h][k] * shrink + p * wide(b[n].at[k]);
      }
    }
  }
  // Within a warp, then over the warps.
#pragma unroll
  for (int h = 0; h < SHARE; h++) {
#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) {
      float other = __shfl_xor_sync(~0u, most[h], offset), larger = fmaxf(most[h], other), mine = __expf(most[h] - larger), its = __expf(other - larger);
      most[h] = larger;
      total[h] = total[h] * mine + __shfl_xor_sync(~0u, total[h], offset) * its;
#pragma unroll
      for (int k = 0; k < 8; k++) sums[h][k] = sums[h][k] * mine + __shfl_xor_sync(~0u, sums[h][k], offset) * its;
    }
  }
  if (lane < LANES) {
#pragma unroll
    for (int h = 0; h < SHARE; h++) {
#pragma unroll
      for (int k = 0; k < 8; k++) shared[warp][h][e + k] = sums[h][k];
      if (lane == 0) { shared[warp][h][E] = most[h]; shared[warp][h][E + 1] = total[h]; }
    }
  }
  finish(of, work, shared, partOf(of, work));
}
#endif

/** The parts of the keys put together: a block per row and SHARE heads. */
template <typename T> __device__ void together(const float* partial, T* out, int heads, int splits) {
  int parts = heads / SHARE, part = blockIdx.x % parts;
  long long row = blockIdx.x / parts;
  for (int i = threadIdx.x; i < SHARE * E; i += blockDim.x) {
    int h = i / E, d = i % E;
    const float* from = partial + ((row * parts + part) * splits * SHARE + h) * (E + 2);
    float larger, weight, sum = combine(splits, d, larger, weight, [&](int n, int e) { return from[n * SHARE * (E + 2) + e]; });
    narrow(out[(row * heads + part * SHARE + h) * E + d], weight == 0.0f ? 0.0f : sum / weight);
  }
}

#define KERNELS(T, SUFFIX)                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(WARPS * 32) attend##SUFFIX(const T* qkv, const T* cos, const T* sin, const int* positions, T* keys, T* values, T* out, float* partial, int heads, int groups, long long capacity, int splits, int window, \
                                                                          float scale) {                                                                        \
    launchTheNext();                                                                                                                                           \
    attend(Attention<T>{qkv, cos, sin, positions, keys, values, out, partial, heads, groups, capacity, splits, window, scale});                               \
  }                                                                                                                                                            \
  extern "C" __global__ void together##SUFFIX(const float* partial, T* out, int heads, int splits) { launchTheNext(); afterTheOneBefore(); together(partial, out, heads, splits); }
#if !TILES
KERNELS(float, _f32)
#endif
KERNELS(bf16, _bf16)
)cuda";
