#include "gpu-products.h"

#include <torch/library.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "gpu-copy-kernels.h"
#include "gpu-products-kernels.h"
#include "gpu.h"

using at::Tensor;

namespace {

/** Rows of the weight per block, blocks that share a tile's columns, and stages of 64 columns in flight; with fewer than `leastRows` rows of x, libtorch's product is used. */
struct Plan {
  int64_t tile, split, stages, leastRows = 1;
};

constexpr int64_t rowBytes = 128, mostRows = 64, step = 64;
int64_t stageBytes(int64_t tile) { return (tile + mostRows) * rowBytes; }
/** As in the kernel: stages, over which sums are written at the end, then two barriers per stage. */
int64_t sharedBytes(const Plan& plan) { return std::max(plan.stages * stageBytes(plan.tile), 4 * mostRows * ((plan.tile + 23) / 32 * 32 + 8)) + 16 * plan.stages; }

constexpr int64_t mostShared = 227 * 1024;

/** By N, K, gated. */
using Plans = std::map<std::tuple<int64_t, int64_t, bool>, Plan>;
/**
 * Products for which these plans were measured to be faster than libtorch's on an H200 (docs/decisions/0021): those of the models with 1.1B parameters, and those of 7B except the one after attention. At 7B libtorch's are faster for one row (2 to 15 were not measured). At 110M libtorch's are as fast or faster for 64 rows.
 */
const Plans measured = {
    {{2560, 2048, false}, {160, 4, 5}},
    {{2048, 2048, false}, {64, 4, 6}},
    {{5632, 2048, true}, {96, 1, 8}},
    {{2048, 5632, false}, {64, 4, 6}},
    {{32000, 2048, false}, {128, 1, 4}},
    {{12288, 4096, false}, {96, 1, 6, 16}},
    {{11008, 4096, true}, {176, 1, 4, 16}},
    {{4096, 11008, false}, {128, 4, 4, 16}},
    {{32000, 4096, false}, {128, 1, 4, 16}},
};
/** Plans set by measurements and tests. */
Plans chosen;

const Plan* planOf(int64_t columns, int64_t dim, bool gated) {
  for (const Plans* plans : {static_cast<const Plans*>(&chosen), &measured}) {
    auto found = plans->find({columns, dim, gated});
    if (found != plans->end()) return &found->second;
  }
  return nullptr;
}

/** The kernel's source with the instruction for this tile, which names each register. */
const std::string& sourceFor(int64_t tile) {
  static std::map<int64_t, std::string> sources;
  std::string& source = sources[tile];
  if (!source.empty()) return source;
  const int64_t count = tile / 2;
  std::string registers, operands;
  for (int64_t i = 0; i < count; i++) {
    registers += (i > 0 ? ", %" : "%") + std::to_string(i);
    operands += (i > 0 ? ", \"+f\"(d[" : "\"+f\"(d[") + std::to_string(i) + "])";
  }
  const std::string size = std::to_string(count), next = std::to_string(count + 1);
  source = "__device__ __forceinline__ void multiply(float (&d)[" + size + "], unsigned long long a, unsigned long long b) {\n  asm volatile(\"wgmma.mma_async.sync.aligned.m64n" + std::to_string(tile) +
           "k16.f32.bf16.bf16 {" + registers + "}, %" + size + ", %" + next + ", 1, 1, 1, 0, 0;\" : " + operands + " : \"l\"(a), \"l\"(b));\n}\n" +
           "__device__ __forceinline__ void finish(float (&d)[" + size + "]) { asm volatile(\"wgmma.wait_group.sync.aligned 0;\" : " + operands + " :: \"memory\"); }\n" + gpuCopySource + gpuProductsSource;
  return source;
}

bool readable(const Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 && hasGpuKernels(tensor) && tensor.dim() == 2 && tensor.size(1) % 8 == 0 && reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0;
}

}  // namespace

bool ownProduct(const Tensor& x, const Tensor& weight, const Tensor& out, bool gated) {
  if (gpuGeneration() != 9 || !readable(x) || !readable(weight) || !readable(out) || x.size(0) > mostRows) return false;
  const int64_t columns = out.size(1), dim = x.size(1);
  TORCH_CHECK(weight.size(0) == (gated ? 2 * columns : columns) && weight.size(1) == dim && out.size(0) == x.size(0), "a product of ", x.sizes(), " with a weight of ", weight.sizes(), " can't be written to ", out.sizes());
  const Plan* found = planOf(columns, dim, gated);
  if (found == nullptr || x.size(0) < found->leastRows) return false;
  const Plan plan = *found;
  const int64_t outputs = gated ? plan.tile / 2 : plan.tile;
  auto define = [](const char* name, int64_t value) { return std::string(name) + "=" + std::to_string(value); };
  const GpuProgram program = {"products", sourceFor(plan.tile).c_str(), {define("TILE", plan.tile), define("SPLIT", plan.split), define("STAGES", plan.stages), define("GATED", gated)}, true, true};
  const GpuTensorMap w = mapMatrix(weight, static_cast<int>(outputs)), in = mapMatrix(x, mostRows);
  const void* to = out.data_ptr();
  const int rows = static_cast<int>(x.size(0)), width = static_cast<int>(columns), steps = static_cast<int>(ceilDivide(dim, step));
  const GpuGrid grid = {ceilDivide(columns, outputs) * plan.split, 160, static_cast<int>(plan.split), static_cast<int>(sharedBytes(plan))};
  launchFrom(program, "product", x, grid, {&w, &in, &to, &rows, &width, &steps});
  return true;
}

TORCH_LIBRARY_FRAGMENT(caravan, library) {
  // ownProduct, or an error if it does not support these tensors: for tests.
  library.def("own_product_(Tensor x, Tensor weight, Tensor out, bool gated) -> ()", [](const Tensor& x, const Tensor& weight, const Tensor& out, bool gated) {
    TORCH_CHECK(ownProduct(x, weight, out, gated), "there is no product of our own for ", x.sizes(), " with a weight of ", weight.sizes(), ": it needs Hopper, bfloat16, at most 64 rows and a plan for that many");
  });
  // Sets the plan for products with this many output columns and columns of x, for measurements and tests: rows of the weight per block, blocks that share columns, stages (two or more: one is released only when the next has arrived). A tile of 0 removes it.
  library.def("choose_product(int columns, int dim, bool gated, int tile, int split, int stages) -> ()", [](int64_t columns, int64_t dim, bool gated, int64_t tile, int64_t split, int64_t stages) {
    const Plan plan = {tile, split, stages};
    if (tile == 0) {
      chosen.erase({columns, dim, gated});
      return;
    }
    TORCH_CHECK(tile > 0 && tile <= 256 && tile % (gated ? 16 : 8) == 0 && (split == 1 || split == 2 || split == 4 || split == 8) && stages >= 2 && sharedBytes(plan) <= mostShared, "no product can have a tile of ", tile,
                ", a split of ", split, " and ", stages, " stages");
    chosen[{columns, dim, gated}] = plan;
  });
}
