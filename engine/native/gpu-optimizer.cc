// GPU operators for training. AdamW (engine/optimizer.ts): one kernel per parameter reads the gradient in its own dtype and writes the master, the moments and the 16-bit weight.
// The norm of gradients and clipping (engine/gradients.ts) work without copies.
#include "gpu.h"

#include <torch/library.h>

#include <cmath>

using at::Tensor;

namespace {

int64_t blocksFor(int64_t count) { return std::min<int64_t>(ceilDivide(count, 1024), 1024); }

/** The Euclidean norm of all gradients together, in float32: (). */
Tensor norm(at::TensorList gradients) {
  TORCH_CHECK(!gradients.empty(), "expected at least one gradient, got none");
  int64_t parts = 0;
  for (const Tensor& gradient : gradients) parts += blocksFor(gradient.numel());
  Tensor partial = at::empty({parts}, gradients[0].options().dtype(at::kFloat));
  float* next = partial.data_ptr<float>();
  for (const Tensor& each : gradients) {
    Tensor gradient = each.contiguous();
    int64_t count = gradient.numel(), blocks = blocksFor(count);
    const void *x = gradient.data_ptr(), *sums = next;
    launch("squares", gradient, blocks, 256, {&x, &sums, &count});
    next += blocks;
  }
  return partial.sum().sqrt();
}

/** Multiplies all gradients by a factor (1,) in place if the factor is below 1. */
void shrink(at::TensorList gradients, const Tensor& factor) {
  for (const Tensor& gradient : gradients) {
    TORCH_CHECK(gradient.is_contiguous(), "gradients to clip must be contiguous");
    int64_t count = gradient.numel();
    const void *x = gradient.data_ptr(), *f = factor.data_ptr();
    launch("shrink", gradient, blocksFor(count), 256, {&x, &f, &count});
  }
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("gradient_norm(Tensor[] gradients) -> Tensor", [](at::TensorList gradients) { return norm(gradients); });
  library.def("shrink_(Tensor[] gradients, Tensor factor) -> ()", [](at::TensorList gradients, const Tensor& factor) { shrink(gradients, factor); });
  library.def(
      "adamw_(Tensor[] masters, Tensor[] gradients, Tensor[] first, Tensor[] second, Tensor[] weights, int step, float rate, float beta1, float beta2, float decay, float epsilon) -> ()",
      [](at::TensorList masters, at::TensorList gradients, at::TensorList firsts, at::TensorList seconds, at::TensorList weights, int64_t step, double rate, double beta1, double beta2, double decay, double epsilon) {
        float r = static_cast<float>(rate), b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2), d = static_cast<float>(decay), e = static_cast<float>(epsilon);
        float correction = static_cast<float>(1 - std::pow(beta1, step)), root = static_cast<float>(std::sqrt(1 - std::pow(beta2, step)));
        for (size_t i = 0; i < masters.size(); i++) {
          Tensor gradient = gradients[i].contiguous();
          TORCH_CHECK(hasGpuKernels(gradient) && masters[i].is_contiguous() && weights[i].is_contiguous() && weights[i].scalar_type() == at::kBFloat16 && gradient.numel() == masters[i].numel(),
                      "AdamW's kernel needs contiguous bfloat16 weights and their gradients on a GPU");
          int64_t count = masters[i].numel();
          const void *master = masters[i].data_ptr(), *g = gradient.data_ptr(), *first = firsts[i].data_ptr(), *second = seconds[i].data_ptr(), *weight = weights[i].data_ptr();
          launch("adamw", gradient, std::min<int64_t>(ceilDivide(count, 256), 8192), 256, {&master, &g, &first, &second, &weight, &count, &r, &b1, &b2, &d, &e, &correction, &root});
        }
      });
}
