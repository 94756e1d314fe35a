// Traces what ran on the GPU and when, using libtorch's own profiler (Kineto). The trace is in Chrome's format; engine/profile.ts reads it.
#include "device.h"

#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/cuda.h>

#include <set>

namespace {

namespace profiler = torch::autograd::profiler;
// Does not record operators on the host, which would slow down the measured code.
std::set<torch::profiler::impl::ActivityType> activities() { return {torch::profiler::impl::ActivityType::CUDA}; }

}  // namespace

napi_value startProfile(const Arguments&) {
  if (!torch::cuda::is_available()) throw std::runtime_error("profiling needs a GPU, and there is none");
  profiler::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  torch::cuda::synchronize();
  profiler::prepareProfiler(config, activities());
  profiler::enableProfiler(config, activities());
  return nullptr;
}

napi_value stopProfile(const Arguments& in) {
  torch::cuda::synchronize();
  profiler::disableProfiler()->save(in.string(0));
  return nullptr;
}
