// Causal attention with rotary embeddings on joined queries, keys and values, on a GPU, using libtorch's own kernels: no T x T matrix and no bias. In 16 bits it uses flash
// attention over sequences given by their cumulative lengths, or cuDNN's attention if each row is one long sequence; in float32, memory-efficient attention.
//
// Shapes as in attention.cc: qkv (B, T, (H + 2G) E) -> (B, T, H E). Saved for the backward pass: the input qkv, the output, and the log-sum-exp of each row and head. The
// backward pass rotates the heads again.
#include "gpu.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <map>
#include <string>
#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

using Named = std::map<std::string, c10::IValue>;

/** Calls an operator with named arguments; the others get their defaults, or None. Versions of libtorch differ in these other parameters. */
std::vector<c10::IValue> callByName(const char* name, const Named& arguments) {
  auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  torch::jit::Stack stack;
  size_t used = 0;
  for (const auto& parameter : op.schema().arguments()) {
    auto found = arguments.find(parameter.name());
    if (found != arguments.end()) {
      stack.push_back(found->second);
      used++;
    } else if (parameter.default_value()) {
      stack.push_back(*parameter.default_value());
    } else {
      TORCH_CHECK(parameter.type()->kind() == c10::TypeKind::OptionalType, name, " of this libtorch requires '", parameter.name(), "'");
      stack.emplace_back();
    }
  }
  TORCH_CHECK(used == arguments.size(), name, " of this libtorch has different arguments");
  op.callBoxed(&stack);
  return stack;
}

/** An optional tensor argument: None if undefined. The backward pass of flash attention expects an undefined tensor instead of None. */
c10::IValue optionalTensor(const Tensor& tensor) { return tensor.defined() ? c10::IValue(tensor) : c10::IValue(); }

/** Rotates heads (B, T, N, E) by cos and sin (T, 1, E) or (B, T, 1, E), sin signed; in the opposite direction with `back`. */
Tensor turn(const Tensor& heads, const Tensor& cos, const Tensor& sin, bool back) {
  int64_t half = heads.size(-1) / 2;
  return at::addcmul(heads * cos, at::roll(heads, half, -1), sin, back ? -1 : 1);
}

struct Shape {
  int64_t batch, length, heads, groups, dim;
  double scale() const { return 1 / std::sqrt(static_cast<double>(dim)); }
  bool hasKernel(const Tensor& qkv) const { return hasGpuKernels(qkv) && dim % 16 == 0; }
};

/** Threads of the block that turns a row of `heads` heads: one per eight pairs, at most 256. */
int rotationThreads(int64_t heads, int64_t dim) { return static_cast<int>(std::min<int64_t>(256, ceilDivide(heads * dim, 16 * 32) * 32)); }

/** Queries, keys and values (B, T, H or G, E) of the joined tensor; queries and keys rotated. */
struct Split {
  Tensor q, k, v;
  Split(const Shape& s, const Tensor& qkv, const Tensor& cos, const Tensor& sin) {
    // The kernels do not check these.
    TORCH_CHECK(cos.scalar_type() == qkv.scalar_type() && sin.scalar_type() == qkv.scalar_type(), "cos and sin must have the dtype of queries, keys and values");
    TORCH_CHECK(cos.numel() == sin.numel() && cos.numel() >= (cos.dim() == 4 ? s.batch : 1) * s.length * s.dim, "cos and sin must be (T, 1, E) or (B, T, 1, E)");
    Tensor all = qkv.view({s.batch, s.length, s.heads + 2 * s.groups, s.dim});
    v = all.narrow(2, s.heads + s.groups, s.groups);
    if (s.hasKernel(qkv)) {
      q = at::empty({s.batch, s.length, s.heads, s.dim}, qkv.options());
      k = at::empty({s.batch, s.length, s.groups, s.dim}, qkv.options());
      Tensor c = cos.contiguous(), d = sin.contiguous();
      const void *in = qkv.data_ptr(), *cosines = c.data_ptr(), *sines = d.data_ptr(), *queries = q.data_ptr(), *keys = k.data_ptr();
      int own = cos.dim() == 4;
      launch("rotate_forward", qkv, s.batch * s.length, rotationThreads(s.heads + s.groups, s.dim), {&in, &cosines, &sines, &queries, &keys, &s.length, &s.heads, &s.groups, &s.dim, &own});
      return;
    }
    Tensor turned = turn(all.narrow(2, 0, s.heads + s.groups), cos, sin, false);
    q = turned.narrow(2, 0, s.heads);
    k = turned.narrow(2, s.heads, s.groups);
  }
};

/** Reshapes (B, T, N, E) to (B T, N, E), which flash attention expects with cumulative lengths; unchanged without them. */
Tensor flat(const Tensor& x, bool lengths) { return lengths ? x.reshape({x.size(0) * x.size(1), x.size(2), x.size(3)}) : x; }
/** The same for memory-efficient attention, which expects (1, B T, N, E). */
Tensor oneRow(const Tensor& x, bool lengths) { return lengths ? x.reshape({1, x.size(0) * x.size(1), x.size(2), x.size(3)}) : x; }

/**
 * Whether to use cuDNN: 1.5 to 2 times as fast as flash attention on Hopper. It makes a plan for each new shape, which takes 50 ms. That suits long rows of equal length, as in training; varying
 * lengths use flash attention. With cumulative lengths, libtorch makes a new plan for every call.
 */
bool cudnnFits(const Shape& s, const Tensor& qkv, bool packed) {
  static const bool there = gpuGeneration() >= 9 && at::globalContext().hasCuDNN() && c10::Dispatcher::singleton().findSchema({"aten::_scaled_dot_product_cudnn_attention", ""}).has_value();
  // Training rows have a round length, or lack the last token because nothing follows it.
  bool round = s.length % 64 == 0 || (s.length + 1) % 64 == 0;
  return there && !packed && qkv.element_size() == 2 && s.dim % 8 == 0 && s.dim <= 128 && s.length >= 511 && round;
}
/** Swaps (B, T, N, E) and (B, N, T, E), as a view. */
Tensor headsFirst(const Tensor& x) { return x.transpose(1, 2); }

struct GpuAttention : Function<GpuAttention> {
  /** `cumulative` (S + 1,) int32: where the sequences of all rows begin, counted through all rows, and where the last ends; undefined if each row is one sequence. */
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& cumulative, int64_t longest, int64_t heads, int64_t groups) {
    Tensor qkv = input.contiguous(), lengths = cumulative.has_value() ? *cumulative : Tensor();
    Shape s{qkv.size(0), qkv.size(1), heads, groups, qkv.size(2) / (heads + 2 * groups)};
    bool packed = lengths.defined(), flash = qkv.element_size() == 2;
    Split x(s, qkv, cos, sin);
    Tensor out, lse, first, second;
    if (cudnnFits(s, qkv, packed)) {
      auto found = callByName("aten::_scaled_dot_product_cudnn_attention",
                              {{"query", headsFirst(x.q)}, {"key", headsFirst(x.k)}, {"value", headsFirst(x.v)}, {"compute_log_sumexp", true}, {"dropout_p", 0.0}, {"is_causal", true}, {"scale", s.scale()}});
      out = headsFirst(found[0].toTensor()), lse = found[1].toTensor(), first = found[6].toTensor(), second = found[7].toTensor();
    } else if (flash) {
      auto found = callByName("aten::_flash_attention_forward",
                              {{"query", flat(x.q, packed)}, {"key", flat(x.k, packed)}, {"value", flat(x.v, packed)}, {"cum_seq_q", optionalTensor(lengths)}, {"cum_seq_k", optionalTensor(lengths)},
                               {"max_q", longest}, {"max_k", longest}, {"dropout_p", 0.0}, {"is_causal", true}, {"return_debug_mask", false}, {"scale", s.scale()}});
      out = found[0].toTensor(), lse = found[1].toTensor(), first = found[2].toTensor(), second = found[3].toTensor();
    } else {
      int64_t share = heads / groups;
      Tensor k = share == 1 ? x.k : x.k.repeat_interleave(share, 2), v = share == 1 ? x.v : x.v.repeat_interleave(share, 2);
      auto found = callByName("aten::_efficient_attention_forward",
                              {{"query", oneRow(x.q, packed)}, {"key", oneRow(k, packed)}, {"value", oneRow(v, packed)}, {"cu_seqlens_q", optionalTensor(lengths)}, {"cu_seqlens_k", optionalTensor(lengths)},
                               {"max_seqlen_q", longest}, {"max_seqlen_k", longest}, {"dropout_p", 0.0}, {"custom_mask_type", int64_t(1)}, {"compute_log_sumexp", true}, {"scale", s.scale()}});
      out = found[0].toTensor(), lse = found[1].toTensor(), first = found[2].toTensor(), second = found[3].toTensor();
    }
    context->save_for_backward({qkv, cos, sin, lengths, out, lse, first, second});
    context->saved_data["longest"] = longest;
    context->saved_data["heads"] = heads;
    context->saved_data["groups"] = groups;
    return out.reshape({s.batch, s.length, heads * s.dim});
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    const Tensor &qkv = saved[0], &cos = saved[1], &sin = saved[2], &lengths = saved[3], &out = saved[4], &lse = saved[5], &first = saved[6], &second = saved[7];
    int64_t heads = context->saved_data["heads"].toInt(), groups = context->saved_data["groups"].toInt(), longest = context->saved_data["longest"].toInt();
    Shape s{qkv.size(0), qkv.size(1), heads, groups, qkv.size(2) / (heads + 2 * groups)};
    bool packed = lengths.defined(), flash = qkv.element_size() == 2;
    Split x(s, qkv, cos, sin);
    Tensor dOut = gradients[0].contiguous().view(out.sizes()), dq, dk, dv;
    if (cudnnFits(s, qkv, packed)) {
      auto found = callByName("aten::_scaled_dot_product_cudnn_attention_backward",
                              {{"grad_out", headsFirst(dOut)}, {"query", headsFirst(x.q)}, {"key", headsFirst(x.k)}, {"value", headsFirst(x.v)}, {"out", headsFirst(out)}, {"logsumexp", lse},
                               {"philox_seed", first}, {"philox_offset", second}, {"attn_bias", Tensor()}, {"cum_seq_q", Tensor()}, {"cum_seq_k", Tensor()}, {"max_q", s.length}, {"max_k", s.length},
                               {"dropout_p", 0.0}, {"is_causal", true}, {"scale", s.scale()}});
      dq = headsFirst(found[0].toTensor()), dk = headsFirst(found[1].toTensor()), dv = headsFirst(found[2].toTensor());
    } else if (flash) {
      auto found = callByName("aten::_flash_attention_backward",
                              {{"grad_out", dOut}, {"query", flat(x.q, packed)}, {"key", flat(x.k, packed)}, {"value", flat(x.v, packed)}, {"out", out}, {"logsumexp", lse},
                               {"cum_seq_q", lengths}, {"cum_seq_k", lengths}, {"max_q", longest}, {"max_k", longest}, {"dropout_p", 0.0}, {"is_causal", true},
                               {"rng_state", first}, {"unused", second}, {"scale", s.scale()}});
      dq = found[0].toTensor(), dk = found[1].toTensor(), dv = found[2].toTensor();
    } else {
      int64_t share = heads / groups;
      Tensor k = share == 1 ? x.k : x.k.repeat_interleave(share, 2), v = share == 1 ? x.v : x.v.repeat_interleave(share, 2);
      // One split of the keys: several splits would be summed in the order in which they finish.
      auto found = callByName("aten::_efficient_attention_backward",
                              {{"grad_out_", dOut}, {"query", oneRow(x.q, packed)}, {"key", oneRow(k, packed)}, {"value", oneRow(v, packed)}, {"bias", c10::IValue()}, {"out", out},
                               {"cu_seqlens_q", optionalTensor(lengths)}, {"cu_seqlens_k", optionalTensor(lengths)}, {"max_seqlen_q", longest}, {"max_seqlen_k", longest}, {"logsumexp", lse},
                               {"dropout_p", 0.0}, {"philox_seed", first}, {"philox_offset", second}, {"custom_mask_type", int64_t(1)}, {"bias_requires_grad", false}, {"scale", s.scale()},
                               {"num_splits_key", int64_t(1)}});
      dq = found[0].toTensor(), dk = found[1].toTensor(), dv = found[2].toTensor();
      if (share > 1) {
        // The queries of a group share its key and value.
        dk = dk.view({s.batch, s.length, groups, share, s.dim}).sum(3);
        dv = dv.view({s.batch, s.length, groups, share, s.dim}).sum(3);
      }
    }
    if (s.hasKernel(qkv)) {
      dq = dq.contiguous(), dk = dk.contiguous(), dv = dv.contiguous();
      Tensor dQkv = at::empty_like(qkv), c = cos.contiguous(), d = sin.contiguous();
      const void *queries = dq.data_ptr(), *keys = dk.data_ptr(), *values = dv.data_ptr(), *cosines = c.data_ptr(), *sines = d.data_ptr(), *out = dQkv.data_ptr();
      int own = cos.dim() == 4;
      launch("rotate_backward", qkv, s.batch * s.length, rotationThreads(heads + 2 * groups, s.dim), {&queries, &keys, &values, &cosines, &sines, &out, &s.length, &s.heads, &s.groups, &s.dim, &own});
      return {dQkv, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
    }
    auto rows = [&](const Tensor& d, int64_t count) { return d.reshape({s.batch, s.length, count, s.dim}); };
    Tensor turned = turn(at::cat({rows(dq, heads), rows(dk, groups)}, 2), cos, sin, true);
    Tensor dQkv = at::cat({turned, rows(dv, groups)}, 2).view(qkv.sizes());
    return {dQkv, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("gpu_attention(Tensor qkv, Tensor cos, Tensor sin, Tensor? lengths, int longest, int heads, int groups) -> Tensor",
              [](const Tensor& qkv, const Tensor& cos, const Tensor& sin, const c10::optional<Tensor>& lengths, int64_t longest, int64_t heads, int64_t groups) {
                return GpuAttention::apply(qkv, cos, sin, lengths, longest, heads, groups);
              });
}

}  // namespace
