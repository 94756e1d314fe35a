/**
 * Rows <-> columns: plain objects to record batches and back. Nothing is lost on the way in silently (a null in a field without nulls, 3e9 as
 * int32, half of a surrogate pair are errors), and nothing a batch says of itself is believed on the way out before it is checked.
 */
import * as arrow from "apache-arrow"
import { type Kind, type StructKind, typeOf } from "./arrow.ts"

// ---- rows -> columns -------------------------------------------------------------------------------------------------------------------

const numberArrays = { float64: Float64Array, float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const

const validity = (values: ReadonlyArray<unknown>): { readonly nullCount: number; readonly nullBitmap: Uint8Array | null } => {
  let nullCount = 0
  for (const value of values) if (value === null || value === undefined) nullCount++
  if (nullCount === 0) return { nullCount, nullBitmap: null }
  const nullBitmap = new Uint8Array((values.length + 7) >> 3)
  values.forEach((value, i) => {
    if (value !== null && value !== undefined) nullBitmap[i >> 3]! |= 1 << (i & 7)
  })
  return { nullCount, nullBitmap }
}

/** One column of values as Arrow data. `absent`: how many of the values are missing because the struct around them is null. */
const dataOf = (kind: Kind, values: ReadonlyArray<any>, path: string, absent = 0): arrow.Data => {
  const type = typeOf(kind) as any
  const length = values.length
  const { nullCount, nullBitmap } = validity(values)
  if (!kind.nullable && nullCount > absent) throw new RangeError(`${path}: null, where none may be`)
  const base = { type, length, nullCount, nullBitmap: nullBitmap ?? undefined }
  switch (kind.tag) {
    case "utf8": {
      const valueOffsets = new Int32Array(length + 1)
      for (let i = 0; i < length; i++) {
        const value = (values[i] ?? "") as string
        if (!value.isWellFormed()) throw new RangeError(`${path}: text with half of a surrogate pair, which UTF-8 can't hold`)
        valueOffsets[i + 1] = valueOffsets[i]! + Buffer.byteLength(value)
      }
      const data = Buffer.alloc(valueOffsets[length]!)
      for (let i = 0; i < length; i++) data.write((values[i] ?? "") as string, valueOffsets[i])
      return arrow.makeData({ ...base, valueOffsets, data })
    }
    case "bool": {
      const data = new Uint8Array((length + 7) >> 3)
      values.forEach((value, i) => {
        if (value === true) data[i >> 3]! |= 1 << (i & 7)
      })
      return arrow.makeData({ ...base, data })
    }
    case "list": {
      const valueOffsets = new Int32Array(length + 1)
      values.forEach((value, i) => (valueOffsets[i + 1] = valueOffsets[i]! + (value?.length ?? 0)))
      const elements: Array<any> = []
      for (const value of values) if (value !== null && value !== undefined) for (const element of value) elements.push(element)
      return arrow.makeData({ ...base, valueOffsets, child: dataOf(kind.element, elements, `${path}[]`) })
    }
    case "struct": {
      const children = kind.fields.map((field) =>
        dataOf(
          field.kind,
          values.map((value) => value?.[field.name]),
          `${path}.${field.name}`,
          nullCount
        )
      )
      return arrow.makeData({ ...base, children })
    }
    default: {
      const data = new numberArrays[kind.tag](length)
      for (let i = 0; i < length; i++) {
        const value = (values[i] ?? 0) as number
        data[i] = value
        if ((kind.tag === "int32" || kind.tag === "uint8") && data[i] !== value)
          throw new RangeError(`${path}: ${value} is not within ${kind.tag}`)
      }
      return arrow.makeData({ ...base, data })
    }
  }
}

/** Rows as a record batch. Throws RangeError where a value does not fit its column. */
export const toBatch = (kind: StructKind, schema: arrow.Schema, rows: ReadonlyArray<any>): arrow.RecordBatch =>
  new arrow.RecordBatch(schema, dataOf(kind, rows, "row") as arrow.Data<arrow.Struct>)

/** Bytes that a value takes as a column, near enough to bound a batch by. */
export const weightOf = (kind: Kind, value: any): number => {
  if (value === null || value === undefined) return 1
  switch (kind.tag) {
    case "utf8":
      return 4 + (value as string).length
    case "list":
      if (kind.element.tag !== "utf8" && kind.element.tag !== "list" && kind.element.tag !== "struct")
        return 4 + 8 * (value as ReadonlyArray<unknown>).length
      return (value as ReadonlyArray<unknown>).reduce<number>((sum, element) => sum + weightOf(kind.element, element), 4)
    case "struct":
      return kind.fields.reduce((sum, field) => sum + weightOf(field.kind, value[field.name]), 0)
    default:
      return 8
  }
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

/** The values of a column. `absent`: a struct around it may be null, and then it has no value even where it takes no nulls. */
const valuesOf = (kind: Kind, data: arrow.Data, path: string, absent = false): Array<any> => {
  const { length, nullBitmap } = data
  const hasNulls = (nullBitmap?.length ?? 0) > 0
  claim(kind.nullable || absent || !hasNulls || data.nullCount === 0, path, "nulls where none may be")
  claim(!hasNulls || nullBitmap.length * 8 >= length, path, `${length} values with ${nullBitmap?.length} bytes of validity`)
  const isNull = (i: number) => hasNulls && ((nullBitmap[i >> 3]! >> (i & 7)) & 1) === 0
  const collect = (valueAt: (i: number) => any): Array<any> => {
    const out = new Array<any>(length)
    for (let i = 0; i < length; i++) out[i] = isNull(i) ? null : valueAt(i)
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
      const elements = valuesOf(kind.element, child, `${path}[]`)
      return collect((i) => elements.slice(offsets[i], offsets[i + 1]))
    }
    case "struct": {
      const columns = kind.fields.map((field, j) => {
        claim(data.children[j]!.length >= length, `${path}.${field.name}`, `${data.children[j]!.length} values for ${length}`)
        return valuesOf(field.kind, data.children[j]!, `${path}.${field.name}`, absent || kind.nullable)
      })
      return collect((i) => {
        const row: Record<string, any> = {}
        for (let j = 0; j < columns.length; j++) row[kind.fields[j]!.name] = columns[j]![i]
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

/** The rows of a record batch of this schema, as plain objects. Throws RangeError where the batch contradicts itself. */
export const toRows = (kind: StructKind, batch: arrow.RecordBatch): Array<any> => valuesOf(kind, batch.data, "row")

/** How many field nodes and buffers the header of a record batch must have. */
export const layoutOf = (kind: Kind): { readonly nodes: number; readonly buffers: number } => {
  const inner =
    kind.tag === "struct" ? kind.fields.map((field) => layoutOf(field.kind)) : kind.tag === "list" ? [layoutOf(kind.element)] : []
  const own = kind.tag === "struct" ? 1 : kind.tag === "utf8" ? 3 : 2
  return { nodes: inner.reduce((sum, { nodes }) => sum + nodes, 1), buffers: inner.reduce((sum, { buffers }) => sum + buffers, own) }
}
