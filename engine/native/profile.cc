// What ran on the GPU and when, by libtorch's own profiler (Kineto): a trace in Chrome's format, which engine/profile.ts reads.
#include "device.h"

#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/cuda.h>

#include <set>

namespace {

namespace profiler = torch::autograd::profiler;
// Without operators on the host: those would slow what is measured.
std::set<torch::profiler::impl::ActivityType> activities() { return {torch::profiler::impl::ActivityType::CUDA}; }

}  // namespace

napi_value startProfile(const Arguments&) {
  if (!torch::cuda::is_available()) throw std::runtime_error("a profile is of a GPU, and there is none");
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
