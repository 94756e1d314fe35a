// AdamW (engine/optimizer.ts) on a GPU: one kernel a parameter that reads the gradient in its own dtype, and writes master, moments and the 16-bit weight.
#include "gpu.h"

#include <torch/library.h>

#include <cmath>

using at::Tensor;

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def(
      "adamw_(Tensor[] masters, Tensor[] gradients, Tensor[] first, Tensor[] second, Tensor[] weights, int step, float rate, float beta1, float beta2, float decay, float epsilon) -> ()",
      [](at::TensorList masters, at::TensorList gradients, at::TensorList firsts, at::TensorList seconds, at::TensorList weights, int64_t step, double rate, double beta1, double beta2, double decay, double epsilon) {
        float r = static_cast<float>(rate), b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2), d = static_cast<float>(decay), e = static_cast<float>(epsilon);
        float correction = static_cast<float>(1 - std::pow(beta1, step)), root = static_cast<float>(std::sqrt(1 - std::pow(beta2, step)));
        for (size_t i = 0; i < masters.size(); i++) {
          Tensor gradient = gradients[i].contiguous();
          TORCH_CHECK(hasGpuKernels(gradient) && masters[i].is_contiguous() && weights[i].is_contiguous() && weights[i].scalar_type() == at::kBFloat16 && gradient.numel() == masters[i].numel(),
                      "AdamW's kernel takes contiguous bfloat16 weights and their gradients on a GPU");
          int64_t count = masters[i].numel();
          const void *master = masters[i].data_ptr(), *g = gradient.data_ptr(), *first = firsts[i].data_ptr(), *second = seconds[i].data_ptr(), *weight = weights[i].data_ptr();
          launch("adamw", gradient, std::min<int64_t>(ceilDivide(count, 256), 8192), 256, {&master, &g, &first, &second, &weight, &count, &r, &b1, &b2, &d, &e, &correction, &root});
        }
      });
}
