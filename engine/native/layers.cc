// RMSNorm and SwiGLU.
#include "gpu.h"
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

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

namespace {

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
    Tensor dy = gradients[0].contiguous(), dx = at::empty_like(saved[0]);
    int64_t dim = dy.size(-1), rows = dy.numel() / dim;
    Tensor dw = at::zeros_like(saved[1]);
    // One thread: the weight's gradient is a sum over rows, and its order must not depend on the number of threads.
    rmsBackward(saved[0].data_ptr<float>(), saved[1].data_ptr<float>(), saved[2].data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>(), dw.data_ptr<float>(), rows, dim);
    return {dx, dw, Tensor()};
  }
};

// ---- SwiGLU: y = silu(gate) up, of (..., 2F) -------------------------------------------------------------------------------------------

}  // namespace

VECTORISED void swigluForward(const float* in, float* y, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows; i++, in += 2 * dim, y += dim) {
    SIMD for (int64_t d = 0; d < dim; d++) y[d] = in[d] / (1.0f + exponential(-in[d])) * in[dim + d];
  }
}

namespace {

VECTORISED void swigluBackward(const float* in, const float* dy, float* din, int64_t rows, int64_t dim) {
  for (int64_t i = 0; i < rows; i++, in += 2 * dim, din += 2 * dim, dy += dim) {
    SIMD for (int64_t d = 0; d < dim; d++) {
      float g = in[d], sigmoid = 1.0f / (1.0f + exponential(-g));
      din[d] = dy[d] * in[dim + d] * sigmoid * (1.0f + g * (1.0f - sigmoid));
      din[dim + d] = dy[d] * g * sigmoid;
    }
  }
}

bool hasKernel(const Tensor& x) { return x.scalar_type() == at::kFloat && x.is_cpu(); }

/** Saves only its input for the backward pass. */
struct SwiGlu : Function<SwiGlu> {
  static Tensor forward(AutogradContext* context, const Tensor& input) {
    Tensor x = input.contiguous();
    auto shape = x.sizes().vec();
    int64_t dim = shape.back() /= 2, rows = x.numel() / (2 * dim);
    context->save_for_backward({x});
    if (hasGpuKernels(x) && dim % 8 == 0) {
      Tensor y = at::empty(shape, x.options());
      const void *in = x.data_ptr(), *out = y.data_ptr();
      launch("swiglu_forward", x, ceilDivide(rows * dim / 8, 256), 256, {&in, &out, &rows, &dim});
      return y;
    }
    if (!hasKernel(x)) return at::silu(x.narrow(-1, 0, dim)).mul_(x.narrow(-1, dim, dim));
    Tensor y = at::empty(shape, x.options());
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) { swigluForward(x.data_ptr<float>() + a * 2 * dim, y.data_ptr<float>() + a * dim, b - a, dim); });
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    Tensor x = context->get_saved_variables()[0], dy = gradients[0].contiguous(), dx = at::empty_like(x);
    int64_t dim = x.size(-1) / 2, rows = x.numel() / (2 * dim);
    if (hasGpuKernels(x) && dim % 8 == 0) {
      const void *in = x.data_ptr(), *d = dy.data_ptr(), *out = dx.data_ptr();
      launch("swiglu_backward", x, ceilDivide(rows * dim / 8, 256), 256, {&in, &d, &out, &rows, &dim});
      return {dx};
    }
    if (!hasKernel(x)) {
      Tensor gate = x.narrow(-1, 0, dim), up = x.narrow(-1, dim, dim), dGate = dx.narrow(-1, 0, dim), dUp = dx.narrow(-1, dim, dim);
      at::mul_out(dUp, dy, at::silu(gate));
      at::silu_backward_out(dGate, dy.mul(up), gate);
      return {dx};
    }
    at::parallel_for(0, rows, 64, [&](int64_t a, int64_t b) {
      swigluBackward(x.data_ptr<float>() + a * 2 * dim, dy.data_ptr<float>() + a * dim, dx.data_ptr<float>() + a * 2 * dim, b - a, dim);
    });
    return {dx};
  }
};

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", [](const Tensor& x, const Tensor& weight, double eps) { return RmsNorm::apply(x, weight, eps); });
  library.def("swiglu(Tensor x) -> Tensor", [](const Tensor& x) { return SwiGlu::apply(x); });
}

}  // namespace
