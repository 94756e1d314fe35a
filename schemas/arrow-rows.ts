/**
 * Rows <-> columns: converts plain objects to record batches and back. Values that a column cannot represent are errors when writing (a null in
 * a non-nullable field, 3e9 as int32, a lone surrogate), and everything a batch claims is checked before it is used when reading.
 */
import * as arrow from "apache-arrow"
import { type Kind, type StructKind, typeOf } from "./arrow.ts"

// ---- rows -> columns -------------------------------------------------------------------------------------------------------------------

const numberArrays = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const

const packBits = (bits: ArrayLike<number>): Uint8Array => {
  const out = new Uint8Array((bits.length + 7) >> 3)
  for (let i = 0; i < bits.length; i++) out[i >> 3]! |= bits[i]! << (i & 7)
  return out
}

type Numbers = Uint8Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Float64Array<ArrayBuffer>
/** The same numbers in an array of at least this length. */
const withRoom = <A extends Numbers>(numbers: A, length: number): A => {
  if (length <= numbers.length) return numbers
  const larger = new (numbers.constructor as new (length: number) => A)(Math.max(64, 2 * numbers.length, length))
  larger.set(numbers)
  return larger
}

/** A column that grows value by value, so that each row can be freed as soon as it is added: retained rows are what makes the heap grow. */
class Column {
  readonly #kind: Kind
  readonly #path: string
  readonly #children: ReadonlyArray<Column>
  /** For a struct: which of its columns have the name of an inherited property, such as "constructor". */
  readonly #inherited: ReadonlyArray<boolean>
  /** Approximate bytes held in all columns of the batch. */
  readonly #held: { bytes: number }
  #length = 0
  #valid = new Uint8Array(0)
  #nullCount = 0
  /** Numbers; booleans are stored as 0 and 1. */
  #numbers = new Float64Array(0)
  /** End offset of each text or list. */
  #offsets = new Int32Array(1)
  #text = Buffer.alloc(0)

  constructor(kind: Kind, path: string, held: { bytes: number }) {
    this.#kind = kind
    this.#path = path
    this.#held = held
    this.#inherited = kind.tag === "struct" ? kind.fields.map(({ name }) => name in Object.prototype) : []
    if (kind.tag === "list") this.#children = [new Column(kind.element, `${path}[]`, held)]
    else if (kind.tag === "struct") this.#children = kind.fields.map((field) => new Column(field.kind, `${path}.${field.name}`, held))
    else this.#children = []
  }

  get length(): number {
    return this.#length
  }

  /** Removes the values but keeps the allocated memory. */
  clear(): void {
    this.#length = this.#nullCount = 0
    for (const child of this.#children) child.clear()
  }

  /** `absent`: the value is missing because the enclosing struct is null. */
  push(value: any, absent = false): void {
    const isNull = value === null || value === undefined
    if (isNull && !this.#kind.nullable && !absent) throw new RangeError(`${this.#path}: null in a field that does not allow it`)
    const i = this.#length++
    this.#valid = withRoom(this.#valid, i + 1)
    this.#valid[i] = isNull ? 0 : 1
    if (isNull) this.#nullCount++
    this.#held.bytes += 4
    switch (this.#kind.tag) {
      case "utf8":
        this.#end(i, this.#offsets[i]! + (isNull ? 0 : this.#write(value as string, this.#offsets[i]!)))
        return
      case "list":
        if (!isNull) for (const element of value) this.#children[0]!.push(element)
        this.#end(i, this.#children[0]!.length)
        return
      case "struct":
        for (let j = 0; j < this.#children.length; j++) {
          const { name } = this.#kind.fields[j]!
          const isMissing = isNull || (this.#inherited[j] === true && !Object.hasOwn(value as object, name))
          this.#children[j]!.push(isMissing ? null : value[name], isNull)
        }
        return
      default:
        this.#numbers = withRoom(this.#numbers, i + 1)
        this.#numbers[i] = isNull ? 0 : Number(value)
        this.#held.bytes += 8
    }
  }

  #end(i: number, end: number): void {
    this.#offsets = withRoom(this.#offsets, i + 2)
    this.#offsets[i + 1] = end
  }

  #write(value: string, start: number): number {
    if (!value.isWellFormed()) throw new RangeError(`${this.#path}: the text has a lone surrogate, which UTF-8 cannot represent`)
    // A character takes at most three bytes. The exact length is computed only when that bound exceeds the free space, since most text is ASCII.
    if (start + 3 * value.length > this.#text.length) {
      const needed = start + Buffer.byteLength(value)
      if (needed > this.#text.length) {
        const larger = Buffer.allocUnsafeSlow(Math.max(1024, 2 * needed))
        this.#text.copy(larger, 0, 0, start)
        this.#text = larger
      }
    }
    const length = this.#text.write(value, start)
    this.#held.bytes += length
    return length
  }

  /** The pushed values as Arrow data; valid until the column is cleared and reused. */
  data(): arrow.Data {
    const { tag } = this.#kind
    const length = this.#length
    const nullBitmap = this.#nullCount === 0 ? undefined : packBits(this.#valid.subarray(0, length))
    const base = { type: typeOf(this.#kind) as any, length, nullCount: this.#nullCount, nullBitmap }
    switch (tag) {
      case "utf8":
        return arrow.makeData({
          ...base,
          valueOffsets: this.#offsets.subarray(0, length + 1),
          data: this.#text.subarray(0, this.#offsets[length])
        })
      case "list":
        return arrow.makeData({ ...base, valueOffsets: this.#offsets.subarray(0, length + 1), child: this.#children[0]!.data() })
      case "struct":
        return arrow.makeData({ ...base, children: this.#children.map((child) => child.data()) })
      case "bool":
        return arrow.makeData({ ...base, data: packBits(this.#numbers.subarray(0, length)) })
      default: {
        const numbers = this.#numbers.subarray(0, length)
        const data = numberArrays[tag].from(numbers)
        if (tag === "int32" || tag === "uint8") {
          const at = numbers.findIndex((value, i) => data[i] !== value)
          if (at !== -1) throw new RangeError(`${this.#path}: ${numbers[at]} does not fit ${tag}`)
        }
        return arrow.makeData({ ...base, data })
      }
    }
  }
}

/** A record batch under construction. `push` and `finish` throw RangeError for a value that does not fit its column. */
export class BatchBuilder {
  readonly #column: Column
  readonly #schema: arrow.Schema
  readonly #held = { bytes: 0 }
  constructor(kind: StructKind, schema: arrow.Schema) {
    this.#column = new Column(kind, "row", this.#held)
    this.#schema = schema
  }
  push(row: unknown): void {
    this.#column.push(row)
  }
  get rows(): number {
    return this.#column.length
  }
  /** Approximate bytes held. */
  get bytes(): number {
    return this.#held.bytes
  }
  /** The batch; valid until the builder is cleared and reused. */
  finish(): arrow.RecordBatch {
    return new arrow.RecordBatch(this.#schema, this.#column.data() as arrow.Data<arrow.Struct>)
  }
  /** Starts another batch in the same memory. */
  clear(): void {
    this.#column.clear()
    this.#held.bytes = 0
  }
}

export const toBatch = (kind: StructKind, schema: arrow.Schema, rows: Iterable<unknown>): arrow.RecordBatch => {
  const batch = new BatchBuilder(kind, schema)
  for (const row of rows) batch.push(row)
  return batch.finish()
}

// ---- columns -> rows -------------------------------------------------------------------------------------------------------------------

const claim = (ok: boolean, path: string, what: string): void => {
  if (!ok) throw new RangeError(`${path}: ${what}`)
}

/** The offsets of a list or text column, checked: one more than the number of values, non-decreasing, and within the values they point into. */
const offsetsOf = (data: arrow.Data, limit: number, path: string): Int32Array => {
  if (data.length === 0) return new Int32Array(1)
  const offsets = data.valueOffsets as unknown as Int32Array
  claim(offsets.length > data.length, path, `${data.length} values with ${offsets.length} offsets`)
  let last = 0
  for (let i = 0; i <= data.length; i++) {
    claim(offsets[i]! >= last, path, `value ${i} ends at ${offsets[i]}, before it starts at ${last}`)
    last = offsets[i]!
  }
  claim(last <= limit, path, `offsets reach ${last}, but there are ${limit}`)
  return offsets
}

/**
 * The values of a column: of all its rows, or of the wanted rows in their order. `absent`: an enclosing struct may be null; then the value is missing even
 * if the field is not nullable.
 */
const valuesOf = (kind: Kind, data: arrow.Data, path: string, wanted: Uint32Array | undefined, absent = false): Array<any> => {
  const { length, nullBitmap } = data
  const hasNulls = (nullBitmap?.length ?? 0) > 0
  claim(kind.nullable || absent || !hasNulls || data.nullCount === 0, path, "nulls in a field that does not allow them")
  claim(!hasNulls || nullBitmap.length * 8 >= length, path, `${length} values with ${nullBitmap?.length} validity bytes`)
  const isNull = (i: number) => hasNulls && ((nullBitmap[i >> 3]! >> (i & 7)) & 1) === 0
  const count = wanted?.length ?? length
  const collect = (valueAt: (i: number, place: number) => any): Array<any> => {
    const out = new Array<any>(count)
    for (let place = 0; place < count; place++) {
      const i = wanted === undefined ? place : wanted[place]!
      out[place] = isNull(i) ? null : valueAt(i, place)
    }
    return out
  }
  switch (kind.tag) {
    case "utf8": {
      const bytes = (data.values ?? new Uint8Array(0)) as unknown as Uint8Array
      const offsets = offsetsOf(data, bytes.length, path)
      const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      return collect((i) => text.toString("utf8", offsets[i], offsets[i + 1]))
    }
    case "bool": {
      const bits = (data.values ?? new Uint8Array(0)) as unknown as Uint8Array
      claim(bits.length * 8 >= length, path, `${length} values in ${bits.length} bytes`)
      return collect((i) => ((bits[i >> 3]! >> (i & 7)) & 1) === 1)
    }
    case "list": {
      const child = data.children[0]!
      const offsets = offsetsOf(data, child.length, path)
      if (wanted === undefined) {
        const elements = valuesOf(kind.element, child, `${path}[]`, undefined)
        return collect((i) => elements.slice(offsets[i], offsets[i + 1]))
      }
      const inner: Array<number> = []
      const starts = Array.from(wanted, (i) => {
        const start = inner.length
        for (let at = offsets[i]!; at < offsets[i + 1]!; at++) inner.push(at)
        return start
      })
      const elements = valuesOf(kind.element, child, `${path}[]`, Uint32Array.from(inner))
      return collect((_, place) => elements.slice(starts[place], starts[place + 1]))
    }
    case "struct": {
      const columns = kind.fields.map((field, j) => {
        claim(data.children[j]!.length >= length, `${path}.${field.name}`, `${data.children[j]!.length} values for ${length} rows`)
        return valuesOf(field.kind, data.children[j]!, `${path}.${field.name}`, wanted, absent || kind.nullable)
      })
      return collect((_, place) => {
        const row: Record<string, any> = {}
        for (let j = 0; j < columns.length; j++) row[kind.fields[j]!.name] = columns[j]![place]
        return row
      })
    }
    default: {
      const numbers = (data.values ?? new Uint8Array(0)) as unknown as ArrayLike<number>
      claim(numbers.length >= length, path, `${length} values expected, but the buffer holds ${numbers.length}`)
      return collect((i) => numbers[i])
    }
  }
}

/** A selection of a batch's rows, fields or both. */
export interface Selection {
  /** Row indices, in the wanted order. */
  readonly rows?: Uint32Array
  /** The fields to read; all of them if absent. */
  readonly fields?: ReadonlyArray<string>
}

/** The rows of a record batch of this schema, as plain objects. Throws RangeError if the batch is inconsistent. */
export const toRows = (kind: StructKind, batch: arrow.RecordBatch, { fields, rows }: Selection = {}): Array<any> => {
  if (fields === undefined) return valuesOf(kind, batch.data, "row", rows)
  const at = kind.fields.flatMap(({ name }, i) => (fields.includes(name) ? [i] : []))
  const { children, length, nullBitmap, nullCount } = batch.data
  const some = { length, nullBitmap, nullCount, children: at.map((i) => children[i]!) } as unknown as arrow.Data
  return valuesOf({ ...kind, fields: at.map((i) => kind.fields[i]!) }, some, "row", rows)
}

/** How many field nodes and buffers the header of a record batch must have. */
export const layoutOf = (kind: Kind): { readonly nodes: number; readonly buffers: number } => {
  const inner =
    kind.tag === "struct" ? kind.fields.map((field) => layoutOf(field.kind)) : kind.tag === "list" ? [layoutOf(kind.element)] : []
  const own = kind.tag === "struct" ? 1 : kind.tag === "utf8" ? 3 : 2
  return { nodes: inner.reduce((sum, { nodes }) => sum + nodes, 1), buffers: inner.reduce((sum, { buffers }) => sum + buffers, own) }
}
