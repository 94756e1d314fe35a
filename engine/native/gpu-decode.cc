// Operators for decoding on a GPU (models/gpu-decoder.ts). Each writes into existing tensors, so that a step can be recorded as a graph.
#include "gpu.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cmath>

#include "gpu-attend-kernels.h"
#include "gpu-attend-streamed-kernels.h"
#include "gpu-copy-kernels.h"
#include "gpu-decode-kernels.h"
#include "gpu-products.h"

using at::Tensor;

namespace {

const std::string attendSource = std::string(gpuAttendCommonSource) + gpuAttendSource, streamedSource = std::string(gpuCopySource) + gpuAttendCommonSource + gpuAttendStreamedSource;

std::string define(const char* name, int64_t value) { return std::string(name) + "=" + std::to_string(value); }
/** The kernels for heads of size `dim`, other than attention's. */
GpuProgram decodeFor(int64_t dim) {
  TORCH_CHECK(dim == 16 || dim == 32 || dim == 64 || dim == 128 || dim == 256, "decoding on the GPU needs a head size of 16, 32, 64, 128 or 256");
  return {"decode", gpuDecodeSource, {define("HEAD_DIM", dim)}, true};
}

/** Attention of `share` heads per block, which read the same key head: at most eight on tensor cores; at most four otherwise, because with more a block uses too many registers and occupancy is low. */
struct Attend {
  int64_t dim, share = 1, warps = 4, tiles = 0;
  Attend(int64_t dim, int64_t heads, int64_t groups, at::ScalarType type) : dim(dim) {
    TORCH_CHECK(dim == 16 || dim == 32 || dim == 64 || dim == 128 || dim == 256, "decoding on the GPU needs a head size of 16, 32, 64, 128 or 256");
    TORCH_CHECK(groups > 0 && heads > 0 && heads % groups == 0, "decoding on the GPU: expected a multiple of ", groups, " query heads, got ", heads);
    const bool tensorCores = type == at::kBFloat16 && (dim == 64 || dim == 128) && gpuGeneration() >= 8;
    share = std::min<int64_t>(heads / groups, tensorCores ? 8 : 4);
    while (heads / groups % share != 0) share--;
    if (!tensorCores) return;
    // The fastest on an H200 for 64 sequences of 110M (heads of 64, share 1), 1.1B (64, 8) and 7B (128, 1): docs/decisions/0021. Heads of 128 need more registers; a larger share means fewer blocks.
    warps = dim == 64 && share >= 4 ? 8 : 4;
    tiles = dim == 64 && share < 4 ? 2 : 1;
  }
  int threads() const { return static_cast<int>(warps * 32); }
  GpuProgram program() const { return {"attend", attendSource.c_str(), {define("HEAD_DIM", dim), define("SHARE", share), define("WARPS", warps), define("TILES", tiles)}, true}; }
};

/** The kernel that streams the cache through shared memory, on Hopper: warps per block and stages of 16 keys per warp. */
struct Streamed {
  Attend of;
  int64_t warps, stages;
  // The fastest on an H200 for 64 sequences of 110M (heads of 64, share 1), 1.1B (64, 8) and 7B (128, 1): docs/decisions/0021. They depend on the model only.
  explicit Streamed(const Attend& of) : of(of), warps(of.dim == 64 ? (of.share >= 4 ? 8 : 2) : 4), stages(of.dim == 64 && of.share < 4 ? 4 : 2) {}
  bool supports(int64_t splits) const { return of.tiles > 0 && gpuGeneration() == 9 && (splits == 1 || splits == 2 || splits == 4 || splits == 8); }
  /** As in the kernel: stages, then Scratch. */
  int sharedBytes() const {
    auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
    return static_cast<int>(warps * stages * 64 * of.dim + aligned(4 * (warps + 1) * of.share * (of.dim + 2)) + 2 * of.share * (of.dim + 8) + 4 * of.dim + aligned(8 * warps * stages));
  }
  GpuProgram program() const {
    return {"attend-streamed", streamedSource.c_str(), {define("HEAD_DIM", of.dim), define("SHARE", of.share), define("WARPS", warps), define("STAGES", stages)}, true};
  }
};

const void* pointer(const c10::optional<Tensor>& tensor) { return tensor.has_value() ? tensor->data_ptr() : nullptr; }
int rowThreads(int64_t dim) { return static_cast<int>(std::min<int64_t>(512, ceilDivide(dim, 256) * 32)); }
void check(bool holds, const char* what) { TORCH_CHECK(holds, "decoding on the GPU: expected ", what); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  // x (B, D) = table[tokens]; tokens and positions (B,) int32.
  library.def("decode_embed_(Tensor x, Tensor table, Tensor tokens, Tensor positions, int head_dim) -> ()",
              [](const Tensor& x, const Tensor& table, const Tensor& tokens, const Tensor& positions, int64_t headDim) {
                int64_t dim = x.size(1);
                check(hasGpuKernels(x) && table.is_contiguous() && dim % 8 == 0, "a table (V, D)");
                const void *from = table.data_ptr(), *ids = tokens.data_ptr(), *places = positions.data_ptr(), *to = x.data_ptr();
                launchFrom(decodeFor(headDim), "embed", x, x.size(0), rowThreads(dim), {&from, &ids, &places, &to, &dim});
              });
  // x (B, D) += y; h = norm(x).
  library.def("decode_add_norm_(Tensor x, Tensor? y, Tensor weight, Tensor h, float epsilon, int head_dim) -> ()",
              [](const Tensor& x, const c10::optional<Tensor>& y, const Tensor& weight, const Tensor& h, double epsilon, int64_t headDim) {
                int64_t dim = x.size(1);
                float eps = static_cast<float>(epsilon);
                const void *rows = x.data_ptr(), *more = pointer(y), *w = weight.data_ptr(), *out = h.data_ptr();
                launchFrom(decodeFor(headDim), "add_norm", x, x.size(0), rowThreads(dim), {&rows, &more, &w, &out, &dim, &eps});
              });
  // qkv (N, (H + 2G) E); cos and sin (P, E) of all positions; positions and rows (N,) int32; the rotated keys and the values are written to keys and values (rows, G, S, E).
  library.def("decode_place_(Tensor qkv, Tensor cos, Tensor sin, Tensor positions, Tensor rows, Tensor keys, Tensor values, int heads) -> ()",
              [](const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& positions, const Tensor& rows, const Tensor& keys, const Tensor& values, int64_t heads) {
                int64_t count = positions.numel(), capacity = keys.size(2), dim = keys.size(3), groups = keys.size(1);
                check(qkv.is_contiguous() && cos.is_contiguous() && sin.is_contiguous() && keys.is_contiguous() && values.is_contiguous(), "contiguous tensors");
                check(qkv.numel() == count * (heads + 2 * groups) * dim, "one row of qkv per position");
                const void *in = qkv.data_ptr(), *c = cos.data_ptr(), *s = sin.data_ptr(), *places = positions.data_ptr(), *of = rows.data_ptr(), *k = keys.data_ptr(), *v = values.data_ptr();
                int h = static_cast<int>(heads), g = static_cast<int>(groups);
                launchFrom(decodeFor(dim), "place", qkv, ceilDivide(count * 2 * groups * dim / 16, 256), 256, {&in, &c, &s, &places, &of, &k, &v, &count, &h, &g, &capacity});
              });
  // qkv (B, (H + 2G) E) of one token per sequence, cos and sin (P, E), positions (B,) int32: the key and value are written to the cache, and out (B, H E) is the attention of the queries to it.
  // With a window, a query attends to at most that many keys, including its own. partial: space for `splits` parts of the keys, (B H splits (E + 2)) float32; none if there is one part.
  // streamed: whether to use the kernel for Hopper, which does not use partial, if it supports these tensors.
  library.def("decode_attend_(Tensor qkv, Tensor cos, Tensor sin, Tensor keys, Tensor values, Tensor positions, Tensor out, Tensor? partial, int heads, int splits, int window, bool streamed) -> ()",
              [](const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& keys, const Tensor& values, const Tensor& positions, const Tensor& out, const c10::optional<Tensor>& partial, int64_t heads, int64_t splits, int64_t window, bool streamed) {
                int64_t batch = qkv.size(0), groups = keys.size(1), capacity = keys.size(2), dim = keys.size(3);
                check(qkv.is_contiguous() && cos.is_contiguous() && sin.is_contiguous() && keys.is_contiguous() && values.is_contiguous(), "contiguous tensors");
                check(qkv.numel() == batch * (heads + 2 * groups) * dim && positions.numel() == batch, "one row of qkv and one position per sequence");
                check(keys.size(0) >= batch && values.sizes() == keys.sizes() && out.is_contiguous() && out.numel() == batch * heads * dim, "a cache with a row per sequence, and a number of the result per query head");
                for (const Tensor& each : {cos, sin, keys, values, out}) check(each.scalar_type() == qkv.scalar_type(), "tensors of the same dtype");
                check(splits == 1 || (partial.has_value() && partial->numel() >= batch * heads * splits * (dim + 2)), "space for the parts");
                Attend of(dim, heads, groups, qkv.scalar_type());
                int64_t blocks = batch * (heads / of.share);
                const void *in = qkv.data_ptr(), *c = cos.data_ptr(), *s = sin.data_ptr(), *k = keys.data_ptr(), *v = values.data_ptr(), *places = positions.data_ptr(), *to = out.data_ptr(), *parts = pointer(partial);
                int h = static_cast<int>(heads), g = static_cast<int>(groups), pieces = static_cast<int>(splits), most = static_cast<int>(window);
                float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
                const Streamed fast(of);
                if (streamed && fast.supports(splits)) {
                  const GpuTensorMap keyMap = mapMatrix(keys.view({-1, dim}), 8), valueMap = mapMatrix(values.view({-1, dim}), 8);
                  const GpuGrid grid = {blocks * splits, static_cast<int>(fast.warps * 32), static_cast<int>(splits), fast.sharedBytes()};
                  launchFrom(fast.program(), "attend", qkv, grid, {&keyMap, &valueMap, &in, &c, &s, &places, &k, &v, &to, &h, &g, &capacity, &pieces, &most, &scale});
                  return;
                }
                launchFrom(of.program(), "attend", qkv, blocks * splits, of.threads(), {&in, &c, &s, &places, &k, &v, &to, &parts, &h, &g, &capacity, &pieces, &most, &scale});
                if (splits > 1) launchFrom(of.program(), "together", qkv, blocks, 128, {&parts, &to, &h, &pieces});
              });
  // qkv (B, (H + 2G) E): adds bias ((H + 2G) E,), then applies RMSNorm to each head of queries and keys with weights (E,).
  library.def("decode_heads_(Tensor qkv, Tensor? bias, Tensor? q_norm, Tensor? k_norm, float epsilon, int head_dim, int heads, int groups) -> ()",
              [](const Tensor& qkv, const c10::optional<Tensor>& bias, const c10::optional<Tensor>& qNorm, const c10::optional<Tensor>& kNorm, double epsilon, int64_t headDim, int64_t heads, int64_t groups) {
                int64_t all = qkv.size(0) * (heads + 2 * groups);
                check(hasGpuKernels(qkv) && qkv.numel() == all * headDim && (!bias.has_value() || bias->is_contiguous()), "rows of queries, keys and values, and a bias per column");
                const void *in = qkv.data_ptr(), *b = pointer(bias), *q = pointer(qNorm), *k = pointer(kNorm);
                int h = static_cast<int>(heads), g = static_cast<int>(groups);
                float eps = static_cast<float>(epsilon);
                launchFrom(decodeFor(headDim), "heads", qkv, ceilDivide(all * headDim / 8, 128), 128, {&in, &b, &q, &k, &all, &h, &g, &eps});
              });
  // out (B, N) = x (B, K) weight^T, weight (N, K): by our own kernel if `own` and it supports them, by libtorch otherwise.
  library.def("decode_product_(Tensor x, Tensor weight, Tensor out, bool own) -> ()", [](const Tensor& x, const Tensor& weight, Tensor out, bool own) {
    if (!own || !ownProduct(x, weight, out, false)) at::mm_out(out, x, weight.t());
  });
  // gated (B, F) = SwiGLU of x (B, K) weight^T, weight (2F, K). both (B, 2F): space for the product, used unless our own kernel computes both.
  library.def("decode_gated_product_(Tensor x, Tensor weight, Tensor both, Tensor gated, bool own, int head_dim) -> ()",
              [](const Tensor& x, const Tensor& weight, Tensor both, const Tensor& gated, bool own, int64_t headDim) {
                if (own && ownProduct(x, weight, gated, true)) return;
                at::mm_out(both, x, weight.t());
                int64_t rows = both.size(0), dim = gated.size(1);
                check(hasGpuKernels(both) && dim % 8 == 0, "a multiple of 8 columns");
                const void *in = both.data_ptr(), *to = gated.data_ptr();
                launchFrom(decodeFor(headDim), "swiglu", both, ceilDivide(rows * dim / 8, 256), 256, {&in, &to, &rows, &dim});
              });
  // logits (N, V) of the sequences in rows (N,), or of all. Per sequence (B,) int32: requests, steps, positions, tokens. Per request and step (R, most): uniforms float64, out_tokens int32, out_logs float32. Temperature 0 is greedy.
  library.def(
      "decode_sample_(Tensor logits, Tensor? rows, Tensor uniforms, Tensor requests, Tensor steps, Tensor positions, Tensor tokens, Tensor out_tokens, Tensor out_logs, Tensor stops, float temperature, int head_dim) -> ()",
      [](const Tensor& logits, const c10::optional<Tensor>& rows, const Tensor& uniforms, const Tensor& requests, const Tensor& steps, const Tensor& positions, const Tensor& tokens, const Tensor& outTokens, const Tensor& outLogs,
         const Tensor& stops, double temperature, int64_t headDim) {
        int64_t vocab = logits.size(1);
        check(hasGpuKernels(logits) && vocab <= 64 * 4096, "at most 262,144 tokens in the vocabulary");
        const void *l = logits.data_ptr(), *of = pointer(rows), *u = uniforms.data_ptr(), *r = requests.data_ptr(), *n = steps.data_ptr(), *p = positions.data_ptr(), *t = tokens.data_ptr(), *ids = outTokens.data_ptr(), *logs = outLogs.data_ptr(),
                   *ends = stops.data_ptr();
        int count = static_cast<int>(stops.numel()), most = static_cast<int>(outTokens.size(1)), greedy = temperature == 0;
        float scale = greedy ? 1.0f : static_cast<float>(1 / temperature);
        launchFrom(decodeFor(headDim), "sample", logits, logits.size(0), 512, {&l, &of, &u, &r, &n, &p, &t, &ids, &logs, &ends, &count, &most, &vocab, &scale, &greedy});
      });
}
