// Causal attention with rotary embeddings, on joined queries, keys and values.
//
// qkv (B, T, (H + 2G) E) is the output of one linear layer: H query heads, G key heads, G value heads. Query i of a sequence attends to keys
// starts[i] .. i. Returns (B, T, H E). Scores are never stored: the backward pass recomputes them, row block by row block.
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cstring>
#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

constexpr int64_t blockRows = 4;

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

/** Rotates the gradient of a rotated head back and stores it into the joined gradient. */
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

/** One group of one sequence: its query heads with their shared key and value head. lse (share, T). */
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
  /** cos and sin (T, E) or (B, T, E), sin signed (negative in the first half); starts (B, T) int64 or undefined. */
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

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("attention(Tensor qkv, Tensor cos, Tensor sin, Tensor? starts, int heads, int groups) -> Tensor",
              [](const Tensor& qkv, const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& starts, int64_t heads, int64_t groups) { return Attention::apply(qkv, cos, sin, starts, heads, groups); });
}

}  // namespace
