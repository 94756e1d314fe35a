/**
 * Rows <-> columns: plain objects to record batches and back. Nothing is lost on the way in silently (a null in a field without nulls, 3e9 as
 * int32, half of a surrogate pair are errors), and nothing a batch says of itself is believed on the way out before it is checked.
 */
import * as arrow from "apache-arrow"
import { type Kind, type StructKind, typeOf } from "./arrow.ts"

// ---- rows -> columns -------------------------------------------------------------------------------------------------------------------

const numberArrays = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const

const packBits = (bits: ReadonlyArray<number>): Uint8Array => {
  const out = new Uint8Array((bits.length + 7) >> 3)
  for (let i = 0; i < bits.length; i++) out[i >> 3]! |= bits[i]! << (i & 7)
  return out
}

/** A column that grows value by value, so that rows can go as soon as they have come: held rows are what makes the heap grow. */
class Column {
  readonly #kind: Kind
  readonly #path: string
  readonly #children: ReadonlyArray<Column>
  /** Of a struct: the columns that an object without them seems to have, as "constructor". */
  readonly #inherited: ReadonlyArray<boolean>
  readonly #valid: Array<number> = []
  #nullCount = 0
  /** Numbers, and booleans as 0 and 1. */
  readonly #numbers: Array<number> = []
  /** Where each text or list ends. */
  readonly #offsets: Array<number> = [0]
  #text = Buffer.alloc(0)

  constructor(kind: Kind, path: string) {
    this.#kind = kind
    this.#path = path
    this.#inherited = kind.tag === "struct" ? kind.fields.map(({ name }) => name in Object.prototype) : []
    if (kind.tag === "list") this.#children = [new Column(kind.element, `${path}[]`)]
    else if (kind.tag === "struct") this.#children = kind.fields.map((field) => new Column(field.kind, `${path}.${field.name}`))
    else this.#children = []
  }

  get length(): number {
    return this.#valid.length
  }

  /** Bytes held, about. */
  get bytes(): number {
    const own = this.#kind.tag === "utf8" ? this.#offsets.at(-1)! : 8 * this.#numbers.length
    return this.#children.reduce((sum, child) => sum + child.bytes, own + 4 * this.length)
  }

  /** `absent`: the value is missing because the struct around it is null. */
  push(value: any, absent = false): void {
    const isNull = value === null || value === undefined
    if (isNull && !this.#kind.nullable && !absent) throw new RangeError(`${this.#path}: null, where none may be`)
    if (isNull) this.#nullCount++
    this.#valid.push(isNull ? 0 : 1)
    switch (this.#kind.tag) {
      case "utf8":
        this.#offsets.push(this.#offsets.at(-1)! + (isNull ? 0 : this.#write(value as string)))
        return
      case "list":
        if (!isNull) for (const element of value) this.#children[0]!.push(element)
        this.#offsets.push(this.#children[0]!.length)
        return
      case "struct":
        for (let i = 0; i < this.#children.length; i++) {
          const { name } = this.#kind.fields[i]!
          const isMissing = isNull || (this.#inherited[i] === true && !Object.hasOwn(value as object, name))
          this.#children[i]!.push(isMissing ? null : value[name], isNull)
        }
        return
      default:
        this.#numbers.push(isNull ? 0 : Number(value))
    }
  }

  #write(value: string): number {
    if (!value.isWellFormed()) throw new RangeError(`${this.#path}: text with half of a surrogate pair, which UTF-8 can't hold`)
    const start = this.#offsets.at(-1)!
    const length = Buffer.byteLength(value)
    if (start + length > this.#text.length)
      this.#text = Buffer.concat([this.#text.subarray(0, start)], Math.max(1024, 2 * (start + length)))
    return this.#text.write(value, start)
  }

  /** What was pushed, as Arrow data. */
  data(): arrow.Data {
    const { tag } = this.#kind
    const nullBitmap = this.#nullCount === 0 ? undefined : packBits(this.#valid)
    const base = { type: typeOf(this.#kind) as any, length: this.length, nullCount: this.#nullCount, nullBitmap }
    switch (tag) {
      case "utf8":
        return arrow.makeData({ ...base, valueOffsets: Int32Array.from(this.#offsets), data: this.#text.subarray(0, this.#offsets.at(-1)) })
      case "list":
        return arrow.makeData({ ...base, valueOffsets: Int32Array.from(this.#offsets), child: this.#children[0]!.data() })
      case "struct":
        return arrow.makeData({ ...base, children: this.#children.map((child) => child.data()) })
      case "bool":
        return arrow.makeData({ ...base, data: packBits(this.#numbers) })
      default: {
        const data = numberArrays[tag].from(this.#numbers)
        if (tag === "int32" || tag === "uint8") {
          const at = this.#numbers.findIndex((value, i) => data[i] !== value)
          if (at !== -1) throw new RangeError(`${this.#path}: ${this.#numbers[at]} is not within ${tag}`)
        }
        return arrow.makeData({ ...base, data })
      }
    }
  }
}

/** A record batch under construction. `push` and `finish` throw RangeError where a value does not fit its column. */
export class BatchBuilder {
  readonly #column: Column
  readonly #schema: arrow.Schema
  constructor(kind: StructKind, schema: arrow.Schema) {
    this.#column = new Column(kind, "row")
    this.#schema = schema
  }
  push(row: unknown): void {
    this.#column.push(row)
  }
  get rows(): number {
    return this.#column.length
  }
  /** Bytes held, about. */
  get bytes(): number {
    return this.#column.bytes
  }
  finish(): arrow.RecordBatch {
    return new arrow.RecordBatch(this.#schema, this.#column.data() as arrow.Data<arrow.Struct>)
  }
}

/** Rows as a record batch. */
export const toBatch = (kind: StructKind, schema: arrow.Schema, rows: Iterable<unknown>): arrow.RecordBatch => {
  const batch = new BatchBuilder(kind, schema)
  for (const row of rows) batch.push(row)
  return batch.finish()
}

// ---- columns -> rows -------------------------------------------------------------------------------------------------------------------

const claim = (ok: boolean, path: string, what: string): void => {
  if (!ok) throw new RangeError(`${path}: ${what}`)
}

/** The offsets of a list or text column, checked: as many as there are values, never falling, within what they point into. */
const offsetsOf = (data: arrow.Data, limit: number, path: string): Int32Array => {
  if (data.length === 0) return new Int32Array(1)
  const offsets = data.valueOffsets as unknown as Int32Array
  claim(offsets.length > data.length, path, `${data.length} values with ${offsets.length} offsets`)
  let last = 0
  for (let i = 0; i <= data.length; i++) {
    claim(offsets[i]! >= last, path, `value ${i} ends at ${offsets[i]}, before ${last}`)
    last = offsets[i]!
  }
  claim(last <= limit, path, `values up to ${last} of ${limit}`)
  return offsets
}

/**
 * The values of a column: of all its rows, or of these, in this order. `absent`: a struct around it may be null, and then it has no value even where it takes no
 * nulls.
 */
const valuesOf = (kind: Kind, data: arrow.Data, path: string, wanted: Uint32Array | undefined, absent = false): Array<any> => {
  const { length, nullBitmap } = data
  const hasNulls = (nullBitmap?.length ?? 0) > 0
  claim(kind.nullable || absent || !hasNulls || data.nullCount === 0, path, "nulls where none may be")
  claim(!hasNulls || nullBitmap.length * 8 >= length, path, `${length} values with ${nullBitmap?.length} bytes of validity`)
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
        claim(data.children[j]!.length >= length, `${path}.${field.name}`, `${data.children[j]!.length} values for ${length}`)
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
      claim(numbers.length >= length, path, `${length} values, but only ${numbers.length} are there`)
      return collect((i) => numbers[i])
    }
  }
}

/** Some of the rows of a batch, or of their fields. */
export interface Selection {
  /** Indices, in the order in which the rows are wanted. */
  readonly rows?: Uint32Array
  /** The only fields that the rows are to have. */
  readonly fields?: ReadonlyArray<string>
}

/** The rows of a record batch of this schema, as plain objects. Throws RangeError where the batch contradicts itself. */
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
