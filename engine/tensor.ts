/**
 * Tensors: libtorch's, by handle. Every method is one ATen operator unless it says otherwise; autograd is libtorch's. Operations never change
 * their tensor, except those whose name ends in `_`.
 *
 * Tensors are freed by scope, not by the garbage collector: wrap a step in `scoped(() => ...)`.
 */
import { type Argument, findOperator, type Handle, native } from "./native.ts"

export type DType = "float64" | "float32" | "bfloat16" | "float16" | "int64" | "int32" | "uint8" | "bool"
export type Device = "cpu" | "cuda" | `cuda:${number}`
export interface TensorOptions {
  readonly dtype?: DType
  readonly device?: Device
}
export type NumericArray = Float64Array | Float32Array | Int32Array | BigInt64Array | Uint8Array | Uint16Array
export type Nested = number | boolean | ReadonlyArray<Nested>

/** c10::ScalarType */
const dtypeCodes: Record<DType, number> = { uint8: 0, int32: 3, int64: 4, float16: 5, float32: 6, float64: 7, bool: 11, bfloat16: 15 }
const dtypeNames = new Map(Object.entries(dtypeCodes).map(([name, code]) => [code, name as DType]))

/** Bytes of one element. */
export const elementSize: Record<DType, number> = { uint8: 1, int32: 4, int64: 8, float16: 2, float32: 4, float64: 8, bool: 1, bfloat16: 2 }

/** An operation that does not fit its operands: which operator, what it got, what it expects. */
export class TensorError extends Error {
  override readonly name = "TensorError"
  readonly operator: string
  readonly got: string
  readonly expected: string
  constructor(fields: { operator: string; got: string; expected: string; reason: string }) {
    super(`${fields.operator}: got ${fields.got || "no tensors"}; expected ${fields.expected}. ${fields.reason}`)
    this.operator = fields.operator
    this.got = fields.got
    this.expected = fields.expected
  }
}

type Operand = Argument | Tensor | ReadonlyArray<Tensor | null>

const describeOperand = (operand: Operand): Array<string> => {
  if (operand instanceof Tensor) return [operand.toString()]
  if (Array.isArray(operand) && operand[0] instanceof Tensor)
    return [`[${operand.slice(0, 4).join(", ")}${operand.length > 4 ? ", ..." : ""}]`]
  return operand === undefined || operand === null ? [] : [JSON.stringify(operand)]
}

const lower = (operand: Operand): Argument => {
  if (operand instanceof Tensor) return operand.handle
  if (Array.isArray(operand) && operand.length > 0 && typeof operand[0] === "object") {
    return (operand as ReadonlyArray<Tensor | null>).map((tensor) => (tensor === null ? null : tensor.handle))
  }
  return operand as Argument
}

/** Calls an ATen operator; what it returns is handles and numbers. `expected` says in words what the operator wants, for its error. */
const invoke = (name: string, expected: string, operands: ReadonlyArray<Operand>): any => {
  const operator = findOperator(name)
  const args: Array<Argument> = []
  for (const operand of operands) args.push(lower(operand))
  try {
    return native().call(operator, ...args)
  } catch (cause) {
    if (operator === -1)
      throw new TensorError({
        operator: name,
        got: "",
        expected: "an operator of this libtorch",
        reason: `libtorch ${native().environment().libtorch} has none of that name`
      })
    // Describing a freed tensor would throw again and hide the message that says it was freed.
    let got: string
    try {
      got = operands.flatMap(describeOperand).join(", ")
    } catch {
      got = "a freed tensor"
    }
    const reason = cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause)
    // The operands were right: there was no room for the result.
    const noRoom = /out of memory|can't allocate memory|not enough memory/i.test(reason)
    throw new TensorError({
      operator: name,
      got,
      expected: noRoom ? "memory for the result: lower the batch size, or see what else is on the device" : expected,
      reason
    })
  }
}

const wrap = (handle: Handle): Tensor => new Tensor(handle)

/** Any ATen operator that returns one tensor, by name ("mm", "add.Tensor"): the way out where Tensor has no method. */
export const aten = (name: string, ...operands: ReadonlyArray<Operand>): Tensor =>
  wrap(invoke(name, "what the operator's schema says", operands))

/** Any ATen operator that returns several tensors. */
export const atenMany = (name: string, ...operands: ReadonlyArray<Operand>): Array<Tensor> =>
  (invoke(name, "what the operator's schema says", operands) as Array<Handle>).map(wrap)

/** Any ATen operator that works in place and returns nothing (the _foreach_ family). */
export const atenVoid = (name: string, ...operands: ReadonlyArray<Operand>): void => {
  invoke(name, "what the operator's schema says", operands)
}

const broadcast = "shapes that broadcast to one another"

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
      if (dtype === undefined) throw new Error(`a tensor of libtorch's dtype ${code}, which this engine does not carry`)
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
      throw new TensorError({ operator: "size", got: this.toString(), expected: `a dimension ${dim}`, reason: "there is none" })
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
  /** Greatest values along a dimension, and where they are. */
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
    return wrap(invoke("view", "a shape of as many elements (and strides that allow a view)", [this, shape]))
  }
  reshape(...shape: ReadonlyArray<number>): Tensor {
    return wrap(invoke("reshape", "a shape of as many elements", [this, shape]))
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
    return wrap(invoke("expand", "a shape that this one broadcasts to", [this, shape]))
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
    return wrap(invoke("gather", "an int64 index of as many dimensions, within bounds", [this, dim, index]))
  }
  indexSelect(dim: number, index: Tensor): Tensor {
    return wrap(invoke("index_select", "an int64 index of one dimension, within bounds", [this, dim, index]))
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
  /** Marks a leaf whose gradient is wanted. */
  requiresGrad(on = true): this {
    native().requiresGrad(this.handle, on)
    return this
  }
  /** The gradient that backward() left here, or undefined. Belongs to the scope that asks for it. */
  grad(): Tensor | undefined {
    const handle = native().gradient(this.handle)
    return handle === null ? undefined : wrap(handle)
  }
  /** Accumulates gradients into every leaf behind this tensor, which must be a single number unless a gradient is given. */
  backward(gradient?: Tensor): void {
    try {
      native().backward(this.handle, gradient?.handle)
    } catch (cause) {
      throw new TensorError({
        operator: "backward",
        got: this.toString(),
        expected: "a single number that depends on a tensor that requires its gradient",
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
  /** Fills with normal numbers from the device's generator: seed it first (random.ts, seedGenerator). */
  normal_(mean: number, deviation: number): this {
    return this.#inPlace("normal_", [this, mean, deviation])
  }
  #inPlace(name: string, operands: ReadonlyArray<Operand>): this {
    const handle = invoke(name, broadcast, operands) as Handle
    native().free(handle) // a second name for the same storage
    return this
  }

  // ---- moving and reading
  to(options: TensorOptions): Tensor {
    const dtype = options.dtype === undefined ? undefined : dtypeCodes[options.dtype]
    if (options.device === undefined) return dtype === undefined ? this : wrap(invoke("to.dtype", "a dtype", [this, dtype]))
    return wrap(invoke("to.device", "a device of this machine", [this, options.device, dtype ?? dtypeCodes[this.dtype]]))
  }
  /** The value of a tensor of one element. */
  item(): number {
    try {
      return native().item(this.handle)
    } catch (cause) {
      throw new TensorError({
        operator: "item",
        got: this.toString(),
        expected: "one element",
        reason: cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : ""
      })
    }
  }
  /** The elements in row-major order, copied; bfloat16 and float16 come as float32. */
  toTypedArray(): NumericArray {
    const { dtype } = this
    if (dtype === "bfloat16" || dtype === "float16") return scoped(() => this.to({ dtype: "float32" }).toTypedArray())
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
  /** Frees the tensor now. Using it afterwards is an error. */
  free(): void {
    native().free(this.handle)
  }
}

const arrayOf = {
  float64: Float64Array,
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  bool: Uint8Array
} as const

// ---- making tensors --------------------------------------------------------------------------------------------------------------------

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

const dtypeOfArray = (data: NumericArray): DType => {
  if (data instanceof Float64Array) return "float64"
  if (data instanceof Float32Array) return "float32"
  if (data instanceof Int32Array) return "int32"
  if (data instanceof BigInt64Array) return "int64"
  return "uint8"
}

/**
 * A tensor with a copy of the data: a typed array (its own dtype unless another is asked for; shape: one dimension unless given) or nested
 * lists of numbers (float32 unless told otherwise) or booleans (bool).
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

/** A tensor over raw bytes of the given dtype, row-major: how checkpoints are read. */
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
/** start, start + 1, ... end - 1; int64 unless told otherwise. */
export const arange = (start: number, end: number, options: TensorOptions = {}): Tensor =>
  wrap(invoke("arange.start", "start <= end", [start, end, dtypeCodes[options.dtype ?? "int64"], null, options.device ?? "cpu"]))
export const zerosLike = (like: Tensor): Tensor => wrap(invoke("zeros_like", "anything", [like]))

export const cat = (tensors: ReadonlyArray<Tensor>, dim: number): Tensor =>
  wrap(invoke("cat", "shapes equal but for the dimension joined", [tensors, dim]))
export const stack = (tensors: ReadonlyArray<Tensor>, dim: number): Tensor => wrap(invoke("stack", "equal shapes", [tensors, dim]))
export const where = (condition: Tensor, yes: Tensor, no: Tensor): Tensor =>
  wrap(invoke("where.self", `a bool condition and ${broadcast}`, [condition, yes, no]))
/** Rows of a table (V, D) by id: (...) int64 -> (..., D). */
export const embedding = (table: Tensor, ids: Tensor): Tensor =>
  wrap(invoke("embedding", "a table (V, D) and int64 ids from 0 to V - 1", [table, ids]))
/** x (..., K) times the transpose of a weight (N, K): (..., N). */
export const linear = (x: Tensor, weight: Tensor): Tensor =>
  wrap(invoke("linear", "(..., K) and a weight (N, K) of one dtype", [x, weight]))
/** Mean (or sum, or none) of -log softmax(logits)[target] over the targets that are not `ignore`. Logits (N, V), targets (N,) int64. */
export const crossEntropy = (
  logits: Tensor,
  targets: Tensor,
  options: { readonly reduction?: "none" | "mean" | "sum"; readonly ignore?: number } = {}
): Tensor =>
  wrap(
    invoke("cross_entropy_loss", "logits (N, V) and int64 targets (N,) from 0 to V - 1 or the ignored one", [
      logits,
      targets,
      null,
      { none: 0, mean: 1, sum: 2 }[options.reduction ?? "mean"],
      options.ignore ?? -100
    ])
  )

// ---- lifetime and gradients ------------------------------------------------------------------------------------------------------------

const collect = (value: unknown, seen: Set<unknown>, handles: Array<Handle>): void => {
  if (typeof value !== "object" || value === null || seen.has(value) || ArrayBuffer.isView(value)) return
  seen.add(value)
  if (value instanceof Tensor) handles.push(value.handle)
  else if (value instanceof Map || value instanceof Set || Array.isArray(value))
    for (const element of value.values()) collect(element, seen, handles)
  else for (const element of Object.values(value)) collect(element, seen, handles)
}

/**
 * Runs `body` and frees every tensor made inside, except those reachable from what it returns (they pass to the scope around this one) and
 * those given to keep(). Synchronous only: between two awaits somebody else's tensors would fall into the scope.
 */
export function scoped<A>(body: () => A): A {
  const addon = native()
  addon.openScope()
  const survivors: Array<Handle> = []
  try {
    const result = body()
    if (result instanceof Promise) throw new Error("scoped() takes a function that returns at once: it can't free tensors around an await")
    collect(result, new Set(), survivors)
    return result
  } finally {
    addon.closeScope(survivors)
  }
}

/** Lets a tensor outlive every scope, until free(). */
export const keep = <T extends Tensor>(tensor: T): T => {
  native().keep(tensor.handle)
  return tensor
}

/** Runs `body` without recording operations for gradients. */
export function noGrad<A>(body: () => A): A {
  const addon = native()
  const before = addon.gradMode(false)
  try {
    return body()
  } finally {
    addon.gradMode(before)
  }
}

/** Forgets the gradients of all these tensors. */
export const clearGradients = (tensors: Iterable<Tensor>): void => native().clearGradients(Array.from(tensors, (tensor) => tensor.handle))

/** How many tensors live: for leak tests. */
export const liveTensors = (): number => native().liveCount()
