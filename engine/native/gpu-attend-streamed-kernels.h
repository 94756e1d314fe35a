// CUDA source of attention when decoding, for Hopper in bfloat16 with heads of 64 or 128 (gpu-decode.cc). It is bound by reading the cache, so the bulk copy engine keeps many keys and values in flight.
// Each of a block's WARPS warps has STAGES stages of 16 keys and their values in shared memory and requests its own next stage: warps meet only at the end. Blocks are small, so that several share a
// multiprocessor, and one block's copies are in flight while another starts or ends. Few sequences: the `splits` blocks of a cluster share a sequence's keys and put their parts together through shared memory.
#pragma once

constexpr const char* gpuAttendStreamedSource = R"cuda(
/** A box of the copy engine: 64 columns of eight keys, swizzled: chunk i (16 bytes) of row r lies at i ^ r % 8, so that eight rows' chunks have different banks. */
constexpr unsigned BOX_BYTES = 8 * 128;
constexpr int KEYS = 16, COLUMNS = E / 64;
/** The keys of a stage: two boxes down, COLUMNS across. Their values follow. */
constexpr unsigned KEY_BYTES = 2 * COLUMNS * BOX_BYTES, STAGE_BYTES = 2 * KEY_BYTES;
/** Shared memory after the stages; the host computes its size (gpu-decode.cc). Turned queries are padded, so that a warp's reads use all banks. */
struct alignas(16) Scratch {
  float sums[WARPS][SHARE][E + 2], part[SHARE][E + 2];
  alignas(16) bf16 turned[SHARE][E + 8];
  alignas(16) bf16 newestKey[E];
  alignas(16) bf16 newestValue[E];
  alignas(16) unsigned long long full[WARPS][STAGES];
};
/** Offset of chunk `chunk` of key `key` (or value) in a stage. */
__device__ __forceinline__ unsigned offsetOf(int key, int chunk) { return (key / 8 * COLUMNS + chunk / 8) * BOX_BYTES + key % 8 * 128 + ((chunk ^ key) % 8) * 16; }
/** Four matrices of 8 x 8 numbers; lanes 8i to 8i + 7 have the addresses of matrix i's rows. Lane 4r + c receives numbers 2c and 2c + 1 of row r, or of column r if turned. */
__device__ __forceinline__ void readMatrices(unsigned (&d)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void readTurned(unsigned (&d)[4], unsigned at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ float readFloat(unsigned at) {
  float x;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
  return x;
}

/** Like the other kernels' (gpu-attend-kernels.h). keyMap and valueMap describe the cache as matrices (rows G capacity, E). */
__device__ __forceinline__ void attend(const Attention<bf16>& of, const TensorMap& keyMap, const TensorMap& valueMap, unsigned char* shared) {
  constexpr int half = E / 2, pairs = half / 8;
  Scratch& scratch = *reinterpret_cast<Scratch*>(shared + WARPS * STAGES * STAGE_BYTES);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, c = lane % 4;
  const unsigned stages = sharedAddress(shared) + warp * STAGES * STAGE_BYTES, full = sharedAddress(scratch.full[warp]);
  const Work<bf16> work(of);
  const int position = work.position, to = work.to;
  // Tiles warp, warp + WARPS, ... are this warp's. The newest key is not in the cache yet, and rows of a box beyond the last key are not used.
  const int mine = work.from + warp * KEYS, step = WARPS * KEYS, base = static_cast<int>((work.row * of.groups + work.group) * of.capacity);
  const unsigned long long policy = readOnce();
  auto request = [&](int first, int s) {
    const int cached = min(position, to) - first, boxes = cached <= 0 ? 0 : cached <= 8 ? 1 : 2;
    const unsigned stage = stages + s * STAGE_BYTES, barrier = full + 8 * s;
    expectBytes(barrier, boxes * COLUMNS * 2 * BOX_BYTES);
    for (int t = 0; t < boxes; t++)
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        const unsigned box = stage + (t * COLUMNS + j) * BOX_BYTES;
        streamBox(box, keyMap, 64 * j, base + first + 8 * t, barrier, policy);
        streamBox(box + KEY_BYTES, valueMap, 64 * j, base + first + 8 * t, barrier, policy);
      }
  };
  if (lane == 0) {
    for (int s = 0; s < STAGES; s++) initBarrier(full + 8 * s, 1);
    publishBarriers();
    for (int s = 0; s < STAGES && mine + s * step < to; s++) request(mine + s * step, s);
  }
  // Until here only positions and the cache of earlier steps were read, which may be done while the kernel before this one still runs (gpu.h).
  afterTheOneBefore();
  // A cluster's blocks without keys: the others don't wait for them.
  if (work.split >= work.used) return;

  const bf16* token = of.qkv + work.row * (of.heads + 2 * of.groups) * E;
  const long long angle = static_cast<long long>(position) * E;
  for (int i = threadIdx.x; i < (SHARE + 1) * pairs && position >= 0; i += WARPS * 32) {
    int head = i / pairs, at = i % pairs * 8;
    bool key = head == SHARE;
    turn(token + (key ? of.heads + work.group : work.part * SHARE + head) * E + at, of.cos + angle + at, of.sin + angle + at, (key ? scratch.newestKey : scratch.turned[head]) + at, half, 1.0f);
  }
  for (int i = threadIdx.x * 8; i < E; i += WARPS * 32 * 8)
    *reinterpret_cast<uint4*>(scratch.newestValue + i) = *reinterpret_cast<const uint4*>(token + (of.heads + of.groups + work.group) * E + i);
  // Also makes all warps see the barriers.
  __syncthreads();
  for (int i = threadIdx.x * 8; i < E && work.hasNewest(); i += WARPS * 32 * 8) {
    *reinterpret_cast<uint4*>(work.keys + angle + i) = *reinterpret_cast<const uint4*>(scratch.newestKey + i);
    *reinterpret_cast<uint4*>(work.values + angle + i) = *reinterpret_cast<const uint4*>(scratch.newestValue + i);
  }
  // Queries are the first SHARE of 16 rows: numbers 16k + 2c, + 1 and 16k + 2c + 8, + 9 of head r.
  unsigned query[E / 16][2];
#pragma unroll
  for (int k = 0; k < E / 16; k++)
#pragma unroll
    for (int i = 0; i < 2; i++) query[k][i] = r < SHARE ? *reinterpret_cast<const unsigned*>(scratch.turned[r < SHARE ? r : 0] + 16 * k + 2 * c + 8 * i) : 0u;

  // most and total: of head r, total of this lane's keys only. sums: numbers 16m + r (two) and 16m + r + 8 of heads 2c and 2c + 1.
  float most = -1e30f, total = 0.0f, sums[E / 16][4];
#pragma unroll
  for (int m = 0; m < E / 16; m++)
#pragma unroll
    for (int k = 0; k < 4; k++) sums[m][k] = 0.0f;
  for (int first = mine, s = 0, parity = 0; first < to; first += step) {
    const unsigned stage = stages + s * STAGE_BYTES;
    await(full + 8 * s, parity);
    __syncwarp();
    if (first <= position && position < first + KEYS) {
      // The warp's last tile: no copy to this stage follows.
      unsigned char* own = shared + (warp * STAGES + s) * STAGE_BYTES;
      if (lane < E / 8) {
        *reinterpret_cast<uint4*>(own + offsetOf(position - first, lane)) = *reinterpret_cast<const uint4*>(scratch.newestKey + 8 * lane);
        *reinterpret_cast<uint4*>(own + KEY_BYTES + offsetOf(position - first, lane)) = *reinterpret_cast<const uint4*>(scratch.newestValue + 8 * lane);
      }
      __syncwarp();
    }
    float scores[2][4] = {};
#pragma unroll
    for (int j = 0; j < E / 32; j++)
#pragma unroll
      for (int t = 0; t < 2; t++) {
        unsigned key[4];
        readMatrices(key, stage + offsetOf(8 * t + lane % 8, 4 * j + lane / 8));
        multiply(scores[t], query[2 * j][0], 0, query[2 * j][1], 0, key[0], key[1]);
        multiply(scores[t], query[2 * j + 1][0], 0, query[2 * j + 1][1], 0, key[2], key[3]);
      }
    // A score depends on one key only, so keys beyond the last, which may hold anything, need no other care here.
    const float shrink = addToSoftmax(scores, first, to, of.scale, most, total);
    const unsigned weights[2] = {pair(scores[0][0], scores[0][1]), pair(scores[1][0], scores[1][1])};
    const float even = __shfl_sync(~0u, shrink, 8 * c), odd = __shfl_sync(~0u, shrink, 8 * c + 4);
    // Values beyond the last are read as the last: 0 times NaN would be NaN.
    const int value = min(lane / 16 * 8 + lane % 8, to - 1 - first);
#pragma unroll
    for (int m = 0; m < E / 16; m++) {
      unsigned v[4];
      readTurned(v, stage + KEY_BYTES + offsetOf(value, 2 * m + lane / 8 % 2));
      sums[m][0] *= even; sums[m][1] *= odd; sums[m][2] *= even; sums[m][3] *= odd;
      multiply(sums[m], v[0], v[1], v[2], v[3], weights[0], weights[1]);
    }
    __syncwarp();
    if (lane == 0 && first + STAGES * step < to) request(first + STAGES * step, s);
    if (++s == STAGES) { s = 0; parity ^= 1; }
  }

  total += __shfl_xor_sync(~0u, total, 1);
  total += __shfl_xor_sync(~0u, total, 2);
  if (c == 0 && r < SHARE) { scratch.sums[warp][r][E] = most; scratch.sums[warp][r][E + 1] = total; }
#pragma unroll
  for (int m = 0; m < E / 16; m++)
#pragma unroll
    for (int k = 0; k < 4; k++) {
      int head = 2 * c + k % 2;
      if (head < SHARE) scratch.sums[warp][head][16 * m + r + k / 2 * 8] = sums[m][k];
    }
  finish(of, work, scratch.sums, work.used == 1 ? nullptr : scratch.part[0]);
  if (work.used == 1) return;
  // The blocks of the cluster put their parts together in the order of the keys, each a share of the numbers.
  clusterBarrier();
  for (int i = work.split * WARPS * 32 + threadIdx.x; i < SHARE * E; i += work.used * WARPS * 32) {
    int h = i / E, d = i % E;
    const unsigned part = sharedAddress(scratch.part[h]);
    float larger, weight, sum = combine(work.used, d, larger, weight, [&](int n, int e) { return readFloat(addressIn(n, part + 4 * e)); });
    narrow(of.out[(work.row * of.heads + work.part * SHARE + h) * E + d], weight == 0.0f ? 0.0f : sum / weight);
  }
  // A block's shared memory lives until the others have read it.
  clusterBarrier();
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) attend_bf16(const __grid_constant__ TensorMap keyMap, const __grid_constant__ TensorMap valueMap, const bf16* qkv, const bf16* cos, const bf16* sin, const int* positions, bf16* keys,
                                                                     bf16* values, bf16* out, int heads, int groups, long long capacity, int splits, int window, float scale) {
  extern __shared__ __align__(1024) unsigned char shared[];
  launchTheNext();
  attend(Attention<bf16>{qkv, cos, sin, positions, keys, values, out, nullptr, heads, groups, capacity, splits, window, scale}, keyMap, valueMap, shared);
}
)cuda";
