#include "device.h"

#include "gpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/cuda.h>
#include <torch/version.h>

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9)
#include <c10/core/CachingDeviceAllocator.h>
#define CARAVAN_DEVICE_STATS 1
#endif

namespace {

at::Generator generatorOf(const std::string& device) {
  c10::Device d(device);
  if (d.is_cuda()) return at::globalContext().defaultGenerator(d.has_index() ? d : c10::Device(c10::kCUDA, 0));
  return at::globalContext().defaultGenerator(d);
}

/** A function of NVIDIA's driver; null without a driver. */
template <typename F>
F* driverFunction(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  return driver ? reinterpret_cast<F*>(dlsym(driver, name)) : nullptr;
}

struct Gpu {
  std::string name;
  /** Total memory in bytes. */
  size_t memory = 0;
  /** Major version of its compute capability: 8 is Ampere, 9 Hopper. */
  int generation = 0;
  int multiprocessors = 0;
};

/** The first GPU, as reported by the driver. */
Gpu firstGpu() {
  auto init = driverFunction<int(unsigned)>("cuInit");
  auto get = driverFunction<int(int*, int)>("cuDeviceGet");
  auto nameOf = driverFunction<int(char*, int, int)>("cuDeviceGetName");
  auto memoryOf = driverFunction<int(size_t*, int)>("cuDeviceTotalMem_v2");
  auto attributeOf = driverFunction<int(int*, int, int)>("cuDeviceGetAttribute");
  constexpr int multiprocessorCount = 16, computeCapabilityMajor = 75;
  Gpu gpu;
  int device;
  char name[256] = "";
  if (!init || !get || !nameOf || !memoryOf || !attributeOf || init(0) != 0 || get(&device, 0) != 0) return gpu;
  if (nameOf(name, sizeof name, device) == 0) gpu.name = name;
  memoryOf(&gpu.memory, device);
  attributeOf(&gpu.generation, computeCapabilityMajor, device);
  attributeOf(&gpu.multiprocessors, multiprocessorCount, device);
  return gpu;
}

/** Free memory of the GPU in bytes; -1 before this process has used the GPU. */
double freeMemory() {
  auto get = driverFunction<int(size_t*, size_t*)>("cuMemGetInfo_v2");
  size_t free = 0, total = 0;
  return get && get(&free, &total) == 0 ? static_cast<double>(free) : -1;
}

}  // namespace

int gpuGeneration() {
  static const int generation = firstGpu().generation;
  return generation;
}
int gpuMultiprocessors() {
  static const int multiprocessors = firstGpu().multiprocessors;
  return multiprocessors;
}

napi_value seedGenerator(const Arguments& in) {
  generatorOf(in.string(0)).set_current_seed(static_cast<uint64_t>(in.number(1)));
  return nullptr;
}
napi_value generatorState(const Arguments& in) { return jsTensor(in.env, generatorOf(in.string(0)).get_state()); }
napi_value setGeneratorState(const Arguments& in) {
  generatorOf(in.string(0)).set_state(in.tensor(1));
  return nullptr;
}

napi_value setThreads(const Arguments& in) {
  int threads = static_cast<int>(in.number(0));
  at::set_num_threads(threads);
  // An OpenBLAS built with pthreads has its own thread pool, which at::set_num_threads does not affect.
  if (auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) set(threads);
  return nullptr;
}

napi_value allowTf32(const Arguments& in) {
  at::globalContext().setAllowTF32CuBLAS(in.boolean(0));
  return nullptr;
}

/** Why the GPU kernels are unavailable on this machine (gpu.h); null if they are available or there is no GPU. */
napi_value gpuKernelsMissing(const Arguments& in) { return gpuKernelsMissing().empty() ? jsNull(in.env) : jsString(in.env, gpuKernelsMissing()); }

/** The compiler of the GPU kernels; empty without a GPU. */
napi_value gpuCompiler(const Arguments& in) { return jsString(in.env, gpuCompiler()); }

napi_value beginGraph(const Arguments&) {
  GpuGraph::begin();
  return nullptr;
}
napi_value endGraph(const Arguments& in) { return jsNumber(in.env, static_cast<double>(GpuGraph::end())); }
napi_value runGraph(const Arguments& in) {
  GpuGraph::run(static_cast<int64_t>(in.number(0)));
  return nullptr;
}
napi_value freeGraph(const Arguments& in) {
  GpuGraph::free(static_cast<int64_t>(in.number(0)));
  return nullptr;
}

napi_value synchronize(const Arguments& in) {
  if (torch::cuda::is_available()) torch::cuda::synchronize();
  return nullptr;
}

napi_value deviceMemory(const Arguments& in) {
#ifdef CARAVAN_DEVICE_STATS
  if (torch::cuda::is_available()) {
    auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
    if (!allocator->initialized()) return jsNull(in.env);
    auto stats = allocator->getDeviceStats(0);
    const auto& bytes = stats.allocated_bytes[0];
    if (in.present(0) && in.boolean(0)) allocator->resetPeakStats(0);
    double reserved = static_cast<double>(stats.reserved_bytes[0].current), free = freeMemory();
    return jsArray(in.env, {jsNumber(in.env, static_cast<double>(bytes.current)), jsNumber(in.env, static_cast<double>(bytes.peak)),
                            free < 0 ? jsNull(in.env) : jsNumber(in.env, free + reserved)});
  }
#endif
  return jsNull(in.env);
}

void releaseDeviceMemory() {
#ifdef CARAVAN_DEVICE_STATS
  if (!torch::cuda::is_available()) return;
  auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
  if (allocator->initialized()) allocator->emptyCache();
#endif
}

napi_value environment(const Arguments& in) {
  napi_value out;
  napi_create_object(in.env, &out);
  auto set = [&](const char* key, napi_value value) { napi_set_named_property(in.env, out, key, value); };
  set("libtorch", jsString(in.env, TORCH_VERSION));
  std::string config = at::show_config(), marker = "CPU capability usage: ";
  set("config", jsString(in.env, config));
  std::string blas = "";
  if (auto describe = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_config"))) blas = describe();
  if (auto core = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename"))) blas += std::string(" ") + core();
  if (blas.empty() && at::hasMKL()) blas = "MKL";
  set("blas", jsString(in.env, blas));
  size_t at = config.find(marker);
  set("cpuCapability", jsString(in.env, at == std::string::npos ? "" : config.substr(at + marker.size(), config.find('\n', at) - at - marker.size())));
  set("threads", jsNumber(in.env, at::get_num_threads()));
  bool cuda = torch::cuda::is_available();
  set("gpus", jsNumber(in.env, cuda ? static_cast<double>(torch::cuda::device_count()) : 0));
  Gpu gpu = cuda ? firstGpu() : Gpu();
  set("gpu", jsString(in.env, gpu.name));
  set("gpuMemory", jsNumber(in.env, static_cast<double>(gpu.memory)));
  set("gpuGeneration", jsNumber(in.env, gpu.generation));
  return out;
}
