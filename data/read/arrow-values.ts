/**
 * Converts any Arrow column to plain values: text, numbers, booleans, lists, objects, null. Offsets and lengths are checked before use, so that an inconsistent
 * file is an error and never gives wrong rows.
 */
import * as arrow from "apache-arrow"

const claim = (ok: boolean, path: string, what: string): void => {
  if (!ok) throw new RangeError(`column ${path}: ${what}`)
}

/** Objects with these field names. Handles a field named __proto__, which plain assignment would turn into the object's prototype. */
const rowsOf = (
  names: ReadonlyArray<string>,
  columns: ReadonlyArray<ReadonlyArray<unknown>>,
  length: number
): Array<Record<string, unknown>> => {
  const out = new Array<Record<string, unknown>>(length)
  const isPlain = !names.includes("__proto__")
  for (let i = 0; i < length; i++) {
    if (isPlain) {
      const row: Record<string, unknown> = {}
      for (let j = 0; j < names.length; j++) row[names[j]!] = columns[j]![i]
      out[i] = row
    } else out[i] = Object.fromEntries(names.map((name, j) => [name, columns[j]![i]]))
  }
  return out
}

/** Offsets of the values `from` .. `to` of a text or list column, plus the end of the last. Checks that they never decrease and stay within `limit`. */
const offsetsOf = (data: arrow.Data, limit: number, path: string, from: number, to: number): ArrayLike<number> => {
  if (data.length === 0) return [0]
  const raw = data.valueOffsets as unknown as Int32Array | BigInt64Array
  claim(raw.length > data.length, path, `${data.length} values with ${raw.length} offsets`)
  const offsets = raw instanceof BigInt64Array ? Float64Array.from(raw.subarray(from, to + 1), Number) : raw.subarray(from, to + 1)
  for (let i = 0, last = 0; i < offsets.length; i++) {
    claim(offsets[i]! >= last, path, `value ${from + i} ends before it begins`)
    last = offsets[i]!
  }
  claim(offsets[to - from]! <= limit, path, `values up to ${offsets[to - from]} of ${limit}`)
  return offsets
}

/** An int64 as a number if that is exact, otherwise as text. */
const whole = (value: bigint): number | string => {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : `${value}`
}

/** A decimal as a number, from its 32-bit words in two's complement, lowest first. */
const decimalOf = (words: Uint32Array, scale: number): number => {
  const unsigned = words.reduceRight((sum, word) => (sum << 32n) | BigInt(word), 0n)
  return Number(BigInt.asIntN(32 * words.length, unsigned)) / 10 ** scale
}

/** Converts the library's values of rarer types (dates, views, unions) to values that JSON can represent. */
const plain = (value: unknown): unknown => {
  if (typeof value === "bigint") return whole(value)
  if (value instanceof Date) return value.toISOString()
  return ArrayBuffer.isView(value) ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : value
}

/** Caches decoded dictionaries, which several batches may refer to. */
const decoded = new WeakMap<object, ReadonlyArray<unknown>>()
const dictionaryOf = (vector: arrow.Vector, path: string): ReadonlyArray<unknown> => {
  const known = decoded.get(vector)
  if (known !== undefined) return known
  const values = vector.data.flatMap((data) => valuesOf(data, path))
  decoded.set(vector, values)
  return values
}

/** The values `from` .. `to` of a column. */
const valuesOf = (data: arrow.Data, path: string, from = 0, to = data.length): Array<unknown> => {
  const { length, nullBitmap, type } = data
  claim(data.offset === 0, path, "a column that starts inside another")
  const hasNulls = (nullBitmap?.length ?? 0) > 0 && data.nullCount > 0
  claim(!hasNulls || nullBitmap.length * 8 >= length, path, `${length} values with ${nullBitmap?.length} bytes of validity`)
  const collect = (valueAt: (i: number, place: number) => unknown): Array<unknown> => {
    const out = new Array<unknown>(to - from)
    for (let i = from, place = 0; i < to; i++, place++)
      out[place] = hasNulls && ((nullBitmap[i >> 3]! >> (i & 7)) & 1) === 0 ? null : valueAt(i, place)
    return out
  }
  const buffer = () => {
    const bytes = (data.values ?? new Uint8Array(0)) as unknown as Uint8Array
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
  const numbers = <A>(): ArrayLike<A> => {
    const values = (data.values ?? []) as unknown as ArrayLike<A>
    claim(values.length >= length, path, `${length} values, of which ${values.length} exist`)
    return values
  }
  // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- the other types are rare: the library reads them
  switch (type.typeId) {
    case arrow.Type.Null:
      return new Array<unknown>(to - from).fill(null)
    case arrow.Type.Utf8:
    case arrow.Type.LargeUtf8: {
      const text = buffer()
      const offsets = offsetsOf(data, text.length, path, from, to)
      return collect((_, place) => text.toString("utf8", offsets[place], offsets[place + 1]))
    }
    case arrow.Type.Binary:
    case arrow.Type.LargeBinary: {
      const bytes = buffer()
      const offsets = offsetsOf(data, bytes.length, path, from, to)
      // Copies, because the batch's memory may be freed first.
      return collect((_, place) => Buffer.from(bytes.subarray(offsets[place], offsets[place + 1])))
    }
    case arrow.Type.Bool: {
      const bits = buffer()
      claim(bits.length * 8 >= length, path, `${length} values in ${bits.length} bytes`)
      return collect((i) => ((bits[i >> 3]! >> (i & 7)) & 1) === 1)
    }
    case arrow.Type.Int: {
      if ((type as arrow.Int).bitWidth < 64) {
        const values = numbers<number>()
        return collect((i) => values[i])
      }
      const values = numbers<bigint>()
      return collect((i) => whole(values[i]!))
    }
    case arrow.Type.Float:
      if ((type as arrow.Float).precision !== arrow.Precision.HALF) {
        const values = numbers<number>()
        return collect((i) => values[i])
      }
      break
    case arrow.Type.Dictionary: {
      const values = dictionaryOf(data.dictionary!, path)
      const keys = numbers<number | bigint>()
      return collect((i) => {
        const key = Number(keys[i])
        claim(key >= 0 && key < values.length, path, `entry ${key} of a dictionary of ${values.length}`)
        return values[key]
      })
    }
    case arrow.Type.List:
    case arrow.Type.LargeList:
    case arrow.Type.Map: {
      const child = data.children[0]!
      const offsets = offsetsOf(data, child.length, path, from, to)
      const first = offsets[0]!
      const elements = valuesOf(child, `${path}[]`, first, offsets[to - from])
      return collect((_, place) => elements.slice(offsets[place]! - first, offsets[place + 1]! - first))
    }
    case arrow.Type.FixedSizeList: {
      const { listSize } = type as arrow.FixedSizeList
      const child = data.children[0]!
      claim(child.length >= length * listSize, path, `${length} lists of ${listSize} with ${child.length} values`)
      const elements = valuesOf(child, `${path}[]`, from * listSize, to * listSize)
      return collect((_, place) => elements.slice(place * listSize, (place + 1) * listSize))
    }
    case arrow.Type.Struct: {
      const fields = (type as arrow.Struct).children
      const columns = fields.map((field, j) => columnOf(data.children[j]!, field.name, path, from, to, length))
      const rows = rowsOf(
        fields.map(({ name }) => name),
        columns,
        to - from
      )
      return collect((_, place) => rows[place])
    }
  }
  const vector = new arrow.Vector([data])
  if (type.typeId !== arrow.Type.Decimal) return collect((i) => plain(vector.get(i)))
  const { scale } = type as arrow.Decimal
  return collect((i) => decimalOf(vector.get(i) as Uint32Array, scale))
}

const columnOf = (data: arrow.Data, name: string, path: string, from: number, to: number, length: number): Array<unknown> => {
  const where = path === "" ? name : `${path}.${name}`
  claim(data.length >= length, where, `${data.length} values for ${length}`)
  return valuesOf(data, where, from, to)
}

/** The rows `from` .. `to` of a record batch. Throws RangeError if the batch is inconsistent. */
export const plainRows = (batch: arrow.RecordBatch, from: number, to: number): Array<Record<string, unknown>> => {
  const { fields } = batch.schema
  const columns = fields.map(({ name }, j) => columnOf(batch.data.children[j]!, name, "", from, to, batch.numRows))
  return rowsOf(
    fields.map(({ name }) => name),
    columns,
    to - from
  )
}

/** Rows converted to objects at a time: those of a complete batch would outlive the garbage collector's young generation. */
const rowsPerBatch = 256

/** The rows of a record batch, a few hundred at a time. */
export function* plainBatches(batch: arrow.RecordBatch): Generator<Array<Record<string, unknown>>> {
  for (let from = 0; from < batch.numRows; from += rowsPerBatch) yield plainRows(batch, from, Math.min(batch.numRows, from + rowsPerBatch))
}

export interface Column {
  readonly name: string
  /** A name shared by types with the same values: "text" for every kind of string column, "int" for every width. */
  readonly type: string
}

const describe = (type: arrow.DataType): string => {
  switch (type.typeId) {
    case arrow.Type.Utf8:
    case arrow.Type.LargeUtf8:
    case arrow.Type.Utf8View:
      return "text"
    case arrow.Type.Binary:
    case arrow.Type.LargeBinary:
    case arrow.Type.BinaryView:
      return "bytes"
    case arrow.Type.Null:
      return "null"
    case arrow.Type.Bool:
      return "bool"
    case arrow.Type.Int:
      return "int"
    case arrow.Type.Float:
      return "float"
    case arrow.Type.Dictionary:
      return describe((type as arrow.Dictionary).dictionary)
    case arrow.Type.List:
    case arrow.Type.LargeList:
    case arrow.Type.FixedSizeList:
      return `list of ${describe(type.children[0]!.type)}`
    case arrow.Type.Struct:
      return `{${type.children.map((field: arrow.Field) => `${field.name}: ${describe(field.type)}`).join(", ")}}`
    default:
      return arrow.Type[type.typeId].toLowerCase()
  }
}

export const columnsOfSchema = (schema: arrow.Schema): ReadonlyArray<Column> =>
  schema.fields.map(({ name, type }) => ({ name, type: describe(type) }))
