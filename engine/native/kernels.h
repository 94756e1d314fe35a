// Fused kernels for float32 on the CPU (layers.cc, attention.cc, decoding.cc), registered as operators in the namespace "caravan"; those used in training have
// gradients. They replace several ATen operators by one pass over memory: at the sizes trained on a CPU, a step is bound by memory
// bandwidth.
//
// Rows are independent of one another, so results do not depend on the number of threads.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif
#define SIMD _Pragma("omp simd")

/** e^x, accurate to 2 units in the last place, in a form that compilers vectorise (Cephes' expf). */
inline __attribute__((always_inline)) float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  int32_t whole = static_cast<int32_t>(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
  float n = static_cast<float>(whole);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * __builtin_bit_cast(float, (whole + 127) << 23);
}

/** N floats as one value, at any address. */
template <int N>
struct Vector {
  typedef float type __attribute__((vector_size(4 * N), aligned(4), may_alias));
};

constexpr int64_t lanes = 16;

/** RMSNorm of rows (layers.cc). Writes each row's factor to scale (rows,). */
void rmsForward(const float* x, const float* w, float* y, float* scale, int64_t rows, int64_t dim, float eps);
/** SwiGLU of rows (layers.cc): (rows, 2 dim) -> (rows, dim). */
void swigluForward(const float* in, float* y, int64_t rows, int64_t dim);

/** Queries, keys and values of one token, joined: H query heads, G key heads, G value heads, each of `dim`. */
struct Heads {
  int64_t length, dim, heads, groups;
  int64_t width() const { return (heads + 2 * groups) * dim; }
  int64_t share() const { return heads / groups; }
  int64_t padded() const { return (length + lanes - 1) / lanes * lanes; }
};

/** Copies a head (T, E) out of the joined tensor, rotated unless cos is null, times a factor. `sign` -1 rotates back. */
inline __attribute__((always_inline)) void takeHead(const float* in, int64_t stride, const float* cos, const float* sin, float sign, float factor, float* out, int64_t length, int64_t dim) {
  int64_t half = dim / 2;
  for (int64_t t = 0; t < length; t++, in += stride, out += dim) {
    if (cos == nullptr) {
      for (int64_t e = 0; e < dim; e++) out[e] = in[e] * factor;
      continue;
    }
    const float *c = cos + t * dim, *s = sin + t * dim;
    SIMD for (int64_t e = 0; e < half; e++) {
      out[e] = (in[e] * c[e] + sign * in[half + e] * s[e]) * factor;
      out[half + e] = (in[half + e] * c[half + e] + sign * in[e] * s[half + e]) * factor;
    }
  }
}
