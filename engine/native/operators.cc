#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>
#include <string>
#include <vector>

using at::Tensor;

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
  c10::List<T> out;
  forEach(env, value, "the type that this operator expects", [&](napi_value element) { out.push_back(convert(element)); });
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
    case Kind::tensor: return tensorOf(env, value);
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
    case Kind::tensors: return listOf<Tensor>(env, value, [&](napi_value v) { return tensorOf(env, v); });
    case Kind::optionalTensors:
      return listOf<c10::optional<Tensor>>(env, value, [&](napi_value v) -> c10::optional<Tensor> {
        if (!isPresent(env, v)) return c10::nullopt;
        return tensorOf(env, v);
      });
    default: throw std::runtime_error("argument '" + parameter.name + "' has a type that is not supported");
  }
}

napi_value toJs(napi_env env, c10::IValue& value) {
  if (value.isTensor()) return jsTensor(env, std::move(value).toTensor());
  if (value.isDouble()) return jsNumber(env, value.toDouble());
  if (value.isInt()) return jsNumber(env, static_cast<double>(value.toInt()));
  if (value.isBool()) return jsBoolean(env, value.toBool());
  if (!value.isTensorList()) return nullptr;
  std::vector<napi_value> out;
  for (auto& tensor : value.toTensorVector()) out.push_back(jsTensor(env, std::move(tensor)));
  return jsArray(env, out);
}

}  // namespace

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
  std::vector<napi_value> out;
  for (auto& value : stack) out.push_back(toJs(in.env, value));
  return jsArray(in.env, out);
}
