// RMSNorm of a residual connection on a GPU, in training: x, or the sum that ends the connection before, goes to the norm and past it, and the backward pass adds the two gradients of x in one pass, where separate operators would write and
// read the norm's again. The weight's gradient is summed in float32 and a fixed order. Kernels: gpu-norm-kernels.h.
#include "gpu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "gpu-norm-kernels.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

/** Contiguous and at an address that kernels can read 16 bytes at a time from. A weight in a sharded buffer may begin anywhere. */
Tensor aligned(const Tensor& x) {
  Tensor out = x.contiguous();
  return reinterpret_cast<uintptr_t>(out.data_ptr()) % 16 == 0 ? out : out.clone();
}

/** The program and the grid for R rows of D numbers. */
struct Rows {
  int64_t dim;
  int count;
  explicit Rows(const Tensor& x) : dim(x.size(-1)), count(0) {
    TORCH_CHECK(hasGpuKernels(x) && dim % 8 == 0 && dim <= 8192, "the norm's kernel needs contiguous float32 or bfloat16 on a GPU, with a width that is a multiple of 8 up to 8192; got ", x.toString(), " ", x.sizes());
    TORCH_CHECK(x.numel() / dim < 1 << 30, "the norm's kernel needs less than 2^30 rows, got ", x.numel() / dim);
    count = static_cast<int>(x.numel() / dim);
  }
  GpuProgram program() const { return {"norm", gpuNormSource, {"DIM=" + std::to_string(dim)}}; }
  int threads() const { return static_cast<int>(ceilDivide(dim, 256) * 32); }
  /** As many blocks as run at the same time: 1,024 threads per multiprocessor, 512 for float32 (gpu-norm-kernels.h). */
  int64_t blocks(const Tensor& x) const {
    int64_t together = x.scalar_type() == at::kFloat ? 512 : 1024;
    return std::min<int64_t>(count, gpuMultiprocessors() * std::max<int64_t>(1, together / threads()));
  }
};

struct ResidualNorm : Function<ResidualNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const c10::optional<Tensor>& added, const Tensor& weight, double eps) {
    Tensor x = aligned(input), y = added.has_value() ? aligned(*added) : Tensor(), w = aligned(weight), normed = at::empty_like(x), sum = y.defined() ? at::empty_like(x) : x;
    Rows rows(x);
    TORCH_CHECK(w.scalar_type() == x.scalar_type() && w.numel() == rows.dim, "the norm's weight must be (", rows.dim, ",) in ", x.scalar_type(), ", got ", w.sizes(), " in ", w.scalar_type());
    TORCH_CHECK(!y.defined() || (y.sizes() == x.sizes() && y.scalar_type() == x.scalar_type()), "a residual connection adds two ", x.sizes(), " in ", x.scalar_type(), ", got ", y.sizes(), " in ", y.scalar_type());
    Tensor scale = at::empty({rows.count}, x.options().dtype(at::kFloat));
    float epsilon = static_cast<float>(eps);
    const void *in = x.data_ptr(), *more = y.defined() ? y.data_ptr() : nullptr, *by = w.data_ptr(), *both = sum.data_ptr(), *out = normed.data_ptr(), *factors = scale.data_ptr();
    launchFrom(rows.program(), "norm_forward", x, rows.blocks(x), rows.threads(), {&in, &more, &by, &both, &out, &factors, &rows.count, &epsilon});
    context->save_for_backward({sum, weight, scale});
    context->saved_data["added"] = y.defined();
    context->set_materialize_grads(false);
    return {y.defined() ? sum : input, normed};
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const bool added = context->saved_data["added"].toBool();
    // Nothing depends on the norm.
    if (!gradients[1].defined()) return {gradients[0], added ? gradients[0] : Tensor(), Tensor(), Tensor()};
    auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &scale = saved[2];
    Tensor w = aligned(weight), dy = aligned(gradients[1]), along = gradients[0].defined() ? aligned(gradients[0]) : Tensor(), dx = at::empty_like(x), partial, dw;
    Rows rows(x);
    int64_t blocks = rows.blocks(x);
    // LoRA freezes the weight.
    if (weight.requires_grad()) partial = at::empty({blocks, rows.dim}, scale.options());
    const void *in = x.data_ptr(), *by = w.data_ptr(), *factors = scale.data_ptr(), *d = dy.data_ptr(), *other = along.defined() ? along.data_ptr() : nullptr, *out = dx.data_ptr(),
               *sums = partial.defined() ? partial.data_ptr() : nullptr;
    launchFrom(rows.program(), "norm_backward", x, blocks, rows.threads(), {&in, &by, &factors, &d, &other, &out, &sums, &rows.count});
    if (partial.defined()) {
      dw = at::empty_like(w);
      const void* total = dw.data_ptr();
      int parts = static_cast<int>(blocks);
      launchFrom(rows.program(), "norm_weight", x, ceilDivide(rows.dim, 32), 1024, {&sums, &total, &parts});
    }
    return {dx, added ? dx : Tensor(), dw, Tensor()};
  }
};

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("residual_norm(Tensor x, Tensor? added, Tensor weight, float eps) -> (Tensor, Tensor)", [](const Tensor& x, const c10::optional<Tensor>& added, const Tensor& weight, double eps) {
    variable_list out = ResidualNorm::apply(x, added, weight, eps);
    return std::make_tuple(out[0], out[1]);
  });
}

}  // namespace
