// JavaScript values: reads arguments and makes results.
#pragma once
#include <ATen/core/Tensor.h>
#include <node_api.h>

#include <stdexcept>
#include <string>
#include <vector>

uint64_t handleOf(napi_env env, napi_value value);
at::Tensor& tensorOf(napi_env env, napi_value value);
std::string stringOf(napi_env env, napi_value value);
/** Whether it is neither undefined nor null. */
bool isPresent(napi_env env, napi_value value);

/** Calls visit(element) for each element of an array; `what` describes the expected elements, for the error. */
template <typename F>
void forEach(napi_env env, napi_value array, const char* what, F visit) {
  uint32_t length = 0;
  if (napi_get_array_length(env, array, &length) != napi_ok) throw std::runtime_error(std::string("expected an array of ") + what);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, array, i, &element);
    visit(element);
  }
}

struct Bytes {
  void* data;
  size_t length;
};
/** The bytes behind a typed array, Buffer or DataView. */
Bytes bytesOf(napi_env env, napi_value value);

napi_value jsNull(napi_env env);
napi_value jsBoolean(napi_env env, bool value);
napi_value jsNumber(napi_env env, double value);
napi_value jsString(napi_env env, const std::string& value);
/** The handle of a new tensor in the open scope; null for an undefined tensor. */
napi_value jsTensor(napi_env env, at::Tensor tensor);
napi_value jsArray(napi_env env, const std::vector<napi_value>& elements);

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
