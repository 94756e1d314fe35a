/** Element types of tensors, with libtorch's numbers for them. */

export type DType = "float64" | "float32" | "bfloat16" | "float16" | "int64" | "int32" | "uint8" | "bool"
export type Device = "cpu" | "cuda" | `cuda:${number}`
export interface TensorOptions {
  readonly dtype?: DType
  readonly device?: Device
}
export type NumericArray = Float64Array | Float32Array | Int32Array | BigInt64Array | Uint8Array | Uint16Array
export type Nested = number | boolean | ReadonlyArray<Nested>

/** c10::ScalarType */
export const dtypeCodes: Record<DType, number> = {
  uint8: 0,
  int32: 3,
  int64: 4,
  float16: 5,
  float32: 6,
  float64: 7,
  bool: 11,
  bfloat16: 15
}
export const dtypeNames = new Map(Object.entries(dtypeCodes).map(([name, code]) => [code, name as DType]))

/** Bytes of one element. */
export const elementSize: Record<DType, number> = { uint8: 1, int32: 4, int64: 8, float16: 2, float32: 4, float64: 8, bool: 1, bfloat16: 2 }

/** The typed array that holds elements of a type; bfloat16 and float16 have none. */
export const arrayOf = {
  float64: Float64Array,
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array
} as const

export const dtypeOfArray = (data: NumericArray): DType => {
  if (data instanceof Float64Array) return "float64"
  if (data instanceof Float32Array) return "float32"
  if (data instanceof Int32Array) return "int32"
  if (data instanceof BigInt64Array) return "int64"
  return "uint8"
}
