// Log-probabilities of tokens: the output layer, the softmax over the vocabulary and the selection of one column, in chunks of rows, so that the float32 logits
// of a complete batch never exist.
//
// logits (N, V) = states (N, D) weight (V, D)^T, in the states' dtype; everything else is in float32 (float64 if the states are float64). Small logits are kept for the backward
// pass; larger ones are recomputed chunk by chunk.
#include "gpu.h"
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <limits>
#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/** For each row: log softmax at the target, the log of the sum of exponentials, and the entropy if requested. */
VECTORISED void pickForward(const float* logits, const int64_t* targets, float* picked, float* lse, float* entropy, int64_t rows, int64_t vocab) {
  for (int64_t i = 0; i < rows; i++, logits += vocab) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < vocab; v++) most = logits[v] > most ? logits[v] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < vocab; v++) sum += exponential(logits[v] - most);
    lse[i] = most + std::log(sum);
    picked[i] = logits[targets[i]] - lse[i];
    if (entropy == nullptr) continue;
    float l = lse[i], weighted = 0;
#pragma omp simd reduction(+ : weighted)
    for (int64_t v = 0; v < vocab; v++) {
      // A logit of minus infinity adds nothing: p log p is 0 for p = 0.
      float log = logits[v] - l;
      log = log == -INFINITY ? 0.0f : log;
      weighted += exponential(log) * log;
    }
    entropy[i] = -weighted;
  }
}
/** The gradient of the logits, g (onehot - softmax), for a row's gradient g. */
VECTORISED void pickBackward(const float* logits, const int64_t* targets, const float* lse, const float* gradient, float* out, int64_t rows, int64_t vocab) {
  for (int64_t i = 0; i < rows; i++, logits += vocab, out += vocab) {
    float l = lse[i], g = -gradient[i];
    SIMD for (int64_t v = 0; v < vocab; v++) out[v] = g * exponential(logits[v] - l);
    out[targets[i]] -= g;
  }
}

namespace {

/** Logits of up to this many bytes are kept for the backward pass; larger ones are recomputed. */
constexpr int64_t keptBytes = 1 << 30;
/** Approximate number of logits per chunk: 64 MiB in 16 bits, plus copies in float32. */
constexpr int64_t chunkElements = 1 << 25;
/** The GPU kernel makes no copies: 256 MiB in 16 bits per chunk, and a single chunk if the logits are kept. */
constexpr int64_t gpuChunkElements = 1 << 27;

bool hasKernel(const Tensor& logits) { return logits.scalar_type() == at::kFloat && logits.is_cpu(); }

/** Logits in float32 (float64 if they are float64), divided by the temperature. */
Tensor scaled(const Tensor& logits, double temperature) {
  Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return temperature == 1 ? wide : wide.div(temperature);
}

void checkTargets(const Tensor& states, const Tensor& weight, const Tensor& targets) {
  TORCH_CHECK(states.dim() == 2 && weight.dim() == 2 && states.size(1) == weight.size(1), "states must be (N, D) and the weight (V, D)");
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == states.size(0), "there must be one target per row of states");
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.device() == states.device(), "targets must be int64 on ", states.device(), " like the states; these are ", targets.scalar_type(), " on ", targets.device());
  if (!targets.is_cpu() || targets.numel() == 0) return;
  int64_t least = targets.min().item<int64_t>(), most = targets.max().item<int64_t>(), vocab = weight.size(0);
  TORCH_CHECK(least >= 0 && most < vocab, "target ", least < 0 ? least : most, " is out of bounds of ", vocab, " logits");
}

struct LogProbabilities : Function<LogProbabilities> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& weight, const Tensor& ids, double temperature, bool entropies, bool recorded) {
    Tensor states = input.contiguous(), targets = ids.contiguous();
    int64_t rows = states.size(0), vocab = weight.size(0);
    bool small = rows * vocab * static_cast<int64_t>(states.element_size()) <= keptBytes, onGpu = hasGpuKernels(states);
    int64_t step = onGpu && small ? std::max<int64_t>(1, rows) : std::max<int64_t>(1, (onGpu ? gpuChunkElements : chunkElements) / vocab);
    auto options = states.options().dtype(states.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    Tensor picked = at::empty({rows}, options), lse = at::empty({rows}, options), entropy = at::empty({entropies ? rows : 0}, options);
    bool keep = recorded && small && (input.requires_grad() || weight.requires_grad());
    std::vector<Tensor> kept;
    for (int64_t from = 0; from < rows; from += step) {
      int64_t count = std::min(step, rows - from);
      Tensor logits = at::linear(states.narrow(0, from, count), weight), target = targets.narrow(0, from, count);
      if (keep) kept.push_back(logits);
      if (hasGpuKernels(logits)) {
        const void *in = logits.data_ptr(), *ids = target.data_ptr(), *p = picked.data_ptr<float>() + from, *s = lse.data_ptr<float>() + from, *e = entropies ? entropy.data_ptr<float>() + from : nullptr;
        float scale = static_cast<float>(1 / temperature);
        launch("pick_forward", logits, count, 512, {&in, &ids, &p, &s, &e, &vocab, &scale});
        continue;
      }
      Tensor l = scaled(logits, temperature);
      if (hasKernel(l)) {
        at::parallel_for(0, count, 16, [&](int64_t a, int64_t b) {
          pickForward(l.data_ptr<float>() + a * vocab, target.data_ptr<int64_t>() + a, picked.data_ptr<float>() + from + a, lse.data_ptr<float>() + from + a,
                      entropies ? entropy.data_ptr<float>() + from + a : nullptr, b - a, vocab);
        });
        continue;
      }
      Tensor sums = at::logsumexp(l, 1);
      lse.narrow(0, from, count).copy_(sums);
      picked.narrow(0, from, count).copy_(l.gather(1, target.unsqueeze(1)).squeeze(1).sub_(sums));
      if (entropies) {
        Tensor logs = l.sub(sums.unsqueeze(1));
        // 0 times a finite number for logits of minus infinity.
        entropy.narrow(0, from, count).copy_(logs.exp().mul_(logs.clamp_min(std::numeric_limits<float>::lowest())).sum(1).neg_());
      }
    }
    variable_list saved{states, weight, targets, lse};
    saved.insert(saved.end(), kept.begin(), kept.end());
    context->save_for_backward(saved);
    context->saved_data["temperature"] = temperature;
    context->saved_data["step"] = step;
    context->saved_data["states"] = input.requires_grad();
    context->saved_data["weight"] = weight.requires_grad();
    context->mark_non_differentiable({entropy});
    return {picked, entropy};
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list saved = context->get_saved_variables();
    const Tensor &states = saved[0], &weight = saved[1], &targets = saved[2], &lse = saved[3];
    double temperature = context->saved_data["temperature"].toDouble();
    bool ofStates = context->saved_data["states"].toBool(), ofWeight = context->saved_data["weight"].toBool();
    int64_t rows = states.size(0), vocab = weight.size(0), step = context->saved_data["step"].toInt();
    if (!gradients[0].defined()) return variable_list(6);
    Tensor gradient = gradients[0].contiguous(), dStates = ofStates ? at::empty_like(states) : Tensor(), dWeight;
    size_t chunk = 0;
    for (int64_t from = 0; from < rows; from += step, chunk++) {
      int64_t count = std::min(step, rows - from);
      Tensor part = states.narrow(0, from, count), target = targets.narrow(0, from, count), g = gradient.narrow(0, from, count);
      Tensor logits = saved.size() > 4 ? saved[4 + chunk] : at::linear(part, weight), l, d;
      if (hasGpuKernels(logits)) {
        // Overwrite the logits: nothing else reads them.
        d = logits;
        const void *in = logits.data_ptr(), *ids = target.data_ptr(), *s = lse.data_ptr<float>() + from, *of = g.data_ptr(), *out = d.data_ptr();
        float scale = static_cast<float>(1 / temperature);
        launch("pick_backward", logits, count, 512, {&in, &ids, &s, &of, &out, &vocab, &scale});
      } else if (hasKernel(l = scaled(logits, temperature))) {
        d = at::empty_like(l);
        at::parallel_for(0, count, 16, [&](int64_t a, int64_t b) {
          pickBackward(l.data_ptr<float>() + a * vocab, target.data_ptr<int64_t>() + a, lse.data_ptr<float>() + from + a, g.data_ptr<float>() + a, d.data_ptr<float>() + a * vocab, b - a, vocab);
        });
      } else {
        d = l.sub(lse.narrow(0, from, count).unsqueeze(1)).exp_().mul_(g.unsqueeze(1).neg());
        d.scatter_add_(1, target.unsqueeze(1), g.unsqueeze(1));
      }
      if (l.defined()) {
        l.reset();
        if (temperature != 1) d.div_(temperature);
        d = d.to(states.scalar_type());
      }
      logits.reset();
      if (ofStates) dStates.narrow(0, from, count).copy_(d.mm(weight));
      if (!ofWeight) continue;
      Tensor dw = d.t().mm(part);
      // Chunks are summed in float32: libtorch would round each sum to 16 bits.
      if (!dWeight.defined()) dWeight = count == rows || dw.scalar_type() == at::kDouble ? dw : dw.to(at::kFloat);
      else dWeight.add_(dw);
    }
    if (dWeight.defined()) dWeight = dWeight.to(weight.scalar_type());
    else if (ofWeight) dWeight = at::zeros_like(weight);
    return {dStates, dWeight, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("token_log_probabilities(Tensor states, Tensor weight, Tensor targets, float temperature, bool entropies) -> (Tensor, Tensor)",
              [](const Tensor& states, const Tensor& weight, const Tensor& targets, double temperature, bool entropies) {
                checkTargets(states, weight, targets);
                variable_list out = LogProbabilities::apply(states, weight, targets, temperature, entropies, c10::GradMode::is_enabled());
                return std::make_tuple(out[0], out[1]);
              });
}

}  // namespace
