// RMSNorm, SwiGLU and cross-entropy.
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
    Tensor dy = gradients[0].contiguous(), dx = at::empty_like(saved[0]), dw = at::zeros_like(saved[1]);
    int64_t dim = dy.size(-1), rows = dy.numel() / dim;
    // One thread: the weight's gradient is a sum over rows, whose order must not depend on the number of threads.
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

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", [](const Tensor& x, const Tensor& weight, double eps) { return RmsNorm::apply(x, weight, eps); });
  library.def("swiglu(Tensor x) -> Tensor", [](const Tensor& x) { return SwiGlu::apply(x); });
  library.def("cross_entropy_sum(Tensor logits, Tensor targets) -> Tensor", [](const Tensor& logits, const Tensor& targets) { return CrossEntropy::apply(logits, targets); });
}

}  // namespace
