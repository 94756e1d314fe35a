/**
 * Handles to libtorch's tensors. Every method calls one ATen operator unless its docstring says otherwise; autograd is libtorch's. Methods never change
 * their tensor, except those whose names end in `_`. Operands that do not fit throw TensorError.
 */
import { type Handle, isOutOfMemory, native } from "../native.ts"
import { arrayOf, type Device, type DType, dtypeCodes, dtypeNames, elementSize, type NumericArray, type TensorOptions } from "./dtype.ts"
import { invoke, type Operand, TensorError } from "./operators.ts"

/** A Tensor for a handle from the addon. */
export const wrap = (handle: Handle): Tensor => new Tensor(handle)

/** Calls any ATen operator that returns one tensor, by name ("mm", "add.Tensor"), for operators without a method on Tensor. */
export const aten = (name: string, ...operands: ReadonlyArray<Operand>): Tensor =>
  wrap(invoke(name, "what the operator's schema says", operands))

/** Calls any ATen operator that returns several tensors. */
export const atenMany = (name: string, ...operands: ReadonlyArray<Operand>): Array<Tensor> =>
  (invoke(name, "what the operator's schema says", operands) as Array<Handle>).map(wrap)

/** Calls any ATen operator that works in place and returns nothing (the _foreach_ family). */
export const atenVoid = (name: string, ...operands: ReadonlyArray<Operand>): void => {
  invoke(name, "what the operator's schema says", operands)
}

export const broadcast = "shapes that broadcast to one another"

export class Tensor {
  readonly handle: Handle
  #description: { readonly dtype: DType; readonly device: Device; readonly shape: ReadonlyArray<number> } | undefined
  constructor(handle: Handle) {
    this.handle = handle
  }

  get #described() {
    if (this.#description === undefined) {
      const [code, onGpu, ...shape] = native().describe(this.handle)
      const dtype = dtypeNames.get(code!)
      if (dtype === undefined)
        throw new Error(`Reading a tensor's dtype: libtorch's dtype ${code} is not supported. Convert the tensor first.`)
      this.#description = { dtype, device: onGpu === 1 ? "cuda" : "cpu", shape }
    }
    return this.#description
  }
  get shape(): ReadonlyArray<number> {
    return this.#described.shape
  }
  get dtype(): DType {
    return this.#described.dtype
  }
  get device(): Device {
    return this.#described.device
  }
  /** Size of one dimension; negative counts from the end. */
  size(dim: number): number {
    const size = this.shape.at(dim)
    if (size === undefined)
      throw new TensorError({
        operator: "size",
        got: this.toString(),
        expected: `a dimension ${dim}`,
        reason: "The dimension does not exist."
      })
    return size
  }
  get elements(): number {
    return this.shape.reduce((product, size) => product * size, 1)
  }
  toString(): string {
    return `${this.dtype}(${this.shape.join(", ")})`
  }

  // ---- arithmetic, elementwise
  add(other: Tensor | number, alpha?: number): Tensor {
    return wrap(invoke(typeof other === "number" ? "add.Scalar" : "add.Tensor", broadcast, [this, other, alpha]))
  }
  sub(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "sub.Scalar" : "sub.Tensor", broadcast, [this, other]))
  }
  mul(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "mul.Scalar" : "mul.Tensor", broadcast, [this, other]))
  }
  div(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "div.Scalar" : "div.Tensor", broadcast, [this, other]))
  }
  neg(): Tensor {
    return wrap(invoke("neg", "numbers", [this]))
  }
  pow(exponent: number): Tensor {
    return wrap(invoke("pow.Tensor_Scalar", "numbers", [this, exponent]))
  }
  square(): Tensor {
    return wrap(invoke("mul.Tensor", "numbers", [this, this]))
  }
  sqrt(): Tensor {
    return wrap(invoke("sqrt", "numbers", [this]))
  }
  rsqrt(): Tensor {
    return wrap(invoke("rsqrt", "numbers", [this]))
  }
  exp(): Tensor {
    return wrap(invoke("exp", "numbers", [this]))
  }
  log(): Tensor {
    return wrap(invoke("log", "numbers", [this]))
  }
  log1p(): Tensor {
    return wrap(invoke("log1p", "numbers", [this]))
  }
  abs(): Tensor {
    return wrap(invoke("abs", "numbers", [this]))
  }
  sigmoid(): Tensor {
    return wrap(invoke("sigmoid", "numbers", [this]))
  }
  logSigmoid(): Tensor {
    return wrap(invoke("log_sigmoid", "floating point", [this]))
  }
  silu(): Tensor {
    return wrap(invoke("silu", "floating point", [this]))
  }
  tanh(): Tensor {
    return wrap(invoke("tanh", "numbers", [this]))
  }
  cos(): Tensor {
    return wrap(invoke("cos", "numbers", [this]))
  }
  sin(): Tensor {
    return wrap(invoke("sin", "numbers", [this]))
  }
  clamp(min: number | undefined, max?: number): Tensor {
    return wrap(invoke("clamp", "numbers", [this, min ?? null, max ?? null]))
  }
  maximum(other: Tensor): Tensor {
    return wrap(invoke("maximum", broadcast, [this, other]))
  }
  minimum(other: Tensor): Tensor {
    return wrap(invoke("minimum", broadcast, [this, other]))
  }

  // ---- comparison and logic: bool tensors
  eq(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "eq.Scalar" : "eq.Tensor", broadcast, [this, other]))
  }
  ne(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "ne.Scalar" : "ne.Tensor", broadcast, [this, other]))
  }
  lt(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "lt.Scalar" : "lt.Tensor", broadcast, [this, other]))
  }
  le(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "le.Scalar" : "le.Tensor", broadcast, [this, other]))
  }
  gt(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "gt.Scalar" : "gt.Tensor", broadcast, [this, other]))
  }
  ge(other: Tensor | number): Tensor {
    return wrap(invoke(typeof other === "number" ? "ge.Scalar" : "ge.Tensor", broadcast, [this, other]))
  }
  and(other: Tensor): Tensor {
    return wrap(invoke("logical_and", broadcast, [this, other]))
  }
  or(other: Tensor): Tensor {
    return wrap(invoke("logical_or", broadcast, [this, other]))
  }
  not(): Tensor {
    return wrap(invoke("logical_not", "anything", [this]))
  }

  // ---- reduction: over the given dimensions, or over everything
  sum(dims?: number | ReadonlyArray<number>, keepDim = false): Tensor {
    if (dims === undefined) return wrap(invoke("sum", "numbers", [this]))
    return wrap(invoke("sum.dim_IntList", "dimensions of the tensor", [this, typeof dims === "number" ? [dims] : dims, keepDim]))
  }
  mean(dims?: number | ReadonlyArray<number>, keepDim = false): Tensor {
    if (dims === undefined) return wrap(invoke("mean", "floating point", [this]))
    return wrap(
      invoke("mean.dim", "floating point and dimensions of the tensor", [this, typeof dims === "number" ? [dims] : dims, keepDim])
    )
  }
  /** Largest values along a dimension, and their indices. */
  max(dim: number, keepDim = false): { readonly values: Tensor; readonly indices: Tensor } {
    const [values, indices] = invoke("max.dim", "a dimension of the tensor", [this, dim, keepDim]) as [Handle, Handle]
    return { values: wrap(values), indices: wrap(indices) }
  }
  argmax(dim: number, keepDim = false): Tensor {
    return wrap(invoke("argmax", "a dimension of the tensor", [this, dim, keepDim]))
  }
  any(): Tensor {
    return wrap(invoke("any", "bool", [this]))
  }
  all(): Tensor {
    return wrap(invoke("all", "bool", [this]))
  }
  logsumexp(dim: number, keepDim = false): Tensor {
    return wrap(invoke("logsumexp", "a dimension of the tensor", [this, [dim], keepDim]))
  }
  softmax(dim: number, dtype?: DType): Tensor {
    return wrap(
      invoke("softmax.int", "floating point and a dimension of the tensor", [
        this,
        dim,
        dtype === undefined ? undefined : dtypeCodes[dtype]
      ])
    )
  }
  logSoftmax(dim: number, dtype?: DType): Tensor {
    return wrap(
      invoke("log_softmax.int", "floating point and a dimension of the tensor", [
        this,
        dim,
        dtype === undefined ? undefined : dtypeCodes[dtype]
      ])
    )
  }
  cumsum(dim: number): Tensor {
    return wrap(invoke("cumsum", "a dimension of the tensor", [this, dim]))
  }
  topk(k: number, dim = -1): { readonly values: Tensor; readonly indices: Tensor } {
    const [values, indices] = invoke("topk", `at least ${k} elements in dimension ${dim}`, [this, k, dim]) as [Handle, Handle]
    return { values: wrap(values), indices: wrap(indices) }
  }
  sort(dim = -1, descending = false): { readonly values: Tensor; readonly indices: Tensor } {
    const [values, indices] = invoke("sort.stable", "a dimension of the tensor", [this, true, dim, descending]) as [Handle, Handle]
    return { values: wrap(values), indices: wrap(indices) }
  }

  // ---- shape: views where libtorch can make one
  view(...shape: ReadonlyArray<number>): Tensor {
    return wrap(invoke("view", "a shape with the same number of elements (and strides that allow a view)", [this, shape]))
  }
  reshape(...shape: ReadonlyArray<number>): Tensor {
    return wrap(invoke("reshape", "a shape with the same number of elements", [this, shape]))
  }
  transpose(a: number, b: number): Tensor {
    return wrap(invoke("transpose.int", "dimensions of the tensor", [this, a, b]))
  }
  permute(...dims: ReadonlyArray<number>): Tensor {
    return wrap(invoke("permute", "each dimension once", [this, dims]))
  }
  slice(dim: number, start: number, end: number): Tensor {
    return wrap(invoke("slice.Tensor", "a dimension of the tensor", [this, dim, start, end]))
  }
  select(dim: number, index: number): Tensor {
    return wrap(invoke("select.int", "an index within the dimension", [this, dim, index]))
  }
  squeeze(dim: number): Tensor {
    return wrap(invoke("squeeze.dim", "a dimension of the tensor", [this, dim]))
  }
  unsqueeze(dim: number): Tensor {
    return wrap(invoke("unsqueeze", "a dimension of the tensor, or one past it", [this, dim]))
  }
  expand(...shape: ReadonlyArray<number>): Tensor {
    return wrap(invoke("expand", "a shape that this tensor broadcasts to", [this, shape]))
  }
  contiguous(): Tensor {
    return wrap(invoke("contiguous", "anything", [this]))
  }
  clone(): Tensor {
    return wrap(invoke("clone", "anything", [this]))
  }
  chunk(chunks: number, dim: number): Array<Tensor> {
    return (invoke("chunk", "a dimension of the tensor", [this, chunks, dim]) as Array<Handle>).map(wrap)
  }
  /** Pieces of the given sizes along a dimension. */
  split(sizes: ReadonlyArray<number>, dim: number): Array<Tensor> {
    return (invoke("split_with_sizes", "sizes that add up to the dimension", [this, sizes, dim]) as Array<Handle>).map(wrap)
  }
  gather(dim: number, index: Tensor): Tensor {
    return wrap(invoke("gather", "an int64 index with the same number of dimensions, within bounds", [this, dim, index]))
  }
  indexSelect(dim: number, index: Tensor): Tensor {
    return wrap(invoke("index_select", "an int64 index with one dimension, within bounds", [this, dim, index]))
  }
  maskedFill(mask: Tensor, value: number): Tensor {
    return wrap(invoke("masked_fill.Scalar", "a bool mask whose shape broadcasts", [this, mask, value]))
  }
  repeatInterleave(repeats: number, dim: number): Tensor {
    return wrap(invoke("repeat_interleave.self_int", "a dimension of the tensor", [this, repeats, dim]))
  }

  // ---- linear algebra
  /** (..., M, K) x (..., K, N) -> (..., M, N) */
  matmul(other: Tensor): Tensor {
    return wrap(invoke("matmul", "(..., M, K) and (..., K, N) of one dtype", [this, other]))
  }

  // ---- autograd
  detach(): Tensor {
    return wrap(invoke("detach", "anything", [this]))
  }
  /** Sets whether this leaf needs a gradient. */
  requiresGrad(on = true): this {
    native().requiresGrad(this.handle, on)
    return this
  }
  /** Whether this tensor needs a gradient, or was computed from one that does. */
  get hasGradient(): boolean {
    return native().hasGradient(this.handle)
  }
  /** The gradient that backward() accumulated; undefined if there is none. The returned handle belongs to the caller's scope. */
  grad(): Tensor | undefined {
    const handle = native().gradient(this.handle)
    return handle === null ? undefined : wrap(handle)
  }
  /** Accumulates gradients into every leaf that this tensor depends on. The tensor must be a single number unless a gradient is given. */
  backward(gradient?: Tensor): void {
    try {
      native().backward(this.handle, gradient?.handle)
    } catch (cause) {
      if (isOutOfMemory(cause)) throw cause
      throw new TensorError({
        operator: "backward",
        got: this.toString(),
        expected: "a single number that depends on a tensor that requires a gradient",
        reason: cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : ""
      })
    }
  }

  // ---- in place
  add_(other: Tensor | number, alpha?: number): this {
    return this.#inPlace(typeof other === "number" ? "add_.Scalar" : "add_.Tensor", [this, other, alpha])
  }
  mul_(other: Tensor | number): this {
    return this.#inPlace(typeof other === "number" ? "mul_.Scalar" : "mul_.Tensor", [this, other])
  }
  zero_(): this {
    return this.#inPlace("zero_", [this])
  }
  fill_(value: number): this {
    return this.#inPlace("fill_.Scalar", [this, value])
  }
  copy_(source: Tensor): this {
    return this.#inPlace("copy_", [this, source])
  }
  /** Fills with normally distributed numbers from the device's generator. Seed the generator first (generator.ts seedGenerator). */
  normal_(mean: number, deviation: number): this {
    return this.#inPlace("normal_", [this, mean, deviation])
  }
  /**
   * Fills this contiguous tensor from an open file, given by its descriptor: row-major elements of `dtype`, from byte `offset` on. Returns the number of
   * bytes read; if the file ends early it is smaller than expected, and the remaining elements are undefined. Throws if the file can't be read.
   */
  readFrom_(file: number, offset: number, dtype: DType): number {
    return native().readInto(this.handle, file, offset, dtypeCodes[dtype])
  }
  #inPlace(name: string, operands: ReadonlyArray<Operand>): this {
    const handle = invoke(name, broadcast, operands) as Handle
    native().free(handle) // a second handle to the same tensor
    return this
  }

  // ---- moving and reading
  to(options: TensorOptions): Tensor {
    const dtype = options.dtype === undefined ? undefined : dtypeCodes[options.dtype]
    if (options.device === undefined) return dtype === undefined ? this : wrap(invoke("to.dtype", "a dtype", [this, dtype]))
    return wrap(invoke("to.device", "a device of this machine", [this, options.device, dtype ?? dtypeCodes[this.dtype]]))
  }
  /** The value of a tensor with one element. */
  item(): number {
    try {
      return native().item(this.handle)
    } catch (cause) {
      if (isOutOfMemory(cause)) throw cause
      throw new TensorError({
        operator: "item",
        got: this.toString(),
        expected: "one element",
        reason: cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : ""
      })
    }
  }
  /** A copy of the elements in row-major order; bfloat16 and float16 are converted to float32. */
  toTypedArray(): NumericArray {
    const { dtype } = this
    if (dtype === "bfloat16" || dtype === "float16") {
      const wide = this.to({ dtype: "float32" })
      try {
        return wide.toTypedArray()
      } finally {
        wide.free()
      }
    }
    const view = new arrayOf[dtype](this.elements)
    native().toBytes(this.handle, view)
    return view
  }
  /** The elements in row-major order as numbers. */
  toNumbers(): Array<number> {
    return Array.from(this.toTypedArray() as Iterable<number | bigint>, Number)
  }
  /** The elements' bytes in row-major order, in the tensor's own dtype. */
  toBytes(): Uint8Array {
    const view = new Uint8Array(this.elements * elementSize[this.dtype])
    native().toBytes(this.handle, view)
    return view
  }
  /** Fills `view` with elements from element `first` on, in row-major order and the tensor's own dtype. */
  copyBytes(view: Uint8Array, first: number): void {
    native().toBytes(this.handle, view, first)
  }
  /** Frees the tensor now. Using it afterwards is an error. */
  free(): void {
    native().free(this.handle)
  }
}
