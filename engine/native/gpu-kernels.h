// CUDA source of the GPU kernels, compiled by gpu.cc: each with the suffix _f32 for float32 and _bf16 for bfloat16. All compute in float32 and round once.
#pragma once

/** Source shared by all kernels. Comments inside the source strings are part of the compiled kernels' cache key. */
constexpr const char* gpuCommonSource = R"cuda(
struct bf16 { unsigned short bits; };
__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ void narrow(float& out, float x) { out = x; }
/** To the nearest, ties to even, as libtorch rounds. */
__device__ __forceinline__ void narrow(bf16& out, float x) {
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  unsigned bits = __float_as_uint(x);
  out.bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0 : static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}

/** Eight numbers, moved as one: 16 bytes of bfloat16, twice 16 of float32. */
template <typename T> struct alignas(16) Eight { T at[8]; };
/** Stores eight numbers 16 bytes at a time, where the compiler may divide an assignment into smaller stores. */
template <typename T> __device__ __forceinline__ void store(T* out, const Eight<T>& x) {
  uint4 parts[sizeof x / 16];
  memcpy(parts, &x, sizeof x);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof x / 16); i++) reinterpret_cast<uint4*>(out)[i] = parts[i];
}

/** Where kernels overlap (gpu.h): waits until the one before has ended and what it wrote can be read. */
__device__ __forceinline__ void afterTheOneBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/** Lets the next kernel start once all blocks have called this or ended: it can load what does not depend on this one, and then waits for its end. */
__device__ __forceinline__ void launchTheNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
/** By approximate reciprocal and exponential, a few units in the last place of float32 each. 0 below -87, where the exact value is below 1.7e-38. */
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ __forceinline__ float sumOfBlock(float x) {
  __shared__ float shared[33];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x < 32) {
    float y = threadIdx.x < blockDim.x / 32 ? shared[threadIdx.x] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) y += __shfl_xor_sync(~0u, y, offset);
    if (threadIdx.x == 0) shared[32] = y;
  }
  __syncthreads();
  return shared[32];
}
/** Turns eight pairs of a head, which are half a head apart, by cos and signed sin; the other way with direction -1. */
template <typename T> __device__ __forceinline__ void turn(const T* in, const T* cos, const T* sin, T* out, long long half, float direction) {
  Eight<T> a = *reinterpret_cast<const Eight<T>*>(in), b = *reinterpret_cast<const Eight<T>*>(in + half), x, y;
  Eight<T> c = *reinterpret_cast<const Eight<T>*>(cos), d = *reinterpret_cast<const Eight<T>*>(cos + half), s = *reinterpret_cast<const Eight<T>*>(sin), t = *reinterpret_cast<const Eight<T>*>(sin + half);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    float p = wide(a.at[k]), q = wide(b.at[k]);
    narrow(x.at[k], p * wide(c.at[k]) + direction * q * wide(s.at[k]));
    narrow(y.at[k], q * wide(d.at[k]) + direction * p * wide(t.at[k]));
  }
  store(out, x);
  store(out + half, y);
}

// ---- SwiGLU: (rows, 2F) -> (rows, F), F a multiple of 8; a thread computes eight ----

/** Where thread `thread` begins in a (rows, F), and in the (rows, 2F) of gates beside ups. A number of eights fits 32 bits: 2^32 of them are 64 GiB in 16 bits. */
struct Gated {
  long long i, at;
  __device__ __forceinline__ Gated(unsigned thread, long long dim) {
    const unsigned eights = static_cast<unsigned>(dim / 8), row = thread / eights;
    i = thread * 8ll;
    at = i + row * dim;
  }
};
template <typename T> __device__ void swigluForward(const T* in, T* out, long long rows, long long dim) {
  const Gated place(blockIdx.x * blockDim.x + threadIdx.x, dim);
  if (place.i >= rows * dim) return;
  const T* row = in + place.at;
  Eight<T> gate = *reinterpret_cast<const Eight<T>*>(row), up = *reinterpret_cast<const Eight<T>*>(row + dim), y;
#pragma unroll
  for (int k = 0; k < 8; k++) { float g = wide(gate.at[k]); narrow(y.at[k], g * sigmoid(g) * wide(up.at[k])); }
  *reinterpret_cast<Eight<T>*>(out + place.i) = y;
}
)cuda";

constexpr const char* gpuKernelSource = R"cuda(
template <typename T> __device__ void swigluBackward(const T* in, const T* dy, T* din, long long rows, long long dim) {
  const Gated place(blockIdx.x * blockDim.x + threadIdx.x, dim);
  if (place.i >= rows * dim) return;
  const long long at = place.at;
  Eight<T> gate = *reinterpret_cast<const Eight<T>*>(in + at), up = *reinterpret_cast<const Eight<T>*>(in + at + dim), d = *reinterpret_cast<const Eight<T>*>(dy + place.i), dGate, dUp;
#pragma unroll
  for (int k = 0; k < 8; k++) {
    float g = wide(gate.at[k]), s = sigmoid(g), gradient = wide(d.at[k]);
    narrow(dGate.at[k], gradient * wide(up.at[k]) * s * (1.0f + g * (1.0f - s)));
    narrow(dUp.at[k], gradient * g * s);
  }
  *reinterpret_cast<Eight<T>*>(din + at) = dGate;
  *reinterpret_cast<Eight<T>*>(din + at + dim) = dUp;
}

// ---- rotary embeddings: heads of E numbers, E a multiple of 16; a block turns a row, a thread eight pairs at a time ----
// qkv (rows, H + 2G, E). cos and sin (T, E), or (rows, E) with `own`; sin signed: - in the first half.

/** Calls one(head, e) for eight pairs, from e on, of each head. */
template <typename F> __device__ __forceinline__ void forPairs(long long heads, long long dim, F one) {
  const int each = static_cast<int>(dim / 16), all = static_cast<int>(heads) * each;
  for (int i = threadIdx.x; i < all; i += blockDim.x) one(i / each, i % each * 8);
}
/** Queries (rows, H, E) and keys (rows, G, E), turned. */
template <typename T>
__device__ void rotateForward(const T* qkv, const T* cos, const T* sin, T* q, T* k, long long length, long long heads, long long groups, long long dim, int own) {
  const long long row = blockIdx.x, turned = (own ? row : blockIdx.x % static_cast<unsigned>(length)) * dim;
  forPairs(heads + groups, dim, [&](int head, int e) {
    T* out = head < heads ? q + (row * heads + head) * dim : k + (row * groups + head - heads) * dim;
    turn(qkv + (row * (heads + 2 * groups) + head) * dim + e, cos + turned + e, sin + turned + e, out + e, dim / 2, 1.0f);
  });
}
/** The gradient of qkv from those of queries, keys (turned back) and values. */
template <typename T>
__device__ void rotateBackward(const T* dq, const T* dk, const T* dv, const T* cos, const T* sin, T* dQkv, long long length, long long heads, long long groups, long long dim, int own) {
  const long long row = blockIdx.x, turned = (own ? row : blockIdx.x % static_cast<unsigned>(length)) * dim, half = dim / 2;
  forPairs(heads + 2 * groups, dim, [&](int head, int e) {
    T* out = dQkv + (row * (heads + 2 * groups) + head) * dim + e;
    if (head >= heads + groups) {
      const T* in = dv + (row * groups + head - heads - groups) * dim + e;
      *reinterpret_cast<Eight<T>*>(out) = *reinterpret_cast<const Eight<T>*>(in);
      *reinterpret_cast<Eight<T>*>(out + half) = *reinterpret_cast<const Eight<T>*>(in + half);
    } else {
      turn((head < heads ? dq + (row * heads + head) * dim : dk + (row * groups + head - heads) * dim) + e, cos + turned + e, sin + turned + e, out, half, -1.0f);
    }
  });
}

// ---- log softmax at one column: a block of 512 threads per row of V logits ----

struct Sums { float most, sum, weighted; };
__device__ __forceinline__ Sums together(Sums a, Sums b) {
  float most = fmaxf(a.most, b.most);
  // The sums are 0 here, or NaN.
  if (most == -infinity()) return {most, a.sum + b.sum, a.weighted + b.weighted};
  float x = __expf(a.most - most), y = __expf(b.most - most);
  return {most, a.sum * x + b.sum * y, a.weighted * x + b.weighted * y};
}
/** sums: of exp(l - most), and of that times l, over a row. */
template <typename T, int threads> __device__ Sums sumsOf(const T* row, long long vocab, float scale) {
  Sums own = {-infinity(), 0.0f, 0.0f};
  auto take = [&](float l) {
    // No probability, and 0 times minus infinity would be NaN.
    if (l == -infinity()) return;
    if (l > own.most) {
      float shrink = __expf(own.most - l);
      own.sum *= shrink;
      own.weighted *= shrink;
      own.most = l;
    }
    float p = __expf(l - own.most);
    own.sum += p;
    own.weighted += p * l;
  };
  if (vocab % 8 == 0) {
    for (long long v = threadIdx.x * 8; v < vocab; v += threads * 8) {
      Eight<T> l = *reinterpret_cast<const Eight<T>*>(row + v);
#pragma unroll
      for (int k = 0; k < 8; k++) take(wide(l.at[k]) * scale);
    }
  } else {
    for (long long v = threadIdx.x; v < vocab; v += threads) take(wide(row[v]) * scale);
  }
  __shared__ Sums shared[threads / 32];
  for (int offset = 16; offset > 0; offset /= 2)
    own = together(own, {__shfl_xor_sync(~0u, own.most, offset), __shfl_xor_sync(~0u, own.sum, offset), __shfl_xor_sync(~0u, own.weighted, offset)});
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < threads / 32; warp++) own = together(own, shared[warp]);
  return own;
}

template <typename T>
__device__ void pickForward(const T* logits, const long long* targets, float* picked, float* lse, float* entropy, long long vocab, float scale) {
  const T* row = logits + blockIdx.x * vocab;
  Sums sums = sumsOf<T, 512>(row, vocab, scale);
  if (threadIdx.x != 0) return;
  long long target = targets[blockIdx.x];
  float l = sums.most + logf(sums.sum);
  lse[blockIdx.x] = l;
  // What is no token has no probability: the loss is then no number, which is noticed.
  picked[blockIdx.x] = target >= 0 && target < vocab ? wide(row[target]) * scale - l : __int_as_float(0x7fffffff);
  if (entropy != nullptr) entropy[blockIdx.x] = l - sums.weighted / sums.sum;
}
/** The gradient of the logits: g (onehot - softmax) scale. */
template <typename T>
__device__ void pickBackward(const T* logits, const long long* targets, const float* lse, const float* gradient, T* out, long long vocab, float scale) {
  const T* row = logits + blockIdx.x * vocab;
  T* to = out + blockIdx.x * vocab;
  float l = lse[blockIdx.x], g = gradient[blockIdx.x] * scale;
  long long target = targets[blockIdx.x];
  if (vocab % 8 == 0) {
    for (long long v = threadIdx.x * 8; v < vocab; v += blockDim.x * 8) {
      Eight<T> x = *reinterpret_cast<const Eight<T>*>(row + v), d;
#pragma unroll
      for (int k = 0; k < 8; k++) narrow(d.at[k], g * ((v + k == target ? 1.0f : 0.0f) - __expf(wide(x.at[k]) * scale - l)));
      *reinterpret_cast<Eight<T>*>(to + v) = d;
    }
    return;
  }
  for (long long v = threadIdx.x; v < vocab; v += blockDim.x) narrow(to[v], g * ((v == target ? 1.0f : 0.0f) - __expf(wide(row[v]) * scale - l)));
}

// ---- one pass over an array, eight numbers per thread and access where its address allows ----

/** Whether arrays at this address can be read 16 bytes at a time. */
__device__ __forceinline__ bool aligned(const void* x) { return reinterpret_cast<unsigned long long>(x) % 16 == 0; }
/** Calls eight(i) for i = 0, 8, 16, ... and one(i) for what is left, or one(i) for all. */
template <typename F, typename G> __device__ __forceinline__ void forAll(long long count, bool byEight, F eight, G one) {
  const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, threads = static_cast<long long>(gridDim.x) * blockDim.x, whole = byEight ? count / 8 * 8 : 0;
  for (long long i = thread * 8; i < whole; i += threads * 8) eight(i);
  for (long long i = whole + thread; i < count; i += threads) one(i);
}

// ---- gradients: their size, and clipping ----

/** The sum of squares of the numbers that a block takes. */
template <typename T> __device__ void squares(const T* x, float* partial, long long count) {
  float sum = 0.0f;
  auto add = [&](T number) { sum += wide(number) * wide(number); };
  forAll(
      count, aligned(x),
      [&](long long i) {
        Eight<T> a = *reinterpret_cast<const Eight<T>*>(x + i);
#pragma unroll
        for (int k = 0; k < 8; k++) add(a.at[k]);
      },
      [&](long long i) { add(x[i]); });
  sum = sumOfBlock(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
/** x factor, where the factor is below 1. */
template <typename T> __device__ void shrink(T* x, const float* factor, long long count) {
  float f = *factor;
  if (!(f < 1.0f)) return;
  forAll(
      count, aligned(x),
      [&](long long i) {
        Eight<T> a = *reinterpret_cast<const Eight<T>*>(x + i);
#pragma unroll
        for (int k = 0; k < 8; k++) narrow(a.at[k], wide(a.at[k]) * f);
        *reinterpret_cast<Eight<T>*>(x + i) = a;
      },
      [&](long long i) { narrow(x[i], wide(x[i]) * f); });
}

// ---- AdamW (engine/optimizer.ts) of float32 masters, by gradients T; bfloat16 weights are written too where there are any ----

template <typename T>
__device__ void adamw(float* master, const T* gradient, float* first, float* second, bf16* weight, long long count, float rate, float beta1, float beta2, float decay, float epsilon, float correction1, float root2) {
  auto step = [&](float& theta, float g, float& m, float& v) {
    m = beta1 * m + (1.0f - beta1) * g;
    v = beta2 * v + (1.0f - beta2) * g * g;
    theta = theta * (1.0f - rate * decay) - rate / correction1 * m / (sqrtf(v) / root2 + epsilon);
  };
  forAll(
      count, aligned(master) && aligned(gradient) && aligned(first) && aligned(second) && aligned(weight),
      [&](long long i) {
        auto *thetas = reinterpret_cast<Eight<float>*>(master + i), *ms = reinterpret_cast<Eight<float>*>(first + i), *vs = reinterpret_cast<Eight<float>*>(second + i);
        Eight<T> g = *reinterpret_cast<const Eight<T>*>(gradient + i);
        Eight<float> theta = *thetas, m = *ms, v = *vs;
#pragma unroll
        for (int k = 0; k < 8; k++) step(theta.at[k], wide(g.at[k]), m.at[k], v.at[k]);
        *thetas = theta;
        *ms = m;
        *vs = v;
        if (weight == nullptr) return;
        Eight<bf16> w;
#pragma unroll
        for (int k = 0; k < 8; k++) narrow(w.at[k], theta.at[k]);
        *reinterpret_cast<Eight<bf16>*>(weight + i) = w;
      },
      [&](long long i) {
        step(master[i], wide(gradient[i]), first[i], second[i]);
        if (weight != nullptr) narrow(weight[i], master[i]);
      });
}

// ---- by dtype ----

#define KERNELS(T, SUFFIX)                                                                                                                                      \
  extern "C" __global__ void swiglu_forward##SUFFIX(const T* in, T* out, long long rows, long long dim) { swigluForward(in, out, rows, dim); }                \
  extern "C" __global__ void swiglu_backward##SUFFIX(const T* in, const T* dy, T* din, long long rows, long long dim) { swigluBackward(in, dy, din, rows, dim); } \
  extern "C" __global__ void rotate_forward##SUFFIX(const T* qkv, const T* cos, const T* sin, T* q, T* k, long long length, long long heads, long long groups, long long dim, int own) { \
    rotateForward(qkv, cos, sin, q, k, length, heads, groups, dim, own);                                                                                 \
  }                                                                                                                                                            \
  extern "C" __global__ void rotate_backward##SUFFIX(const T* dq, const T* dk, const T* dv, const T* cos, const T* sin, T* dQkv, long long length, long long heads, long long groups, long long dim, int own) { \
    rotateBackward(dq, dk, dv, cos, sin, dQkv, length, heads, groups, dim, own);                                                                         \
  }                                                                                                                                                            \
  extern "C" __global__ void pick_forward##SUFFIX(const T* logits, const long long* targets, float* picked, float* lse, float* entropy, long long vocab, float scale) { \
    pickForward(logits, targets, picked, lse, entropy, vocab, scale);                                                                                          \
  }                                                                                                                                                            \
  extern "C" __global__ void pick_backward##SUFFIX(const T* logits, const long long* targets, const float* lse, const float* gradient, T* out, long long vocab, float scale) { \
    pickBackward(logits, targets, lse, gradient, out, vocab, scale);                                                                                           \
  }                                                                                                                                                            \
  extern "C" __global__ void squares##SUFFIX(const T* x, float* partial, long long count) { squares(x, partial, count); }                                     \
  extern "C" __global__ void shrink##SUFFIX(T* x, const float* factor, long long count) { shrink(x, factor, count); }                                         \
  extern "C" __global__ void adamw##SUFFIX(float* master, const T* gradient, float* first, float* second, bf16* weight, long long count, float rate, float beta1, float beta2, float decay, float epsilon, \
                                           float correction1, float root2) {                                                                     \
    adamw(master, gradient, first, second, weight, count, rate, beta1, beta2, decay, epsilon, correction1, root2);                                     \
  }
KERNELS(float, _f32)
KERNELS(bf16, _bf16)
)cuda";
