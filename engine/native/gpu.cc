#include "gpu.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <glob.h>
#include <torch/cuda.h>

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include "gpu-kernels.h"

using at::Tensor;

namespace {

// ---- NVRTC and the driver, loaded when first needed ----

struct Library {
  void* handle = nullptr;
  std::string path;
  template <typename F>
  F* find(const char* name) const {
    auto* found = reinterpret_cast<F*>(dlsym(handle, name));
    if (found == nullptr) throw std::runtime_error(path + " has no " + name);
    return found;
  }
};

/** Opens NVRTC by name, or else next to libtorch, where NVIDIA's wheels are. */
Library openNvrtc() {
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"})
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return {handle, name};
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&torch::cuda::device_count), &info) && info.dli_fname != nullptr) {
    std::string folder = info.dli_fname;
    folder = folder.substr(0, folder.rfind('/'));
    for (const std::string& pattern : {folder + "/libnvrtc.so*", folder + "/libnvrtc-*.so*", folder + "/../../nvidia/*/lib/libnvrtc.so*"}) {
      glob_t found;
      std::string path;
      if (glob(pattern.c_str(), 0, nullptr, &found) == 0 && found.gl_pathc > 0) path = found.gl_pathv[0];
      globfree(&found);
      if (!path.empty())
        if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return {handle, path};
    }
  }
  throw std::runtime_error("NVRTC was not found (libnvrtc.so, which comes with CUDA and with PyTorch's wheels)");
}

/** An attribute of device 0 by its number in CUDA's headers. */
int deviceAttribute(const Library& driver, int number) {
  int value = 0;
  if (driver.find<int(int*, int, int)>("cuDeviceGetAttribute")(&value, number, 0) != 0) throw std::runtime_error("the driver does not report the GPU's attribute " + std::to_string(number));
  return value;
}
/** The architecture of device 0, "sm_90": its compute capability. */
std::string architecture(const Library& driver) { return "sm_" + std::to_string(deviceAttribute(driver, 75)) + std::to_string(deviceAttribute(driver, 76)); }

/** "12.8". */
std::string versionOf(const Library& nvrtc) {
  int major = 0, minor = 0;
  if (nvrtc.find<int(int*, int*)>("nvrtcVersion")(&major, &minor) != 0) throw std::runtime_error(nvrtc.path + " does not report its version");
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string compile(const Library& nvrtc, const std::string& target, const GpuProgram& of) {
  void* program = nullptr;
  auto* error = nvrtc.find<const char*(int)>("nvrtcGetErrorString");
  auto checked = [&](int result) {
    if (result == 0) return;
    std::string log;
    size_t size = 0;
    if (program != nullptr && nvrtc.find<int(void*, size_t*)>("nvrtcGetProgramLogSize")(program, &size) == 0 && size > 1) {
      log.resize(size);
      nvrtc.find<int(void*, char*)>("nvrtcGetProgramLog")(program, &log[0]);
    }
    throw std::runtime_error("NVRTC can't compile them for " + target + ": " + error(result) + " " + log.substr(0, 300));
  };
  std::string source = std::string(gpuCommonSource) + of.source;
  checked(nvrtc.find<int(void**, const char*, const char*, int, const char**, const char**)>("nvrtcCreateProgram")(&program, source.c_str(), "kernels.cu", 0, nullptr, nullptr));
  std::vector<std::string> options = {"--gpu-architecture=" + target, "--std=c++17"};
  for (const std::string& definition : of.definitions) options.push_back("-D" + definition);
  std::vector<const char*> given;
  for (const std::string& option : options) given.push_back(option.c_str());
  checked(nvrtc.find<int(void*, int, const char**)>("nvrtcCompileProgram")(program, static_cast<int>(given.size()), given.data()));
  size_t size = 0;
  checked(nvrtc.find<int(void*, size_t*)>("nvrtcGetCUBINSize")(program, &size));
  std::string cubin(size, '\0');
  checked(nvrtc.find<int(void*, char*)>("nvrtcGetCUBIN")(program, &cubin[0]));
  nvrtc.find<int(void**)>("nvrtcDestroyProgram")(&program);
  return cubin;
}

/** The addon's folder. Compiled kernels are cached there for later processes. */
std::string addonFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(gpuKernelSource), &info) == 0 || info.dli_fname == nullptr) return "";
  std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}
std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}
/** Writes a file atomically. If that fails, the next process compiles again. */
void writeFile(const std::string& path, const std::string& bytes) {
  std::string temporary = path + "." + std::to_string(getpid());
  std::ofstream file(temporary, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) std::remove(temporary.c_str());
}

/** Describes a nonzero driver result. Out of memory is reported in libtorch's words, so that callers can recover from it (addon.cc). */
std::string reason(int result) { return result == 2 ? "CUDA error: out of memory" : "error " + std::to_string(result); }

/** A program's kernels on the device. */
class Module {
 public:
  Module(const Library& driver, const Library& nvrtc, const GpuProgram& program) : get(driver.find<int(void**, void*, const char*)>("cuModuleGetFunction")), set(driver.find<int(void*, int, int)>("cuFuncSetAttribute")), overlaps(program.overlaps) {
    std::string target = architecture(driver) + (program.onlyHere ? "a" : ""), kept = addonFolder() + program.name;
    for (const std::string& definition : program.definitions) kept += "." + definition;
    // Part of the name, because the numerics of this process name this version.
    kept += "." + target + ".nvrtc" + versionOf(nvrtc) + ".cubin";
    std::string cubin = readFile(kept);
    auto* read = driver.find<int(void**, const void*)>("cuModuleLoadData");
    int result = cubin.empty() ? 1 : read(&module, cubin.data());
    if (result != 0) {
      cubin = compile(nvrtc, target, program);
      result = read(&module, cubin.data());
      if (result == 0) writeFile(kept, cubin);
    }
    TORCH_CHECK(result != 2, "loading kernels: ", reason(result));
    if (result != 0) throw std::runtime_error("the driver can't load them: " + reason(result));
  }
  void* find(const std::string& name) {
    auto found = known.find(name);
    if (found != known.end()) return found->second;
    void* function = nullptr;
    int result = get(&function, module, name.c_str());
    TORCH_CHECK(result == 0, "no kernel ", name, " on the GPU: ", reason(result));
    // CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: kernels that overlap divide a multiprocessor's memory alike, so that it need not become idle in between.
    if (overlaps) set(function, 9, 100);
    return known[name] = function;
  }
  /** CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: a kernel may use 48 KiB unless allowed more. */
  void allowShared(void* function, int bytes) const {
    int result = set(function, 8, bytes);
    TORCH_CHECK(result == 0, "a kernel's ", bytes, " bytes of shared memory on the GPU: ", reason(result));
  }

 private:
  int (*get)(void**, void*, const char*);
  int (*set)(void*, int, int);
  bool overlaps;
  void* module = nullptr;
  std::map<std::string, void*> known;
};

/** How a kernel is launched, as CUDA's headers declare it (CUlaunchAttribute, CUlaunchConfig). */
struct LaunchAttribute {
  int id;
  char padding[4];
  unsigned value[16];
};
struct LaunchConfig {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attributeCount;
};
constexpr int clusterDimension = 4, programmaticSerialization = 6;  // CUlaunchAttributeID
using LaunchOverlapping = int(const LaunchConfig*, void* function, void** arguments, void** extra);
using Launch = int(void* function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ, unsigned shared, void* stream, void** arguments, void** extra);

const GpuProgram base = {"kernels", gpuKernelSource, {}, false};

struct Kernels {
  std::string missing, compiler;
  Library driver, nvrtc;
  Launch* launch = nullptr;
  /** Set if a kernel may begin before the previous one has ended: on Hopper and later. */
  LaunchOverlapping* overlapping = nullptr;
  /** cuTensorMapEncodeTiled, on Hopper. */
  void* encode = nullptr;
  std::map<std::string, Module> modules;

  Kernels() {
    if (!torch::cuda::is_available()) return;
    try {
      driver = {dlopen("libcuda.so.1", RTLD_NOW), "libcuda.so.1"};
      if (driver.handle == nullptr) throw std::runtime_error("the driver's libcuda.so.1 was not found");
      // libtorch creates the device's context with the first tensor.
      at::empty({1}, at::TensorOptions().device(at::kCUDA));
      nvrtc = openNvrtc();
      compiler = "nvrtc " + versionOf(nvrtc);
      of(base);
      launch = driver.find<Launch>("cuLaunchKernel");
      if (gpuGeneration() >= 9) {
        encode = driver.find<void>("cuTensorMapEncodeTiled");
        overlapping = driver.find<LaunchOverlapping>("cuLaunchKernelEx");
      }
    } catch (const std::exception& error) {
      // Don't fall back when out of memory: the fallback would give different numbers under the same key.
      if (std::string(error.what()).find("out of memory") != std::string::npos) throw;
      missing = error.what();
    }
  }
  Module& of(const GpuProgram& program) {
    std::string key = program.name;
    for (const std::string& definition : program.definitions) key += " " + definition;
    auto found = modules.find(key);
    if (found != modules.end()) return found->second;
    return modules.emplace(key, Module(driver, nvrtc, program)).first->second;
  }
};

Kernels& kernels() {
  static Kernels loaded;
  return loaded;
}

/** The driver's handle of the current stream. Older versions of libtorch don't expose it: then it must be the default stream, or this throws. */
template <typename S>
auto nativeHandle(const S& stream, int) -> decltype(stream.native_handle()) {
  return stream.native_handle();
}
template <typename S>
void* nativeHandle(const S& stream, long) {
  TORCH_CHECK(stream.id() == 0, "this libtorch does not expose the current stream");
  return nullptr;
}

}  // namespace

bool hasGpuKernels(const Tensor& like) {
  return like.is_cuda() && (like.scalar_type() == at::kFloat || like.scalar_type() == at::kBFloat16) && like.is_contiguous() && kernels().launch != nullptr;
}

const std::string& gpuKernelsMissing() { return kernels().missing; }
const std::string& gpuCompiler() { return kernels().compiler; }

namespace {

c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(c10::kCUDA); }
void* currentStream() {
  auto device = guard().getDevice();
  return nativeHandle(guard().getStream(device), 0);
}

/** Throws if an operation of the driver failed. */
void checked(int result, const char* doing) { TORCH_CHECK(result == 0, doing, " failed on the GPU: ", reason(result)); }

}  // namespace

void launchFrom(const GpuProgram& program, const char* name, const Tensor& like, const GpuGrid& grid, std::initializer_list<const void*> arguments) {
  if (grid.blocks == 0) return;
  std::vector<void*> values;
  for (const void* argument : arguments) values.push_back(const_cast<void*>(argument));
  Module& module = kernels().of(program);
  void* function = module.find(std::string(name) + (like.scalar_type() == at::kFloat ? "_f32" : "_bf16"));
  if (grid.sharedBytes > 0) module.allowShared(function, grid.sharedBytes);
  const unsigned blocks = static_cast<unsigned>(grid.blocks), threads = static_cast<unsigned>(grid.threads), shared = static_cast<unsigned>(grid.sharedBytes), cluster = static_cast<unsigned>(grid.cluster);
  int result;
  if (kernels().overlapping != nullptr && (program.overlaps || cluster > 1)) {
    LaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (program.overlaps) attributes[count++] = {programmaticSerialization, {}, {1}};
    if (cluster > 1) attributes[count++] = {clusterDimension, {}, {cluster, 1, 1}};
    LaunchConfig config = {blocks, 1, 1, threads, 1, 1, shared, currentStream(), attributes, count};
    result = kernels().overlapping(&config, function, values.data(), nullptr);
  } else {
    TORCH_CHECK(cluster == 1, "the kernel ", name, " needs clusters of blocks, which this GPU does not have");
    result = kernels().launch(function, blocks, 1, 1, threads, 1, 1, shared, currentStream(), values.data(), nullptr);
  }
  TORCH_CHECK(result == 0, "the kernel ", name, " was not launched on the GPU: ", reason(result));
}

void launch(const char* name, const Tensor& like, int64_t blocks, int threads, std::initializer_list<const void*> arguments) { launchFrom(base, name, like, blocks, threads, arguments); }

GpuTensorMap mapMatrix(const Tensor& matrix, int rows) {
  using Encode = int(void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, int, int, int, int);
  TORCH_CHECK(kernels().encode != nullptr, "this GPU has no bulk copy engine");
  GpuTensorMap map;
  const uint64_t sizes[] = {static_cast<uint64_t>(matrix.size(1)), static_cast<uint64_t>(matrix.size(0))}, strides[] = {sizes[0] * 2};
  const uint32_t box[] = {64, static_cast<uint32_t>(rows)}, steps[] = {1, 1};
  // As CUDA's headers number them: bfloat16; not interleaved; swizzled by 128 bytes; 256 bytes at a time into the L2 cache; zeros outside.
  checked(reinterpret_cast<Encode*>(kernels().encode)(&map, 9, 2, matrix.data_ptr(), sizes, strides, box, steps, 0, 3, 3, 0), "Describing a matrix");
  return map;
}

// ---- graphs ----

namespace {

std::map<int64_t, void*> graphs;
int64_t nextGraph = 1;
c10::optional<c10::Stream> before;

}  // namespace

void GpuGraph::begin() {
  TORCH_CHECK(!before.has_value(), "a graph is already being recorded");
  auto impl = guard();
  // One stream for all graphs: cuBLAS keeps a workspace per stream (32 MiB on Hopper) until the process ends.
  static const c10::Stream own = impl.getStreamFromGlobalPool(impl.getDevice());
  c10::Stream current = impl.getStream(impl.getDevice());
  auto* capture = kernels().driver.find<int(void*, int)>("cuStreamBeginCapture_v2");
  impl.exchangeStream(own);
  // Relaxed mode: allocations by other threads do not abort the recording.
  int result = capture(nativeHandle(own, 0), 2);
  if (result != 0) impl.exchangeStream(current);
  checked(result, "Recording a graph");
  before = current;
}
int64_t GpuGraph::end() {
  TORCH_CHECK(before.has_value(), "no graph is being recorded");
  auto impl = guard();
  void *stream = currentStream(), *graph = nullptr, *executable = nullptr;
  impl.exchangeStream(*before);
  before.reset();
  const Library& driver = kernels().driver;
  checked(driver.find<int(void*, void**)>("cuStreamEndCapture")(stream, &graph), "Recording a graph");
  int result = driver.find<int(void**, void*, unsigned long long)>("cuGraphInstantiateWithFlags")(&executable, graph, 0);
  driver.find<int(void*)>("cuGraphDestroy")(graph);
  checked(result, "Making a graph");
  graphs[nextGraph] = executable;
  return nextGraph++;
}
void GpuGraph::run(int64_t graph) {
  TORCH_CHECK(graphs.count(graph) == 1, "no graph ", graph);
  checked(kernels().driver.find<int(void*, void*)>("cuGraphLaunch")(graphs[graph], currentStream()), "Running a graph");
}
void GpuGraph::free(int64_t graph) {
  if (graphs.count(graph) == 0) return;
  kernels().driver.find<int(void*)>("cuGraphExecDestroy")(graphs[graph]);
  graphs.erase(graph);
}
