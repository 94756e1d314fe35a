// Fused kernels for float32 on the CPU, registered as operators of the namespace "caravan", each with its gradient. They do what a handful of
// ATen operators do, in one pass over memory: at the sizes that a CPU trains, a step is bound by those passes.
//
// Rows are independent of one another, so results do not depend on the number of threads.
#include <ATen/Parallel.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif
#define SIMD _Pragma("omp simd")

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

/** e^x to 2 units in the last place, in a form that compilers vectorise (Cephes' expf). */
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

// ---- RMSNorm: y = x w / sqrt(mean(x^2) + eps) ------------------------------------------------------------------------------------------

VECTORISED void rmsForward(const float* x, const float* w, float* y, float* scale, int64_t rows, int64_t dim, float eps) {
  for (int64_t i = 0; i < rows; i++, x += dim, y += dim) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; d++) sum += x[d] * x[d];
    float s = scale[i] = 1.0f / std::sqrt(sum / dim + eps);
    SIMD for (int64_t d = 0; d < dim; d++) y[d] = x[d] * s * w[d];
  }
}

/** dx = s (g - x s^2 mean(g x)) with g = dy w; dw += dy x s. */
VECTORISED void rmsBackward(const float* x, const float* w, const float* scale, const float* dy, float* dx, float* dw, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows; i++, x += dim, dy += dim, dx += dim) {
    float dot = 0, s = scale[i];
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < dim; d++) dot += dy[d] * w[d] * x[d];
    float c = dot * s * s / dim;
    SIMD for (int64_t d = 0; d < dim; d++) {
      dx[d] = s * (dy[d] * w[d] - x[d] * c);
      dw[d] += dy[d] * x[d] * s;
    }
  }
}

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight, double eps) {
    Tensor x = input.contiguous(), y = at::empty_like(x);
    int64_t dim = x.size(-1), rows = x.numel() / dim;
    Tensor scale = at::empty({rows}, x.options());
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) {
      rmsForward(x.data_ptr<float>() + a * dim, weight.data_ptr<float>(), y.data_ptr<float>() + a * dim, scale.data_ptr<float>() + a, b - a, dim, eps);
    });
    context->save_for_backward({x, weight, scale});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    Tensor dy = gradients[0].contiguous(), dx = at::empty_like(saved[0]), dw = at::zeros_like(saved[1]);
    int64_t dim = dy.size(-1), rows = dy.numel() / dim;
    // One thread: the weight's gradient is a sum over rows, whose order must not depend on the number of threads.
    rmsBackward(saved[0].data_ptr<float>(), saved[1].data_ptr<float>(), saved[2].data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>(), dw.data_ptr<float>(), rows, dim);
    return {dx, dw, Tensor()};
  }
};

// ---- SwiGLU: y = silu(gate) up, of (..., 2F) -------------------------------------------------------------------------------------------

VECTORISED void swigluForward(const float* in, float* y, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows; i++, in += 2 * dim, y += dim) {
    SIMD for (int64_t d = 0; d < dim; d++) y[d] = in[d] / (1.0f + exponential(-in[d])) * in[dim + d];
  }
}
VECTORISED void swigluBackward(const float* in, const float* dy, float* din, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows; i++, in += 2 * dim, din += 2 * dim, dy += dim) {
    SIMD for (int64_t d = 0; d < dim; d++) {
      float g = in[d], sigmoid = 1.0f / (1.0f + exponential(-g));
      din[d] = dy[d] * in[dim + d] * sigmoid * (1.0f + g * (1.0f - sigmoid));
      din[dim + d] = dy[d] * g * sigmoid;
    }
  }
}

struct SwiGlu : Function<SwiGlu> {
  static Tensor forward(AutogradContext* context, const Tensor& input) {
    Tensor x = input.contiguous();
    auto shape = x.sizes().vec();
    int64_t dim = shape.back() /= 2, rows = x.numel() / (2 * dim);
    Tensor y = at::empty(shape, x.options());
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) { swigluForward(x.data_ptr<float>() + a * 2 * dim, y.data_ptr<float>() + a * dim, b - a, dim); });
    context->save_for_backward({x});
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    Tensor x = context->get_saved_variables()[0], dy = gradients[0].contiguous(), dx = at::empty_like(x);
    int64_t dim = x.size(-1) / 2, rows = x.numel() / (2 * dim);
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) {
      swigluBackward(x.data_ptr<float>() + a * 2 * dim, dy.data_ptr<float>() + a * dim, dx.data_ptr<float>() + a * 2 * dim, b - a, dim);
    });
    return {dx};
  }
};

// ---- cross-entropy, summed: logits (N, V), targets (N,) --------------------------------------------------------------------------------

/** The loss of each row, and log(sum(exp(logits))). */
VECTORISED void entropyForward(const float* logits, const int64_t* targets, float* loss, float* lse, int64_t rows, int64_t vocab) {
  for (int64_t i = 0; i < rows; i++, logits += vocab) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < vocab; v++) most = logits[v] > most ? logits[v] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < vocab; v++) sum += exponential(logits[v] - most);
    lse[i] = most + std::log(sum);
    loss[i] = lse[i] - logits[targets[i]];
  }
}
VECTORISED void entropyBackward(const float* logits, const int64_t* targets, const float* lse, float* out, float gradient, int64_t rows, int64_t vocab) {
  for (int64_t i = 0; i < rows; i++, logits += vocab, out += vocab) {
    float l = lse[i];
    SIMD for (int64_t v = 0; v < vocab; v++) out[v] = gradient * exponential(logits[v] - l);
    out[targets[i]] -= gradient;
  }
}

struct CrossEntropy : Function<CrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& targets) {
    Tensor logits = input.contiguous(), ids = targets.contiguous();
    int64_t rows = logits.size(0), vocab = logits.size(1);
    TORCH_CHECK(ids.dim() == 1 && ids.size(0) == rows, "targets must be one for each row of logits");
    if (rows > 0) {
      int64_t least = ids.min().item<int64_t>(), most = ids.max().item<int64_t>();
      TORCH_CHECK(least >= 0 && most < vocab, "target ", least < 0 ? least : most, " is out of bounds of ", vocab, " logits");
    }
    Tensor loss = at::empty({rows}, logits.options()), lse = at::empty({rows}, logits.options());
    at::parallel_for(0, rows, 16, [&](int64_t a, int64_t b) {
      entropyForward(logits.data_ptr<float>() + a * vocab, ids.data_ptr<int64_t>() + a, loss.data_ptr<float>() + a, lse.data_ptr<float>() + a, b - a, vocab);
    });
    context->save_for_backward({logits, ids, lse});
    return loss.sum();
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    Tensor out = at::empty_like(saved[0]);
    float gradient = gradients[0].item<float>();
    int64_t rows = out.size(0), vocab = out.size(1);
    at::parallel_for(0, rows, 16, [&](int64_t a, int64_t b) {
      entropyBackward(saved[0].data_ptr<float>() + a * vocab, saved[1].data_ptr<int64_t>() + a, saved[2].data_ptr<float>() + a, out.data_ptr<float>() + a * vocab, gradient, b - a, vocab);
    });
    return {out, Tensor()};
  }
};

// ---- causal attention with rotary embeddings, of joined queries, keys and values -------------------------------------------------------
//
// qkv (B, T, (H + 2G) E) as one linear layer gives it: H query heads, G key heads, G value heads. Query i of a sequence sees keys
// starts[i] .. i. Gives (B, T, H E). Scores are never stored: the backward pass computes them again, row block by row block.

constexpr int64_t blockRows = 4, lanes = 16;

/** N floats as one value, at any address. */
template <int N>
struct Vector {
  typedef float type __attribute__((vector_size(4 * N), aligned(4), may_alias));
};

/** out (R x J) = a (R x E) times bT (E x stride), for J a multiple of `lanes`. */
inline __attribute__((always_inline)) void timesTransposed(const float* a, const float* bT, float* out, int64_t columns, int64_t dim, int64_t stride) {
  typedef Vector<lanes>::type vector;
  for (int64_t j = 0; j < columns; j += lanes) {
    vector s0 = {}, s1 = {}, s2 = {}, s3 = {};
    for (int64_t e = 0; e < dim; e++) {
      vector b = *reinterpret_cast<const vector*>(bT + e * stride + j);
      s0 += a[e] * b;
      s1 += a[dim + e] * b;
      s2 += a[2 * dim + e] * b;
      s3 += a[3 * dim + e] * b;
    }
    *reinterpret_cast<vector*>(out + j) = s0;
    *reinterpret_cast<vector*>(out + stride + j) = s1;
    *reinterpret_cast<vector*>(out + 2 * stride + j) = s2;
    *reinterpret_cast<vector*>(out + 3 * stride + j) = s3;
  }
}

/** N columns of out (R x E) += a (R x J) times b (J x E). */
template <int N>
inline __attribute__((always_inline)) void timesColumns(const float* a, const float* b, float* out, int64_t from, int64_t to, int64_t dim, int64_t stride) {
  typedef typename Vector<N>::type vector;
  vector s0 = {}, s1 = {}, s2 = {}, s3 = {};
  for (int64_t j = from; j < to; j++) {
    vector row = *reinterpret_cast<const vector*>(b + j * dim);
    s0 += a[j] * row;
    s1 += a[stride + j] * row;
    s2 += a[2 * stride + j] * row;
    s3 += a[3 * stride + j] * row;
  }
  *reinterpret_cast<vector*>(out) += s0;
  *reinterpret_cast<vector*>(out + dim) += s1;
  *reinterpret_cast<vector*>(out + 2 * dim) += s2;
  *reinterpret_cast<vector*>(out + 3 * dim) += s3;
}
/** out (R x E) += a (R x J) times b (J x E). */
inline __attribute__((always_inline)) void times(const float* a, const float* b, float* out, int64_t from, int64_t to, int64_t dim, int64_t stride) {
  int64_t e = 0;
  for (; e + 16 <= dim; e += 16) timesColumns<16>(a, b + e, out + e, from, to, dim, stride);
  for (; e + 8 <= dim; e += 8) timesColumns<8>(a, b + e, out + e, from, to, dim, stride);
  for (; e + 2 <= dim; e += 2) timesColumns<2>(a, b + e, out + e, from, to, dim, stride);
}

/** N columns of out (J x E) += a (R x J) transposed times b (R x E). */
template <int N>
inline __attribute__((always_inline)) void transposedTimesColumns(const float* a, const float* b, float* out, int64_t from, int64_t to, int64_t dim, int64_t stride) {
  typedef typename Vector<N>::type vector;
  vector b0 = *reinterpret_cast<const vector*>(b), b1 = *reinterpret_cast<const vector*>(b + dim), b2 = *reinterpret_cast<const vector*>(b + 2 * dim), b3 = *reinterpret_cast<const vector*>(b + 3 * dim);
  for (int64_t j = from; j < to; j++) *reinterpret_cast<vector*>(out + j * dim) += a[j] * b0 + a[stride + j] * b1 + a[2 * stride + j] * b2 + a[3 * stride + j] * b3;
}
/** out (J x E) += a (R x J) transposed times b (R x E). */
inline __attribute__((always_inline)) void transposedTimes(const float* a, const float* b, float* out, int64_t from, int64_t to, int64_t dim, int64_t stride) {
  int64_t e = 0;
  for (; e + 16 <= dim; e += 16) transposedTimesColumns<16>(a, b + e, out + e, from, to, dim, stride);
  for (; e + 8 <= dim; e += 8) transposedTimesColumns<8>(a, b + e, out + e, from, to, dim, stride);
  for (; e + 2 <= dim; e += 2) transposedTimesColumns<2>(a, b + e, out + e, from, to, dim, stride);
}

/** A head out of the joined tensor: (T, E), turned unless cos is null, times a factor. `sign` -1 turns back. */
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
/** The gradient of a turned head, turned back and stored into the joined gradient. */
inline __attribute__((always_inline)) void storeHead(const float* in, const float* cos, const float* sin, float factor, float* out, int64_t stride, int64_t length, int64_t dim) {
  int64_t half = dim / 2;
  for (int64_t t = 0; t < length; t++, in += dim, out += stride) {
    if (cos == nullptr) {
      for (int64_t e = 0; e < dim; e++) out[e] = in[e] * factor;
      continue;
    }
    const float *c = cos + t * dim, *s = sin + t * dim;
    for (int64_t e = 0; e < half; e++) {
      out[e] = (in[e] * c[e] - in[half + e] * s[e]) * factor;
      out[half + e] = (in[half + e] * c[half + e] - in[e] * s[half + e]) * factor;
    }
  }
}
inline __attribute__((always_inline)) void transpose(const float* in, float* out, int64_t length, int64_t dim, int64_t stride) {
  for (int64_t t = 0; t < length; t++)
    for (int64_t e = 0; e < dim; e++) out[e * stride + t] = in[t * dim + e];
}

struct Heads {
  int64_t length, dim, heads, groups;
  int64_t width() const { return (heads + 2 * groups) * dim; }
  int64_t share() const { return heads / groups; }
  int64_t padded() const { return (length + lanes - 1) / lanes * lanes; }
};

/** One group of one sequence: its query heads against its one key and value head. lse (share, T). */
VECTORISED void attendForward(const Heads& shape, const float* qkv, const float* cos, const float* sin, const int64_t* starts, int64_t group, float* out, float* lse, float* scratch) {
  int64_t T = shape.length, E = shape.dim, P = shape.padded(), W = shape.width(), share = shape.share();
  float scale = 1.0f / std::sqrt(static_cast<float>(E));
  float *q = scratch, *k = q + (T + blockRows) * E, *kT = k + T * E, *v = kT + E * P, *s = v + T * E, *o = s + blockRows * P;
  takeHead(qkv + (shape.heads + group) * E, W, cos, sin, 1, 1, k, T, E);
  takeHead(qkv + (shape.heads + shape.groups + group) * E, W, nullptr, nullptr, 1, 1, v, T, E);
  std::memset(kT, 0, sizeof(float) * E * P);
  transpose(k, kT, T, E, P);
  for (int64_t h = 0; h < share; h++) {
    int64_t head = group * share + h;
    takeHead(qkv + head * E, W, cos, sin, 1, scale, q, T, E);
    std::memset(q + T * E, 0, sizeof(float) * blockRows * E);
    for (int64_t i0 = 0; i0 < T; i0 += blockRows) {
      int64_t rows = T - i0 < blockRows ? T - i0 : blockRows, to = i0 + rows;
      timesTransposed(q + i0 * E, kT, s, (to + lanes - 1) / lanes * lanes, E, P);
      int64_t first = to;
      for (int64_t r = 0; r < blockRows; r++) {
        float* row = s + r * P;
        if (r >= rows) {
          std::memset(row, 0, sizeof(float) * to);
          continue;
        }
        int64_t i = i0 + r, a = starts == nullptr ? 0 : starts[i];
        if (a > i) a = i;
        if (a < first) first = a;
        float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
        for (int64_t j = a; j <= i; j++) most = row[j] > most ? row[j] : most;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = a; j <= i; j++) {
          row[j] = exponential(row[j] - most);
          sum += row[j];
        }
        float inverse = 1.0f / sum;
        SIMD for (int64_t j = a; j <= i; j++) row[j] *= inverse;
        for (int64_t j = 0; j < a; j++) row[j] = 0;
        for (int64_t j = i + 1; j < to; j++) row[j] = 0;
        lse[h * T + i] = most + std::log(sum);
      }
      std::memset(o, 0, sizeof(float) * blockRows * E);
      times(s, v, o, first, to, E, P);
      for (int64_t r = 0; r < rows; r++) std::memcpy(out + ((i0 + r) * shape.heads + head) * E, o + r * E, sizeof(float) * E);
    }
  }
}

VECTORISED void attendBackward(const Heads& shape, const float* qkv, const float* cos, const float* sin, const int64_t* starts, int64_t group, const float* out, const float* lse, const float* dOut, float* dQkv, float* scratch) {
  int64_t T = shape.length, E = shape.dim, P = shape.padded(), W = shape.width(), share = shape.share();
  float scale = 1.0f / std::sqrt(static_cast<float>(E));
  float *q = scratch, *k = q + (T + blockRows) * E, *kT = k + T * E, *v = kT + E * P, *vT = v + T * E, *dq = vT + E * P, *dk = dq + (T + blockRows) * E, *dv = dk + T * E, *p = dv + T * E, *ds = p + blockRows * P, *dO = ds + blockRows * P;
  takeHead(qkv + (shape.heads + group) * E, W, cos, sin, 1, 1, k, T, E);
  takeHead(qkv + (shape.heads + shape.groups + group) * E, W, nullptr, nullptr, 1, 1, v, T, E);
  std::memset(kT, 0, sizeof(float) * E * P);
  std::memset(vT, 0, sizeof(float) * E * P);
  transpose(k, kT, T, E, P);
  transpose(v, vT, T, E, P);
  std::memset(dk, 0, sizeof(float) * T * E);
  std::memset(dv, 0, sizeof(float) * T * E);
  for (int64_t h = 0; h < share; h++) {
    int64_t head = group * share + h;
    takeHead(qkv + head * E, W, cos, sin, 1, scale, q, T, E);
    std::memset(q + T * E, 0, sizeof(float) * blockRows * E);
    std::memset(dq, 0, sizeof(float) * (T + blockRows) * E);
    for (int64_t i0 = 0; i0 < T; i0 += blockRows) {
      int64_t rows = T - i0 < blockRows ? T - i0 : blockRows, to = i0 + rows, columns = (to + lanes - 1) / lanes * lanes;
      std::memset(dO, 0, sizeof(float) * blockRows * E);
      for (int64_t r = 0; r < rows; r++) std::memcpy(dO + r * E, dOut + ((i0 + r) * shape.heads + head) * E, sizeof(float) * E);
      timesTransposed(q + i0 * E, kT, p, columns, E, P);
      timesTransposed(dO, vT, ds, columns, E, P);
      int64_t first = to;
      for (int64_t r = 0; r < blockRows; r++) {
        float *pr = p + r * P, *dr = ds + r * P;
        if (r >= rows) {
          std::memset(pr, 0, sizeof(float) * to);
          std::memset(dr, 0, sizeof(float) * to);
          continue;
        }
        int64_t i = i0 + r, a = starts == nullptr ? 0 : starts[i];
        if (a > i) a = i;
        if (a < first) first = a;
        const float* o = out + (i * shape.heads + head) * E;
        float dot = 0, l = lse[h * T + i];
        for (int64_t e = 0; e < E; e++) dot += o[e] * dO[r * E + e];
        SIMD for (int64_t j = a; j <= i; j++) {
          pr[j] = exponential(pr[j] - l);
          dr[j] = pr[j] * (dr[j] - dot);
        }
        for (int64_t j = 0; j < a; j++) pr[j] = dr[j] = 0;
        for (int64_t j = i + 1; j < to; j++) pr[j] = dr[j] = 0;
      }
      times(ds, k, dq + i0 * E, first, to, E, P);
      transposedTimes(ds, q + i0 * E, dk, first, to, E, P);
      transposedTimes(p, dO, dv, first, to, E, P);
    }
    // q carries the scale, so dk has it already.
    storeHead(dq, cos, sin, scale, dQkv + head * E, W, T, E);
  }
  storeHead(dk, cos, sin, 1, dQkv + (shape.heads + group) * E, W, T, E);
  storeHead(dv, nullptr, nullptr, 1, dQkv + (shape.heads + shape.groups + group) * E, W, T, E);
}

struct Attention : Function<Attention> {
  /** cos and sin (T, E) or (B, T, E), sin signed (- in the first half); starts (B, T) int64 or undefined. */
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& cosines, const Tensor& sines, const c10::optional<Tensor>& startsOf, int64_t heads, int64_t groups) {
    Tensor qkv = input.contiguous(), cos = cosines.contiguous(), sin = sines.contiguous(), starts = startsOf.has_value() ? startsOf->contiguous() : Tensor();
    int64_t batch = qkv.size(0), length = qkv.size(1), dim = qkv.size(2) / (heads + 2 * groups);
    TORCH_CHECK(cos.size(-1) == dim && cos.size(-2) == length, "cos must be (..., T, E)");
    Heads shape{length, dim, heads, groups};
    Tensor out = at::empty({batch, length, heads * dim}, qkv.options()), lse = at::empty({batch, heads, length}, qkv.options());
    bool own = cos.dim() == 3;
    int64_t P = shape.padded();
    at::parallel_for(0, batch * groups, 1, [&](int64_t from, int64_t to) {
      std::vector<float> scratch((length + blockRows) * dim + 2 * length * dim + dim * P + blockRows * (P + dim));
      for (int64_t n = from; n < to; n++) {
        int64_t b = n / groups, g = n % groups, turn = own ? b * length * dim : 0;
        attendForward(shape, qkv.data_ptr<float>() + b * length * shape.width(), cos.data_ptr<float>() + turn, sin.data_ptr<float>() + turn, starts.defined() ? starts.data_ptr<int64_t>() + b * length : nullptr, g,
                      out.data_ptr<float>() + b * length * heads * dim, lse.data_ptr<float>() + (b * heads + g * shape.share()) * length, scratch.data());
      }
    });
    context->save_for_backward({qkv, cos, sin, starts, out, lse});
    context->saved_data["heads"] = heads;
    context->saved_data["groups"] = groups;
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    const Tensor &qkv = saved[0], &cos = saved[1], &sin = saved[2], &starts = saved[3], &out = saved[4], &lse = saved[5];
    int64_t heads = context->saved_data["heads"].toInt(), groups = context->saved_data["groups"].toInt();
    int64_t batch = qkv.size(0), length = qkv.size(1), dim = qkv.size(2) / (heads + 2 * groups);
    Heads shape{length, dim, heads, groups};
    Tensor dOut = gradients[0].contiguous(), dQkv = at::empty_like(qkv);
    bool own = cos.dim() == 3;
    int64_t P = shape.padded();
    at::parallel_for(0, batch * groups, 1, [&](int64_t from, int64_t to) {
      std::vector<float> scratch(2 * (length + blockRows) * dim + 4 * length * dim + 2 * dim * P + blockRows * (2 * P + dim));
      for (int64_t n = from; n < to; n++) {
        int64_t b = n / groups, g = n % groups, turn = own ? b * length * dim : 0;
        attendBackward(shape, qkv.data_ptr<float>() + b * length * shape.width(), cos.data_ptr<float>() + turn, sin.data_ptr<float>() + turn, starts.defined() ? starts.data_ptr<int64_t>() + b * length : nullptr, g,
                       out.data_ptr<float>() + b * length * heads * dim, lse.data_ptr<float>() + (b * heads + g * shape.share()) * length, dOut.data_ptr<float>() + b * length * heads * dim,
                       dQkv.data_ptr<float>() + b * length * shape.width(), scratch.data());
      }
    });
    return {dQkv, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// ---- one token more: attention against a cache -----------------------------------------------------------------------------------------

inline __attribute__((always_inline)) float dotProduct(const float* a, const float* b, int64_t dim) {
  typedef Vector<8>::type vector;
  vector sum = {};
  int64_t e = 0;
  for (; e + 8 <= dim; e += 8) sum += *reinterpret_cast<const vector*>(a + e) * *reinterpret_cast<const vector*>(b + e);
  float out = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
  for (; e < dim; e++) out += a[e] * b[e];
  return out;
}
/** N columns of out (E,) = factor weights (J,) times values (J x E). */
template <int N>
inline __attribute__((always_inline)) void weightedColumns(const float* weights, const float* values, float* out, int64_t from, int64_t to, int64_t dim, float factor) {
  typedef typename Vector<N>::type vector;
  vector even = {}, odd = {};
  int64_t j = from;
  for (; j + 2 <= to; j += 2) {
    even += weights[j] * *reinterpret_cast<const vector*>(values + j * dim);
    odd += weights[j + 1] * *reinterpret_cast<const vector*>(values + (j + 1) * dim);
  }
  if (j < to) even += weights[j] * *reinterpret_cast<const vector*>(values + j * dim);
  *reinterpret_cast<vector*>(out) = (even + odd) * factor;
}

/** One group of one sequence: writes the new key and value at `at`, then each query head looks at keys first .. at. cos and sin (E,). */
VECTORISED void attendCached(const Heads& shape, const float* qkv, const float* cos, const float* sin, float* keys, float* values, int64_t first, int64_t at, int64_t group, float* out, float* scratch) {
  int64_t E = shape.dim, share = shape.share();
  float scale = 1.0f / std::sqrt(static_cast<float>(E));
  float *q = scratch, *s = q + E;
  takeHead(qkv + (shape.heads + group) * E, 0, cos, sin, 1, 1, keys + at * E, 1, E);
  std::memcpy(values + at * E, qkv + (shape.heads + shape.groups + group) * E, sizeof(float) * E);
  for (int64_t h = 0; h < share; h++) {
    int64_t head = group * share + h;
    takeHead(qkv + head * E, 0, cos, sin, 1, scale, q, 1, E);
    float most = -INFINITY, sum = 0;
    for (int64_t j = first; j <= at; j++) {
      // The values are wanted next, and come from far away: the cache of a batch is larger than the processor's.
      for (int64_t e = 0; e < E; e += lanes) __builtin_prefetch(values + j * E + e);
      s[j] = dotProduct(q, keys + j * E, E);
    }
#pragma omp simd reduction(max : most)
    for (int64_t j = first; j <= at; j++) most = s[j] > most ? s[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = first; j <= at; j++) {
      s[j] = exponential(s[j] - most);
      sum += s[j];
    }
    float* o = out + head * E;
    int64_t e = 0;
    for (; e + 16 <= E; e += 16) weightedColumns<16>(s, values + e, o + e, first, at + 1, E, 1.0f / sum);
    for (; e + 8 <= E; e += 8) weightedColumns<8>(s, values + e, o + e, first, at + 1, E, 1.0f / sum);
    for (; e + 2 <= E; e += 2) weightedColumns<2>(s, values + e, o + e, first, at + 1, E, 1.0f / sum);
  }
}

// ---- linear layers without gradients, of weights packed for it ------------------------------------------------------------------------
//
// A weight (N, K) comes as panels of 32 rows, transposed: (ceil(N / 32), K, 32), zeros beyond N. Products read it from front to back; the BLAS
// would bring it into such an order in every call, which at the batches of decoding costs as much as the product.

constexpr int64_t panel = 32;

/** R rows of x (R x K) times one panel, plus what is to be added, into `width` columns of out. */
template <int R>
inline __attribute__((always_inline)) void packedRows(const float* x, const float* w, const float* added, float* out, int64_t dim, int64_t columns, int64_t width) {
  typedef Vector<lanes>::type vector;
  vector low[R] = {}, high[R] = {};
  for (int64_t k = 0; k < dim; k++, w += panel) {
    vector w0 = *reinterpret_cast<const vector*>(w), w1 = *reinterpret_cast<const vector*>(w + lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      low[r] += x[r * dim + k] * w0;
      high[r] += x[r * dim + k] * w1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    float sums[panel];
    *reinterpret_cast<vector*>(sums) = low[r];
    *reinterpret_cast<vector*>(sums + lanes) = high[r];
    for (int64_t n = 0; n < width; n++) out[r * columns + n] = sums[n] + (added == nullptr ? 0 : added[r * columns + n]);
  }
}
VECTORISED void packedPanel(const float* x, const float* w, const float* added, float* out, int64_t rows, int64_t dim, int64_t columns, int64_t width) {
  for (int64_t i = 0; i < rows;) {
    const float* plus = added == nullptr ? nullptr : added + i * columns;
    if (i + 8 <= rows) packedRows<8>(x + i * dim, w, plus, out + i * columns, dim, columns, width), i += 8;
    else if (i + 4 <= rows) packedRows<4>(x + i * dim, w, plus, out + i * columns, dim, columns, width), i += 4;
    else packedRows<1>(x + i * dim, w, plus, out + i * columns, dim, columns, width), i += 1;
  }
}

/** x (..., K), a packed weight of `columns` rows, added (..., columns) or undefined: x weight^T + added. No gradient. */
Tensor packedLinear(const Tensor& input, const Tensor& packed, const c10::optional<Tensor>& added, int64_t columns) {
  Tensor x = input.contiguous();
  int64_t dim = x.size(-1), rows = x.numel() / dim;
  TORCH_CHECK(packed.dim() == 3 && packed.size(0) == (columns + panel - 1) / panel && packed.size(1) == dim && packed.size(2) == panel && packed.is_contiguous(), "a weight for ", dim, " columns must be packed as (", (columns + panel - 1) / panel, ", ", dim,
              ", ", panel, "), got ", packed.sizes());
  auto shape = x.sizes().vec();
  shape.back() = columns;
  Tensor out = at::empty(shape, x.options()), plus = added.has_value() ? added->contiguous() : Tensor();
  TORCH_CHECK(!plus.defined() || plus.sizes() == out.sizes(), "what is added must be of the result's shape ", out.sizes(), ", got ", plus.sizes());
  at::parallel_for(0, packed.size(0), 8, [&](int64_t from, int64_t to) {
    for (int64_t n = from; n < to; n++) {
      int64_t at = n * panel;
      packedPanel(x.data_ptr<float>(), packed.data_ptr<float>() + at * dim, plus.defined() ? plus.data_ptr<float>() + at : nullptr, out.data_ptr<float>() + at, rows, dim, columns, std::min(panel, columns - at));
    }
  });
  return out;
}

/** exp(logits / T - most) into out, minus infinity to exactly 0; returns the greatest logit / T. */
VECTORISED float weigh(const float* logits, float inverse, float* out, int64_t vocab) {
  float most = -INFINITY;
#pragma omp simd reduction(max : most)
  for (int64_t v = 0; v < vocab; v++) most = logits[v] > most ? logits[v] : most;
  most *= inverse;
  SIMD for (int64_t v = 0; v < vocab; v++) {
    float x = logits[v] * inverse;
    float e = exponential(x - most);
    out[v] = x == -INFINITY ? 0.0f : e;
  }
  return most;
}

constexpr int64_t drawBlock = 64;
VECTORISED double sumOf(const float* values, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; i++) sum += values[i];
  return sum;
}

/**
 * One token a row by the inverse of the cumulative distribution: the first whose cumulative probability exceeds the row's uniform number.
 * logits (B, V), uniform (B,) float64 in [0, 1) -> (B, 2) float64: token, log-probability under softmax(logits / temperature).
 */
Tensor draw(const Tensor& logits, double temperature, const Tensor& uniform) {
  int64_t batch = logits.size(0), vocab = logits.size(1);
  TORCH_CHECK(logits.is_contiguous() && uniform.numel() == batch && uniform.scalar_type() == at::kDouble, "draw takes contiguous logits (B, V) and uniform (B,) float64");
  Tensor out = at::empty({batch, 2}, uniform.options());
  std::vector<float> weights(vocab);
  std::vector<double> blockSums(vocab / drawBlock + 1);
  for (int64_t b = 0; b < batch; b++) {
    const float* row = logits.data_ptr<float>() + b * vocab;
    float inverse = static_cast<float>(1.0 / temperature), most = weigh(row, inverse, weights.data(), vocab);
    double sum = 0, running = 0;
    int64_t chosen = -1, blocks = (vocab + drawBlock - 1) / drawBlock;
    for (int64_t n = 0; n < blocks; n++) sum += blockSums[n] = sumOf(weights.data() + n * drawBlock, std::min(drawBlock, vocab - n * drawBlock));
    // First the block that holds the threshold, then the token within it.
    double threshold = uniform.data_ptr<double>()[b] * sum;
    for (int64_t n = 0; n < blocks; n++) {
      if (running + blockSums[n] <= threshold && n + 1 < blocks) {
        running += blockSums[n];
        continue;
      }
      for (int64_t v = n * drawBlock; v < std::min(vocab, (n + 1) * drawBlock); v++) {
        if (weights[v] == 0) continue;
        chosen = v;
        running += weights[v];
        if (running > threshold) break;
      }
      // Rounding may leave the threshold just past this block: then the next token that can be drawn is meant.
      if (chosen >= 0 && running > threshold) break;
    }
    // At the very end of the distribution: the last token that can be drawn.
    for (int64_t v = vocab - 1; chosen < 0 && v >= 0; v--)
      if (weights[v] > 0) chosen = v;
    TORCH_CHECK(chosen >= 0, "no token has a probability above 0 (are the logits numbers?)");
    out.data_ptr<double>()[2 * b] = static_cast<double>(chosen);
    out.data_ptr<double>()[2 * b + 1] = static_cast<double>(row[chosen] * inverse - most) - std::log(sum);
  }
  return out;
}

/**
 * One block of a Llama on one token a sequence: x (B, D) -> (B, D); keys and values (B, G, S, E) get the token's at `at`. cos and sin (1, E) or
 * (B, E); first (B,) int64: the first key each sequence sees. The four weights are packed.
 */
Tensor decodeBlock(const Tensor& x, const Tensor& attentionNorm, const Tensor& qkvWeight, const Tensor& oWeight, const Tensor& ffnNorm, const Tensor& gateUpWeight, const Tensor& downWeight, Tensor keys, Tensor values,
                   const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& first, int64_t at, int64_t heads, double eps) {
  int64_t batch = x.size(0), groups = keys.size(1), capacity = keys.size(2), E = keys.size(3), D = x.size(1);
  TORCH_CHECK(at >= 0 && at < capacity, "the cache holds ", capacity, " tokens; there is no place ", at);
  TORCH_CHECK(x.is_contiguous() && keys.is_contiguous() && values.is_contiguous() && cos.is_contiguous() && sin.is_contiguous(), "decode_block takes contiguous tensors");
  auto norm = [&](const Tensor& in, const Tensor& weight) {
    Tensor out = at::empty_like(in), scale = at::empty({batch}, in.options());
    rmsForward(in.data_ptr<float>(), weight.data_ptr<float>(), out.data_ptr<float>(), scale.data_ptr<float>(), batch, D, eps);
    return out;
  };
  Heads shape{1, E, heads, groups};
  Tensor qkv = packedLinear(norm(x, attentionNorm), qkvWeight, c10::nullopt, (heads + 2 * groups) * E);
  Tensor attended = at::empty({batch, heads * E}, x.options());
  int64_t turn = cos.size(0) == 1 ? 0 : E;
  const int64_t* firsts = first.has_value() ? first->data_ptr<int64_t>() : nullptr;
  at::parallel_for(0, batch * groups, 16, [&](int64_t from, int64_t to) {
    std::vector<float> scratch(E + at + 1);
    for (int64_t n = from; n < to; n++) {
      int64_t b = n / groups, g = n % groups;
      attendCached(shape, qkv.data_ptr<float>() + b * shape.width(), cos.data_ptr<float>() + b * turn, sin.data_ptr<float>() + b * turn, keys.data_ptr<float>() + n * capacity * E, values.data_ptr<float>() + n * capacity * E,
                   firsts == nullptr ? 0 : firsts[b], at, g, attended.data_ptr<float>() + b * heads * E, scratch.data());
    }
  });
  Tensor middle = packedLinear(attended, oWeight, x, D);
  int64_t F = downWeight.size(1);
  Tensor gateUp = packedLinear(norm(middle, ffnNorm), gateUpWeight, c10::nullopt, 2 * F);
  Tensor gated = at::empty({batch, F}, x.options());
  swigluForward(gateUp.data_ptr<float>(), gated.data_ptr<float>(), batch, F);
  return packedLinear(gated, downWeight, middle, D);
}

TORCH_LIBRARY(caravan, library) {
  library.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", [](const Tensor& x, const Tensor& weight, double eps) { return RmsNorm::apply(x, weight, eps); });
  library.def("swiglu(Tensor x) -> Tensor", [](const Tensor& x) { return SwiGlu::apply(x); });
  library.def("cross_entropy_sum(Tensor logits, Tensor targets) -> Tensor", [](const Tensor& logits, const Tensor& targets) { return CrossEntropy::apply(logits, targets); });
  library.def("attention(Tensor qkv, Tensor cos, Tensor sin, Tensor? starts, int heads, int groups) -> Tensor",
              [](const Tensor& qkv, const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& starts, int64_t heads, int64_t groups) { return Attention::apply(qkv, cos, sin, starts, heads, groups); });
  library.def("decode_block(Tensor x, Tensor attention_norm, Tensor qkv, Tensor o, Tensor ffn_norm, Tensor gate_up, Tensor down, Tensor keys, Tensor values, Tensor cos, Tensor sin, Tensor? first, int at, int heads, float eps) -> Tensor",
              decodeBlock);
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? added, int columns) -> Tensor", packedLinear);
  library.def("draw(Tensor logits, float temperature, Tensor uniform) -> Tensor", draw);
}

}  // namespace
