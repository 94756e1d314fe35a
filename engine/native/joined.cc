// Linear layers with the same input as one product: queries, keys and values, or gate and up.
//
// The weights remain separate tensors with separate gradients. If they are adjacent in memory (join_), the product reads them as one
// matrix; otherwise it uses a temporary copy. The backward pass keeps the input and the weights, not the copy.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

void check(at::TensorList weights) {
  TORCH_CHECK(!weights.empty(), "no weights to join");
  for (const Tensor& weight : weights)
    TORCH_CHECK(weight.dim() == 2 && weight.size(1) == weights[0].size(1) && weight.scalar_type() == weights[0].scalar_type() && weight.device() == weights[0].device(),
                "weights to join must be (N, K) with the same K, dtype and device");
}

/** Whether each weight begins where the one before it ends. */
bool sideBySide(at::TensorList weights) {
  const auto* storage = weights[0].storage().unsafeGetStorageImpl();
  int64_t next = weights[0].storage_offset();
  for (const Tensor& weight : weights) {
    if (!weight.is_contiguous() || weight.storage().unsafeGetStorageImpl() != storage || weight.storage_offset() != next) return false;
    next += weight.numel();
  }
  return true;
}

/** (N_1 + N_2 + ..., K): a view if the weights are adjacent in memory. */
Tensor joined(at::TensorList weights) {
  check(weights);
  if (weights.size() == 1) return weights[0];
  if (!sideBySide(weights)) return at::cat(weights, 0);
  int64_t rows = 0, columns = weights[0].size(1);
  for (const Tensor& weight : weights) rows += weight.size(0);
  return weights[0].as_strided({rows, columns}, {columns, 1}, weights[0].storage_offset());
}

struct JoinedLinear : Function<JoinedLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& input, at::TensorList weights) {
    variable_list saved{input};
    std::vector<int64_t> rows;
    bool trained = false;
    for (const Tensor& weight : weights) {
      saved.push_back(weight);
      rows.push_back(weight.size(0));
      trained = trained || weight.requires_grad();
    }
    context->saved_data["trained"] = trained;
    context->saved_data["input"] = input.requires_grad();
    context->saved_data["rows"] = rows;
    context->save_for_backward(saved);
    return at::linear(input, joined(weights));
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    variable_list saved = context->get_saved_variables(), out(saved.size());
    std::vector<int64_t> rows = context->saved_data["rows"].toIntVector();
    const Tensor& input = saved[0];
    Tensor dy = gradients[0].reshape({-1, gradients[0].size(-1)});
    if (context->saved_data["input"].toBool()) {
      Tensor weight = joined(at::TensorList(saved).slice(1));
      out[0] = dy.mm(weight).view(input.sizes());
    }
    if (context->saved_data["trained"].toBool()) {
      // One product; each weight's gradient is a view of part of it.
      Tensor dw = dy.t().mm(input.reshape({-1, input.size(-1)}));
      int64_t from = 0;
      for (size_t i = 0; i < rows.size(); from += rows[i++])
        if (saved[i + 1].requires_grad()) out[i + 1] = dw.narrow(0, from, rows[i]);
    }
    return out;
  }
};

/** Makes weights adjacent in memory unless they already are. They remain separate tensors. */
void join(at::TensorList weights) {
  at::NoGradGuard guard;
  check(weights);
  if (weights.size() == 1 || sideBySide(weights)) return;
  Tensor all = at::cat(weights, 0);
  int64_t from = 0;
  for (const Tensor& weight : weights) {
    weight.set_data(all.narrow(0, from, weight.size(0)));
    from += weight.size(0);
  }
}

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  library.def("joined_linear(Tensor x, Tensor[] weights) -> Tensor", [](const Tensor& x, at::TensorList weights) {
    check(weights);
    return JoinedLinear::apply(x, weights);
  });
  library.def("joined(Tensor[] weights) -> Tensor", [](at::TensorList weights) { return joined(weights); });
  library.def("join_(Tensor[] weights) -> ()", [](at::TensorList weights) { join(weights); });
}

}  // namespace
