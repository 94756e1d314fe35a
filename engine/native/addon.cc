// Node-API addon. Calls any ATen operator by name (operators.cc), and provides what ATen has no operators for: tensor handles and scopes, reading and
// writing data (files.cc), autograd, and the device (device.cc). Builds against libtorch 1.13 (CPU) and 2.x (CPU, CUDA).
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <malloc.h>

#include <cstring>
#include <new>

#include "device.h"
#include "files.h"
#include "handles.h"
#include "operators.h"
#include "values.h"

using at::Tensor;

namespace {

// ---- lifetime --------------------------------------------------------------------------------------------------------------------------

napi_value open(const Arguments&) {
  openScope();
  return nullptr;
}
napi_value close(const Arguments& in) {
  std::vector<uint64_t> survivors;
  forEach(in.env, in.values[0], "tensors", [&](napi_value tensor) { survivors.push_back(handleOf(in.env, tensor)); });
  closeScope(survivors);
  return nullptr;
}
napi_value keep(const Arguments& in) {
  keepTensor(in.handle(0));
  return nullptr;
}
napi_value free(const Arguments& in) {
  freeTensor(in.handle(0));
  return nullptr;
}
napi_value freeAll(const Arguments&) {
  freeAllTensors();
  releaseDeviceMemory();
  return nullptr;
}
napi_value liveCount(const Arguments& in) { return jsNumber(in.env, liveTensors()); }

// ---- data ------------------------------------------------------------------------------------------------------------------------------

/** fromBytes(view, shape, dtype, device): a new tensor with a copy of the view's bytes. */
napi_value fromBytes(const Arguments& in) {
  Bytes bytes = bytesOf(in.env, in.values[0]);
  std::vector<int64_t> shape;
  forEach(in.env, in.values[1], "sizes", [&](napi_value size) { napi_get_value_int64(in.env, size, &shape.emplace_back()); });
  auto dtype = static_cast<at::ScalarType>(static_cast<int>(in.number(2)));
  int64_t count = 1;
  for (auto d : shape) count *= d;
  if (count * static_cast<int64_t>(c10::elementSize(dtype)) != static_cast<int64_t>(bytes.length))
    throw std::runtime_error("the shape needs " + std::to_string(count * c10::elementSize(dtype)) + " bytes, the data has " + std::to_string(bytes.length));
  Tensor out = at::empty(shape, at::TensorOptions().dtype(dtype));
  std::memcpy(out.data_ptr(), bytes.data, bytes.length);
  std::string device = in.string(3);
  if (device != "cpu") out = out.to(c10::Device(device));
  return jsTensor(in.env, out);
}

napi_value item(const Arguments& in) { return jsNumber(in.env, in.tensor(0).item().toDouble()); }

/** describe(tensor) -> [dtype, 1 when on a GPU, ...shape] */
napi_value describe(const Arguments& in) {
  const Tensor& tensor = in.tensor(0);
  std::vector<napi_value> out{jsNumber(in.env, static_cast<int>(tensor.scalar_type())), jsNumber(in.env, tensor.is_cuda())};
  for (int64_t size : tensor.sizes()) out.push_back(jsNumber(in.env, static_cast<double>(size)));
  return jsArray(in.env, out);
}

// ---- autograd --------------------------------------------------------------------------------------------------------------------------

napi_value requiresGrad(const Arguments& in) {
  in.tensor(0).requires_grad_(in.boolean(1));
  return nullptr;
}
/** Whether operations on the tensor are recorded for gradients. */
napi_value hasGradient(const Arguments& in) { return jsBoolean(in.env, in.tensor(0).requires_grad()); }
napi_value backward(const Arguments& in) {
  if (in.present(1)) in.tensor(0).backward(in.tensor(1));
  else in.tensor(0).backward();
  return nullptr;
}
napi_value gradient(const Arguments& in) { return jsTensor(in.env, in.tensor(0).grad()); }
napi_value clearGradients(const Arguments& in) {
  forEach(in.env, in.values[0], "tensors", [&](napi_value tensor) { tensorOf(in.env, tensor).mutable_grad().reset(); });
  return nullptr;
}
/** gradMode(on) -> the previous mode */
napi_value gradMode(const Arguments& in) {
  bool before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(in.boolean(0));
  return jsBoolean(in.env, before);
}
/**
 * Whether a libtorch error other than OutOfMemoryError reports a failed allocation: on the CPU, or by a CUDA library that allocates memory itself.
 */
bool tellsOfMemory(const std::string& message) {
  for (const char* words : {"DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"})
    if (message.find(words) != std::string::npos) return true;
  return false;
}

/** The GPU allocator's message without its advice on allocator settings. */
std::string withoutAdvice(std::string message) {
  size_t at = message.find(" If reserved but unallocated");
  return at == std::string::npos ? message : message.substr(0, at);
}

/** Defines exports[name] as a function that runs body and throws its C++ exceptions as JavaScript errors with the code OUT_OF_MEMORY or TORCH. */
template <napi_value (*body)(const Arguments&)>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value function;
  napi_create_function(
      env, name, NAPI_AUTO_LENGTH,
      [](napi_env env, napi_callback_info info) -> napi_value {
        try {
          return body(Arguments(env, info));
        } catch (const c10::OutOfMemoryError& error) {
          napi_throw_error(env, "OUT_OF_MEMORY", withoutAdvice(error.what_without_backtrace()).c_str());
        } catch (const c10::Error& error) {
          std::string message = error.what_without_backtrace();
          napi_throw_error(env, tellsOfMemory(message) ? "OUT_OF_MEMORY" : "TORCH", message.c_str());
        } catch (const std::bad_alloc&) {
          napi_throw_error(env, "OUT_OF_MEMORY", "the system has no more memory");
        } catch (const std::exception& error) {
          napi_throw_error(env, nullptr, error.what());
        }
        return nullptr;
      },
      nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

napi_value initialise(napi_env env, napi_value exports) {
#ifdef M_MMAP_MAX
  // Each activation is megabytes, allocated and freed every step. By default glibc maps such blocks one by one, with a page fault for every
  // 4 KiB; blocks from the heap, which keeps its pages, cost nothing. (The threshold itself can't be set above 32 MiB.)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 2000000000);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
  define<findOperator>(env, exports, "findOperator");
  define<call>(env, exports, "call");
  define<open>(env, exports, "openScope");
  define<close>(env, exports, "closeScope");
  define<keep>(env, exports, "keep");
  define<free>(env, exports, "free");
  define<freeAll>(env, exports, "freeAll");
  define<liveCount>(env, exports, "liveCount");
  define<fromBytes>(env, exports, "fromBytes");
  define<toBytes>(env, exports, "toBytes");
  define<readInto>(env, exports, "readInto");
  define<item>(env, exports, "item");
  define<describe>(env, exports, "describe");
  define<requiresGrad>(env, exports, "requiresGrad");
  define<hasGradient>(env, exports, "hasGradient");
  define<backward>(env, exports, "backward");
  define<gradient>(env, exports, "gradient");
  define<clearGradients>(env, exports, "clearGradients");
  define<gradMode>(env, exports, "gradMode");
  define<seedGenerator>(env, exports, "seedGenerator");
  define<generatorState>(env, exports, "generatorState");
  define<setGeneratorState>(env, exports, "setGeneratorState");
  define<setThreads>(env, exports, "setThreads");
  define<allowTf32>(env, exports, "allowTf32");
  define<gpuKernelsMissing>(env, exports, "gpuKernelsMissing");
  define<gpuCompiler>(env, exports, "gpuCompiler");
  define<beginGraph>(env, exports, "beginGraph");
  define<endGraph>(env, exports, "endGraph");
  define<runGraph>(env, exports, "runGraph");
  define<freeGraph>(env, exports, "freeGraph");
  define<synchronize>(env, exports, "synchronize");
  define<deviceMemory>(env, exports, "deviceMemory");
  define<startProfile>(env, exports, "startProfile");
  define<stopProfile>(env, exports, "stopProfile");
  define<environment>(env, exports, "environment");
  return exports;
}

}  // namespace
NAPI_MODULE(caravan, initialise)
