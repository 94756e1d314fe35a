// Node-API addon: calls any ATen operator by name through c10's boxed dispatcher, and offers what has no operator: autograd, gradients,
// scopes, data transfer, generators, threads, device memory. Builds against libtorch 1.13 (CPU) and 2.x (CPU, CUDA).
//
// A tensor is known to JavaScript by a handle: slot index in the low 18 bits, the slot's generation in the 35 bits above it (a double holds
// 53), so that a handle whose tensor was freed is recognised instead of reading whatever took its place.
#include "bridge.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>

#include <cstring>
#include <string>
#include <vector>

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9)
#include <c10/core/CachingDeviceAllocator.h>
#define CARAVAN_DEVICE_STATS 1
#endif

using at::Tensor;

// ---- slots and scopes ------------------------------------------------------------------------------------------------------------------

namespace {

constexpr uint32_t slotBits = 18, slotMask = (1u << slotBits) - 1;
constexpr uint64_t lastGeneration = (uint64_t{1} << 35) - 1;

struct Slot {
  Tensor tensor;
  uint64_t generation = 0;
  bool alive = false;
  bool kept = false;  // survives every scope until it is freed by hand
};

std::vector<Slot> slots;
std::vector<uint32_t> freeSlots;
std::vector<uint32_t> scopeLog;           // slots made since the outermost open scope began
std::vector<size_t> scopeStarts;          // where each open scope begins in scopeLog
size_t liveTensors = 0;

uint64_t handleOf(uint32_t index) { return index | (slots[index].generation << slotBits); }

uint64_t put(Tensor tensor) {
  uint32_t index;
  if (freeSlots.empty()) {
    index = slots.size();
    if (index > slotMask) throw std::runtime_error("more than 262144 live tensors: free some, or wrap the work in scoped()");
    slots.emplace_back();
  } else {
    index = freeSlots.back();
    freeSlots.pop_back();
  }
  Slot& slot = slots[index];
  slot.tensor = std::move(tensor);
  slot.alive = true;
  slot.kept = false;
  if (!scopeStarts.empty()) scopeLog.push_back(index);
  liveTensors++;
  return handleOf(index);
}

uint32_t indexOf(uint64_t handle) {
  uint32_t index = handle & slotMask;
  if (index >= slots.size() || !slots[index].alive || slots[index].generation != handle >> slotBits)
    throw std::runtime_error("this tensor was freed (by free() or at the end of its scope): return it from scoped() or keep() it");
  return index;
}

void release(uint32_t index) {
  Slot& slot = slots[index];
  slot.tensor = Tensor();
  slot.alive = false;
  // A slot that has no generation left is not used again.
  if (slot.generation++ < lastGeneration) freeSlots.push_back(index);
  liveTensors--;
}

}  // namespace

Tensor& tensorAt(uint64_t handle) { return slots[indexOf(handle)].tensor; }

// ---- values in and out -----------------------------------------------------------------------------------------------------------------

Arguments::Arguments(napi_env env, napi_callback_info info) : env(env) {
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
}
uint64_t Arguments::handle(size_t i) const { return handleIn(env, values[i]); }
Tensor& Arguments::tensor(size_t i) const { return tensorAt(handle(i)); }
bool Arguments::present(size_t i) const {
  if (i >= count) return false;
  napi_valuetype type;
  napi_typeof(env, values[i], &type);
  return type != napi_undefined && type != napi_null;
}
double Arguments::number(size_t i) const {
  double value = 0;
  if (napi_get_value_double(env, values[i], &value) != napi_ok) throw std::runtime_error("argument " + std::to_string(i) + " must be a number");
  return value;
}
bool Arguments::boolean(size_t i) const {
  bool value = false;
  napi_get_value_bool(env, values[i], &value);
  return value;
}
std::string Arguments::string(size_t i) const { return stringOf(env, values[i]); }

uint64_t handleIn(napi_env env, napi_value value) {
  int64_t out = 0;
  if (napi_get_value_int64(env, value, &out) != napi_ok) throw std::runtime_error("expected a tensor");
  return out;
}
std::string stringOf(napi_env env, napi_value value) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) throw std::runtime_error("expected a string");
  std::string out(length, '\0');
  napi_get_value_string_utf8(env, value, out.data(), length + 1, &length);
  return out;
}
napi_value jsNumber(napi_env env, double value) {
  napi_value out;
  napi_create_double(env, value, &out);
  return out;
}
napi_value jsString(napi_env env, const std::string& value) {
  napi_value out;
  napi_create_string_utf8(env, value.data(), value.size(), &out);
  return out;
}
napi_value jsTensor(napi_env env, Tensor tensor) {
  napi_value out;
  if (!tensor.defined()) {
    napi_get_null(env, &out);
    return out;
  }
  napi_create_double(env, static_cast<double>(put(std::move(tensor))), &out);
  return out;
}
std::vector<int64_t> int64sOf(napi_env env, napi_value value) {
  uint32_t length = 0;
  if (napi_get_array_length(env, value, &length) != napi_ok) throw std::runtime_error("expected an array of integers");
  std::vector<int64_t> out(length);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, value, i, &element);
    napi_get_value_int64(env, element, &out[i]);
  }
  return out;
}
std::vector<Tensor> tensorsOf(napi_env env, napi_value value) {
  uint32_t length = 0;
  if (napi_get_array_length(env, value, &length) != napi_ok) throw std::runtime_error("expected an array of tensors");
  std::vector<Tensor> out;
  out.reserve(length);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, value, i, &element);
    out.push_back(tensorAt(handleIn(env, element)));
  }
  return out;
}

// ---- operators -------------------------------------------------------------------------------------------------------------------------

namespace {

enum class Kind : uint8_t { tensor, integer, real, boolean, number, string, device, integers, reals, booleans, tensors, optionalTensors, unsupported };

struct Parameter {
  Kind kind;
  bool optional;
  c10::optional<c10::IValue> fallback;
  std::string name;
};
struct Operator {
  c10::OperatorHandle handle;
  std::vector<Parameter> parameters;
};
std::vector<Operator> operators;

Kind kindOf(const c10::Type& type) {
  using K = c10::TypeKind;
  switch (type.kind()) {
    case K::TensorType: return Kind::tensor;
    case K::IntType: case K::SymIntType: return Kind::integer;
    case K::FloatType: return Kind::real;
    case K::BoolType: return Kind::boolean;
    case K::NumberType: return Kind::number;
    case K::StringType: return Kind::string;
    case K::DeviceObjType: return Kind::device;
    case K::ListType: {
      const auto& element = *type.castRaw<c10::ListType>()->getElementType();
      if (element.kind() == K::OptionalType) return Kind::optionalTensors;
      switch (kindOf(element)) {
        case Kind::integer: return Kind::integers;
        case Kind::real: return Kind::reals;
        case Kind::boolean: return Kind::booleans;
        case Kind::tensor: return Kind::tensors;
        default: return Kind::unsupported;
      }
    }
    default: return Kind::unsupported;
  }
}

template <typename T, typename F>
c10::List<T> listOf(napi_env env, napi_value value, F convert) {
  uint32_t length = 0;
  if (napi_get_array_length(env, value, &length) != napi_ok) throw std::runtime_error("expected an array");
  c10::List<T> out;
  out.reserve(length);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, value, i, &element);
    out.push_back(convert(element));
  }
  return out;
}

c10::IValue toIValue(napi_env env, napi_value value, const Parameter& parameter) {
  auto number = [&](napi_value v) {
    double out;
    if (napi_get_value_double(env, v, &out) != napi_ok) throw std::runtime_error("argument '" + parameter.name + "' must be a number");
    return out;
  };
  auto integer = [&](napi_value v) {
    int64_t out;
    if (napi_get_value_int64(env, v, &out) != napi_ok) throw std::runtime_error("argument '" + parameter.name + "' must be an integer");
    return out;
  };
  auto boolean = [&](napi_value v) {
    bool out;
    if (napi_get_value_bool(env, v, &out) != napi_ok) throw std::runtime_error("argument '" + parameter.name + "' must be true or false");
    return out;
  };
  switch (parameter.kind) {
    case Kind::tensor: return tensorAt(handleIn(env, value));
    case Kind::integer: return integer(value);
    case Kind::real: return number(value);
    case Kind::boolean: return boolean(value);
    case Kind::number: {
      napi_valuetype type;
      napi_typeof(env, value, &type);
      if (type == napi_boolean) return boolean(value);
      double x = number(value);
      if (x == std::floor(x) && std::abs(x) < 9007199254740992.0) return static_cast<int64_t>(x);
      return x;
    }
    case Kind::string: return stringOf(env, value);
    case Kind::device: return c10::Device(stringOf(env, value));
    case Kind::integers: return listOf<int64_t>(env, value, integer);
    case Kind::reals: return listOf<double>(env, value, number);
    case Kind::booleans: return listOf<bool>(env, value, boolean);
    case Kind::tensors: return listOf<Tensor>(env, value, [&](napi_value v) { return tensorAt(handleIn(env, v)); });
    case Kind::optionalTensors:
      return listOf<c10::optional<Tensor>>(env, value, [&](napi_value v) -> c10::optional<Tensor> {
        napi_valuetype type;
        napi_typeof(env, v, &type);
        if (type == napi_null || type == napi_undefined) return c10::nullopt;
        return tensorAt(handleIn(env, v));
      });
    default: throw std::runtime_error("argument '" + parameter.name + "' has a type this bridge does not carry");
  }
}

napi_value toJs(napi_env env, c10::IValue& value) {
  napi_value out;
  if (value.isTensor()) return jsTensor(env, std::move(value).toTensor());
  if (value.isDouble()) return jsNumber(env, value.toDouble());
  if (value.isInt()) return jsNumber(env, static_cast<double>(value.toInt()));
  if (value.isBool()) {
    napi_get_boolean(env, value.toBool(), &out);
    return out;
  }
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    napi_create_array_with_length(env, tensors.size(), &out);
    for (size_t i = 0; i < tensors.size(); i++) napi_set_element(env, out, i, jsTensor(env, std::move(tensors[i])));
    return out;
  }
  napi_get_undefined(env, &out);
  return out;
}

/** findOperator("aten::add", "Tensor") -> number to call it by, or -1 when this libtorch has no such operator. */
napi_value findOperator(const Arguments& in) {
  auto found = c10::Dispatcher::singleton().findSchema({in.string(0), in.string(1)});
  if (!found) return jsNumber(in.env, -1);
  Operator op{*found, {}};
  for (const auto& argument : op.handle.schema().arguments()) {
    c10::TypePtr type = argument.type();
    bool optional = type->kind() == c10::TypeKind::OptionalType;
    if (optional) type = type->castRaw<c10::OptionalType>()->getElementType();
    op.parameters.push_back({kindOf(*type), optional, argument.default_value(), argument.name()});
  }
  operators.push_back(std::move(op));
  return jsNumber(in.env, operators.size() - 1);
}

/** call(operator, ...arguments): undefined takes the schema's default, null is None. */
napi_value call(const Arguments& in) {
  uint64_t number = in.handle(0);
  if (number >= operators.size()) throw std::runtime_error("unknown operator");
  const Operator& op = operators[number];
  torch::jit::Stack stack;
  stack.reserve(op.parameters.size());
  for (size_t i = 0; i < op.parameters.size(); i++) {
    const Parameter& parameter = op.parameters[i];
    napi_valuetype type = napi_undefined;
    if (i + 1 < in.count) napi_typeof(in.env, in.values[i + 1], &type);
    if (type == napi_undefined) {
      if (parameter.fallback) stack.push_back(*parameter.fallback);
      else if (parameter.optional) stack.emplace_back();
      else throw std::runtime_error("missing argument '" + parameter.name + "'");
    } else if (type == napi_null) {
      stack.emplace_back();
    } else {
      stack.push_back(toIValue(in.env, in.values[i + 1], parameter));
    }
  }
  op.handle.callBoxed(&stack);
  if (stack.empty()) return nullptr;
  if (stack.size() == 1) return toJs(in.env, stack[0]);
  napi_value out;
  napi_create_array_with_length(in.env, stack.size(), &out);
  for (size_t i = 0; i < stack.size(); i++) napi_set_element(in.env, out, i, toJs(in.env, stack[i]));
  return out;
}

// ---- lifetime --------------------------------------------------------------------------------------------------------------------------

napi_value openScope(const Arguments&) {
  scopeStarts.push_back(scopeLog.size());
  return nullptr;
}

/** closeScope(handles): frees what was made since openScope, except the given tensors, which pass to the scope around it. */
napi_value closeScope(const Arguments& in) {
  if (scopeStarts.empty()) throw std::runtime_error("closeScope without openScope");
  uint32_t length = 0;
  napi_get_array_length(in.env, in.values[0], &length);
  std::vector<bool> survives(slots.size(), false);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(in.env, in.values[0], i, &element);
    uint32_t index = handleIn(in.env, element) & slotMask;
    if (index < survives.size()) survives[index] = true;
  }
  size_t start = scopeStarts.back();
  scopeStarts.pop_back();
  std::vector<uint32_t> passedOn;
  for (size_t i = start; i < scopeLog.size(); i++) {
    uint32_t index = scopeLog[i];
    if (!slots[index].alive || slots[index].kept) continue;
    if (!survives[index]) release(index);
    else if (!scopeStarts.empty()) passedOn.push_back(index), survives[index] = true;
  }
  scopeLog.resize(start);
  scopeLog.insert(scopeLog.end(), passedOn.begin(), passedOn.end());
  return nullptr;
}

napi_value keep(const Arguments& in) {
  slots[indexOf(in.handle(0))].kept = true;
  return nullptr;
}
napi_value freeTensor(const Arguments& in) {
  release(indexOf(in.handle(0)));
  return nullptr;
}
napi_value liveCount(const Arguments& in) { return jsNumber(in.env, liveTensors); }

// ---- data ------------------------------------------------------------------------------------------------------------------------------

/** fromBytes(view, shape, dtype, device): a new tensor holding a copy of the view's bytes. */
napi_value fromBytes(const Arguments& in) {
  Bytes bytes = bytesOf(in.env, in.values[0]);
  auto shape = int64sOf(in.env, in.values[1]);
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

/** toBytes(tensor, view): copies the tensor's elements, in row-major order, into the view. */
napi_value toBytes(const Arguments& in) {
  Tensor source = in.tensor(0).detach().to(at::kCPU).contiguous();
  Bytes bytes = bytesOf(in.env, in.values[1]);
  if (bytes.length != source.nbytes()) throw std::runtime_error("the view has " + std::to_string(bytes.length) + " bytes, the tensor " + std::to_string(source.nbytes()));
  std::memcpy(bytes.data, source.data_ptr(), bytes.length);
  return nullptr;
}

napi_value item(const Arguments& in) { return jsNumber(in.env, in.tensor(0).item().toDouble()); }

/** describe(tensor) -> [dtype, 1 when on a GPU, ...shape] */
napi_value describe(const Arguments& in) {
  const Tensor& tensor = in.tensor(0);
  napi_value out;
  napi_create_array_with_length(in.env, 2 + tensor.dim(), &out);
  napi_set_element(in.env, out, 0, jsNumber(in.env, static_cast<int>(tensor.scalar_type())));
  napi_set_element(in.env, out, 1, jsNumber(in.env, tensor.is_cuda()));
  for (int64_t i = 0; i < tensor.dim(); i++) napi_set_element(in.env, out, 2 + i, jsNumber(in.env, static_cast<double>(tensor.size(i))));
  return out;
}

// ---- autograd --------------------------------------------------------------------------------------------------------------------------

napi_value requiresGrad(const Arguments& in) {
  in.tensor(0).requires_grad_(in.boolean(1));
  return nullptr;
}
napi_value backward(const Arguments& in) {
  if (in.present(1)) in.tensor(0).backward(in.tensor(1));
  else in.tensor(0).backward();
  return nullptr;
}
napi_value gradient(const Arguments& in) { return jsTensor(in.env, in.tensor(0).grad()); }
napi_value clearGradients(const Arguments& in) {
  for (auto& tensor : tensorsOf(in.env, in.values[0])) tensor.mutable_grad().reset();
  return nullptr;
}
/** gradMode(on) -> what it was before */
napi_value gradMode(const Arguments& in) {
  napi_value out;
  napi_get_boolean(in.env, c10::GradMode::is_enabled(), &out);
  c10::GradMode::set_enabled(in.boolean(0));
  return out;
}

// ---- generators, threads, devices ------------------------------------------------------------------------------------------------------

at::Generator generatorOf(const std::string& device) {
  c10::Device d(device);
  if (d.is_cuda()) return at::globalContext().defaultGenerator(d.has_index() ? d : c10::Device(c10::kCUDA, 0));
  return at::globalContext().defaultGenerator(d);
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
  // A pthread-built OpenBLAS keeps a pool of its own, which at::set_num_threads does not reach.
  if (auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) set(threads);
  return nullptr;
}

/** allowTf32(on): whether float32 matrix products on a GPU may round their inputs to 10 bits of mantissa. */
napi_value allowTf32(const Arguments& in) {
  at::globalContext().setAllowTF32CuBLAS(in.boolean(0));
  return nullptr;
}

napi_value synchronize(const Arguments& in) {
  if (torch::cuda::is_available()) torch::cuda::synchronize();
  return nullptr;
}

/** deviceMemory() -> [bytes allocated now, peak bytes since the last call with true] on the first GPU; null where unknown. */
napi_value deviceMemory(const Arguments& in) {
  napi_value out;
  napi_get_null(in.env, &out);
#ifdef CARAVAN_DEVICE_STATS
  if (torch::cuda::is_available()) {
    auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
    if (!allocator->initialized()) return out;
    auto stats = allocator->getDeviceStats(0);
    const auto& bytes = stats.allocated_bytes[0];
    if (in.present(0) && in.boolean(0)) allocator->resetPeakStats(0);
    napi_create_array_with_length(in.env, 2, &out);
    napi_set_element(in.env, out, 0, jsNumber(in.env, static_cast<double>(bytes.current)));
    napi_set_element(in.env, out, 1, jsNumber(in.env, static_cast<double>(bytes.peak)));
  }
#endif
  return out;
}

std::string gpuName() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (!driver) return "";
  auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  auto nameOf = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  int device;
  char name[256] = "";
  if (init && get && nameOf && init(0) == 0 && get(&device, 0) == 0) nameOf(name, sizeof name, device);
  return name;
}

/** environment() -> {libtorch, config, blas, cpuCapability, threads, gpus, gpu} */
napi_value environment(const Arguments& in) {
  napi_value out;
  napi_create_object(in.env, &out);
  auto set = [&](const char* key, napi_value value) { napi_set_named_property(in.env, out, key, value); };
  set("libtorch", jsString(in.env, TORCH_VERSION));
  set("config", jsString(in.env, at::show_config()));
  std::string blas = "";
  if (auto config = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_config"))) blas = config();
  if (auto core = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename"))) blas += std::string(" ") + core();
  if (blas.empty() && at::hasMKL()) blas = "MKL";
  set("blas", jsString(in.env, blas));
  std::string config = at::show_config(), marker = "CPU capability usage: ";
  size_t at = config.find(marker);
  set("cpuCapability", jsString(in.env, at == std::string::npos ? "" : config.substr(at + marker.size(), config.find('\n', at) - at - marker.size())));
  set("threads", jsNumber(in.env, at::get_num_threads()));
  bool cuda = torch::cuda::is_available();
  set("gpus", jsNumber(in.env, cuda ? static_cast<double>(torch::cuda::device_count()) : 0));
  set("gpu", jsString(in.env, cuda ? gpuName() : ""));
  return out;
}

napi_value initialise(napi_env env, napi_value exports) {
#ifdef M_MMAP_MAX
  // Activations are megabytes each and come and go every step. By default glibc maps such blocks one by one and pays a page fault for every
  // 4 KiB of each; from the heap, which keeps its pages, they cost nothing. (The threshold itself can't be set above 32 MiB.)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 2000000000);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
  define<findOperator>(env, exports, "findOperator");
  define<call>(env, exports, "call");
  define<openScope>(env, exports, "openScope");
  define<closeScope>(env, exports, "closeScope");
  define<keep>(env, exports, "keep");
  define<freeTensor>(env, exports, "free");
  define<liveCount>(env, exports, "liveCount");
  define<fromBytes>(env, exports, "fromBytes");
  define<toBytes>(env, exports, "toBytes");
  define<item>(env, exports, "item");
  define<describe>(env, exports, "describe");
  define<requiresGrad>(env, exports, "requiresGrad");
  define<backward>(env, exports, "backward");
  define<gradient>(env, exports, "gradient");
  define<clearGradients>(env, exports, "clearGradients");
  define<gradMode>(env, exports, "gradMode");
  define<seedGenerator>(env, exports, "seedGenerator");
  define<generatorState>(env, exports, "generatorState");
  define<setGeneratorState>(env, exports, "setGeneratorState");
  define<setThreads>(env, exports, "setThreads");
  define<allowTf32>(env, exports, "allowTf32");
  define<synchronize>(env, exports, "synchronize");
  define<deviceMemory>(env, exports, "deviceMemory");
  define<environment>(env, exports, "environment");
  return exports;
}

}  // namespace

NAPI_MODULE(caravan, initialise)
