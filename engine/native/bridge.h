// What the parts of the addon share: reading JavaScript arguments, making JavaScript values, turning C++ exceptions into JavaScript errors.
#pragma once
#include <ATen/ATen.h>
#include <node_api.h>

#include <string>
#include <vector>

at::Tensor& tensorAt(uint64_t handle);
uint64_t handleIn(napi_env env, napi_value value);
std::string stringOf(napi_env env, napi_value value);
std::vector<int64_t> int64sOf(napi_env env, napi_value value);
std::vector<at::Tensor> tensorsOf(napi_env env, napi_value value);
napi_value jsNumber(napi_env env, double value);
napi_value jsString(napi_env env, const std::string& value);
napi_value jsTensor(napi_env env, at::Tensor tensor);

/** The arguments of one call; at most 24. */
struct Arguments {
  napi_env env;
  size_t count = 24;
  napi_value values[24];
  Arguments(napi_env env, napi_callback_info info);
  uint64_t handle(size_t i) const;
  at::Tensor& tensor(size_t i) const;
  bool present(size_t i) const;
  double number(size_t i) const;
  bool boolean(size_t i) const;
  std::string string(size_t i) const;
};

struct Bytes {
  void* data;
  size_t length;
};
/** The bytes behind a typed array, Buffer or DataView. */
inline Bytes bytesOf(napi_env env, napi_value value) {
  static const size_t width[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 2};
  Bytes out{nullptr, 0};
  bool typed = false;
  napi_is_typedarray(env, value, &typed);
  if (typed) {
    napi_typedarray_type type;
    size_t length;
    napi_get_typedarray_info(env, value, &type, &length, &out.data, nullptr, nullptr);
    out.length = length * width[type];
  } else if (napi_get_dataview_info(env, value, &out.length, &out.data, nullptr, nullptr) != napi_ok) {
    throw std::runtime_error("expected a typed array");
  }
  return out;
}

/** Defines exports[name] as a function that runs body and throws its C++ exceptions as JavaScript errors. */
template <napi_value (*body)(const Arguments&)>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value function;
  napi_create_function(
      env, name, NAPI_AUTO_LENGTH,
      [](napi_env env, napi_callback_info info) -> napi_value {
        try {
          return body(Arguments(env, info));
        } catch (const c10::Error& error) {
          napi_throw_error(env, "TORCH", error.what_without_backtrace());
        } catch (const std::exception& error) {
          napi_throw_error(env, nullptr, error.what());
        }
        return nullptr;
      },
      nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}
