/**
 * The tensor API that everything outside this folder imports. Tensors are freed by scope, not by the garbage collector: wrap a step in
 * `scoped(() => ...)`.
 */
export { type Device, type DType, elementSize, type Nested, type NumericArray, type TensorOptions } from "./tensor/dtype.ts"
export { TensorError } from "./tensor/operators.ts"
export { aten, atenMany, atenVoid, Tensor } from "./tensor/tensor.ts"
export * from "./tensor/create.ts"
export * from "./tensor/functions.ts"
export * from "./tensor/scope.ts"
