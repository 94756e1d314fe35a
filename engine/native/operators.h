// ATen's operators, and our own (kernels), by name through c10's boxed dispatcher.
#pragma once
#include "values.h"

/** findOperator("aten::add", "Tensor") -> number to call it by, or -1 when this libtorch has no such operator. */
napi_value findOperator(const Arguments& in);
/** call(operator, ...arguments): undefined takes the schema's default, null is None. */
napi_value call(const Arguments& in);
