// ATen's operators, and our own (kernels), by name through c10's boxed dispatcher.
#pragma once
#include "values.h"

/** findOperator("aten::add", "Tensor") -> the number to pass to call(), or -1 if this libtorch has no such operator. */
napi_value findOperator(const Arguments& in);
/** call(operator, ...arguments): undefined means the schema's default, null means None. */
napi_value call(const Arguments& in);
