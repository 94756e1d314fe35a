#include "values.h"

#include "handles.h"

using at::Tensor;

uint64_t handleOf(napi_env env, napi_value value) {
  int64_t out = 0;
  if (napi_get_value_int64(env, value, &out) != napi_ok) throw std::runtime_error("expected a tensor");
  return out;
}
Tensor& tensorOf(napi_env env, napi_value value) { return tensorAt(handleOf(env, value)); }
std::string stringOf(napi_env env, napi_value value) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) throw std::runtime_error("expected a string");
  std::string out(length, '\0');
  napi_get_value_string_utf8(env, value, out.data(), length + 1, &length);
  return out;
}
bool isPresent(napi_env env, napi_value value) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  return type != napi_undefined && type != napi_null;
}

Bytes bytesOf(napi_env env, napi_value value) {
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

napi_value jsNull(napi_env env) {
  napi_value out;
  napi_get_null(env, &out);
  return out;
}
napi_value jsBoolean(napi_env env, bool value) {
  napi_value out;
  napi_get_boolean(env, value, &out);
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
  if (!tensor.defined()) return jsNull(env);
  return jsNumber(env, static_cast<double>(put(std::move(tensor))));
}
napi_value jsArray(napi_env env, const std::vector<napi_value>& elements) {
  napi_value out;
  napi_create_array_with_length(env, elements.size(), &out);
  for (size_t i = 0; i < elements.size(); i++) napi_set_element(env, out, i, elements[i]);
  return out;
}

Arguments::Arguments(napi_env env, napi_callback_info info) : env(env) {
  napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
}
uint64_t Arguments::handle(size_t i) const { return handleOf(env, values[i]); }
Tensor& Arguments::tensor(size_t i) const { return tensorOf(env, values[i]); }
bool Arguments::present(size_t i) const { return isPresent(env, values[i]); }
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
