// Decoding one token, without gradients: attention with a cache, products with packed weights, a complete block, sampling a token.
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

using at::Tensor;

namespace {

// ---- attention of one token with a cache -----------------------------------------------------------------------------------------------

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

/** One group of one sequence: writes the new key and value at `at`, then each query head attends to keys first .. at. cos and sin (E,). */
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
      // The values are needed next and come from memory: the key-value cache of a batch exceeds the processor's caches.
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

// ---- linear layers without gradients, with packed weights ------------------------------------------------------------------------------
//
// A weight (N, K) is packed as transposed panels of 32 rows: (ceil(N / 32), K, 32), padded with zeros beyond N. Products read it sequentially. A BLAS
// would repack it in every call, which at decoding's batch sizes costs as much as the product.

constexpr int64_t panel = 32;

/** R rows of x (R x K) times one panel, plus `added`, into `width` columns of out. */
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
  TORCH_CHECK(!plus.defined() || plus.sizes() == out.sizes(), "the added tensor must have the result's shape ", out.sizes(), ", got ", plus.sizes());
  at::parallel_for(0, packed.size(0), 8, [&](int64_t from, int64_t to) {
    for (int64_t n = from; n < to; n++) {
      int64_t at = n * panel;
      packedPanel(x.data_ptr<float>(), packed.data_ptr<float>() + at * dim, plus.defined() ? plus.data_ptr<float>() + at : nullptr, out.data_ptr<float>() + at, rows, dim, columns, std::min(panel, columns - at));
    }
  });
  return out;
}

/** Writes exp(logits / T - most) to out, with exactly 0 for minus infinity; returns the largest logit / T. */
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
 * Samples one token per row by inverting the cumulative distribution: the first token whose cumulative probability exceeds the row's uniform number.
 * logits (B, V), uniform (B,) float64 in [0, 1) -> (B, 2) float64: token, log-probability under softmax(logits / temperature).
 */
Tensor draw(const Tensor& logits, double temperature, const Tensor& uniform) {
  int64_t batch = logits.size(0), vocab = logits.size(1);
  TORCH_CHECK(logits.is_contiguous() && uniform.numel() == batch && uniform.scalar_type() == at::kDouble, "draw needs contiguous logits (B, V) and uniform (B,) float64");
  Tensor out = at::empty({batch, 2}, uniform.options());
  std::vector<float> weights(vocab);
  std::vector<double> blockSums(vocab / drawBlock + 1);
  for (int64_t b = 0; b < batch; b++) {
    const float* row = logits.data_ptr<float>() + b * vocab;
    float inverse = static_cast<float>(1.0 / temperature), most = weigh(row, inverse, weights.data(), vocab);
    double sum = 0, running = 0;
    int64_t chosen = -1, blocks = (vocab + drawBlock - 1) / drawBlock;
    for (int64_t n = 0; n < blocks; n++) sum += blockSums[n] = sumOf(weights.data() + n * drawBlock, std::min(drawBlock, vocab - n * drawBlock));
    // First the block that contains the threshold, then the token within it.
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
      // Rounding may put the threshold just past this block: then use the next token with a probability above 0.
      if (chosen >= 0 && running > threshold) break;
    }
    // At the end of the distribution: the last token with a probability above 0.
    for (int64_t v = vocab - 1; chosen < 0 && v >= 0; v--)
      if (weights[v] > 0) chosen = v;
    TORCH_CHECK(chosen >= 0, "no token has a probability above 0: the logits may contain NaN");
    out.data_ptr<double>()[2 * b] = static_cast<double>(chosen);
    out.data_ptr<double>()[2 * b + 1] = static_cast<double>(row[chosen] * inverse - most) - std::log(sum);
  }
  return out;
}

/**
 * One Llama block on one token per sequence: x (B, D) -> (B, D). The token's key and value are written to keys and values (B, G, S, E) at `at`. cos and sin (1, E) or
 * (B, E); first (B,) int64: the first key that each sequence attends to. bias ((H + 2G) E,) for queries, keys and values; qNorm and kNorm (E,) norm the heads before the
 * rotation. The four weights are packed.
 */
Tensor decodeBlock(const Tensor& x, const Tensor& attentionNorm, const Tensor& qkvWeight, const Tensor& oWeight, const Tensor& ffnNorm, const Tensor& gateUpWeight, const Tensor& downWeight, Tensor keys, Tensor values,
                   const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& first, const c10::optional<Tensor>& bias, const c10::optional<Tensor>& qNorm, const c10::optional<Tensor>& kNorm, int64_t at, int64_t heads, double eps) {
  int64_t batch = x.size(0), groups = keys.size(1), capacity = keys.size(2), E = keys.size(3), D = x.size(1);
  TORCH_CHECK(at >= 0 && at < capacity, "the cache holds ", capacity, " tokens; there is no position ", at);
  TORCH_CHECK(x.is_contiguous() && keys.is_contiguous() && values.is_contiguous() && cos.is_contiguous() && sin.is_contiguous(), "decode_block needs contiguous tensors");
  auto norm = [&](const Tensor& in, const Tensor& weight) {
    Tensor out = at::empty_like(in), scale = at::empty({batch}, in.options());
    rmsForward(in.data_ptr<float>(), weight.data_ptr<float>(), out.data_ptr<float>(), scale.data_ptr<float>(), batch, D, eps);
    return out;
  };
  Heads shape{1, E, heads, groups};
  c10::optional<Tensor> biases = bias.has_value() ? c10::optional<Tensor>(bias->expand({batch, shape.width()})) : c10::nullopt;
  Tensor qkv = packedLinear(norm(x, attentionNorm), qkvWeight, biases, shape.width());
  auto normHeads = [&](const c10::optional<Tensor>& weight, int64_t from, int64_t count) {
    if (!weight.has_value()) return;
    Tensor part = qkv.view({batch, heads + 2 * groups, E}).narrow(1, from, count), in = part.contiguous(), out = at::empty_like(in), scale = at::empty({batch * count}, in.options());
    rmsForward(in.data_ptr<float>(), weight->contiguous().data_ptr<float>(), out.data_ptr<float>(), scale.data_ptr<float>(), batch * count, E, eps);
    part.copy_(out);
  };
  normHeads(qNorm, 0, heads);
  normHeads(kNorm, heads, groups);
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

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("decode_block(Tensor x, Tensor attention_norm, Tensor qkv, Tensor o, Tensor ffn_norm, Tensor gate_up, Tensor down, Tensor keys, Tensor values, Tensor cos, Tensor sin, Tensor? first, Tensor? bias, Tensor? q_norm, Tensor? k_norm, int at, int heads, float eps) -> Tensor",
              decodeBlock);
  library.def("packed_linear(Tensor x, Tensor packed, Tensor? added, int columns) -> Tensor", packedLinear);
  library.def("draw(Tensor logits, float temperature, Tensor uniform) -> Tensor", draw);
}

}  // namespace
