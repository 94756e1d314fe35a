/** Creates tensors: from data, from bytes, or filled with one value. */
import { type Handle, isOutOfMemory, native } from "../native.ts"
import { type Device, type DType, dtypeCodes, dtypeOfArray, type Nested, type NumericArray, type TensorOptions } from "./dtype.ts"
import { invoke, TensorError } from "./operators.ts"
import { type Tensor, wrap } from "./tensor.ts"

const shapeOf = (data: Nested): Array<number> => {
  const shape: Array<number> = []
  for (let level: Nested | undefined = data; Array.isArray(level); level = level[0] as Nested | undefined) shape.push(level.length)
  return shape
}

const flatten = (data: Nested, shape: ReadonlyArray<number>, depth = 0, out: Array<number> = []): Array<number> => {
  if (!Array.isArray(data)) out.push(Number(data))
  else {
    if (data.length !== shape[depth])
      throw new TensorError({
        operator: "tensor",
        got: `a list of ${data.length} at depth ${depth}`,
        expected: `${shape[depth]} elements, as in the first`,
        reason: "The lists are ragged."
      })
    for (const element of data) flatten(element as Nested, shape, depth + 1, out)
  }
  return out
}

/**
 * A tensor with a copy of the data: a typed array (by default with its own dtype and one dimension), or nested lists of numbers (by default float32) or
 * booleans (bool). Throws TensorError if lists are ragged or the shape does not match.
 */
export function tensor(data: NumericArray | Nested, options: TensorOptions & { readonly shape?: ReadonlyArray<number> } = {}): Tensor {
  let array: NumericArray
  let shape: ReadonlyArray<number>
  let wanted: DType
  if (ArrayBuffer.isView(data)) {
    array = data
    shape = options.shape ?? [array.length]
    wanted = options.dtype ?? dtypeOfArray(array)
  } else {
    shape = shapeOf(data)
    const numbers = flatten(data, shape)
    let first = data as Nested | undefined
    while (Array.isArray(first)) first = first[0] as Nested | undefined
    wanted = options.dtype ?? (typeof first === "boolean" ? "bool" : "float32")
    array = Float64Array.from(numbers)
    shape = options.shape ?? shape
  }
  const device = options.device ?? "cpu"
  const source = dtypeOfArray(array)
  let made: Handle
  try {
    made = native().fromBytes(array, shape, dtypeCodes[source], device)
  } catch (cause) {
    if (isOutOfMemory(cause)) throw cause
    throw new TensorError({
      operator: "tensor",
      got: `${array.length} elements`,
      expected: `shape (${shape.join(", ")})`,
      reason: cause instanceof Error ? cause.message : ""
    })
  }
  if (wanted === source) return wrap(made)
  const converted = wrap(made).to({ dtype: wanted })
  native().free(made)
  return converted
}

/** A tensor with a copy of raw bytes in the given dtype, row-major. */
export const fromBytes = (
  bytes: Uint8Array,
  options: { readonly shape: ReadonlyArray<number>; readonly dtype: DType; readonly device?: Device }
): Tensor => wrap(native().fromBytes(bytes, options.shape, dtypeCodes[options.dtype], options.device ?? "cpu"))

export const full = (shape: ReadonlyArray<number>, value: number, options: TensorOptions = {}): Tensor =>
  wrap(invoke("full", "a shape", [shape, value, dtypeCodes[options.dtype ?? "float32"], null, options.device ?? "cpu"]))
export const zeros = (shape: ReadonlyArray<number>, options: TensorOptions = {}): Tensor =>
  wrap(invoke("zeros", "a shape", [shape, dtypeCodes[options.dtype ?? "float32"], null, options.device ?? "cpu"]))
export const ones = (shape: ReadonlyArray<number>, options: TensorOptions = {}): Tensor =>
  wrap(invoke("ones", "a shape", [shape, dtypeCodes[options.dtype ?? "float32"], null, options.device ?? "cpu"]))
export const empty = (shape: ReadonlyArray<number>, options: TensorOptions = {}): Tensor =>
  wrap(invoke("empty.memory_format", "a shape", [shape, dtypeCodes[options.dtype ?? "float32"], null, options.device ?? "cpu"]))
/** start, start + 1, ... end - 1; int64 by default. */
export const arange = (start: number, end: number, options: TensorOptions = {}): Tensor =>
  wrap(invoke("arange.start", "start <= end", [start, end, dtypeCodes[options.dtype ?? "int64"], null, options.device ?? "cpu"]))
export const zerosLike = (like: Tensor): Tensor => wrap(invoke("zeros_like", "anything", [like]))
